"""What a sweep will take, before it begins: a cheap and a dear trial of it are trained for their first epochs."""

import itertools
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from optuna.distributions import CategoricalDistribution

from analysis.read.sweep_command import is_ours, told_in_all
from analysis.read.trials import what_over
from analysis.record import run_folder
from analysis.terminal import clock, number
from data.errors import UserError
from data.metrics import is_epoch, is_finite
from data.visible import counted
from models.core.settings import Settings
from models.resolve import validate
from sweeps.local.device_memory import free_gib, gib_taken
from sweeps.local.distributions import Parameter, Point
from sweeps.local.early_terminate import Asha, Hyperband, Median
from sweeps.local.launch import ARGUMENTS, Run, command_words
from sweeps.local.pool import Pool
from sweeps.local.sweep import Sweep
from sweeps.local.trial_run import PEAK
from sweeps.local.workers import has_gpu

NUM_EPOCHS = 3
LONG_EPOCH = 60.0  # seconds, after which two epochs are enough
KINDS = ("model", "arch", "dataset")  # whose values have little in common: each has a cheap and a dear trial
LARGER_IS_CHEAPER = ("batch_size", "patch_size")  # of all whole numbers; of others, such as widths, larger is dearer
LARGER_IS_DEARER = ("train_fraction", "mlp_ratio")  # of numbers that are not whole; others have no say
SEEDS = ("seed", "data_seed")  # whole numbers that are no sizes
MOST_TRIED, MOST_CHANGED, NUM_NEAR = 1000, 3, 101  # where the dearest or cheapest trial would be refused
CIRCUMSTANCES = {"tracking": "off", "log_model": "none"}


@dataclass
class Measured:
    """What was seen of one trial.

    Attributes:
        name: what it is.
        settings: what it was told.
        epochs: that it would train for.
        starts: seconds from its start to its first epoch, of each time that it was trained.
        epoch_seconds: of one epoch, its evaluation included.
        ends: seconds from its last epoch to its end.
        gib: the most memory that it took, on a GPU with what CUDA takes itself.
        disk: bytes that its folder keeps, without the checkpoint of a run under way.
    """

    name: str
    settings: Mapping[str, Any]
    epochs: int
    starts: list[float] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    gib: float = 0.0
    disk: int = 0

    def seconds(self, epochs: float) -> float:
        """Return how long a trial of so many epochs takes; what is done but once, such as reading, counts once."""
        return min(self.starts) + fmean(self.epoch_seconds) * epochs + fmean(self.ends or [0.0])


class Probe(Run):
    """A trial that is trained for its first epochs, and watched."""

    def __init__(self, of: Measured, sweep: Sweep, runs_dir: Path, name: str, environment: Mapping[str, str]) -> None:
        told = {**of.settings, **CIRCUMSTANCES, "epochs": min(of.epochs, NUM_EPOCHS)}
        words = command_words(sweep.command, sweep.program, told, runs_dir / name / ARGUMENTS)
        super().__init__(words, name, runs_dir, told, environment)
        self.of = of
        self.log = run_folder.LogReader(self.folder)
        self.moments: list[float] = []  # at which its epochs ended
        self.is_on_gpu = has_gpu(environment)

    def look(self) -> None:
        """Note the epochs that have ended, and end it where that is enough."""
        for rows in self.log:
            self.moments += [time.monotonic()] * sum(map(is_epoch, rows))
            peak = max((row[PEAK] for row in rows if is_finite(row.get(PEAK))), default=0.0)
            self.of.gib = max(self.of.gib, gib_taken(peak, self.is_on_gpu))
        if len(self.moments) == 2 < NUM_EPOCHS and self.moments[1] - self.moments[0] > LONG_EPOCH:
            self.stop("two epochs are enough")

    def note(self) -> None:
        """Note how long its parts took, now that it has ended.

        Raises:
            UserError: it has failed.
        """
        self.look()
        if (self.process.returncode and not self.reason) or not self.moments:
            raise UserError(f"{self.of.name} fails, {self.exit()}: {self.error() or self.last_lines(1)}")
        first, second = self.moments[0] - self.started, (self.moments + [math.nan])[1] - self.moments[0]
        epoch = first / 2 if math.isnan(second) else second  # of a single epoch nobody knows what the start took
        self.of.starts.append(max(0.0, first - epoch))
        self.of.epoch_seconds.append(epoch)
        if not self.reason:
            self.of.ends.append(max(0.0, self.seconds() + self.started - self.moments[-1]))
        kept = [path for path in self.folder.rglob("*") if path.is_file() and path.name != run_folder.CHECKPOINT]
        self.of.disk = sum(path.stat().st_size for path in kept)


def estimate(sweep: Sweep, devices: Sequence[Mapping[str, str]], count: int | None, gib: float | None) -> list[str]:
    """Train a cheap and a dear trial for their first epochs; return lines that say what the whole sweep will take.

    Args:
        sweep: what is to be searched.
        devices: for each worker, the environment variables that give its runs their part of the machine.
        count: number of trials; None where the sweep has no end.
        gib: memory of each device; None for what is free.

    Raises:
        UserError: the program is not train.py, or such a trial fails.
        KeyboardInterrupt: a signal has come.
    """
    if not is_ours(sweep.program):
        raise UserError(f"--estimate knows the epochs of train.py alone, and this sweep's program is {sweep.program}")
    found = probe_trials(sweep)
    with tempfile.TemporaryDirectory(prefix="vision-sweeps-estimate-") as folder:
        measure(found, sweep, devices, Path(folder))
    free = min(gib or free_gib(device) for device in devices)
    return lines_about(found, sweep, devices, count, free)


def measure(found: Sequence[Measured], sweep: Sweep, devices: Sequence[Mapping[str, str]], folder: Path) -> None:
    """Train each of some trials once, or as often as there are workers, which all work at the same time."""
    pool: Pool[Probe] = Pool(devices)
    queue = [*found] * -(-len(devices) // len(found))
    try:
        for run, has_ended in pool.watch(partial(Probe, one, sweep, folder, f"{i}") for i, one in enumerate(queue)):
            if has_ended:
                run.note()
            else:
                run.look()
    finally:
        pool.kill()


def probe_trials(sweep: Sweep) -> list[Measured]:
    """Return the trials that are to be trained: for each mix of kinds a cheap and a dear one, where they differ."""
    found = []
    for own in mixes_of_kinds(sweep):
        pair = [sweep.told(nearest_taken(sweep, own, extreme(sweep, own, is_dear))) for is_dear in (False, True)]
        differing = [name for name in pair[0] if pair[0][name] != pair[1][name]]
        names = ("a cheap trial", "a dear trial") if differing else ("a trial",)
        kinds = [sweep.parameters[name].place[-1] for name in own]
        for name, settings in zip(names, pair, strict=False):
            texts = [f"{key}={number(settings[key])}" for key in dict.fromkeys([*kinds, *differing])]
            found.append(Measured(" ".join([name, *texts]), settings, whole_settings(sweep, settings).epochs))
    return found


def whole_settings(sweep: Sweep, settings: Mapping[str, Any]) -> Settings:
    """Return all settings of a trial of train.py that is told some."""
    return validate(told_in_all(sweep.content, settings), {})


def mixes_of_kinds(sweep: Sweep) -> list[dict[str, Point]]:
    """Return few combinations of values of all kinds (models, archs, ...) in which each value occurs at least once."""
    kinds = [name for name in sweep.space if sweep.parameters[name].place[-1] in KINDS]
    options = [[(name, point) for point in ends_of(sweep.parameters[name])] for name in kinds]
    applicable = [(each, sweep.applicable(dict(each))) for each in itertools.product(*options)]
    mixes = dict.fromkeys(tuple(point for point in each if point[0] in names) for each, names in applicable)
    wanted, chosen = {point for mix in mixes for point in mix}, set[tuple[tuple[str, Point], ...]]()
    while wanted or not chosen:
        chosen.add(max(mixes, key=lambda mix: len(wanted.intersection(mix))))
        wanted.difference_update(*chosen)
    return [dict(mix) for mix in mixes if mix in chosen]


def extreme(sweep: Sweep, own: Mapping[str, Point], is_dear: bool) -> dict[str, Point]:
    """Return the points of a trial that costs as little as can be, or as much, with some points that are given."""
    names = [name for name in sweep.applicable(own) if name in sweep.space and name not in own]
    return {name: end_of(sweep.parameters[name], is_dear) for name in names}


def nearest_taken(sweep: Sweep, own: Mapping[str, Point], wanted: Mapping[str, Point]) -> dict[str, Point]:
    """Return the points that are wanted or, if train.py refuses them together, others with as few changes as can be.

    Args:
        sweep: what is searched.
        own: points that do not change.
        wanted: the others.
    """
    options = {name: points_near(sweep.parameters[name], point) for name, point in wanted.items()}
    changes = (
        dict(zip(names, points, strict=True))
        for num in range(MOST_CHANGED + 1)
        for names in itertools.combinations(wanted, num)
        for points in itertools.product(*(options[name] for name in names))
    )
    tries = ({**wanted, **change, **own} for change in itertools.islice(changes, MOST_TRIED))
    return next((points for points in tries if not sweep.refusal(points)), {**wanted, **own})


def points_near(entry: Parameter, point: Point) -> list[Point]:
    """Return points of a parameter, the nearest to one of them first."""
    if isinstance(entry.space, CategoricalDistribution):
        points = sorted(entry.space.choices, key=lambda each: (isinstance(each, str), each))
        return sorted(points, key=lambda each: abs(points.index(each) - points.index(point)))
    drawn = dict.fromkeys(entry.draw(i / (NUM_NEAR - 1)) for i in range(NUM_NEAR))
    return sorted(drawn, key=lambda each: abs(each - point))


def end_of(entry: Parameter, is_dear: bool) -> Point:
    """Return the cheap or the dear end of a parameter; the middle of one that has little to do with the cost."""
    points = sorted(ends_of(entry), key=lambda point: (isinstance(point, str), point))
    setting = entry.place[-1]
    is_size = setting not in SEEDS and all(type(entry.value(point)) is int for point in points)
    if not is_size and setting not in LARGER_IS_DEARER:
        return points[len(points) // 2]
    return points[-1 if is_dear != (setting in LARGER_IS_CHEAPER) else 0]


def ends_of(entry: Parameter) -> list[Point]:
    """Return the points of a parameter or, of a range, its ends and the middle."""
    if isinstance(entry.space, CategoricalDistribution):
        return list(entry.space.choices)
    return [entry.draw(quantile) for quantile in (0.0, 0.5, 1.0)]


def fewest_epochs(sweep: Sweep, epochs: int) -> float:
    """Return the epochs of a mean trial if early termination stops as many as it can, as early as it can."""
    rule = sweep.early_terminate
    if isinstance(rule, Median):
        return min(epochs, (rule.min_iter + epochs) / 2)  # one half is worse than the median
    if not isinstance(rule, Hyperband | Asha):
        return epochs
    bands = [band for band in (rule.bands if isinstance(rule, Hyperband) else rule.rungs) if band < epochs]
    ends = [*bands, epochs]
    return sum((end - start) / rule.eta**i for i, (start, end) in enumerate(zip([0, *bands], ends, strict=True)))


def lines_about(
    found: Sequence[Measured], sweep: Sweep, devices: Sequence[Mapping[str, str]], count: int | None, free: float
) -> list[str]:
    """Return what was measured, and what follows from it for the whole sweep, in words."""
    workers, num = len(devices), count or 1
    lines = [
        f"{one.name}: {fmean(one.epoch_seconds):.3g} s an epoch, {one.seconds(0):.3g} s beside them, {one.gib:.2f} GiB"
        for one in found
    ]
    most = [one.seconds(one.epochs) * sweep.repeats for one in found]
    first = [one.seconds(fewest_epochs(sweep, one.epochs)) for one in found]  # of a bad trial: one seed, cut short
    rounds = num / min(workers, num)
    least = rounds * fmean(first) + fmean(most) * (sweep.repeats - 1) / sweep.repeats  # the best trial has all seeds
    epochs = sorted({one.epochs for one in found})
    seeds = f" with {sweep.repeats} {what_over(sweep.folds)}s" if sweep.repeats > 1 else ""
    what = f"{counted(num, 'trial')} of {' to '.join(map(str, epochs[:: max(1, len(epochs) - 1)]))} epochs{seeds}"
    text = f"{what} by {counted(workers, 'worker')}: about {clock(rounds * fmean(most))}"
    if len(found) > 1:
        text += f", {clock(rounds * min(most))} if all were as the cheapest, {clock(rounds * max(most))} as the dearest"
    alone = (1 - 1 / min(workers, num)) * max(most)  # beyond an even share: Graham 1969, doi.org/10.1137/0117039
    if alone:
        text += f"; up to {clock(alone)} more while the last one ends"
    lines.append(text)
    if clock(least) != clock(rounds * fmean(most)):
        lines.append(f"{what_shortens(sweep)}: {clock(least)} to {clock(rounds * fmean(most))}")
    beside = max(sum(device == other for other in devices) for device in devices)
    need = max(one.gib for one in found)
    lines.append(f"memory of a device: up to {need * beside:.2f} GiB, of {free:.1f} GiB that are free")
    if need * beside > free:
        lines.append(f"only {max(1, int(free / need))} of the dearest trials fit at a time: the others will wait")
    disk = fmean(one.disk for one in found) * sweep.repeats / 2**20
    lines.append(f"disk: about {disk:.1f} MiB a trial, {disk * num:.0f} MiB in all; --keep_weights K takes less")
    return [*lines, *assumptions(sweep, count, found)]


def what_shortens(sweep: Sweep) -> str:
    """Return in words by what trials of a sweep end before they have had all of their epochs, seeds or folds."""
    after_first = f"with trials that end after their first {what_over(sweep.folds)}"
    if sweep.early_terminate is None:
        return after_first
    return "with early termination" + (f" and{after_first.removeprefix('with')}" if sweep.repeats > 1 else "")


def assumptions(sweep: Sweep, count: int | None, found: Sequence[Measured]) -> list[str]:
    """Return the line that says what was taken for granted."""
    assumed = ["costs spread evenly between cheap and dear", "this machine as busy as now"]
    if not all(one.ends for one in found):
        assumed.append("the end of a trial, which was not measured, takes no time")
    if count is None:
        assumed.append("one trial, since the sweep has no run_cap: multiply by yours")
    if any(whole_settings(sweep, one.settings).patience for one in found):
        assumed.append("no end by patience")
    if sweep.metric.target is not None:
        assumed.append("no end by the target")
    return [f"assumed: {', '.join(assumed)}"]
