"""The best learning rate of narrow networks taken to a wide one: which trials that is, and what their search cost."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from analysis.read.recipe import default_settings
from analysis.read.sweeps import SweepRecord
from analysis.read.trials import Trial, runs_of
from analysis.record import run_folder
from analysis.terminal import clock, number
from data.errors import UserError
from data.files import read_json
from data.metrics import is_finite
from data.visible import counted, warn
from models.core.settings import Settings


class Transfer(NamedTuple):
    """What is trained, and what it spares.

    Attributes:
        trials: the best narrow one, at the width of the wide model; then the best of those that were as wide, unless
            there are none or it has the same settings.
        words: what the searches at both widths took.
    """

    trials: list[Trial]
    words: str


def transfer_of(sweep: SweepRecord, width: int) -> Transfer:
    """Return what it takes to train a wide model by the best trial of a narrow one.

    The wide model has the greatest width among the trials and the model's default. Trials in muP are preferred, since
    in the standard parametrisation rates do not transfer.

    Args:
        sweep: with trials of that width.
        width: of the narrow models.

    Raises:
        UserError: no trial has that width, or none is wider, nor is the model by default.
    """
    by_mup = [trial for trial in sweep.leaders if trial.settings.get("parametrization") == "mup"]
    widths = {trial.run_id: width_of(trial) for trial in sweep.leaders}
    known = ", ".join(map(str, sorted(set(widths.values()))))
    narrow = [trial for trial in by_mup or sweep.leaders if widths[trial.run_id] == width]
    if not narrow:
        raise UserError(f"--from-width={width}: no trial with a value has that width, they have {known}")
    wide = max(*widths.values(), defaults_of(narrow[0])["width"])
    if wide <= width:
        raise UserError(f"--from-width={width} is the width of the wide model, too: name one of {known} below it")
    if not by_mup:
        warn(f"--from-width={width}: the trials are in the standard parametrisation, in which rates do not transfer")
    own = [trial for trial in by_mup or sweep.leaders if widths[trial.run_id] == wide]
    taken = replace(narrow[0], run_id=f"{narrow[0].run_id}-width{wide}", settings={**narrow[0].settings, "width": wide})
    costs = [cost_of(sweep, trials) for trials in (narrow, own)]
    rate = number(narrow[0].settings.get("lr"))
    words = f"width {wide} by the best rate of width {width}, {rate}: the search took {costs[0].words}"
    if own:
        words += f"; that of width {wide} itself {costs[1].words}"
        if costs[0].seconds and costs[1].seconds:
            words += f", {costs[1].seconds / costs[0].seconds:.1f} times as much"
    if own and told(own[0]) == told(taken):
        return Transfer([taken], f"{words}; both chose the same settings, so that nothing is lost")
    return Transfer([taken, *own[:1]], words)


def told(trial: Trial) -> tuple[dict[str, Any], int | None]:
    """Return what final runs take of a trial: its settings but for the seed, and its best epoch."""
    return {key: value for key, value in trial.settings.items() if key != "seed"}, trial.best_epoch


def defaults_of(trial: Trial) -> dict[str, Any]:
    """Return the default settings of a trial's model.

    Raises:
        UserError: the model has no width.
    """
    model = trial.settings.get("model", Settings.model)
    defaults = default_settings(model)
    if "width" not in defaults:
        raise UserError(f"--from-width: {model} has no width: name a sweep of mlp, cnn, resnet18 or nano_vit")
    return defaults


def width_of(trial: Trial) -> int:
    """Return the width of a trial's model."""
    width = trial.settings.get("width", defaults_of(trial)["width"])
    return width if isinstance(width, int) else 0


class Cost(NamedTuple):
    """What some trials took."""

    seconds: float  # of training; 0 where it is not known
    words: str


def cost_of(sweep: SweepRecord, trials: Sequence[Trial]) -> Cost:
    """Return what some trials of a sweep took, as far as their run folders tell."""
    runs = [run_id for trial in trials for run_id in runs_of(trial.run_id, len(trial.seeds))]
    summaries = [read_json(Path(sweep.source) / run_id / run_folder.SUMMARY) for run_id in runs]
    known = [summary["train_seconds"] for summary in summaries if is_finite(summary.get("train_seconds"))]
    words = f"{clock(sum(known))} of training in {counted(len(trials), 'trial')}" if known else "an unknown time"
    return Cost(sum(known), words)
