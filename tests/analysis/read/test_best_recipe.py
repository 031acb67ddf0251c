"""The best trial of a sweep as a file that train.py takes."""

from dataclasses import replace
from pathlib import Path

import pytest

from analysis import best
from analysis.read.best_recipe import best_recipe, write_best
from analysis.read.runs import read_runs
from analysis.read.sweeps import SweepRecord
from analysis.read.trials import Trial
from analysis.record.resume import resolve
from data.errors import UserError
from data.files import write_json
from data.metrics import Metric
from models.resolve import config_values

TOLD = {"model": "mlp", "dataset": "digits", "lr": 1e-05, "epochs": 30, "tags": "x", "val_fraction": 0.2, "seed": 7}


def sweep_of(*values, **told):
    trials = [
        Trial(i, f"00{i}-abc", "COMPLETE", value, 12 + i, {**TOLD, "width": 32 + i, **told}, None, None)
        for i, value in enumerate(values)
    ]
    return SweepRecord("lr", "", Metric("val/accuracy", "maximize"), "random", ("lr",), tuple(trials), {})


def test_train_py_takes_the_recipe_as_it_is(tmp_path):
    write_best(sweep_of(0.5, 0.9, 0.7), tmp_path / "best.yaml")
    assert config_values(str(tmp_path / "best.yaml")) == {
        "model": "mlp",
        "dataset": "digits",
        "lr": 1e-05,
        "epochs": 13,  # of the best epoch
        "width": 33,
    }
    settings = resolve([f"--config={tmp_path / 'best.yaml'}", "--seed=1", "--val_fraction=0"], {})
    assert (settings.model, settings.lr, settings.epochs, settings.seed) == ("mlp", 1e-05, 13, 1)


def test_the_precision_is_that_of_the_trial_unless_the_sweep_says_it(tmp_path):
    (tmp_path / "001-abc").mkdir()
    write_json(tmp_path / "001-abc" / "settings.json", {"mixed_precision": "bf16"})
    for told, expected in (({}, "bf16"), ({"mixed_precision": "no"}, "no")):
        sweep = replace(sweep_of(0.5, 0.9, **told), source=str(tmp_path))
        write_best(sweep, tmp_path / "best.yaml")
        assert config_values(str(tmp_path / "best.yaml"))["mixed_precision"] == expected


def test_the_header_says_whose_recipe_it_is_and_how_to_use_it():
    header = best_recipe(sweep_of(0.5, 0.9), path=Path("runs/sweeps/lr/best.yaml")).splitlines()[:3]
    assert header == [
        "# The best of 2 trials of lr: 001-abc, val/accuracy 90.00 % of the images that it was judged by.",
        "# On all training images, and tested once:",
        "# python train.py --config=runs/sweeps/lr/best.yaml --val_fraction=0.0 --test=True --seed=1",
    ]


def test_the_recipe_trains_on_all_images_though_its_trial_saw_few(tmp_path):
    few = {"train_fraction": 0.2, "limit_batches": 5, "overfit_batches": 2}
    write_best(sweep_of(0.5, **few), tmp_path / "best.yaml")
    settings = resolve([f"--config={tmp_path / 'best.yaml'}"], {})
    assert [getattr(settings, name) for name in few] == [1.0, 0, 0]


def test_the_command_of_images_of_ones_own_finds_them_and_tests_only_what_is_there(tmp_path):
    sweep = sweep_of(0.5, 0.9, dataset="folder", data_dir=f"{tmp_path}/my photos")
    *_, line, command = best_recipe(sweep).splitlines()[:3]
    assert line.endswith("On all training images but those held out:")
    told = f"'--data_dir={tmp_path}/my photos' --val_fraction=0.2 --seed=1"
    assert command == f"# python train.py --config=best.yaml {told}"
    by_fid = best_recipe(sweep_of(0.5, dataset="folder", data_dir="mine", best_by="val/fid_x_60")).splitlines()[2]
    told = "--data_dir=mine --val_fraction=0.2 --best_by=val/fid_x_60 --seed=1"
    assert by_fid == f"# python train.py --config=best.yaml {told}"
    for name in ("train/cat", "test/cat"):
        (tmp_path / "my photos" / name).mkdir(parents=True)
    assert best_recipe(sweep).splitlines()[2].endswith("my photos' --val_fraction=0.0 --test=True --seed=1")


def test_a_sweep_without_a_value_is_one_line(tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="sweep lr has no trial with a val/accuracy yet"):
        best_recipe(sweep_of())
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path))
    assert best.main(["nothing"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    monkeypatch.setattr(best, "read_sweep", lambda name, storage: sweep_of())
    assert best.main(["lr"]) == 2
    assert list(tmp_path.iterdir()) == []  # no folder of a sweep that is none
    monkeypatch.setattr(best, "read_sweep", lambda name, storage: sweep_of(0.5))
    assert best.main(["lr"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "The best of 1 trial of lr: 000-abc, val/accuracy 50.00 %"
    assert second.startswith(f"{tmp_path / 'sweeps' / 'lr' / 'best.yaml'}: python train.py --config=")
    assert (tmp_path / "sweeps" / "lr" / "best.yaml").is_file()
    assert read_runs(tmp_path).skipped == []  # of a sweep on W&B there is nothing else here
