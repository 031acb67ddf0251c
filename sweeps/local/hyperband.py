"""W&B's hyperband: which running trials are to be stopped early."""

from collections.abc import Mapping, Sequence

from sweeps.local.sweep_file import Hyperband


def to_stop(hyperband: Hyperband, costs: Mapping[int, Sequence[float]], running: Sequence[int]) -> list[int]:
    """Return the running trials that are not among the best 1/eta at the last band they have reached.

    As with W&B, a band is a number of logged values, not of epochs, and all trials are compared, ended ones included
    (https://docs.wandb.ai/guides/sweeps/define-sweep-configuration#early_terminate).

    Args:
        hyperband: bands and eta.
        costs: for each trial, the finite values that it has logged, with the sign at which less is better.
        running: trials that could be stopped.
    """
    stopped = []
    for trial in running:
        reached = [band for band in hyperband.bands if band <= len(costs.get(trial, ()))]
        if not reached:
            continue
        band = reached[-1]
        at_band = sorted(history[band - 1] for history in costs.values() if len(history) >= band)
        own = costs[trial][band - 1] if hyperband.strict else min(costs[trial])
        if own > at_band[int(len(at_band) * (1 / hyperband.eta))]:
            stopped.append(trial)
    return stopped
