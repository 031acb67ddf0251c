"""Runs are found by what the listing shows of them."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from analysis.look.trained_run import TrainedRun, load_network, load_run
from analysis.read.runs import find_run
from analysis.record import run_folder
from analysis.record.data_file import keep_backbone, keep_info, saved_backbone
from data.errors import UserError
from data.files import write_json
from models.core import checkpoint
from models.parts.feature_extractor import FrozenNetwork
from tests.models.test_objectives import build, info_of
from tests.run_folders import write_run
from tests.trained_runs import save_run


@pytest.fixture(autouse=True)
def runs_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path))
    for place in ("alone", "sweeps/one/000-a", "sweeps/one/001-b", "sweeps/two/001-b", "deep/in/c"):
        write_run(tmp_path / place, [1.0])
    return tmp_path


@pytest.mark.parametrize(("name", "place"), [("alone", "alone"), ("000-a", "sweeps/one/000-a"), ("c", "deep/in/c")])
def test_a_run_is_found_by_the_id_that_was_listed(runs_dir, name, place):
    assert find_run(name) == runs_dir / place
    assert find_run(str(runs_dir / place)) == runs_dir / place


def test_an_id_of_several_runs_is_refused_with_their_folders(runs_dir):
    with pytest.raises(
        UserError, match="001-b is the id of 2 runs: name one by its folder, .*one/001-b or .*two/001-b"
    ):
        find_run("001-b")
    assert find_run("sweeps/two/001-b") == runs_dir / "sweeps/two/001-b"


def test_what_is_no_run_is_refused_with_where_it_was_looked_for(runs_dir):
    with pytest.raises(UserError, match=f"d is no run: .* nor the id of a run in {runs_dir}"):
        find_run("d")


def test_weights_that_are_gone_are_told_with_the_command_that_makes_them_again(tmp_path):
    folder = write_run(tmp_path / "a", [1.0], lr=0.5, seed=3)
    told = r"best.pt is gone, though .*: python train.py --model=cnn .*--lr=0.5 .*--seed=3"
    with pytest.raises(UserError, match=told):
        load_run(folder)
    (folder / "summary.json").unlink()
    with pytest.raises(UserError, match="has no weights yet: best.pt is written with"):
        load_run(folder)


def test_the_images_to_look_at_are_the_test_images_or_those_to_validate_with():
    run = TrainedRun(None, None, {"train": 0, "val": 1}, None)
    assert run.split_name("") == "val"
    assert run._replace(splits={"train": 0, "val": 1, "test": 2}).split("") == 2
    with pytest.raises(UserError, match="--split=test: the run has train, val"):
        run.split("test")


def test_a_network_is_loaded_where_its_images_are_gone(tmp_path):
    folder, model = tmp_path / "moved", build("cnn")
    folder.mkdir()
    settings = {**asdict(model.settings), "model": "cnn", "dataset": "folder", "data_dir": str(tmp_path / "gone")}
    write_json(folder / run_folder.SETTINGS, {**settings, "run_id": "before it was moved"})
    checkpoint.save(folder / run_folder.BEST, model.state_dict())
    with pytest.raises(UserError, match=f"{tmp_path / 'gone'} is not a folder"):
        load_network(folder)  # of a run that is older than data.json
    keep_info(folder, model.info)
    run = load_network(folder)
    assert run.info == model.info
    assert not run.splits
    assert not run.objective.training
    for name, values in model.state_dict().items():
        assert torch.equal(run.objective.state_dict()[name], values)


def test_a_run_reached_by_a_link_or_as_a_point_has_its_own_settings(runs_dir, monkeypatch):
    folder, link = save_run(runs_dir / "own", "cnn", seed=7), runs_dir / "elsewhere" / "best"
    link.parent.mkdir()
    link.symlink_to(folder)
    monkeypatch.chdir(folder)
    for place in (link, Path()):
        assert load_network(place).settings == load_network(folder).settings


def test_weights_that_their_owner_may_overwrite_are_copied_into_a_run(tmp_path):
    for folder, is_linked in (("blobs", True), ("mine", False)):  # "blobs" as in Hugging Face's cache
        weights, run = tmp_path / folder / "net.pt", tmp_path / f"run-{folder}"
        for place in (weights.parent, run):
            place.mkdir()
        weights.write_text("old")
        keep_backbone(run, weights, may_copy=True)
        weights.write_text("new")
        assert saved_backbone(run).read_text() == ("new" if is_linked else "old")


@pytest.mark.parametrize("is_linked", [True, False])
def test_a_run_on_a_frozen_network_stands_alone(is_linked, runs_dir, monkeypatch):
    (runs_dir / "blobs").mkdir()
    elsewhere, images = runs_dir / "blobs" / "elsewhere.safetensors", torch.randn(2, 3, 32, 32)
    network = FrozenNetwork("test_efficientnet", None, 32).build(info_of("frozen"))
    save_file(network.backbone.state_dict(), elsewhere)
    own = {"pretrained": True, "weights": str(elsewhere)}
    folder, model = save_run(runs_dir / "frozen", "frozen", **own), build("frozen", **own)
    assert model.outside_weights == elsewhere
    if not is_linked:
        monkeypatch.setattr("os.link", lambda *paths: Path("gone").stat())
        keep_backbone(folder, elsewhere, may_copy=False)
        assert saved_backbone(folder) is None
    keep_backbone(folder, elsewhere, may_copy=True)
    kept = saved_backbone(folder)
    assert kept == folder / "backbone.safetensors"
    assert kept.samefile(elsewhere) == is_linked
    elsewhere.unlink()
    found = load_network(folder).objective.image_network()
    torch.testing.assert_close(found.backbone(images), network.backbone(images))
    kept.unlink()
    with pytest.raises(UserError, match=r"elsewhere.safetensors: there is no such file$"):
        load_network(folder)
