"""Several metrics, and what trials count as that did not come to their end, as W&B's sections say it."""

import random

import pytest
from optuna.trial import TrialState, create_trial

from analysis.read.trials import OBJECTIVES
from data.errors import UserError
from data.metrics import Metric
from data.pareto import layers, pareto_front
from sweeps.local.objectives import parse_objectives
from sweeps.local.search import Search
from sweeps.local.sweep_file import parse_sweep
from sweeps.local.worth import costs_of, is_pending
from tests.sweep_helpers import LR, ask, content, study_of

LOSS, SPEED = {"name": "val/loss"}, {"name": "images_per_second", "goal": "maximize"}


def several(parameters, **changes):
    whole = content(parameters=parameters, metrics=[LOSS, SPEED], **changes)
    del whole["metric"]
    return parse_sweep(whole)


def trial(state, values, **notes):
    ended = values[-1] if state == TrialState.COMPLETE else None
    return create_trial(state=state, value=ended, intermediate_values=dict(enumerate(values, 1)), user_attrs=notes)


def test_the_front_is_what_nothing_beats_by_every_figure():
    draw = random.Random(0)
    costs = {i: (draw.randrange(6), draw.randrange(6), draw.randrange(6)) for i in range(40)}
    beaten = {
        i
        for i in costs
        for other in costs.values()
        if other != costs[i] and all(one <= own for one, own in zip(other, costs[i], strict=True))
    }
    assert pareto_front(costs) == [i for i in costs if i not in beaten]
    found = layers(costs)
    assert {i for i in found if found[i] == 0} == set(costs) - beaten
    rest = {i: own for i, own in costs.items() if found[i]}
    assert pareto_front(rest) == [i for i in costs if found[i] == 1]
    assert layers({"a": (2.0,), "b": (1.0,), "c": (2.0,)}) == {"a": 1, "b": 0, "c": 1}
    assert pareto_front({}) == []
    assert layers({}) == {}


@pytest.mark.parametrize(
    ("impute", "state", "values", "cost"),
    [
        ("worst", TrialState.FAIL, [3.0, 1.0, 2.0], None),
        ("best", TrialState.FAIL, [3.0, 1.0, 2.0], (1.0,)),
        ("latest", TrialState.FAIL, [3.0, 1.0, 2.0], (2.0,)),
        ("best", TrialState.FAIL, [], None),
        ("worst", TrialState.PRUNED, [3.0, 1.0, 2.0], (1.0,)),
        ("latest", TrialState.PRUNED, [3.0, 1.0, 2.0], (2.0,)),
        ("latest", TrialState.COMPLETE, [3.0, 1.0, 2.0], (1.0,)),
    ],
)
def test_impute_says_what_a_trial_counts_as_that_did_not_come_to_its_end(impute, state, values, cost):
    objectives = parse_objectives({"metric": {"name": "val/loss", "impute": impute}})
    assert costs_of(objectives, trial(state, values)) == cost


@pytest.mark.parametrize("state", [TrialState.PRUNED, TrialState.RUNNING, TrialState.FAIL])
def test_a_trial_of_several_seeds_counts_as_what_is_noted_of_them_and_not_as_the_last_epoch_of_its_first(state):
    objectives = parse_objectives({"metric": {"name": "val/loss", "impute": "latest"}})
    assert costs_of(objectives, trial(state, [3.0, 1.0, 2.0], repeats=[[1.0, 2], [5.0, 1]], best=3.0)) == (3.0,)


@pytest.mark.parametrize(
    ("told", "cost", "pending"),
    [
        ("false", None, True),
        (False, None, True),
        ("latest", (2.0,), False),
        ("best", (1.0,), False),
        ("worst", None, False),
    ],
)
def test_impute_while_running_says_what_a_trial_counts_as_that_is_under_way(told, cost, pending):
    objectives = parse_objectives({"metric": {"name": "val/loss", "impute_while_running": told}})
    one = trial(TrialState.RUNNING, [3.0, 1.0, 2.0])
    assert (costs_of(objectives, one), is_pending(objectives, one)) == (cost, pending)
    fresh = trial(TrialState.RUNNING, [])
    assert is_pending(objectives, fresh) == (told != "worst")


def test_a_trial_of_several_metrics_counts_where_it_has_all_of_them():
    objectives = parse_objectives({"metrics": [LOSS, SPEED]})
    assert objectives.metrics == (Metric("val/loss"), Metric("images_per_second", "maximize"))
    full = trial(TrialState.COMPLETE, [3.0, 1.0], **{OBJECTIVES: {"images_per_second": 50.0}})
    assert costs_of(objectives, full) == (1.0, -50.0)
    assert (
        costs_of(objectives, trial(TrialState.COMPLETE, [3.0, 1.0], **{OBJECTIVES: {"images_per_second": None}}))
        is None
    )
    assert costs_of(objectives, trial(TrialState.COMPLETE, [3.0, 1.0])) is None


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"metrics": [LOSS, SPEED], "metric": LOSS}, "there are both metric and metrics"),
        ({"metrics": []}, "metrics is not a list of 2 to 4"),
        ({"metrics": [LOSS]}, "for a single one write metric:"),
        ({"metrics": {"name": "val/loss"}}, "metrics is not a list"),
        ({"metrics": [LOSS, "val/ece"]}, "metrics: each is written with name: val/loss and goal"),
        ({"metrics": [LOSS, {"name": "a", "goal": "up"}]}, "metrics goal up is none of minimize, maximize"),
        ({"metrics": [LOSS, {"name": "a", "target": 3}]}, "metrics has no target: only name and goal"),
        ({"metrics": [LOSS, {"name": "a", "impute": "best"}]}, "metrics has no impute"),
        ({"metrics": [LOSS, SPEED, LOSS]}, "metrics names val/loss twice"),
        ({"metrics": [LOSS, SPEED], "early_terminate": {"type": "hyperband", "min_iter": 3}}, "judges by one metric"),
    ],
)
def test_what_several_metrics_cannot_be_is_refused(sections, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_objectives(sections)
    assert "\n" not in str(caught.value)


def volume(points, reference=(2.0, 2.0)):
    """What a front of two costs encloses up to a reference."""
    found, ceiling = 0.0, reference[1]
    for x, y in sorted(points):
        if x < reference[0] and y < ceiling:
            found += (reference[0] - x) * (ceiling - y)
            ceiling = y
    return found


def search_two(method, num_trials, seed):
    """The volume of the front between two costs that pull apart, x and 1 - x, beside one that only costs."""
    sweep = several({"x": {"min": 0.0, "max": 1.0}, "y": {"min": 0.0, "max": 1.0}}, method=method)
    study, points = study_of(sweep, seed), []
    for _ in range(num_trials):
        one, told = ask(sweep, study)
        costs = told["x"] ** 2 + told["y"], (1 - told["x"]) ** 2 + told["y"]
        points.append(costs)
        one.report(costs[0], 1)
        one.set_user_attr(OBJECTIVES, {"images_per_second": -costs[1]})
        study.tell(one, costs[0])
    return volume(points)


@pytest.mark.slow
def test_a_search_by_two_metrics_widens_the_front_further_than_chance():
    volumes = {method: [search_two(method, 16, seed) for seed in range(3)] for method in ("bayes", "random")}
    assert min(volumes["bayes"]) > max(volumes["random"])


def test_failed_trials_and_those_under_way_are_no_trouble_to_a_search_by_two_metrics():
    sweep = several({"lr": LR, "optimizer": {"values": ["sgd", "adam"]}})
    study = study_of(sweep, 0)
    for i in range(6):
        one, _ = ask(sweep, study)
        if i % 3:
            one.report(1.0 / (i + 1), 1)
            one.set_user_attr(OBJECTIVES, {"images_per_second": 10.0 * i})
            study.tell(one, 1.0 / (i + 1))
        elif i:
            study.tell(one, None, TrialState.FAIL)
    points = Search(sweep, 0).bayes(9, study.get_trials(deepcopy=False))
    assert points.keys() == {"lr", "optimizer"}
