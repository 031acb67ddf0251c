"""A sweep goes on after its file has changed, as long as new trials can be compared with old ones."""

import shutil
from argparse import Namespace

import pytest
from optuna.trial import TrialState

from analysis.read.sweeps import read_study
from data.errors import UserError
from sweeps.agent import num_trials
from sweeps.local.observations import observations
from sweeps.local.sweep_file import parse_sweep
from sweeps.local.trials import Trials
from tests.sweep_agents import Stage
from tests.sweep_helpers import LR, content, sweep_of

PARAMETERS = {"lr": LR, "optimizer": {"values": ["sgd", "adam"]}, "epochs": {"value": 3}, "tags": {"value": "a"}}
NARROW = {"distribution": "log_uniform_values", "min": 1e-3, "max": 1e-2}
MEANINGS = {
    "metric": {"metric": {"name": "val/accuracy", "goal": "maximize"}},
    "goal": {"metric": {"name": "val/loss", "goal": "maximize"}},
    "command": {"command": ["${env}", "${interpreter}", "${program}", "--epochs=4", "${args}"]},
    "constant": {"parameters": {**PARAMETERS, "epochs": {"value": 4}}},
    "constant that is no default": {"parameters": {**PARAMETERS, "batch_size": {"value": 7}}},
    "constant left out": {"parameters": {key: PARAMETERS[key] for key in ("lr", "optimizer", "tags")}},
    "range left out": {"parameters": {key: PARAMETERS[key] for key in ("lr", "epochs", "tags")}},
}
ALLOWED = {
    "range": {"parameters": {**PARAMETERS, "lr": NARROW}},
    "other scale": {"parameters": {**PARAMETERS, "lr": {"min": 0.001, "max": 0.1}}},
    "more values": {"parameters": {**PARAMETERS, "optimizer": {"values": ["sgd", "adam", "adamw"]}}},
    "fewer values": {"parameters": {**PARAMETERS, "optimizer": {"value": "adam"}}},
    "one more": {"parameters": {**PARAMETERS, "weight_decay": {"min": 0.0, "max": 0.1}}},
    "constant searched": {"parameters": {**PARAMETERS, "epochs": {"min": 2, "max": 5}}},
    "default told": {"parameters": {**PARAMETERS, "batch_size": {"value": 128}}},
    "circumstance": {"parameters": {**PARAMETERS, "tags": {"value": "b"}}},
    "method": {"method": "random"},
    "early end": {"early_terminate": {"type": "hyperband", "min_iter": 2}},
    "target": {"metric": {"name": "val/loss", "goal": "minimize", "target": 0.1}},
}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A study with two ended trials and one that is paused."""
    path = tmp_path_factory.mktemp("template") / "study.db"
    trials = Trials(f"sqlite:///{path}", sweep_of(PARAMETERS), "s", seed=0)
    for number in range(3):
        claim = trials.take(None)
        if number < 2:
            claim.trial.report(0.5 + number, 1)
            trials.end(claim, TrialState.COMPLETE, {"best": 0.5 + number, "best_epoch": 1})
        else:
            trials.leave(claim, {})
    return path


@pytest.fixture
def begun(template, tmp_path):
    """Its address, for changes."""
    shutil.copy(template, tmp_path)
    return f"sqlite:///{tmp_path}/study.db"


def opened(url, **changes):
    return Trials(url, parse_sweep(content({"parameters": PARAMETERS, **changes})), "s", seed=0)


@pytest.mark.parametrize("case", MEANINGS)
def test_what_changes_the_meaning_of_values_needs_a_new_name(begun, case):
    with pytest.raises(UserError, match="give another --name"):
        opened(begun, **MEANINGS[case])
    assert opened(begun).changes == []  # the study is as it was


@pytest.mark.parametrize("case", ALLOWED)
def test_other_changes_are_told_and_the_sweep_goes_on(begun, case):
    before = opened(begun).all()
    trials = opened(begun, **ALLOWED[case])
    assert len(trials.changes) == 1
    assert " is now " in trials.changes[0]
    paused = trials.take(None)
    fresh = trials.take(None, [paused.trial_id])
    assert (paused.number, fresh.number) == (2, 3)
    assert not paused.fault
    assert {**paused.settings, "tags": "a"} == before[2].user_attrs["settings"]  # as it was begun
    assert fresh.settings.keys() >= trials.sweep.space.keys()
    known = [trial.number for trial in observations(trials.sweep, trials.study.user_attrs, before[:2])]
    is_narrower = case == "fewer values"
    assert known == [n for n in (0, 1) if not is_narrower or before[n].user_attrs["settings"]["optimizer"] == "adam"]
    assert opened(begun, **ALLOWED[case]).changes == []


def test_readers_see_the_present_file_and_all_trials(begun):
    trials = opened(begun, **ALLOWED["one more"])
    trials.take(None, [trials.take(None).trial_id])
    found, trials = read_study(begun, "s")
    assert "weight_decay" in found["parameters"]
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    assert [trial.value for trial in trials] == [0.5, 1.5, None, None]
    assert "weight_decay" in trials[3].settings


def test_the_agent_with_the_earlier_file_learns_that_another_has_gone_on(begun):
    earlier = opened(begun)
    assert not earlier.is_superseded()
    later = opened(begun, **ALLOWED["range"])
    assert earlier.is_superseded()
    assert not later.is_superseded()


def test_what_a_setting_had_by_default_is_known_once_it_is_searched(begun):
    trials = opened(begun, **ALLOWED["one more"])
    [first, _] = observations(trials.sweep, trials.study.user_attrs, trials.all()[:2])
    assert first.params["weight_decay"] == 0.0


def test_a_grid_goes_on_with_the_combinations_that_are_left(tmp_path):
    url, grid = (
        f"sqlite:///{tmp_path}/study.db",
        {"lr": {"values": [0.1, 0.2]}, "optimizer": {"values": ["sgd", "adam"]}},
    )
    longer = {**grid, "lr": {"values": [0.1, 0.15, 0.2]}}
    counts, tried = [], []
    for parameters, num in ((grid, 3), (longer, 3)):
        trials = Trials(url, sweep_of(parameters, method="grid"), "s", seed=0)
        claims = []
        counts.append(num_trials(trials.sweep, Namespace(count=None), trials.started()))
        for _ in range(num):
            claims.append(trials.take(None, [claim.trial_id for claim in claims]))
        tried += [tuple(claim.settings.values()) for claim in claims]
        for claim in claims:
            claim.trial.report(1.0, 1)
            trials.end(claim, TrialState.COMPLETE, {})
    assert counts == [4, 6]
    assert tried == [(0.1, "sgd"), (0.1, "adam"), (0.2, "sgd"), (0.15, "sgd"), (0.15, "adam"), (0.2, "adam")]
    assert num_trials(trials.sweep, Namespace(count=None), trials.started()) == 6


@pytest.mark.slow
def test_a_sweep_goes_on_from_the_command_line_and_an_agent_by_the_old_file_takes_no_more(tmp_path):
    stage = Stage(tmp_path)
    try:
        old = stage.start(stage.write(parameters={"epochs": 30, "seconds": 0.1}), "--count=9")
        stage.wait_for("epoch", 1)
        stage.write(parameters={"epochs": 30, "seconds": {"min": 0.01, "max": 0.02}, "lr": NARROW})
        new = stage.start("sweep.yaml", "--count=4", "--enqueue=lr=0.3 seconds=0.01")
        assert [old.wait(), new.wait()] == [0, 0], old.errors + new.errors
        assert "another agent goes on with a changed sweep file: this one ends after the trials it runs" in old.output
        assert "the sweep file has changed: lr: {distribution: log_uniform_values" in new.output
        assert "--enqueue=lr=0.3 seconds=0.01: lr=0.3 is outside its range, it is tried all the same" in new.output
        assert "4 trials: 4 finished" in new.output
        rates = [float(start["told"]["lr"]) for start in sorted(stage.journal("start"), key=lambda each: each["run"])]
        assert rates[1] == 0.3
        assert all(1e-3 <= rate <= 1e-2 for rate in rates[2:])
    finally:
        stage.close()
