"""Pictures of a run's attention, and the program that draws them."""

import os
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image

from analysis import latent
from analysis.attention import main
from analysis.look import attention_pictures, trained_run
from analysis.look.attention import AttentionMaps
from analysis.look.attention_pictures import choose_images
from analysis.look.panels import GAP, HEADING_HEIGHT
from analysis.look.trained_run import load_network, load_run
from analysis.read.runs import find_run
from analysis.record import run_folder
from analysis.record.data_file import keep_info
from data.dataset import DatasetInfo, Split
from data.errors import UserError
from data.files import write_json
from models.core import checkpoint
from models.loading import build_objective
from models.registry import MODELS
from tests.loaded import load_splits

NANO_VIT = {"model": "nano_vit", "patch_size": 4, "width": 32, "depth": 2, "num_heads": 4, "ffn_width": 64}


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory):
    """Runs as train.py leaves them, but untrained."""
    folder = tmp_path_factory.mktemp("runs")
    for run_id, settings in {
        "vit": NANO_VIT,
        "sweeps/s/no_val": {**NANO_VIT, "val_fraction": 0.0},
        "cnn": {"model": "cnn", "width": 8},
        "fresh": NANO_VIT,
    }.items():
        home = folder / run_id
        (home / run_folder.PANELS).mkdir(parents=True)
        settings = MODELS[settings["model"]].settings_class(
            **settings, dataset="digits", run_id=home.name, runs_dir=str(home.parent)
        )
        write_json(home / run_folder.SETTINGS, asdict(settings))
        if run_id != "fresh":
            info = DatasetInfo("digits", 32, tuple("0123456789"), (0.0,) * 3, (1.0,) * 3, {}, "")
            checkpoint.save(home / run_folder.BEST, build_objective(settings, info).state_dict())
    return folder


def draw(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.mark.slow
def test_the_command_draws_the_first_images_of_the_validation_split(runs_dir, capsys, monkeypatch):
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(runs_dir))
    assert draw("vit") == 0
    path = runs_dir / "vit" / "panels" / "attention.png"
    assert capsys.readouterr().out == f"{path}\n"
    width, height = Image.open(path).size
    assert height == HEADING_HEIGHT + GAP + 8 * (192 + 16 + GAP)
    assert width > GAP + 4 * (192 + GAP)


@pytest.mark.slow
def test_the_command_draws_every_head_of_images_and_files(runs_dir, tmp_path, capsys):
    Image.new("RGB", (90, 60), "orange").save(tmp_path / "fruit.png")
    out = tmp_path / "new" / "a.png"
    assert draw(runs_dir / "vit", "--images", 3, tmp_path / "fruit.png", "--heads", "--out", out) == 0
    paths = [out, *(out.with_name(f"a_heads_{i}.png") for i in (1, 2))]
    assert capsys.readouterr().out.split() == [str(path) for path in paths]
    heights = [Image.open(path).size[1] for path in paths]
    assert heights == [HEADING_HEIGHT + GAP + num * (192 + 16 + GAP) for num in (2, 5, 5)]


@pytest.mark.slow
@pytest.mark.parametrize(("run_id", "split"), [("vit", "val"), ("sweeps/s/no_val", "test")])
def test_numbers_are_indices_of_the_validation_split_or_else_of_the_test_split(run_id, split, runs_dir):
    run = load_run(find_run(str(runs_dir / run_id)))
    _, splits = load_splits(
        "digits",
        "",
        image_size=0,
        train_fraction=1.0,
        val_fraction=run.settings.val_fraction,
        data_seed=3407,
        normalisation="channel",
        max_corrupt_images=0,
    )
    examples = choose_images(run, ["5", "0"])
    expected = splits[split].images[[5, 0]]
    assert torch.equal((examples.pictures[:, :, ::6, ::6] * 255).round(), expected.float())
    assert examples.classes == [str(label) for label in splits[split].labels[[5, 0]].tolist()]
    assert examples.names == [f"{split} 5", f"{split} 0"]


@pytest.mark.parametrize(("look", "line"), [(main, "cnn has no attention"), (latent.main, "cnn has no latents")])
def test_a_network_without_what_is_looked_at_is_refused_before_the_images_are_read(
    look, line, runs_dir, tmp_path, monkeypatch, capsys
):
    run, folder = load_run(runs_dir / "cnn"), tmp_path / "cnn"
    shutil.copytree(runs_dir / "cnn", folder)
    keep_info(folder, run.info)
    monkeypatch.setattr(trained_run, "read_data", lambda settings: pytest.fail("images were read"))
    assert look([str(folder)]) == 2
    assert line in capsys.readouterr().err
    with pytest.raises(UserError, match="--split=tset: the run has train, val, test"):
        load_network(folder).split_name("tset")


def test_a_file_is_seen_as_the_same_image_of_the_split_would_be(runs_dir, tmp_path):
    run = load_run(runs_dir / "vit")
    Image.fromarray(run.splits["val"].images[4].permute(1, 2, 0).numpy()).save(tmp_path / "four.png")
    examples = choose_images(run, ["4", str(tmp_path / "four.png")])
    torch.testing.assert_close(examples.images[1], examples.images[0])
    assert examples.classes[1] == ""


def test_of_a_run_that_sees_the_centre_a_file_is_seen_and_shown_as_far_as_the_run_sees(runs_dir, tmp_path):
    run = load_run(runs_dir / "vit")
    stored = torch.randint(256, (1, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    info = replace(run.info, stored_size=40)
    run = run._replace(info=info, splits={"val": Split(stored, torch.tensor([3]))})
    large = stored[0].repeat_interleave(6, dim=1).repeat_interleave(6, dim=2)
    for name, pixels in (("small", stored[0]), ("large", large)):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / f"{name}.png")
    examples = choose_images(run, ["0", *(str(tmp_path / f"{name}.png") for name in ("small", "large"))])
    torch.testing.assert_close(examples.images[1], examples.images[0])
    assert torch.equal((examples.pictures[2] * 255).round(), large[:, 24:216, 24:216].float())
    assert torch.equal(examples.pictures[0], examples.pictures[2])


def test_a_files_central_square_is_shown_in_its_own_resolution(runs_dir, tmp_path):
    pixels = np.zeros((192, 400, 3), dtype=np.uint8)
    pixels[:, 104:296] = np.random.RandomState(0).randint(1, 256, (192, 192, 3))
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    examples = choose_images(load_run(runs_dir / "vit"), [str(tmp_path / "wide.png")])
    np.testing.assert_array_equal((examples.pictures[0] * 255).round().permute(1, 2, 0).numpy(), pixels[:, 104:296])
    assert examples.images.shape == (1, 3, 32, 32)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nowhere"], "nowhere is no run"),
        (["fresh"], "fresh has no weights yet: best.pt"),
        (["cnn"], "cnn has no attention: nano_vit and timm's ViTs do"),
        (["vit", "--images", "144"], "--images=144: the val split has 144 images, 0 to 143"),
        (["vit", "--images", "nothing.png"], "--images=nothing.png: there is no such file"),
        (["vit", "--images", __file__], "no image"),
        (["vit", "--out", "a.jpg"], "--out=a.jpg: give a file name that ends in .png"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(arguments, named, runs_dir, capsys, monkeypatch):
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(runs_dir))
    assert draw(*arguments) == 2
    out, err = capsys.readouterr()
    assert named in err
    assert err.startswith("attention: ")
    assert err.count("\n") == 1
    assert out == ""


def test_a_run_whose_data_has_changed_is_refused(runs_dir, tmp_path, capsys):
    folder = tmp_path / "vit"
    folder.mkdir()
    for name in (run_folder.SETTINGS, run_folder.BEST):
        os.link(runs_dir / "vit" / name, folder / name)
    write_json(folder / run_folder.ENVIRONMENT, {"data": "0123456789abcdef"})
    assert draw(folder) == 2
    assert "0123456789abcdef" in capsys.readouterr().err


@pytest.mark.slow
def test_the_heads_of_an_image_are_its_own(runs_dir, tmp_path, monkeypatch):
    seen, num = [], 3
    maps = AttentionMaps(torch.rand(2, num, 4, 8, 8), torch.rand(num, 8, 8))
    picture = Image.new("RGB", (4, 4))
    monkeypatch.setattr(attention_pictures, "attention_maps", lambda *told: maps)
    monkeypatch.setattr(attention_pictures, "draw_heads", lambda *told: seen.append(told[2]) or picture)
    attention_pictures.draw_attention(load_run(runs_dir / "vit"), ["0", "1", "2"], tmp_path / "a.png", each_head=True)
    assert len(seen) == num
    assert all(torch.equal(seen[i], maps.heads[:, i]) for i in range(num))
