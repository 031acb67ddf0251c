"""Sweeps over several models, each with settings of its own: what is drawn, told, told apart and shown."""

import itertools
import statistics

import pytest
from optuna.trial import Trial, TrialState, create_trial

from data.errors import UserError
from data.internals import trial_id
from sweeps.local.branches import choose_branch
from sweeps.local.contract import by_settings, check_contract
from sweeps.local.remarks import lines_of_foreign
from sweeps.local.search import Search, settings_of
from tests.branch_methods import best_values
from tests.sweep_helpers import LR, ask, study_of, sweep_of, tell

MODELS = {"model": {"values": ["mlp", "cnn"]}, "dataset": {"value": "digits"}}
OWN = {  # `width` is both models', each with a range of its own; the rate is shared, the pooling the CNN's
    **MODELS,
    "lr": LR,
    "pooling": {"values": ["none", "mean"]},
    "mlp": {"parameters": {"width": {"values": [16, 32]}}},
    "cnn": {"parameters": {"width": {"min": 4, "max": 8}, "net": {"parameters": {"depth": {"values": [1, 2]}}}}},
}


def sweep(parameters, **changes):
    return by_settings(sweep_of(parameters, **changes))


def told(some, num, seed=0):
    """The settings of the first trials of a search whose values are all the same."""
    study, found = study_of(some, seed), []
    for _ in range(num):
        trial, settings = ask(some, study)
        found.append(settings)
        tell(study, trial, 1.0)
    return found


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_trial_is_told_what_its_model_has_alone(method):
    found = told(sweep(OWN, method=method), 20)
    assert {settings["model"] for settings in found} == {"mlp", "cnn"}
    for settings in found:
        common = {"model", "dataset", "lr", "width"}
        assert settings.keys() == common | ({"pooling", "depth"} if settings["model"] == "cnn" else set())
        assert settings["width"] in ({"mlp": (16, 32), "cnn": range(4, 9)}[settings["model"]])


def test_what_a_model_has_not_is_said_once_for_each():
    assert lines_of_foreign(sweep(OWN)) == ["mlp has no pooling, depth: its trials are told none"]
    assert lines_of_foreign(sweep({**MODELS, "lr": LR})) == []
    assert sweep({**MODELS, "lr": LR}).chooser == ""
    headings = {"rate": {"parameters": {"lr": LR}}, "head": {"parameters": {"depth": {"values": [1, 2]}}}}
    assert lines_of_foreign(sweep({**MODELS, **headings})) == []
    [line] = lines_of_foreign(sweep({**MODELS, "nlp": {"parameters": {"lr": LR}}}))
    assert line == "the group nlp is named for no model, did you mean mlp?"


def test_a_search_without_branches_is_what_it_was():
    plain = {"lr": LR, "width": {"values": [16, 32]}, "model": {"value": "mlp"}}
    nested = {
        "a": {"parameters": {"lr": LR, "b": {"parameters": {"width": {"values": [16, 32]}}}}},
        "model": {"value": "mlp"},
    }
    assert told(sweep_of(plain), 8) == told(sweep(plain), 8) == told(sweep(nested), 8)


def test_another_programs_run_is_told_its_groups_as_wandb_tells_them():
    nested = sweep_of({"a": {"parameters": {"lr": LR, "b": {"parameters": {"c": {"value": 3}}}}}, "cnn": {"value": 1}})
    [settings] = told(nested, 1)
    assert settings == {"a": {"lr": settings["a"]["lr"], "b": {"c": 3}}, "cnn": 1}
    assert nested.varied(settings) == {"a.lr": settings["a"]["lr"]}


def test_a_grid_has_each_combination_once_however_many_settings_do_not_apply():
    parameters = {**OWN, "lr": {"values": [0.1, 0.2]}}
    some = sweep(parameters, method="grid")
    found = [tuple(sorted(settings.items())) for settings in told(some, len(some.grid()))]
    assert len(set(found)) == len(found) == 2 * 2 + 2 * 2 * 5 * 2
    plain = sweep(
        {"model": {"values": ["mlp", "cnn"]}, "lr": {"values": [1.0]}, "pooling": {"values": ["none"]}}, method="grid"
    )
    assert told(plain, 2) == [{"model": "mlp", "lr": 1.0}, {"model": "cnn", "lr": 1.0, "pooling": "none"}]


def test_nothing_is_tried_twice_and_a_branch_without_more_to_try_is_left():
    finite = {
        "model": MODELS["model"],
        "width": {"values": [8, 16]},
        "pooling": {"values": ["none", "mean"]},
        "lr": {"value": 0.1},
    }
    for seed in range(3):
        found = [tuple(sorted(settings.items())) for settings in told(sweep(finite), 6, seed)]
        assert len(set(found)) == 6  # 2 of the MLP, 4 of the CNN


def test_a_search_by_branches_goes_on_as_it_would_have():
    some = sweep(OWN)
    study, found = study_of(some, 3), []
    for _ in range(16):
        study.sampler = Search(some, 3)  # as after a kill
        trial, settings = ask(some, study)
        assert settings_of(some, trial) == settings
        found.append(settings)
        tell(study, trial, 1.0)
    assert found == told(some, 16, 3)


def test_a_branch_whose_trials_all_fail_is_left_to_the_other():
    some, counts = sweep(OWN), {"mlp": 0, "cnn": 0}
    study = study_of(some, 0)
    for _ in range(24):
        trial, settings = ask(some, study)
        counts[settings["model"]] += 1
        if settings["model"] == "cnn":
            study.tell(trial, None, TrialState.FAIL)
        else:
            tell(study, trial, settings["lr"])
    assert counts["mlp"] > counts["cnn"]


def chosen(**costs):
    """The branch to go on with after trials with some costs in each; either has one setting to search."""
    width = {"parameters": {"width": {"values": [16, 32]}}}
    trials = {
        model: [create_trial(value=each, intermediate_values={1: each}) for each in costs[model]] for model in costs
    }
    for number, trial in enumerate(itertools.chain(*trials.values())):
        trial.number = number
    some = sweep({**MODELS, "mlp": width, "cnn": width})
    return choose_branch(trials, some.objectives, {"mlp": 1, "cnn": 1})


def test_the_branch_with_the_best_trial_goes_on_however_bad_its_last_ones_are():
    assert chosen(mlp=[*range(20), *range(32, 42)], cnn=range(20, 32)) == "mlp"
    assert chosen(mlp=range(20, 32), cnn=[*range(20), *range(32, 42)]) == "cnn"


def test_of_branches_that_are_about_as_good_the_one_that_was_tried_less_goes_on():
    assert chosen(mlp=[0, *range(13, 42)], cnn=range(1, 13)) == "cnn"


def test_a_branch_that_is_bad_has_its_least_share_of_the_trials():
    assert chosen(mlp=range(36), cnn=range(36, 48)) == "mlp"
    assert chosen(mlp=range(37), cnn=range(37, 49)) == "cnn"


@pytest.mark.parametrize("method", ["bayes", "random", "grid"])
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_a_trial_whose_agent_was_killed_while_it_was_stored_goes_on_with_the_model_that_is_there(method, model):
    some = sweep({**OWN, "lr": {"values": [0.1, 0.2]}}, method=method)
    study = study_of(some, 0)
    _, first = ask(some, study)
    begun = study.ask()
    begun.storage.set_trial_param(trial_id(begun), "model", some.choices.index(model), some.space["model"])
    settings = settings_of(some, Trial(study, trial_id(begun)))
    assert settings["model"] == model
    assert settings.keys() == {"model", "dataset", "lr", "width"} | ({"pooling", "depth"} if model == "cnn" else set())
    assert settings != first


def test_a_grid_has_each_combination_once_though_an_agent_was_killed_while_it_stored_one():
    some = sweep_of({name: {"values": [1, 2, 3]} for name in "ab"}, method="grid")
    study = study_of(some, 0)
    begun = study.ask()
    begun.storage.set_trial_param(trial_id(begun), "a", 1, some.space["a"])
    found = [ask(some, study)[1] for _ in range(4)] + [settings_of(some, Trial(study, trial_id(begun)))]
    found += [ask(some, study)[1] for _ in range(4)]
    assert len({tuple(settings.values()) for settings in found}) == 9


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_a_choice_that_waits_is_tried_though_the_file_has_gained_a_setting_of_its_model(model):
    some = sweep(OWN)
    study = study_of(some, 0)
    study.enqueue_trial({"model": model, "lr": 0.01})
    _, settings = ask(some, study)
    assert (settings["model"], settings["lr"]) == (model, 0.01)
    assert settings["width"] in ({"mlp": (16, 32), "cnn": range(4, 9)}[model])


def test_agents_that_begin_at_once_begin_with_different_points():
    some = sweep(OWN)
    study = study_of(some, 0)
    begun = [study.ask() for _ in range(4)]  # each draws before the others have stored anything
    proposals = [trial.relative_params for trial in begun]
    assert len({tuple(points.items()) for points in proposals}) == 4
    assert sorted(points["model"] for points in proposals) == ["cnn", "cnn", "mlp", "mlp"]
    for trial in reversed(begun):
        settings_of(some, trial)
    assert [trial.params for trial in study.trials] == proposals


@pytest.mark.slow
def test_a_model_of_each_branch_gets_closer_to_the_best_than_one_of_all_and_than_a_grouped_tpe():
    best = {
        method: statistics.median(best_values("deceptive", method, seed)[-1] for seed in range(3))
        for method in ("ours", "grouped TPE", "one GP")
    }
    assert best.pop("ours") * 5 < min(best.values())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {**MODELS, "lr": LR, "num_heads": {"values": [1, 2]}},
            "parameter num_heads is not a setting of --model=mlp, it belongs to nano_vit",
        ),
        ({**MODELS, "lr": LR, "pooling": {"values": ["none", "maen"]}}, "pooling=maen is none of"),
        (
            {**MODELS, "lr": LR, "vae": {"parameters": {"beta": LR}}},
            "vae.beta: the sweep has no trials of that model, only of mlp, cnn",
        ),
        ({**MODELS, "lr": LR, "cnn": {"parameters": {"lr": LR}}}, "lr is given twice, as lr and cnn.lr"),
        (
            {**MODELS, "a": {"parameters": {"lr": LR}}, "b": {"parameters": {"lr": LR}}},
            "lr is given twice, as a.lr and b.lr",
        ),
        (
            {**MODELS, "mlp": {"parameters": {"pooling": {"values": ["none"]}}}},
            "parameter mlp.pooling is not a setting of --model=mlp, it belongs to cnn",
        ),
        ({"cnn": {"parameters": MODELS}, "lr": LR}, "cnn.model: the model cannot stand in the group of another one"),
        (
            {**MODELS, "net": {"parameters": {"widht": {"values": [8, 16]}}}},
            "parameter net.widht is not a setting .*did you mean width",
        ),
        ({**MODELS, "lr": LR, "model": {"values": ["mlp", "vae"]}}, "val/accuracy: no run logs it"),
        ({**MODELS, "a": {"parameters": {"run_id": {"value": "x"}}}, "lr": LR}, "a.run_id: the agent sets it"),
    ],
)
def test_what_cannot_be_is_refused_before_any_trial(parameters, message):
    with pytest.raises(UserError, match=message) as caught:
        check_contract(by_settings(sweep_of(parameters, metric={"name": "val/accuracy", "goal": "maximize"})))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"a": {"parameters": {}}}, "parameter a: the group holds none"),
        ({"a": {"parameters": {"b": {"parameters": []}}}}, "parameter a.b: the group holds none"),
        ({"a": {"parameters": {"b": 3}}}, "parameter a.b: 3 is not understood"),
        ({"a": {"parameters": {"b": {"values": []}}}}, r"parameter a.b: values \[\] is not a list"),
        ({"a": {"parameters": {True: LR}}}, "parameter True has no text for a name"),
        ({"a": {"parameters": {"b": LR}}, "a.b": LR}, "parameter a.b is given twice"),
        ({"a": {"parameters": {"b": LR}, "value": 3}}, "a group has parameters: alone, and no value"),
    ],
)
def test_a_group_that_is_none_is_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        sweep_of(parameters)
