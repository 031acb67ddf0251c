"""Successive halving and the median rule, by histories worked out by hand and by what must hold for all."""

import random
import statistics

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from data.files import read_json
from sweeps.local.early_terminate import Asha, Hyperband, Median, parse_early_terminate
from sweeps.local.promotion import goal_of, hopeless, is_observed, is_waiting, promotable
from tests.promotion_benchmark import CURVES, RULES, search
from tests.sweep_helpers import LR, sweep_of

SWEEP = sweep_of({"lr": LR}, early_terminate={"type": "asha", "min_iter": 1, "eta": 3})
RULE = Asha((1, 3, 9), 3)


def at_first_rung(*values):
    """Trials of one value each, and that all of them wait."""
    return {number: [value] for number, value in enumerate(values)}, dict.fromkeys(range(len(values)), 1)


def stored(number, values, state=TrialState.RUNNING, **notes):
    """A trial as the storage has it."""
    value = min(values) if state == TrialState.COMPLETE else None
    space = {"lr": optuna.distributions.FloatDistribution(1e-5, 0.1, log=True)}
    logged = dict(enumerate(values, 1))
    trial = create_trial(
        state=state,
        value=value,
        params={"lr": 1e-3},
        distributions=space,
        intermediate_values=logged,
        user_attrs={"run_id": f"{number:03d}-x", **notes},
    )
    trial.number = number
    return trial


def waiting(number, *values):
    return stored(number, values, until=len(values), waits=len(values))


def test_rungs_are_the_bands_of_hyperband_each_once():
    assert parse_early_terminate({"type": "asha", "min_iter": 2, "eta": 3}).rungs[:3] == (2, 6, 18)
    assert parse_early_terminate({"type": "asha", "max_iter": 27, "s": 3}).rungs == (1, 3, 9)
    assert parse_early_terminate({"type": "asha", "min_iter": 1, "eta": 1.5}).rungs[:4] == (1, 2, 3, 5)  # 1.5 is 1, too
    assert [RULE.rung_after(rung) for rung in (0, 1, 3, 9)] == [1, 3, 9, 0]


def test_the_best_third_of_a_rung_is_promoted_and_those_of_higher_rungs_first():
    assert RULE.to_promote(*at_first_rung(5, 4)) == []
    assert RULE.to_promote(*at_first_rung(5, 4, 6)) == [1]
    assert RULE.to_promote(*at_first_rung(5, 4, 6, 1, 9, 9)) == [3, 1]
    costs, waits = at_first_rung(5, 4, 6, 1, 9, 9, 9)
    costs |= {7: [0, 3, 3], 8: [0, 2, 2], 9: [0, 1, 1]}
    # At 3, one of three; at 1, three of ten, which are 7, 8 and 9 themselves.
    assert RULE.to_promote(costs, {**waits, 7: 3, 8: 3, 9: 3}) == [9]
    assert RULE.to_promote({**costs, 0: [-1]}, {**waits, 7: 3, 8: 3, 9: 3}) == [9, 0]


def test_a_trial_that_was_promoted_keeps_its_place_and_is_not_promoted_again():
    costs, waits = at_first_rung(5, 4, 6, 7, 8, 9)
    assert RULE.to_promote(costs, waits) == [1, 0]
    del waits[1]
    assert RULE.to_promote(costs, waits) == [0]
    del waits[0]
    assert RULE.to_promote(costs, waits) == []
    assert RULE.to_promote({**costs, 6: [1], 7: [2], 8: [3]}, {**waits, 6: 1, 7: 1, 8: 1}) == [6, 7, 8]


def test_of_equal_trials_the_earlier_is_promoted():
    assert RULE.to_promote(*at_first_rung(5, 5, 5)) == [0]


def test_strict_is_the_value_at_the_rung_and_else_the_best_up_to_there():
    costs, waits = {0: [1, 9, 9], 1: [5, 5, 5], 2: [7, 7, 7, 0]}, {0: 3, 1: 3, 2: 3}
    assert RULE.to_promote(costs, waits) == [1]
    assert Asha((1, 3), 3, strict=False).to_promote(costs, waits) == [0]


def test_no_trial_is_stopped_for_good():
    assert RULE.to_stop({0: [9] * 9, 1: [1] * 9}, [0, 1]) == []


@pytest.mark.parametrize("seed", range(20))
def test_of_trials_that_come_one_by_one_none_is_given_up_that_would_have_been_promoted(seed):
    """Each value is final; trials come in some order, and whatever is promoted waits at the next rung at once."""
    generator, num = random.Random(seed), 40
    costs, waits, given_up = {}, {}, set()
    for number in range(num):
        costs[number], waits[number] = [generator.random()], 1
        while promoted := RULE.to_promote(costs, waits):
            assert not given_up & set(promoted)
            best, rung = promoted[0], RULE.rung_after(waits.pop(promoted[0]))
            costs[best] += [generator.random() for _ in range((rung or 27) - len(costs[best]))]
            waits |= {best: rung} if rung else {}
        given_up |= set(RULE.hopeless(costs, waits, [], num - 1 - number))
    assert len(given_up) >= num // 3
    # Of all that is left, the best of each rung alone could still be the winner.
    assert len(waits.keys() - given_up) <= len(RULE.rungs)


def test_nothing_is_promoted_while_too_few_have_come_and_the_best_goes_on_when_no_more_will():
    trials = [waiting(0, 5.0), waiting(1, 4.0)]
    assert promotable(SWEEP, trials, 3) == promotable(SWEEP, trials, None) == []
    assert promotable(SWEEP, trials, 2) == [1]
    under_way = stored(2, [], until=1)
    assert promotable(SWEEP, [*trials, under_way], 3) == []
    winner = stored(2, [3.0], TrialState.COMPLETE, until=0, waits=9)
    assert promotable(SWEEP, [*trials, winner], 3) == []  # it is at the rung, too, and the one of three


def test_a_trial_waits_once_its_run_has_ended_at_its_rung():
    assert not is_waiting(SWEEP, stored(0, [1.0], until=1))  # its run is still saving its state, or was killed
    assert is_waiting(SWEEP, stored(0, [1.0], until=1, waits=1))
    assert not is_waiting(SWEEP, stored(0, [1.0], until=3, waits=1))  # promoted
    assert not is_waiting(SWEEP, stored(0, [1.0], TrialState.PRUNED, until=1, waits=1))


def test_a_trial_runs_up_to_the_next_rung_and_to_its_end_once_the_file_no_longer_asks_for_promotions():
    plain = sweep_of({"lr": LR})
    assert goal_of(SWEEP, stored(0, [])) == 1
    assert goal_of(SWEEP, stored(0, [1.0], until=1)) == 1  # killed before its end was noted: it ends at once
    assert goal_of(SWEEP, waiting(0, 1.0)) == 3
    assert goal_of(SWEEP, stored(0, [1.0], until=3, waits=1)) == 3
    assert goal_of(SWEEP, stored(0, [1.0] * 5, until=3, waits=3)) == 9  # of a program that ran past its rung
    assert goal_of(SWEEP, stored(0, [1.0] * 5)) == 9  # it was begun before the file asked for promotions
    assert goal_of(plain, waiting(0, 1.0)) == 0
    assert not is_waiting(plain, waiting(0, 1.0))


def test_a_trial_counts_for_the_search_from_its_first_rung_on():
    assert not is_observed(stored(0, [1.0], until=3))
    assert is_observed(stored(0, [1.0], until=1, waits=1))
    assert is_observed(stored(0, [1.0], until=3, waits=1))
    assert not is_observed(stored(0, [], TrialState.PRUNED))


def test_trials_beyond_the_count_are_not_promoted_and_without_a_count_none_is_hopeless():
    trials = [waiting(number, float(value)) for number, value in enumerate((5, 4, 6, 1, 9, 9))]
    assert promotable(SWEEP, trials, 6) == [3, 1]
    assert promotable(SWEEP, trials, 3) == [1]
    assert hopeless(SWEEP, trials, None) == []
    assert hopeless(SWEEP, trials, 6) == [0, 2, 4, 5]
    assert hopeless(SWEEP, trials, 9) == [2, 4, 5]


# The median rule.


def test_a_trial_stops_that_is_worse_than_the_median_of_the_means_of_finished_ones():
    """The means of the first two values are 2, 3 and 4; of a trial still running, the best value counts."""
    costs = {0: [3, 1, 1], 1: [4, 2, 0], 2: [5, 3, 9], 3: [9, 3.1], 4: [9, 3], 5: [0, 9]}
    rule = Median(min_iter=1, min_trials=3)
    assert rule.to_stop(costs, [3, 4, 5], [0, 1, 2]) == [3]


def test_the_median_rule_waits_for_enough_values_and_enough_finished_trials_that_have_as_many():
    costs = {0: [1, 1, 1], 1: [1], 2: [9, 9]}
    assert Median(1, 2).to_stop(costs, [2], [0, 1]) == []
    assert Median(3, 1).to_stop(costs, [2], [0]) == []
    assert Median(2, 1).to_stop(costs, [2], [0, 1]) == [2]
    assert Median().to_stop({}, [2], []) == []


def test_a_running_trial_without_a_value_is_not_judged_by_any_rule():
    costs = {0: [1.0, 0.5], 1: []}
    for rule in (Median(1, 1), Hyperband((1,)), RULE):
        assert rule.to_stop(costs, [1], [0]) == []
        assert rule.to_stop({0: [1.0]}, [1], [0]) == []
    assert RULE.to_promote({**costs, 2: [2.0], 3: [3.0]}, {0: 1, 2: 1, 3: 1}) == [0]
    assert RULE.hopeless(costs, {0: 1}, [1], 0) == []


def test_on_recorded_curves_promotion_takes_fewer_epochs_than_stopping_and_both_far_fewer_than_neither():
    curves = [[-value for value in entry["val/accuracy"]] for entry in read_json(CURVES)["curves"]]
    goal = 0.99 * min(map(min, curves))
    spent = {}
    for name in ("none", "hyperband", "asha"):
        orders = [random.Random(seed).sample(curves, len(curves)) for seed in range(10)]
        spent[name] = statistics.median(search(RULES[name], order, goal, num_workers=1).epochs for order in orders)
    assert spent["asha"] < spent["hyperband"] < spent["none"] / 1.5


def test_a_search_over_curves_counts_every_epoch():
    curves = [[5, 4, 3], [9, 9, 9], [5, 2, 1]]
    assert search(None, curves, 1, num_workers=1) == (9, 3, True)
    assert search(None, curves, 0, num_workers=2) == (9, 3, False)
    # Each waits at 1; of equal ones the first goes on to 3, which is its end; no other is promoted any more.
    assert search(Asha((1, 3), 3), curves, 0, num_workers=1) == (5, 3, False)
