"""Trials of several seeds or folds: one trial is a run for each of them, and counts with the mean over them.

The runs of a trial come one after the other, so that a trial that is worse than the best one so far ends after the
first of them. The first seed is the trial's own, and the others are the numbers after it: trials share their seeds, as
they share their folds, and are compared one by one. What is said of seeds here holds for folds.
"""

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from analysis.read.figures import do_vary
from analysis.read.trials import REPEATS, counted_value, seeds_done
from data.metrics import Best, Metric
from models.core.settings import Settings

NUM_SEEDS = 2**32
SURE = 0.05  # probability below which a trial is taken for worse than the best one


def settings_of_next(settings: Mapping[str, Any], num_done: int, folds: int = 0) -> dict[str, Any]:
    """Return the setting of a trial's next fold, or seed; nothing for the first seed, which its settings say."""
    if folds:
        return {"fold": f"{num_done + 1}/{folds}"}
    return {"seed": (settings.get("seed", Settings.seed) + num_done) % NUM_SEEDS} if num_done else {}


def value_of(metric: Metric, trial: FrozenTrial) -> float:
    """Return what a trial with a value counts with: what is noted of its seeds or, of a single run, its best."""
    if REPEATS in trial.user_attrs:
        return float(trial.user_attrs["best"])
    return min(trial.intermediate_values.values(), key=metric.cost)


def notes_of(done: Sequence[Best], metric: Metric, better: FrozenTrial | None = None) -> dict[str, Any]:
    """Return what is noted of a trial after some seeds.

    Its value is the mean over them. That of a trial which ends since it is worse, seed by seed, than another one is no
    better than the other's mean and the difference between the two: its first seeds may be easy ones. Final runs take
    as many epochs as its best epochs are on average.

    Args:
        done: what its seeds have come to.
        metric: the sweep's.
        better: the trial that it is worse than; None for none.
    """
    others = [each.value for each in seeds_done(better.user_attrs)] if better else []
    return {
        REPEATS: [list(each) for each in done],
        "best": counted_value([each.value for each in done], others, metric),
        "best_epoch": round(statistics.fmean(each.epoch for each in done)),
        **dict.fromkeys(("tries", "tried_at", "failures"), 0),  # those of the next seed count anew
    }


def best_trial(trials: Sequence[FrozenTrial], number: int, metric: Metric) -> FrozenTrial | None:
    """Return the trial with the best mean of those that have finished with two seeds or more, but for one number."""
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.number != number]
    known = [trial for trial in finished if len(seeds_done(trial.user_attrs)) > 1]
    return min(known, key=lambda trial: metric.cost(value_of(metric, trial)), default=None)


def is_worse(done: Sequence[Best], best: FrozenTrial, metric: Metric) -> float | None:
    """Return the probability of such seeds if the trial were as good as the best one; None if that is not small.

    Two seeds or more are compared with the same ones of the best trial, by a paired t test. A single value is compared
    with those of the best one by Student's test, as if it would vary as much. Figures that do not vary at all, such as
    coarse accuracies that happen to be equal, say nothing of how much others would: of these the answer is None, too.

    Args:
        done: what the seeds of the trial have come to.
        best: the best trial, with two seeds or more.
        metric: the sweep's.
    """
    from scipy import stats  # imported late: takes half a second

    own, others = ([metric.cost(each.value) for each in seeds] for seeds in (done, seeds_done(best.user_attrs)))
    if len(own) > 1:
        num = min(len(own), len(others))
        varying = [one - other for one, other in zip(own, others, strict=False)]
        test = partial(stats.ttest_rel, own[:num], others[:num])
    else:
        varying, test = others, partial(stats.ttest_ind, own, others)
    if not do_vary(statistics.pstdev(varying), own + others):
        return None
    chance = test(alternative="greater").pvalue
    return float(chance) if chance < SURE else None
