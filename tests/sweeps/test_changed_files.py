"""A sweep goes on after its file has changed, as long as new trials can be compared with old ones."""

import shutil
from argparse import Namespace

import pytest
from optuna.trial import TrialState

from analysis.read.sweeps import read_study
from data.errors import UserError
from data.metrics import Best
from models.cnn import CnnSettings
from sweeps.agent import num_trials
from sweeps.local.branches import in_branch
from sweeps.local.contract import by_settings
from sweeps.local.observations import observations
from sweeps.local.repeats import notes_of
from sweeps.local.sweep_file import parse_sweep
from sweeps.local.trials import Trials
from tests.sweep_agents import Stage
from tests.sweep_helpers import LR, ROOT, content, sweep_of

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
    "cap": {"run_cap": 5},
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


def test_a_run_cap_is_told_with_what_it_was_and_agents_may_differ_in_it(begun):
    first = opened(begun, run_cap=50)
    assert first.changes == ["run_cap: nothing is now 50"]
    assert opened(begun, run_cap=5).changes == ["run_cap: 50 is now 5"]
    assert not first.is_superseded()


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 2), (3, 1)])
def test_another_number_of_seeds_needs_a_new_name_once_a_trial_has_all_of_its(tmp_path, before, after):
    url = f"sqlite:///{tmp_path}/study.db"
    trials = opened(url, repeats=before)
    claim = trials.take(None)
    claim.trial.report(0.5, 1)
    assert opened(url, repeats=after).changes == [f"repeats: {before} is now {after}"]  # it may still have as many
    assert trials.is_superseded()
    notes = notes_of([Best(0.5, 1)] * before, trials.sweep.metric) if before > 1 else {"best": 0.5, "best_epoch": 1}
    trials.end(claim, TrialState.COMPLETE, notes)
    with pytest.raises(UserError, match=f"trials of s have {before} seeds?, not {after}: leave that, or give another"):
        opened(url, repeats=after)
    assert not opened(url, repeats=before).is_superseded()


@pytest.mark.parametrize("amounts", [3, [1], {"repeats": [1]}, {"run_cap": "a"}], ids=str)
def test_damaged_notes_on_numbers_of_runs_are_refused_in_one_line(begun, amounts):
    opened(begun).study.set_user_attr("amounts", amounts)
    with pytest.raises(UserError) as caught:
        opened(begun)
    assert "\n" not in str(caught.value)


def test_trials_that_were_ended_after_fewer_seeds_do_not_keep_a_sweep_from_going_on(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    trials = opened(url, repeats=3)
    for num, state in ((3, TrialState.COMPLETE), (1, TrialState.PRUNED), (0, TrialState.FAIL), (2, TrialState.RUNNING)):
        claim = trials.take(None)
        claim.trial.report(0.5, 1)
        notes = notes_of([Best(0.5, 1)] * num, trials.sweep.metric) if num else {}
        if state.is_finished():
            trials.end(claim, state, notes)
        else:
            trials.leave(claim, notes)
    assert opened(url, repeats=3).changes == []


@pytest.mark.parametrize("repeats", [1, 2])
def test_another_seed_matters_where_trials_are_compared_seed_by_seed(tmp_path, repeats):
    url = f"sqlite:///{tmp_path}/study.db"
    opened(url, repeats=repeats, parameters={**PARAMETERS, "seed": {"value": 1}})
    changed = {"repeats": repeats, "parameters": {**PARAMETERS, "seed": {"value": 100}}}
    if repeats == 1:
        assert opened(url, **changed).changes == ["seed: {value: 1} is now {value: 100}"]
    else:
        with pytest.raises(UserError, match="begun with another seed, new trials could not be compared"):
            opened(url, **changed)


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
        counts.append(num_trials(trials.sweep, Namespace(count=None), trials))
        for _ in range(num):
            claims.append(trials.take(None, [claim.trial_id for claim in claims]))
        tried += [tuple(claim.settings.values()) for claim in claims]
        for claim in claims:
            claim.trial.report(1.0, 1)
            trials.end(claim, TrialState.COMPLETE, {})
    assert counts == [4, 6]
    assert tried == [(0.1, "sgd"), (0.1, "adam"), (0.2, "sgd"), (0.15, "sgd"), (0.15, "adam"), (0.2, "adam")]
    assert num_trials(trials.sweep, Namespace(count=None), trials) == 6


def trials_of(tmp_path, parameters, **changes):
    """The trials of a study by one version of its file."""
    return Trials(f"sqlite:///{tmp_path}/study.db", by_settings(sweep_of(parameters, **changes)), "s", seed=0)


def finish(trials, num):
    """Start and end so many trials; return their settings."""
    told = []
    for _ in range(num):
        claim = trials.take(None)
        told.append(dict(claim.settings))
        claim.trial.report(1.0, 1)
        trials.end(claim, TrialState.COMPLETE, {})
    return told


def known(trials):
    """The settings of the trials that count for its search, as it takes them: by the values at their points."""
    if trials.sweep.method != "bayes" or not trials.sweep.chooser:
        found = observations(trials.sweep, trials.study.user_attrs, trials.all())
        return [trials.sweep.told(trial.params) for trial in found]
    notes = trials.study.user_attrs
    branches = {choice: branch.sweep for choice, branch in trials.sampler.branches.items()}
    return [
        branch.told(trial.params)
        for choice, branch in branches.items()
        for trial in observations(branch, notes, in_branch(trials.sweep, choice, notes, trials.all()))
    ]


def test_another_step_of_rounding_is_noticed_and_a_paused_trial_keeps_its_value(tmp_path):
    width = {"distribution": "q_uniform", "min": 16, "max": 256, "q": 16}
    trials = trials_of(tmp_path, {"lr": LR, "width": width})
    paused = next(claim for claim in iter(lambda: trials.take(None, [0]), None) if claim.settings["width"] % 64)
    trials.leave(paused, {})
    for changed in ({**width, "q": 64}, {"distribution": "uniform", "min": 16, "max": 256}):
        trials = trials_of(tmp_path, {"lr": LR, "width": changed})
        claim = trials.take(None)
        assert claim.number == paused.number
        assert claim.settings == paused.settings
        trials.leave(claim, {})
        point = observations(trials.sweep, trials.study.user_attrs, trials.all())[claim.number].params["width"]
        assert point == paused.settings["width"]


def test_a_setting_that_is_searched_from_now_on_had_what_the_sweeps_command_and_its_model_say(tmp_path, monkeypatch):
    command = ["python", "train.py", "--model=vae", "--weight_decay=0.25", "--lr=${envvar:RATE}", "${args}"]
    first = {"batch_size": {"values": [32, 64]}}
    more = {**first, "beta": {"min": 0.1, "max": 2.0}, "weight_decay": {"min": 0.1, "max": 0.5}, "lr": LR}
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("RATE", "0.0625")
    tried = finish(trials_of(tmp_path, first, command=command), 2)
    assert known(trials_of(tmp_path, more, command=command)) == [  # 1.0 is the default of a VAE
        {**told, "beta": 1.0, "weight_decay": 0.25, "lr": 0.0625} for told in tried
    ]


def test_a_study_that_was_begun_when_values_of_no_probability_were_searched_goes_on(tmp_path):
    def weights(*each):
        return {"optimizer": {"values": ["sgd", "adam", "adamw"], "probabilities": list(each)}, "lr": LR}

    tried = finish(trials_of(tmp_path, weights(0.4, 0.3, 0.3)), 5)
    trials = trials_of(tmp_path, weights(0.5, 0, 0.5))
    assert known(trials) == [told for told in tried if told["optimizer"] != "adam"]
    assert len(known(trials)) < 5
    assert "adam" not in {told["optimizer"] for told in finish(trials, 8)}


def test_a_grid_of_several_models_goes_on_with_the_model_that_is_new(tmp_path):
    models = {"model": {"values": ["mlp", "cnn"]}, "pooling": {"values": ["none", "mean"]}, "lr": {"value": 0.1}}
    tried = finish(trials_of(tmp_path, models, method="grid"), 3)
    trials = trials_of(tmp_path, {**models, "model": {"values": ["mlp", "cnn", "nano_vit"]}}, method="grid")
    assert num_trials(trials.sweep, Namespace(count=None), trials) == 4
    assert [told["model"] for told in tried + finish(trials, 1)] == ["mlp", "cnn", "cnn", "nano_vit"]


@pytest.mark.parametrize("before", [{"model": {"value": "mlp"}}, {}], ids=["constant", "default"])
@pytest.mark.parametrize("method", ["bayes", "random"])
def test_trials_of_one_model_count_once_the_model_is_searched(tmp_path, method, before):
    told = finish(trials_of(tmp_path, {**before, "lr": LR}, method=method), 3)
    several = {"model": {"values": ["mlp", "cnn"]}, "lr": LR, "pooling": {"values": ["none", "mean"]}}
    found = known(trials_of(tmp_path, several, method=method))
    pooling = {} if before else {"pooling": CnnSettings.pooling}  # the default model is the cnn
    assert found == [{"model": "mlp" if before else "cnn", **pooling, **each} for each in told]


@pytest.mark.parametrize("method", ["bayes", "random"])
def test_trials_of_several_models_count_once_another_setting_is_searched(tmp_path, method):
    several = {"model": {"values": ["mlp", "cnn"]}, "lr": LR, "pooling": {"values": ["none", "mean"]}}
    told = finish(trials_of(tmp_path, several, method=method), 6)
    trials = trials_of(tmp_path, {**several, "epochs": {"min": 2, "max": 20}}, method=method)
    for each in known(trials):
        assert each.pop("epochs") == {"mlp": 13, "cnn": 16}[each["model"]]  # their defaults
        told.remove(each)
    assert not told


def test_a_default_that_is_told_several_models_changes_no_meaning(tmp_path):
    several = {"model": {"values": ["mlp", "cnn"]}, "lr": LR, "pooling": {"values": ["none", "mean"]}}
    finish(trials_of(tmp_path, several), 1)
    assert len(trials_of(tmp_path, {**several, "batch_size": {"value": 128}}).changes) == 1
    with pytest.raises(UserError, match="begun with another batch_size, new trials"):
        trials_of(tmp_path, {**several, "batch_size": {"value": 64}})


def test_trials_of_another_program_count_by_their_settings_in_groups(tmp_path):
    def opened(mu):
        momentum = {"distribution": "normal", "mu": mu, "sigma": 1.0}
        groups = {"opt": {"parameters": {"lr": LR, "momentum": momentum, "kind": {"value": "sgd"}}}}
        sweep = sweep_of(groups, program=str(ROOT / "tests" / "sweep_program.py"))
        return Trials(f"sqlite:///{tmp_path}/study.db", sweep, "s", seed=0)

    trials = opened(0.0)
    paused = trials.take(None)
    trials.leave(paused, {})
    trials = opened(1.0)
    [seen] = observations(trials.sweep, trials.study.user_attrs, trials.all())
    assert trials.sweep.told(seen.params)["opt"] == pytest.approx(paused.settings["opt"])
    assert trials.take(None).settings == paused.settings


def test_a_grid_that_gains_a_setting_repeats_no_combination(tmp_path):
    grid = {"lr": {"values": [0.1, 0.2]}}
    finish(trials_of(tmp_path, grid, method="grid"), 2)
    trials = trials_of(tmp_path, {**grid, "weight_decay": {"values": [0.0, 0.1]}}, method="grid")
    num = num_trials(trials.sweep, Namespace(count=None), trials)
    assert num == 4
    tried = finish(trials, num - 2)
    assert [(told["lr"], told["weight_decay"]) for told in tried] == [(0.1, 0.1), (0.2, 0.1)]


@pytest.mark.slow
def test_a_sweep_goes_on_from_the_command_line_and_an_agent_by_the_old_file_takes_no_more(tmp_path):
    stage = Stage(tmp_path)
    try:
        old = stage.start(stage.write(parameters={"epochs": 30, "seconds": 0.1}), "--count=9")
        stage.wait_for("epoch", 1)
        stage.write(parameters={"epochs": 30, "seconds": {"min": 0.01, "max": 0.02}, "lr": NARROW})
        new = stage.start("sweep.yaml", "--count=4", "--enqueue=lr=0.3 seconds=0.01")
        assert [old.wait(), new.wait()] == [0, 0], old.errors + new.errors
        assert "another agent goes on with a changed sweep: this one ends after the trials it runs" in old.output
        assert "the sweep has changed: lr: {distribution: log_uniform_values" in new.output
        assert "--enqueue=lr=0.3 seconds=0.01: lr=0.3 is outside its range, it is tried all the same" in new.output
        assert "4 trials: 4 finished" in new.output
        rates = [float(start["told"]["lr"]) for start in sorted(stage.journal("start"), key=lambda each: each["run"])]
        assert rates[1] == 0.3
        assert all(1e-3 <= rate <= 1e-2 for rate in rates[2:])
    finally:
        stage.close()
