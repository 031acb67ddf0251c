"""What `early_terminate` of a sweep file asks for: which trials are stopped early, and which wait to be promoted."""

import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.errors import UserError
from sweeps.local.distributions import LARGEST

MOST_BANDS = 100
NUMBERS = ("min_iter", "max_iter", "s", "eta", "min_trials")
# For each trial, the finite values that it has logged, with the sign at which less is better.
Costs = Mapping[int, Sequence[float]]


@dataclass(frozen=True)
class Hyperband:
    """W&B's rule: at each band the best 1/eta of the trials, and the one after them, go on; others end for good.

    Attributes:
        bands: numbers of logged values, ascending.
        eta: share of the trials that go on, as a divisor.
        strict: whether a trial is judged by its value at the band alone; otherwise by its best value so far.
    """

    bands: tuple[int, ...]
    eta: float = 3
    strict: bool = True

    def to_stop(self, costs: Costs, running: Sequence[int], finished: Collection[int] = ()) -> list[int]:
        """Return the running trials worse than the first beyond the best 1/eta at the last band they have reached.

        As with W&B, a band is a number of logged values, not of epochs, and all trials are compared, ended ones
        included (https://docs.wandb.ai/guides/sweeps/define-sweep-configuration#early_terminate).

        Args:
            costs: of all trials.
            running: trials that could be stopped.
            finished: trials that have come to their end; this rule makes no difference between them and others.
        """
        stopped = []
        for trial in running:
            reached = [band for band in self.bands if band <= len(costs.get(trial, ()))]
            if not reached:
                continue
            band = reached[-1]
            at_band = sorted(history[band - 1] for history in costs.values() if len(history) >= band)
            own = costs[trial][band - 1] if self.strict else min(costs[trial])
            if own > at_band[int(len(at_band) * (1 / self.eta))]:
                stopped.append(trial)
        return stopped


@dataclass(frozen=True)
class Asha:
    """Asynchronous successive halving: each trial waits at each rung, and the best 1/eta there are promoted.

    No trial is stopped for good: one that waits is promoted as soon as enough others have turned out to be worse.
    Li et al. 2018, https://arxiv.org/abs/1810.05934.

    Attributes:
        rungs: numbers of logged values, ascending; a trial promoted from the last one goes on to its end.
        eta: share of the trials that is promoted, as a divisor.
        strict: whether a trial is judged by its value at the rung alone; otherwise by its best value up to there.
    """

    rungs: tuple[int, ...]
    eta: float = 3
    strict: bool = True

    def to_stop(self, costs: Costs, running: Sequence[int], finished: Collection[int] = ()) -> list[int]:
        """Return nothing: trials come to a rung by themselves."""
        return []

    def rung_after(self, rung: int) -> int:
        """Return the next rung; 0 where there is none, and the trial goes on to its end."""
        return next((each for each in self.rungs if each > rung), 0)

    def ranked(self, costs: Costs, rung: int) -> list[int]:
        """Return the trials that have reached a rung, the best first, of equal ones the earlier."""
        judge: Callable[[Sequence[float]], float] = (lambda values: values[-1]) if self.strict else min
        reached = {trial: judge(values[:rung]) for trial, values in costs.items() if len(values) >= rung}
        return sorted(reached, key=lambda trial: (reached[trial], trial))

    def to_promote(self, costs: Costs, waiting: Mapping[int, int]) -> list[int]:
        """Return the trials that are to be promoted, those of the highest rung first, and the best of each first.

        Args:
            costs: of all trials.
            waiting: the rung of each trial that waits.
        """
        found: list[int] = []
        for rung in sorted(set(waiting.values()), reverse=True):
            ranked = self.ranked(costs, rung)
            found += [trial for trial in ranked[: int(len(ranked) / self.eta)] if waiting.get(trial) == rung]
        return found

    def leader(self, costs: Costs, waiting: Mapping[int, int]) -> list[int]:
        """Return the best trial of the highest rung at which any waits, in a list; none where none waits."""
        if not waiting:
            return []
        top = max(waiting.values())
        return [trial for trial in self.ranked(costs, top) if waiting.get(trial) == top][:1]

    def hopeless(self, costs: Costs, waiting: Mapping[int, int], running: Collection[int], num_new: int) -> list[int]:
        """Return the waiting trials that can never be promoted, even if all that are to come turn out to be worse.

        Args:
            costs: of all trials.
            waiting: the rung of each trial that waits.
            running: trials that have neither ended nor wait.
            num_new: trials that are still to be started.
        """
        lost: list[int] = []
        for rung in self.rungs:
            ranked = self.ranked(costs, rung)
            num_to_come = len({*waiting, *running} - {*ranked, *lost}) + num_new
            most = max(1, int((len(ranked) + num_to_come) / self.eta))
            lost += [trial for trial in ranked[most:] if waiting.get(trial) == rung]
        return lost


@dataclass(frozen=True)
class Median:
    """The median stopping rule: a trial is stopped that is worse than finished ones were on average.

    Golovin et al. 2017, Google Vizier, section 3.2.1, https://dl.acm.org/doi/10.1145/3097983.3098043.

    Attributes:
        min_iter: logged values before a trial is judged.
        min_trials: finished trials with as many values, before any is judged.
    """

    min_iter: int = 1
    min_trials: int = 5

    def to_stop(self, costs: Costs, running: Sequence[int], finished: Collection[int] = ()) -> list[int]:
        """Return the running trials whose best value is worse than the median of the means of finished trials so far.

        Args:
            costs: of all trials.
            running: trials that could be stopped.
            finished: trials that have come to their end. Those that were stopped do not count, else the rule would
                become milder from stop to stop.
        """
        stopped = []
        for trial in running:
            num = len(costs.get(trial, ()))
            if num < self.min_iter:
                continue
            means = [statistics.fmean(costs[other][:num]) for other in finished if len(costs.get(other, ())) >= num]
            if len(means) >= self.min_trials and min(costs[trial]) > statistics.median(means):
                stopped.append(trial)
        return stopped


EarlyTerminate = Hyperband | Asha | Median
KEYS = {
    "hyperband": ("type", "min_iter", "max_iter", "s", "eta", "strict"),
    "asha": ("type", "min_iter", "max_iter", "s", "eta", "strict"),
    "median": ("type", "min_iter", "min_trials"),
}


def parse_early_terminate(config: Any) -> EarlyTerminate:
    """Return the early termination that the section `early_terminate` of a sweep file describes.

    Raises:
        UserError: there is no such type, or its keys say nothing that it could do.
    """
    kind = config.get("type") if isinstance(config, dict) else None
    if not isinstance(kind, str) or kind not in KEYS:
        raise UserError(
            f"early_terminate {config!r} is not known: write type: hyperband with min_iter: and eta:, "
            "or, for sweeps/agent.py alone, type: asha with the same or type: median"
        )
    if unknown := config.keys() - set(KEYS[kind]):
        raise UserError(f"early_terminate has no {min(unknown, key=str)}; it takes {', '.join(KEYS[kind])}")
    for key in NUMBERS:
        if key in config and (type(config[key]) not in (int, float) or not abs(config[key]) <= LARGEST):
            raise UserError(f"early_terminate {key} {config[key]!r} is not a number")
        if key in config and key != "eta" and config[key] % 1:
            raise UserError(f"early_terminate {key} {config[key]} is not a whole number")
    if kind == "median":
        return parse_median(config)
    eta, strict = config.get("eta", 3), config.get("strict", True)
    if eta <= 1:
        raise UserError(f"early_terminate eta {eta} must be above 1: the best 1/eta of the trials go on")
    if not isinstance(strict, bool):
        raise UserError(f"early_terminate strict {strict!r} is neither true nor false")
    bands = parse_bands(config, eta)
    if kind == "hyperband":
        return Hyperband(bands, eta, strict)
    return Asha(tuple(sorted(set(bands))), eta, strict)  # with a small eta, two bands may be the same number


def parse_bands(config: Mapping[str, Any], eta: float) -> tuple[int, ...]:
    """Return the numbers of logged values at which trials are compared.

    Raises:
        UserError: there are none.
    """
    if "max_iter" in config and "s" not in config:
        raise UserError(f"early_terminate max_iter {config['max_iter']} needs s, the number of bands: write s: 3")
    bands: list[int] = []
    if "max_iter" in config:
        band = config["max_iter"] / eta
        while band >= 1 and len(bands) < int(min(config["s"], MOST_BANDS)):
            bands.insert(0, int(band))
            band /= eta
        if not bands:
            raise UserError(f"early_terminate max_iter {config['max_iter']} leaves no band: raise it, or lower eta")
    elif config.get("min_iter", 0) >= 1:
        band = config["min_iter"]
        while band <= LARGEST and len(bands) < MOST_BANDS:
            bands.append(int(band))
            band *= eta
    else:
        raise UserError("early_terminate needs min_iter: of at least 1, or max_iter: and s:")
    return tuple(bands)


def parse_median(config: Mapping[str, Any]) -> Median:
    """Return the median stopping rule that a section describes.

    Raises:
        UserError: it would judge a trial without values, or compare it with none.
    """
    rule = Median(int(config.get("min_iter", 1)), int(config.get("min_trials", 5)))
    if rule.min_iter < 1 or rule.min_trials < 1:
        raise UserError(
            f"early_terminate of type median needs min_iter and min_trials of at least 1, not {dict(config)}"
        )
    return rule
