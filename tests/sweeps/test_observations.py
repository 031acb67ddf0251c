"""What a search learns from earlier runs, and from trials of its own that were drawn from other ranges."""

import math
import statistics

import pytest
from optuna.trial import TrialState

from sweeps.local.distributions import parameter
from sweeps.local.observations import ASSUMED, PRIOR, observations, point_of, points_of
from sweeps.local.search import Search
from tests.sweep_helpers import LR, ask, study_of, sweep_of, tell

RANGE = {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}
DISTRIBUTIONS = {
    "uniform": {"min": 0.0, "max": 1.0},
    "logarithmic": LR,
    "whole": {"min": 1, "max": 8},
    "rounded": {"distribution": "q_uniform", "min": 16, "max": 256, "q": 16},
    "list": {"values": ["a", "b"]},
    "normal": {"distribution": "normal", "mu": 3.0, "sigma": 2.0},
    "log normal": {"distribution": "log_normal", "mu": 0.0, "sigma": 1.0},
    "rounded normal": {"distribution": "q_normal", "mu": 100, "sigma": 30, "q": 5},
    "beta": {"distribution": "beta", "a": 2, "b": 5},
}


def curve(lr):
    """0 at 1e-3."""
    return math.log10(lr / 1e-3) ** 2


def entries(values, cost=curve):
    return [{"run": f"r{lr}", "settings": {"lr": lr}, "value": None if lr >= 1 else cost(lr)} for lr in values]


def prior_study(sweep, prior, seed=0):
    study = study_of(sweep, seed)
    study.set_user_attr(PRIOR, {"earlier": prior})
    return study


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_every_value_that_a_distribution_draws_has_a_point_that_leads_back_to_it(kind):
    entry = parameter("a", DISTRIBUTIONS[kind])
    for share in (0.001, 0.2, 0.5, 0.77, 0.999):
        value = entry.value(entry.draw(share))
        again = entry.value(point_of(entry, value))
        assert again == value or again == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize(
    ("kind", "value"),
    [("list", "c"), ("whole", 2.5), ("logarithmic", -1.0), ("beta", 1.5), ("uniform", "a"), ("uniform", None)],
)
def test_values_without_a_place_on_a_scale_have_no_point(kind, value):
    assert point_of(parameter("a", DISTRIBUTIONS[kind]), value) is None


def test_settings_of_another_constant_have_no_points():
    sweep = sweep_of({"lr": LR, "width": {"value": 32}, "seed": {"value": 1}})
    assert points_of(sweep, {"lr": 0.5, "width": 32, "seed": 2}) == {"lr": 0.5}
    assert points_of(sweep, {"lr": 0.5}) == {"lr": 0.5}
    assert points_of(sweep, {"lr": 0.5, "width": 64}) is None


def test_with_earlier_runs_the_first_trial_is_already_near_their_best():
    sweep = sweep_of({"lr": LR})
    earlier = entries([1e-5, 1e-4, 8e-4, 2e-3, 1e-2, 0.1])
    first = [ask(sweep, prior_study(sweep, earlier, seed))[1]["lr"] for seed in range(5)]
    assert statistics.median(abs(math.log10(lr / 1e-3)) for lr in first) < 0.3
    plain = [ask(sweep, study_of(sweep, seed))[1]["lr"] for seed in range(5)]
    assert statistics.median(abs(math.log10(lr / 1e-3)) for lr in plain) > 0.3


def test_without_earlier_runs_nothing_changes():
    sweep, empty = sweep_of({"lr": LR}), sweep_of({"lr": LR})
    plain, given = study_of(sweep, 0), prior_study(empty, [])
    for _ in range(7):
        (one, settings), (other, same) = ask(sweep, plain), ask(empty, given)
        assert settings == same
        tell(plain, one, curve(**settings))
        tell(given, other, curve(**same))


def test_what_lies_outside_the_range_changes_no_proposal_until_the_range_reaches_it():
    inside, outside = entries([1e-4, 3e-4, 9e-4, 3e-3, 9e-3]), entries([1e-5, 2e-2, 0.1])

    def first(space, prior):
        return ask(sweep_of({"lr": space}), prior_study(sweep_of({"lr": space}), prior))[1]["lr"]

    assert first(RANGE, outside + inside) == first(RANGE, inside)
    assert first(LR, outside + inside) != first(LR, inside)


def test_earlier_failures_count_as_the_worst_and_runs_of_other_values_not_at_all():
    sweep = sweep_of({"lr": LR, "width": {"values": [32, 64]}})
    prior = [
        {"run": "a", "settings": {"lr": 0.1, "width": 32}, "value": None},
        {"run": "b", "settings": {"lr": 0.1, "width": 128}, "value": 1.0},
        {"run": "c", "settings": {"lr": 0.1}, "value": 2.0},
    ]
    failed, assumed = observations(sweep, {PRIOR: {"x": prior}, ASSUMED: {"width": 64}}, [])
    assert failed.state == TrialState.FAIL
    assert assumed.params == {"lr": 0.1, "width": 64}
    assert (failed.number, assumed.number) == (-3, -1)


def test_trials_of_other_ranges_are_told_by_the_values_of_their_settings():
    old = sweep_of({"lr": {"distribution": "log_normal", "mu": -7.0, "sigma": 1.0}})
    new = sweep_of({"lr": {"distribution": "log_normal", "mu": -5.0, "sigma": 1.0}})
    study = study_of(old, 0)
    trial, settings = ask(old, study)
    trial.set_user_attr("settings", settings)
    [unchanged] = observations(old, {}, study.trials)
    [moved] = observations(new, {}, study.trials)
    assert unchanged.params == study.trials[0].params
    assert moved.params != unchanged.params
    assert new.parameters["lr"].value(moved.params["lr"]) == pytest.approx(settings["lr"])


def test_values_of_earlier_runs_may_be_tried_again_as_trials_of_the_sweep():
    sweep = sweep_of({"a": {"values": ["p", "q"]}})
    prior = [{"run": "x", "settings": {"a": each}, "value": 1.0} for each in ("p", "q")]
    study = prior_study(sweep, prior)
    tried = []
    for _ in range(2):
        trial, settings = ask(sweep, study)
        tried.append(settings["a"])
        tell(study, trial, 1.0)
    assert sorted(tried) == ["p", "q"]
    assert not Search(sweep, 0).tried(observations(sweep, {PRIOR: {"x": prior}}, []))
