"""What is proposed, and how good it is, on functions that cost nothing."""

import itertools
import math
import statistics
import time

import pytest
from optuna.samplers import RandomSampler
from optuna.trial import TrialState, create_trial

from sweeps.local.distributions import MOST_VALUES
from sweeps.local.gaussian_process import squashed
from sweeps.local.search import MOST_SEEN, Search, settings_of
from tests.sweep_helpers import LR, ask, study_of, sweep_of, tell

MIXED = {
    "lr": LR,
    "dropout": {"min": 0.0, "max": 0.8},
    "num_layers": {"min": 1, "max": 8},
    "width": {"distribution": "q_uniform", "min": 16, "max": 256, "q": 16},
    "optimizer": {"values": ["sgd", "adam", "adamw"]},
}
NOTEBOOK = {"lr": {"distribution": "log_uniform_values", "min": 4.54e-5, "max": 0.0183}}
UNORDERED = {name: {"values": list("pqrst")} for name in "abcd"}
NUM_SEEDS = 7


def curve(lr):
    """The loss of a classifier by its learning rate: 0.7 at 2e-4, and steeper where it is too high."""
    x = math.log(lr / 2e-4)
    return 0.7 + (0.05 if x < 0 else 0.09) * x * x


def landscape(lr, dropout, num_layers, width, optimizer):
    """0 at its best, with an optimum inside every range."""
    return (
        0.5 * (math.log10(lr) + 2.7) ** 2
        + 3 * (dropout - 0.3) ** 2
        + 0.05 * (num_layers - 5) ** 2
        + 0.5 * ((width - 160) / 128) ** 2
        + {"sgd": 0.6, "adam": 0.15, "adamw": 0.0}[optimizer]
    )


def distance(**settings):
    """0 for the first of all values, of 625 combinations."""
    return sum("pqrst".index(value) for value in settings.values())


def search(sweep, function, num_trials, seed=0, study=None):
    """Settings and values of a search by one worker; with a study, of what is still to be done of it."""
    study = study or study_of(sweep, seed)
    found = []
    while len(study.trials) < num_trials:
        trial, settings = ask(sweep, study)
        found.append((settings, function(**settings)))
        tell(study, trial, found[-1][1])
    return found


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_the_same_seed_tries_the_same_and_another_does_not(method):
    sweep = sweep_of(MIXED, method=method)
    first, again, other = (search(sweep, landscape, 12, seed) for seed in (1, 1, 2))
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("method", ["random", "bayes", "grid"])
def test_a_search_that_was_killed_goes_on_as_it_would_have(method):
    parameters = NOTEBOOK if method != "grid" else {"lr": {"values": [i / 100 for i in range(1, 9)]}}
    sweep = sweep_of(parameters, method=method)
    study = study_of(sweep, 0)
    begun = search(sweep, curve, 5, study=study)
    study.sampler = Search(sweep, 0)
    assert begun + search(sweep, curve, 8, study=study) == search(sweep, curve, 8)


@pytest.mark.slow
def test_random_draws_follow_the_sweep_s_distributions():
    sweep = sweep_of(MIXED, method="random")
    drawn = [settings for settings, _ in search(sweep, landscape, 150)]
    assert 60 < sum(settings["lr"] < 1e-3 for settings in drawn) < 90  # the middle of the logarithms
    assert {settings["num_layers"] for settings in drawn} == set(range(1, 9))
    assert {settings["width"] for settings in drawn} == set(range(16, 257, 16))
    assert {settings["optimizer"] for settings in drawn} == {"sgd", "adam", "adamw"}


def test_a_grid_visits_every_combination_once_in_order():
    sweep = sweep_of({"b": {"values": ["x", "y"]}, "a": {"min": 1, "max": 3}, "c": {"value": 0}}, method="grid")
    visited = [(s["a"], s["b"], s["c"]) for s, _ in search(sweep, lambda **settings: 0.0, 6)]
    assert visited == list(itertools.product((1, 2, 3), "xy", (0,)))


def test_a_grid_that_is_through_begins_anew():
    sweep = sweep_of({"a": {"values": list("pqr")}}, method="grid")
    assert "".join(settings["a"] for settings, _ in search(sweep, lambda a: 0.0, 8)) == "pqrpqrpq"


def test_agents_that_ask_at_once_go_through_a_grid_in_the_order_of_their_trials():
    sweep = sweep_of({"a": {"values": list("pqr")}}, method="grid")
    study = study_of(sweep, 0)
    asked = [study.ask() for _ in range(3)]
    assert [settings_of(sweep, trial)["a"] for trial in asked] == list("pqr")


def test_combinations_are_counted_with_both_ends_and_listed_up_to_as_many_as_a_grid_may_have():
    space = {"a": {"min": 1, "max": 3}, "b": {"values": list("st")}}
    points = Search(sweep_of(space), 0).combinations()
    assert [tuple(point.values()) for point in points] == list(itertools.product((1, 2, 3), "st"))
    for beyond in (0, 1):
        wide = Search(sweep_of({"a": {"min": 1, "max": MOST_VALUES + beyond}}), 0)
        assert len(wide.combinations()) == (0 if beyond else MOST_VALUES)


def test_the_first_trials_lie_evenly_in_every_range_two_more_than_there_are_settings(
    monkeypatch,
):
    sweep = sweep_of(MIXED)
    monkeypatch.setattr("sweeps.local.search.gaussian_process", lambda _: pytest.fail("too early"))
    for seed in range(3):
        found = [settings for settings, _ in search(sweep, landscape, 7, seed)][:4]
        assert {int(4 * settings["dropout"] / 0.8) for settings in found} == {0, 1, 2, 3}
        assert {int(math.log10(settings["lr"] / 1e-5)) for settings in found} == {0, 1, 2, 3}
    with pytest.raises(pytest.fail.Exception, match="too early"):
        search(sweep, landscape, 8)


def test_the_first_trials_repeat_no_value_though_their_points_stand_for_the_same():
    sweep = sweep_of({"a": {"values": list("pqr")}})
    for seed in range(8):
        assert {settings["a"] for settings, _ in search(sweep, lambda a: 1.0, 3, seed)} == set("pqr")


def test_a_study_that_was_begun_by_random_draws_goes_on_and_repeats_none():
    sweep = sweep_of(UNORDERED)
    study = study_of(sweep, 0)
    study.sampler = Search(sweep_of(UNORDERED, method="random"), 0)
    search(sweep, distance, 5, study=study)
    study.sampler = Search(sweep, 0)
    search(sweep, distance, 9, study=study)
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 9


@pytest.mark.parametrize("seed", range(4))
def test_what_is_chosen_in_part_is_tried_with_what_was_not_tried_beside_it(seed):
    sweep = sweep_of({"a": {"values": list("pq")}, "b": {"values": list("stuv")}})
    study = study_of(sweep, seed)
    search(sweep, lambda **settings: 1.0, 2, study=study)
    for chosen in "pq" * 2:
        study.enqueue_trial({"a": chosen})
    for _ in range(4):
        tell(study, ask(sweep, study)[0], 1.0)
    assert len({tuple(trial.params.items()) for trial in study.trials}) == 6


def test_agents_that_begin_at_once_begin_with_different_points_though_one_has_stored_a_part_of_its_own():
    sweep = sweep_of(MIXED)
    study = study_of(sweep, 0)
    first, second = study.ask(), study.ask()
    point = first.relative_params
    first.suggest_float("lr", 1e-5, 0.1, log=True)
    assert not set(second.relative_params.items()) & set(point.items())


def test_workers_side_by_side_are_never_given_the_same():
    sweep = sweep_of(MIXED)
    study = study_of(sweep, 0)
    search(sweep, landscape, 10, study=study)
    asked = [ask(sweep, study)[1] for _ in range(4)]
    assert len({tuple(trial.params.values()) for trial in study.get_trials(deepcopy=False)}) == 14
    for settings in asked:
        assert 1e-5 <= settings["lr"] <= 0.1
        assert 0 <= settings["dropout"] <= 0.8
        assert settings["num_layers"] in range(1, 9)
        assert settings["width"] in range(16, 257, 16)
        assert settings["optimizer"] in MIXED["optimizer"]["values"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "parameters",
    [
        {"a": {"values": list("pqr")}, "b": {"values": list("stuv")}},
        {"a": {"min": 1, "max": 3}, "b": {"values": list("stuv")}},
        {"a": {"distribution": "q_uniform", "min": 5, "max": 60, "q": 5}},
    ],
    ids=["no order", "some order", "rounded"],
)
def test_as_many_trials_as_combinations_try_each_once_and_more_go_on(parameters):
    for seed in range(4):
        tried = [tuple(s.values()) for s, _ in search(sweep_of(parameters), lambda **s: len(str(s)), 13, seed)]
        assert len(set(tried[:12])) == 12


def ended_trials(sweep, num):
    """Trials as a storage gives them, with random settings; the one in the middle is the best."""
    search_of_it, found = Search(sweep, 0), []
    for number in range(num):
        value = abs(number - num // 2) / num
        point = search_of_it.draw(number, [])
        found.append(
            create_trial(params=point, distributions=sweep.space, value=value, intermediate_values={1: 1.0, 2: value})
        )
        found[-1].number = number
    return found


@pytest.mark.parametrize("parameters", [MIXED, UNORDERED], ids=["numbers and lists", "lists"])
def test_after_a_thousand_trials_a_proposal_takes_less_than_a_second(parameters):
    sweep = sweep_of(parameters)
    others, model = ended_trials(sweep, 1000), Search(sweep, 0)
    model.bayes(1000, others)  # the first one loads libraries
    started = time.process_time()
    model.bayes(1001, others)
    assert time.process_time() - started < 1.0


def test_a_model_is_told_of_the_best_the_newest_and_the_running_trials():
    sweep = sweep_of(MIXED)
    others = ended_trials(sweep, 1000)
    others[3].state = TrialState.RUNNING
    known = {trial.number: trial.intermediate_values[2] for trial in others if trial.number != 3}
    seen = [trial.number for trial in Search(sweep, 0).seen(others, known)]
    assert seen == sorted(seen)
    assert len(seen) == MOST_SEEN + 1
    assert set(range(470, 531)) < set(seen)  # the best
    assert set(range(930, 1000)) < set(seen)  # the newest
    assert 3 in seen
    assert [trial.number for trial in Search(sweep, 0).seen(others[:100], known)] == list(range(100))


def test_runs_of_earlier_sweeps_take_no_places_among_the_first_trials_which_fill_the_space_evenly():
    model, earlier = Search(sweep_of(MIXED), 0), ended_trials(sweep_of(MIXED), 3)
    for trial in earlier:
        trial.number = -1 - trial.number
    assert model.bayes(0, earlier) == model.bayes(0, [])


def proposals(state, value_of):
    """Learning rates that four searches try after five trials and a sixth that ended as told.

    Args:
        state: of the sixth trial.
        value_of: the values that it logged, by those of the five.
    """
    tried = []
    for seed in range(4):
        sweep = sweep_of(NOTEBOOK)
        study = study_of(sweep, seed)
        values = value_of([value for _, value in search(sweep, curve, 5, study=study)])
        trial, _ = ask(sweep, study)
        for step, value in enumerate(values):
            trial.report(value, step + 1)
        study.tell(trial, min(values) if state == TrialState.COMPLETE else None, state)
        tried.append(ask(sweep, study)[1]["lr"])
    return tried


@pytest.mark.slow
def test_a_failed_trial_counts_as_the_worst_whatever_it_had_logged():
    failed = proposals(TrialState.FAIL, lambda five: [0.01])
    assert failed == proposals(TrialState.FAIL, lambda five: [])
    assert failed == proposals(TrialState.COMPLETE, lambda five: [max(five)])
    assert failed != proposals(TrialState.COMPLETE, lambda five: [min(five)])


@pytest.mark.slow
def test_a_stopped_trial_counts_with_its_best_value():
    stopped = proposals(TrialState.PRUNED, lambda five: [0.9, 0.75, 0.8])
    assert stopped == proposals(TrialState.COMPLETE, lambda five: [0.75])
    assert stopped != proposals(TrialState.COMPLETE, lambda five: [0.8])


def test_the_higher_the_better_where_the_goal_is_to_maximize():
    falling = search(sweep_of(NOTEBOOK), curve, 8)
    rising = search(sweep_of(NOTEBOOK, metric={"name": "a", "goal": "maximize"}), lambda lr: -curve(lr), 8)
    assert [settings for settings, _ in falling] == [settings for settings, _ in rising]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parameters", "function", "num_trials", "least_gain"),
    [
        (NOTEBOOK, lambda **settings: curve(**settings) - 0.7, 12, 20),
        (MIXED, landscape, 16, 3),
        (UNORDERED, distance, 18, 1.5),
    ],
    ids=["learning rate", "five settings", "no order"],
)
def test_bayes_gets_far_closer_to_the_best_than_random(parameters, function, num_trials, least_gain):
    """Medians over a few seeds of the best value, whose optimum is 0."""
    best = {}
    for method in ("bayes", "random"):
        sweep = sweep_of(parameters, method=method)
        tried = [search(sweep, function, num_trials, seed) for seed in range(NUM_SEEDS)]
        best[method] = statistics.median(min(value for _, value in trials) for trials in tried)
    assert best["bayes"] * least_gain < best["random"], best


def test_the_model_is_told_the_scaled_costs_and_of_trials_that_run_but_no_cost(monkeypatch):
    told = []

    class Listener(RandomSampler):
        def sample_relative(self, study, trial, search_space):
            told.extend(study.get_trials(states=(TrialState.COMPLETE, TrialState.RUNNING))[:-1])
            return super().sample_relative(study, trial, search_space)

    monkeypatch.setattr("sweeps.local.search.gaussian_process", Listener)
    sweep = sweep_of(NOTEBOOK)
    study = study_of(sweep, 0)
    costs = [0.9, 1.0, 1.1, 1.3, 50.0]
    for cost in costs:
        tell(study, ask(sweep, study)[0], cost)
    tell(study, ask(sweep, study)[0], 0.1, TrialState.FAIL)  # counts as the worst
    costs.append(50.0)
    ask(sweep, study)  # goes on running
    told.clear()
    ask(sweep, study)
    assert [trial.state for trial in told] == [TrialState.COMPLETE] * 6 + [TrialState.RUNNING]
    assert [trial.value for trial in told[:6]] == pytest.approx(squashed(costs))
    assert squashed(costs) != pytest.approx(costs)
