"""What --estimate says of a sweep, by arithmetic on trials whose costs are given, and by two real ones."""

import math
import os

import pytest
import yaml

from sweeps import agent
from sweeps.local import estimate
from sweeps.local.contract import by_settings
from sweeps.local.estimate import Measured, assumptions, fewest_epochs, lines_about, probe_trials
from tests.sweep_helpers import LR, ROOT, content, sweep_of

SIZES = {
    "model": {"value": "cnn"},
    "epochs": {"value": 12},
    "width": {"values": [32, 4, 8]},
    "batch_size": {"min": 16, "max": 128},
    "train_fraction": {"min": 0.1, "max": 1.0},
    "dropout": {"min": 0.0, "max": 0.5},
    "seed": {"values": [1, 2, 3]},
    "lr": LR,
    "optimizer": {"values": ["sgd", "adam"]},
}
SMALL_TRIALS = {"dataset": {"value": "digits"}, "epochs": {"value": 4}, "lr": LR, "val_fraction": {"value": 0.5}}
ONE_CORE = {"OMP_NUM_THREADS": "1"}


def measured(name="a trial", epochs=10, epoch_seconds=2.0, gib=0.5, **settings):
    told = {"model": "cnn", "epochs": epochs, **settings}
    return Measured(name, told, epochs, [5.0, 4.0], [epoch_seconds], [1.0], gib, 3 * 2**20)


def test_the_cheap_trial_is_small_and_the_dear_one_large_and_what_costs_nothing_is_in_the_middle():
    cheap, dear = probe_trials(sweep_of(SIZES))
    assert {key: cheap.settings[key] for key in ("width", "batch_size", "train_fraction")} == {
        "width": 4,
        "batch_size": 128,
        "train_fraction": 0.1,
    }
    assert {key: dear.settings[key] for key in ("width", "batch_size", "train_fraction")} == {
        "width": 32,
        "batch_size": 16,
        "train_fraction": 1.0,
    }
    for one in (cheap, dear):
        assert one.epochs == 12
        assert one.settings["lr"] == pytest.approx(1e-3)
        assert one.settings["dropout"] == 0.25
    assert cheap.name == "a cheap trial width=4 batch_size=128 train_fraction=0.1"


def test_each_model_has_trials_of_its_own_and_where_nothing_costs_more_there_is_one():
    models = {"model": {"values": ["mlp", "cnn"]}, "lr": LR}
    assert [one.name for one in probe_trials(sweep_of(models))] == ["a trial model=mlp", "a trial model=cnn"]
    assert [one.epochs for one in probe_trials(sweep_of(models))] == [13, 16]  # their defaults


def test_trials_have_the_epochs_that_the_sweeps_command_tells():
    command = ["${env}", "${interpreter}", "${program}", "--model=vae", "--epochs=3", "--patience=2", "${args}"]
    sweep = sweep_of({"beta": {"min": 0.1, "max": 1.0}}, command=command)
    found = probe_trials(sweep)
    assert [one.epochs for one in found] == [3]
    assert "no end by patience" in assumptions(sweep, 1, found)[0]
    assert [one.epochs for one in probe_trials(sweep_of({"lr": LR, "epochs": {"value": 5}}, command=command))] == [5]


def test_a_kind_that_a_model_lacks_is_told_to_the_others_alone():
    archs = ["resnet18.tv_in1k", "resnet34.tv_in1k"]
    sweep = by_settings(sweep_of({"model": {"values": ["mlp", "timm"]}, "arch": {"values": archs}, "lr": LR}))
    names = ["a trial model=mlp", *(f"a trial model=timm arch={arch}" for arch in archs)]
    assert [one.name for one in probe_trials(sweep)] == names


def test_each_value_of_each_kind_is_measured_once_however_many_there_are():
    models = ["mlp", "cnn", "resnet18", "nano_vit", "vae"]
    one = probe_trials(by_settings(sweep_of({"model": {"values": models}, "lr": LR})))
    assert [each.settings["model"] for each in one] == models
    kinds = {"model": {"values": ["cnn", "nano_vit", "resnet18"]}, "dataset": {"values": ["cifar10", "digits"]}}
    two = probe_trials(by_settings(sweep_of({**kinds, "lr": LR})))
    assert [each.settings["model"] for each in two] == ["cnn", "nano_vit", "resnet18"]
    assert {each.settings["dataset"] for each in two} == {"cifar10", "digits"}


@pytest.mark.parametrize(
    ("rule", "epochs", "fewest"),
    [
        (None, 16, 16),
        ({"type": "hyperband", "min_iter": 4, "eta": 2}, 16, 4 + 4 / 2 + 8 / 4),
        ({"type": "hyperband", "min_iter": 20, "eta": 2}, 16, 16),
        ({"type": "asha", "min_iter": 2, "eta": 4}, 10, 2 + 6 / 4 + 2 / 16),
        ({"type": "median", "min_iter": 2}, 10, 6),
    ],
)
def test_early_termination_saves_at_most_what_all_stops_at_once_would(rule, epochs, fewest):
    sweep = sweep_of({"lr": LR}, **({"early_terminate": rule} if rule else {}))
    assert fewest_epochs(sweep, epochs) == pytest.approx(fewest)


def test_the_time_of_all_is_that_of_the_trials_over_the_workers():
    sweep = sweep_of({"lr": LR}, early_terminate={"type": "hyperband", "min_iter": 5, "eta": 2})
    pair = [measured("cheap", epoch_seconds=1.0), measured("dear", epoch_seconds=3.0, gib=2.0)]
    lines = "\n".join(lines_about(pair, sweep, [ONE_CORE] * 2, 8, free=3.0))
    # 4 s to start (what is done once is not counted again), 1 s to end, 10 epochs: 15 and 35 s; 4 rounds of them
    assert (
        "8 trials of 10 epochs by 2 workers: about 1m40s, 1m00s if all were as the cheapest, 2m20s as the dearest"
        in lines
    )
    assert "; up to 18s more while the last one ends" in lines  # a dear one, of which the other worker takes no half
    assert "with early termination: 1m20s to 1m40s" in lines  # 7.5 of 10 epochs
    assert "up to 4.00 GiB, of 3.0 GiB" in lines
    assert "only 1 of the dearest trials" in lines
    assert "24 MiB in all" in lines


def test_each_seed_of_a_trial_is_a_run_and_bad_trials_end_after_their_first():
    sweep = sweep_of({"lr": LR}, repeats=3)
    lines = "\n".join(lines_about([measured()], sweep, [ONE_CORE] * 2, 8, free=3.0))
    # 4 s to start, 1 s to end, 10 epochs of 2 s: 25 s a run, 75 s a trial; 4 rounds of them
    assert "8 trials of 10 epochs with 3 seeds by 2 workers: about 5m00s" in lines
    # 4 rounds of one run, and two more of the best trial
    assert "\nwith trials that end after their first seed: 2m30s to 5m00s" in lines
    assert "about 9.0 MiB a trial, 72 MiB in all" in lines


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"repeats": 3}, "with trials that end after their first seed"),
        ({"folds": 3}, "with trials that end after their first fold"),
        ({"early_terminate": {"type": "median"}}, "with early termination"),
        (
            {"early_terminate": {"type": "median"}, "repeats": 3},
            "with early termination and trials that end after their first seed",
        ),
        ({}, None),
    ],
    ids=str,
)
def test_what_may_take_less_time_is_called_by_what_it_is(keys, words):
    lines = lines_about([measured()], sweep_of({"lr": LR}, **keys), [ONE_CORE] * 2, 8, free=3.0)
    assert [line.split(":")[0] for line in lines if line.startswith("with ")] == ([words] if words else [])


def test_what_is_not_known_is_said():
    sweep = sweep_of({"lr": LR}, metric={"name": "val/loss", "goal": "minimize", "target": 0.1})
    assumed = lines_about([measured(patience=3)], sweep, [ONE_CORE], None, 8.0)[-1]
    for text in ("no run_cap", "patience", "target"):
        assert text in assumed
    assert "1 trial of 10 epochs by 1 worker" in lines_about([measured()], sweep, [ONE_CORE], None, 8.0)[1]


def test_a_program_that_is_not_train_py_is_refused(tmp_path, monkeypatch, capsys):
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(content(program=str(ROOT / "tests" / "sweep_program.py"), run_cap=3)))
    assert agent.main([str(path), "--estimate"]) == 2
    assert "the epochs of train.py alone" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.waits
def test_two_real_trials_leave_nothing_behind(tmp_path, lean, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = tmp_path / "real.yaml"
    parameters = {"model": {"value": "cnn"}, "dataset": {"value": "digits"}, "width": {"values": [2, 8]}}
    path.write_text(yaml.safe_dump(content(parameters={**parameters, "epochs": {"value": 4}, "lr": LR}, run_cap=6)))
    assert agent.main([str(path), "--estimate", "--workers", "2"]) == 0
    output = capsys.readouterr().out
    assert "a cheap trial width=2" in output
    assert "a dear trial width=8" in output
    assert "6 trials of 4 epochs by 2 workers: about" in output
    assert not [name for name in os.listdir(tmp_path) if name.startswith(("runs", "vision-sweeps"))]


@pytest.mark.slow
@pytest.mark.waits
def test_of_long_epochs_two_are_enough_and_what_a_trial_keeps_is_told_as_of_one_that_has_ended(tmp_path, monkeypatch):
    parameters = {"model": {"value": "mlp"}, "width": {"value": 500}, **SMALL_TRIALS}
    sweep, found = sweep_of(parameters), []
    for folder, long in ((tmp_path / "ended", math.inf), (tmp_path / "stopped", 0.0)):
        monkeypatch.setattr(estimate, "LONG_EPOCH", long)
        found += probe_trials(sweep)
        estimate.measure(found[-1:], sweep, [ONE_CORE], folder)
    ended, stopped = found
    assert (bool(ended.ends), stopped.ends) == (True, [])
    assert stopped.disk == pytest.approx(ended.disk, rel=0.1)
    assert "the end of a trial, which was not measured" not in assumptions(sweep, 1, [ended])[0]
    assert "the end of a trial, which was not measured, takes no time" in assumptions(sweep, 1, [stopped])[0]


@pytest.mark.slow
def test_a_trial_that_fails_is_named(tmp_path, monkeypatch, capsys):
    path = tmp_path / "bad.yaml"
    command = ["${env}", "false", "${program}"]
    path.write_text(yaml.safe_dump(content(parameters={"model": {"value": "cnn"}, "lr": LR}, command=command)))
    assert agent.main([str(path), "--estimate"]) == 2
    assert "a trial fails, exit code 1" in capsys.readouterr().err
