"""What final runs are called and told, and which of them count."""

import math
import shlex
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

import pytest

from analysis.read.best_recipe import write_best
from analysis.read.recipe import recipe_of
from analysis.read.sweep_command import told_in_all
from analysis.read.sweeps import SweepRecord
from analysis.read.trials import Trial
from analysis.record.run_folder import NAME_OF_FINAL
from data.errors import UserError
from data.files import write_json
from data.metrics import Best, Metric
from models.resolve import merge, parse, validate
from sweeps.final import show
from sweeps.local.final_runs import Finals, check_settings, finals_of, result_of
from tests.sweep_helpers import ROOT

TRIAL = "007-abc"
PATH = str(ROOT / "train.py")
FIGURES = {"state": "finished", "test/loss": 0.5, "train_seconds": 1.0, "images_per_second": 1.0}


def sweep_of(folder, settings: Mapping[str, Any] = {}, **content: Any):
    """A sweep with a trial whose best epoch is the 30th."""
    trial = Trial(7, TRIAL, "COMPLETE", 0.1, 30, {"model": "mlp", **settings}, None, None)
    parameters = {name: {"value": value} for name, value in settings.items()}
    whole = {"metric": {"name": "val/loss"}, "parameters": parameters, **content}
    trial = replace(trial, settings=told_in_all(whole, trial.settings))  # as the reader of sweeps gives it
    return SweepRecord("lr", str(folder), Metric("val/loss"), "random", ("lr",), (trial,), {}, whole)


def told(sweep, folder, trial=None):
    return finals_of(sweep, trial or sweep.trials[0], 2, folder)


def write_final(folder, seed, **settings):
    run = folder / f"final-{TRIAL}-seed{seed}"
    write_json(run / "settings.json", {"model": "mlp", "seed": seed, **settings})
    write_json(run / "summary.json", FIGURES)


@pytest.mark.parametrize(
    ("seeds", "num_runs", "fresh"),
    [((None, None), 1, [1, 2]), ((9, 9), 1, [1, 2]), ((1, 3), 1, [2, 4]), ((1, 1), 3, [5, 6])],
)
def test_seeds_of_final_runs_are_none_that_a_trial_had(folder, seeds, num_runs, fresh):
    sweep = sweep_of(folder)
    done = (Best(0.1, 30),) * (num_runs if num_runs > 1 else 0)
    first, trials = sweep.trials[0], []
    for seed in seeds:
        own = {} if seed is None else {"seed": seed}
        trials.append(replace(first, settings={**first.settings, **own}, seeds=done))
    assert [final.seed for final in told(replace(sweep, trials=tuple(trials)), folder, trials[0])] == fresh


def test_folds_of_a_trial_are_of_its_one_seed(folder):
    sweep = sweep_of(folder)
    trial = replace(
        sweep.trials[0], settings={**sweep.trials[0].settings, "seed": 1}, seeds=(Best(0.1, 30),) * 3, folds=3
    )
    assert [final.seed for final in told(replace(sweep, trials=(trial,)), folder, trial)] == [2, 3]


@pytest.fixture
def folder(tmp_path):
    for name in (TRIAL, *(f"final-{TRIAL}-seed{seed}" for seed in (1, 2))):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("saved", "name"),
    [
        ({"epochs": 30}, f"final-{TRIAL}-seed1"),
        ({}, f"final-{TRIAL}-seed1"),  # of another program
        ({"epochs": 8}, f"final-{TRIAL}-epochs30-seed1"),
        ({"epochs": 30, "mixed_precision": "no"}, f"final-{TRIAL}-bf16-seed1"),
        ({"epochs": 8, "mixed_precision": "no"}, f"final-{TRIAL}-epochs30-bf16-seed1"),
    ],
)
def test_a_final_run_is_another_one_where_its_trial_has_gone_on_since_and_belongs_to_it(folder, saved, name):
    write_json(folder / TRIAL / "settings.json", {"mixed_precision": "bf16"})
    write_final(folder, 1, **saved)
    first, second = told(sweep_of(folder), folder)
    assert (first.run_id, second.run_id) == (name, name.replace("seed1", "seed2"))  # all seeds alike
    assert NAME_OF_FINAL.fullmatch(name)[1] == TRIAL


def test_figures_of_runs_that_are_refused_now_do_not_count(folder):
    for seed in (1, 2):
        write_final(folder, seed, epochs=30)
    finals = told(sweep_of(folder), folder)
    assert result_of(folder, finals)["seeds"] == [1, 2]
    assert result_of(folder, finals, {finals[0].run_id})["seeds"] == [2]


def test_a_figure_that_not_all_seeds_have_is_told_with_its_number_of_runs(folder, capsys):
    (folder / f"final-{TRIAL}-seed3").mkdir()
    figures = [{"test/loss": 0.5}, {"test/loss": 0.7, "test/auroc": 0.8}, {"test/loss": math.nan, "test/auroc": 0.9}]
    for seed, own in enumerate(figures, 1):
        write_final(folder, seed, epochs=30)
        write_json(folder / f"final-{TRIAL}-seed{seed}" / "summary.json", {"state": "finished", **own})
    finals = finals_of(sweep_of(folder), sweep_of(folder).trials[0], 3, folder)
    result = result_of(folder, finals)
    assert (result["test/auroc"]["mean"], result["test/auroc"]["seeds"]) == (pytest.approx(0.85), [2, 3])
    assert (result["test/loss"]["values"], result["test/loss"]["seeds"]) == ([0.5, 0.7], [1, 2])
    show([result], "val/auroc")
    assert "0.8500 ± 0.0707 (2 runs)" in " ".join(capsys.readouterr().out.split())
    for seed in (1, 2):
        write_json(folder / f"final-{TRIAL}-seed{seed}" / "summary.json", {"state": "finished", "test/loss": 0.5})
    assert "seeds" not in result_of(folder, finals[:2])["test/loss"]


@pytest.mark.parametrize(("code", "num_failed"), [(0, 0), (2, 1), (1, 1)])
def test_a_run_that_finished_before_and_is_refused_now_has_failed(folder, capsys, code, num_failed):
    write_final(folder, 1, epochs=30)
    sweep = sweep_of(folder, command=["sh", "-c", f"echo the reason; exit {code}"])
    finals = Finals(folder, sweep, [{}], {})
    assert finals.run(told(sweep, folder)[:1]) == len(finals.failed) == num_failed
    assert (f"finished before, exit code {code};" in capsys.readouterr().err) == bool(num_failed)


def test_final_runs_have_the_precision_of_their_trial_unless_the_sweep_says_it(folder):
    trial = Trial(7, f"{TRIAL}-width600", "COMPLETE", 0.1, 30, {"model": "mlp", "width": 600}, None, None)
    assert "mixed_precision" not in told(sweep_of(folder), folder)[0].settings
    write_json(folder / TRIAL / "settings.json", {"mixed_precision": "bf16", "epochs": 100})
    assert told(sweep_of(folder), folder)[0].settings["mixed_precision"] == "bf16"
    assert told(sweep_of(folder), folder, trial)[0].settings["mixed_precision"] == "bf16"  # of --from-width
    assert told(sweep_of(folder, {"mixed_precision": "no"}), folder)[0].settings["mixed_precision"] == "no"


@pytest.mark.parametrize("place", ["--data_dir={}", "--data_dir=${{envvar:IMAGES}}"])
@pytest.mark.parametrize("has_test", [True, False])
def test_images_that_the_sweeps_command_names_are_looked_at_for_test_images(folder, monkeypatch, place, has_test):
    (folder / "images" / "faces").mkdir(parents=True)
    monkeypatch.setenv("IMAGES", str(folder / "images"))
    dataset = "cifar10" if has_test else "faces"
    words = ["${interpreter}", "${program}", f"--dataset={dataset}", place.format(folder / "images"), "${args}"]
    [final, _] = told(sweep_of(folder, {"lr": 0.1}, command=words, program="train.py"), folder)
    assert final.settings.get("test", False) == has_test


@pytest.mark.parametrize("words", [[], ["--limit_batches=7", "--overfit_batches=3"]])
def test_final_runs_see_all_images_though_their_trial_or_the_sweeps_command_says_few(folder, words):
    few = {"limit_batches": 5, "overfit_batches": 2} if not words else {}
    command = ["${interpreter}", "${program}", *words, "${args}"]
    [final, _] = told(sweep_of(folder, {"train_fraction": 0.2, **few}, command=command, program="train.py"), folder)
    assert [final.settings[name] for name in ("train_fraction", "limit_batches", "overfit_batches")] == [1.0, 0, 0]


def test_final_runs_of_another_program_are_told_of_no_limits_that_it_may_not_have(folder):
    [final, _] = told(sweep_of(folder, {"lr": 0.1}), folder)
    assert not {"limit_batches", "overfit_batches"} & final.settings.keys()


def test_final_runs_without_images_to_validate_with_choose_no_epoch_though_the_sweeps_command_says_by_what(folder):
    command = ["${interpreter}", "${program}", "--dataset=cifar10", "--best_by=val/accuracy", "${args}"]
    [final, _] = told(sweep_of(folder, {"lr": 0.1}, command=command, program="train.py"), folder)
    assert final.settings["best_by"] == ""


@pytest.mark.parametrize(("model", "is_refused"), [("vae", False), ("mlp", True)])
def test_settings_of_final_runs_are_checked_by_the_model_that_the_sweeps_command_names(folder, model, is_refused):
    command = ["${interpreter}", "${program}", f"--model={model}", "${args}"]
    trial = Trial(7, TRIAL, "COMPLETE", 0.1, 30, {"beta": 0.5}, None, None)
    sweep = SweepRecord(
        "lr", str(folder), Metric("val/loss"), "random", ("beta",), (trial,), {}, {"command": command, "program": PATH}
    )
    with pytest.raises(UserError, match="beta=0.5 is not a setting of --model=mlp") if is_refused else nullcontext():
        check_settings(sweep, told(sweep, folder))


def test_of_another_program_called_train_py_no_setting_is_checked(folder, monkeypatch):
    (folder / "train.py").write_text("")
    monkeypatch.chdir(folder)
    sweep = sweep_of(folder, {"temperature": 0.1}, program="train.py")
    check_settings(sweep, told(sweep, folder))


@pytest.mark.parametrize("dataset", ["digits", "faces"])  # with test images, and without
def test_the_command_in_the_head_of_a_recipe_trains_as_the_final_run_of_that_seed_does(folder, dataset, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "faces").mkdir()
    words = [f"--dataset={dataset}", f"--data_dir={folder}", "--optimizer=sgd", "--limit_batches=5", "--patience=3"]
    command = ["${interpreter}", "${program}", *words, "--val_fraction=0.3", "${args}"]
    trial = {"lr": 0.1, "momentum": 0.5, "train_fraction": 0.2, "best_by": "val/loss", "seed": 9}
    sweep = sweep_of(folder, trial, command=command, program=PATH)
    write_best(sweep, folder / "best.yaml")
    head = (folder / "best.yaml").read_text().splitlines()[2]
    by_recipe = validate(merge(parse(shlex.split(head)[3:], {}), {}), {})
    by_final = validate(told_in_all(sweep.content, told(sweep, folder)[0].settings), {})
    assert recipe_of(asdict(by_recipe)) == recipe_of(asdict(by_final))
    assert (by_recipe.epochs, by_recipe.test) == (30, dataset == "digits")
