"""Settings that people want to be tried first."""

import json
import socket
import subprocess

import pytest
from optuna.trial import TrialState

from data.errors import UserError
from models.resolve import Text
from sweeps.local.contract import by_settings
from sweeps.local.enqueued import choice_of, enqueue, number_or_text
from sweeps.local.owners import place
from sweeps.local.trials import Trials
from tests.sweep_helpers import LR, sweep_of

PARAMETERS = {
    "lr": LR,
    "optimizer": {"values": ["sgd", "adam"]},
    "model": {"value": "mlp"},
    "width": {"distribution": "q_uniform", "min": 16, "max": 256, "q": 16},
    "weight_decay": {"distribution": "log_normal", "mu": -8.0, "sigma": 1.0},
    "epochs": {"value": 3},
}
BAD = {
    "lr=fast": "not a number",
    "lr=-1": "out of range",
    "lr": "neither a file nor settings",
    "": "neither a file nor settings",
    "lr=1 lr=2": "lr is given twice",
    "lr='1": "neither a file nor settings",
    "optimizer=adamw": "optimizer=adamw cannot come out of its distribution",
    "width=70": "rounded in this sweep: the nearest value is 64",
    "weight_decay=0.9": "cannot come out of its distribution",
    "epochs=4": "epochs is always 3 in this sweep",
    "epochs=3": "names none of the settings that are searched",
    "momentun=0.9": "is not a setting of",
    "model=cnn lr=1e-3": "is always mlp in this sweep",
    "none.yaml": "none.yaml cannot be read",
    "lr=nan": "not a finite number",
    "lr=1e200": "cannot come out of its distribution",
}


def take(trials, num, count=None):
    """The next trials, all of which are under way then."""
    claims = []
    for _ in range(num):
        claims.append(trials.take(count, [claim.trial_id for claim in claims if claim]))
    return claims


@pytest.fixture
def trials(tmp_path):
    return Trials(f"sqlite:///{tmp_path}/study.db", sweep_of(PARAMETERS), "s", seed=0)


@pytest.mark.parametrize("text", BAD)
def test_what_cannot_be_tried_is_refused_in_one_line(text):
    with pytest.raises(UserError) as caught:
        choice_of(text, sweep_of(PARAMETERS))
    assert str(caught.value).startswith(f"--enqueue={text}")
    assert BAD[text] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_grid_has_nothing_to_try_first():
    with pytest.raises(UserError, match="a grid tries each"):
        choice_of("optimizer=sgd", sweep_of({"optimizer": PARAMETERS["optimizer"]}, method="grid"))


def test_a_recipe_is_taken_for_what_the_sweep_searches(tmp_path):
    (tmp_path / "best.yaml").write_text("model: mlp\nlr: 0.002\nepochs: 7\noptimizer: sgd\nseed: 4\nbatch_size: 64\n")
    choice = choice_of(str(tmp_path / "best.yaml"), sweep_of(PARAMETERS))
    assert choice.points == {"lr": 0.002, "optimizer": "sgd"}
    assert choice.lines == ["left out, since the sweep has its own: epochs, batch_size"]


def test_a_recipe_of_another_model_is_refused(tmp_path):
    (tmp_path / "best.yaml").write_text("model: cnn\nlr: 0.002\n")
    with pytest.raises(UserError, match="it is of cnn, and this sweep trains mlp"):
        choice_of(str(tmp_path / "best.yaml"), sweep_of(PARAMETERS))


@pytest.mark.parametrize("method", ["bayes", "random"])
def test_choices_are_the_next_trials_in_their_order_and_the_search_fills_in_the_rest(tmp_path, method):
    trials = Trials(f"sqlite:///{tmp_path}/study.db", sweep_of(PARAMETERS, method=method), "s", seed=0)
    take(trials, 1)
    texts = ("lr=1e-3 width=64 optimizer=adam weight_decay=3e-4", "lr=2e-3")
    assert [enqueue(choice_of(text, trials.sweep).points, trials).number for text in texts] == [1, 2]
    _, first, second, third = take(trials, 4)
    assert {**first.settings, "weight_decay": 0} == {
        "lr": 1e-3, "width": 64, "optimizer": "adam", "weight_decay": 0, "model": "mlp", "epochs": 3
    }  # fmt: skip
    assert first.settings["weight_decay"] == pytest.approx(3e-4)
    assert second.settings["lr"] == 2e-3
    assert second.settings["optimizer"] in ("sgd", "adam")
    assert third.number == 3


@pytest.mark.parametrize("method", ["bayes", "random"])
def test_what_a_choice_of_one_of_several_models_does_not_name_is_the_searchs(tmp_path, method):
    parameters = {"model": {"values": ["mlp", "cnn"]}, "lr": LR, "pooling": {"values": ["none", "mean"]}}
    sweep = by_settings(sweep_of({**parameters, "weight_decay": {"min": 0.0, "max": 0.1}}, method=method))
    decays = set()
    for seed in (0, 1):
        trials = Trials(f"sqlite:///{tmp_path}/{seed}.db", sweep, "s", seed=seed)
        for model, rate in (("cnn", 1e-3), ("cnn", 2e-3), ("mlp", 3e-3)):
            enqueue(choice_of(f"model={model} lr={rate}", sweep).points, trials)
        claims = take(trials, 3)
        assert [(each.settings["model"], each.settings["lr"]) for each in claims] == [
            ("cnn", 1e-3), ("cnn", 2e-3), ("mlp", 3e-3)
        ]  # fmt: skip
        decays |= {each.settings["weight_decay"] for each in claims}
    assert len(decays) == 6


def test_a_value_outside_its_range_is_tried_and_told(trials, recwarn):
    choice = choice_of("lr=0.5", trials.sweep)
    assert choice.lines == ["--enqueue=lr=0.5: lr=0.5 is outside its range, it is tried all the same"]
    enqueue(choice.points, trials)
    claim = trials.take(1)
    assert (claim.number, claim.settings["lr"], claim.fault) == (0, 0.5, "")
    claim.trial.report(1.0, 1)
    trials.end(claim, TrialState.COMPLETE, {})
    for _ in range(9):
        claim = trials.take(None)
        claim.trial.report(1.0, 1)
        trials.end(claim, TrialState.COMPLETE, {})
        assert 1e-5 <= claim.settings["lr"] <= 0.1
    assert not recwarn.list


def test_a_choice_is_tried_once_in_a_sweep_whoever_asks(trials, tmp_path):
    points = choice_of("lr=1e-3", trials.sweep).points
    other = Trials(f"sqlite:///{tmp_path}/study.db", sweep_of(PARAMETERS), "s", seed=0)
    assert [enqueue(points, each).number for each in (trials, other, trials)] == [0, 0, 0]
    first, second = take(trials, 2, count=1)
    assert first.settings["lr"] == 1e-3
    assert second is None
    assert enqueue(points, other).state == TrialState.RUNNING
    assert len(other.all()) == 1


def test_a_choice_beyond_the_count_waits_for_a_larger_one(trials):
    take(trials, 1)
    assert enqueue(choice_of("lr=1e-3", trials.sweep).points, trials).number == 1
    assert take(trials, 2, count=1)[1] is None
    assert take(trials, 2, count=2)[1].settings["lr"] == 1e-3


@pytest.mark.parametrize("is_alive", [True, False])
def test_a_choice_that_an_agent_has_claimed_is_anothers_to_store_only_once_that_one_is_dead(
    trials, tmp_path, monkeypatch, is_alive
):
    points = choice_of("lr=1e-3", trials.sweep).points
    other = Trials(f"sqlite:///{tmp_path}/study.db", sweep_of(PARAMETERS), "s", seed=0)
    monkeypatch.setattr(other.study, "enqueue_trial", lambda points: None)
    if not is_alive:
        with subprocess.Popen(["true"]) as ended:
            pass
        other.claims.owner = json.dumps([socket.gethostname(), place(), ended.pid, 1])
    assert enqueue(points, other) is None
    assert (enqueue(points, trials) is None) == is_alive


def test_a_choice_that_is_queued_is_not_stored_again_once_the_agent_that_did_so_is_dead(trials):
    points = choice_of("lr=1e-3", trials.sweep).points
    with subprocess.Popen(["true"]) as ended:
        pass
    own, trials.claims.owner = trials.claims.owner, json.dumps([socket.gethostname(), place(), ended.pid, 1])
    enqueue(points, trials)
    trials.claims.owner = own
    assert enqueue(points, trials).number == 0
    assert len(trials.all()) == 1


def test_a_model_alone_may_be_chosen_where_models_are_searched():
    own = by_settings(sweep_of({"model": {"values": ["mlp", "cnn"]}, "pooling": {"values": ["none", "mean"]}}))
    assert choice_of("model=cnn", own).points == {"model": "cnn"}


def test_sweeps_in_one_database_each_try_a_choice_whose_claims_are_those_of_no_trial(trials, tmp_path):
    other = Trials(f"sqlite:///{tmp_path}/study.db", sweep_of(PARAMETERS), "another", seed=0)
    assert [enqueue(choice_of("lr=1e-3", each.sweep).points, each).number for each in (trials, other)] == [0, 0]
    assert all(-(2**31) < claim <= -(2**30) for claim in trials.claims.all())  # as PostgreSQL's integers


def test_settings_may_be_spelled_as_options_and_a_file_have_any_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe").write_text("lr: 0.002\n")
    sweep = sweep_of(PARAMETERS)
    assert [choice_of(text, sweep).points["lr"] for text in ("--lr=1e-3 --width=64", "recipe")] == [1e-3, 2e-3]


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("3", 3), ("true", True), ("adam", "adam"), ("[1, 2]", [1, 2])]
)
def test_another_programs_settings_are_read_as_yaml_reads_them_and_1e_3_as_a_number(text, value):
    read = number_or_text(Text(text))
    assert (read, type(read)) == (value, type(value))
