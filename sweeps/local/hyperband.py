"""W&B's hyperband: which running trials are to be stopped early."""

from collections.abc import Mapping, Sequence

from sweeps.local.sweep_file import Hyperband


def to_stop(hyperband: Hyperband, costs: Mapping[int, Sequence[float]], running: Sequence[int]) -> list[int]:
    """Running trials that are not among the best 1/eta at the last band they have reached.

    It counts logged values, not epochs, and compares all trials, ended ones too, as W&B does
    (https://docs.wandb.ai/guides/sweeps/define-sweep-configuration#early_terminate).

    Args:
        hyperband: bands and eta.
        costs: by trial, every finite value it has logged, less being better.
        running: trials that could be stopped.

    Returns:
        Those to stop.
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
