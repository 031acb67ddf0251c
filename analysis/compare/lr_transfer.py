"""Where the best learning rate lies at each width, by a sweep of rates, widths and seeds at equal steps.

A notch is a factor of 2. The best rate between those tried is the vertex of the parabola through the best one and its
two neighbours, over the logarithm of the rate; each seed has its own, and their deviation is its uncertainty.

Source: figure 1 of Yang & Hu et al. 2022, https://arxiv.org/abs/2203.03466
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from analysis.read.records import RunRecord
from analysis.read.runs import curves, find_sweep_folder, read_runs
from data.errors import UserError
from data.files import write_figure
from data.metrics import Curve as Points
from data.metrics import is_finite, metric_named, shown
from data.visible import counted, warn

FILE = "lr_transfer.png"
METRIC = "train/classify/loss"  # at the last epoch
STANDARD = "standard"
MOST_ABOVE = 1.2  # the best mean, that the frame of the figure shows at least: rates that are far too high lie beyond
NAMES = {STANDARD: "standard parametrisation", "mup": "muP"}
EQUAL = ("model", "dataset", "epochs", "batch_size", "train_fraction", "val_fraction", "optimizer", "schedule")


@dataclass
class Curve:
    """What runs of one parametrisation and width reach at each learning rate.

    Attributes:
        values: of the metric, by rate and then by seed; infinite where a run failed.
        seconds: that each trained which has finished, as far as that is known.
    """

    values: dict[float, dict[int, float]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    def means(self) -> dict[float, float]:
        """Return the mean over the seeds, by rate, the least rate first."""
        return {rate: statistics.mean(self.values[rate].values()) for rate in sorted(self.values)}

    def best_rate(self) -> float:
        """Return the rate of the least mean."""
        means = self.means()
        return min(means, key=means.__getitem__)

    def is_at_end(self) -> bool:
        """Return whether the best rate is the least or the greatest of those tried, so that a better may lie beyond."""
        return self.best_rate() in (min(self.values), max(self.values))

    def optima(self) -> list[float]:
        """Return the logarithm to base 2 of the best rate of each seed, between those tried.

        Seeds that have not been tried at the best rate and at those next to it are left out.
        """
        rates = sorted(self.values)
        place = rates.index(self.best_rate())
        needed = rates[max(0, place - 1) : place + 2]
        seeds = set.intersection(*(set(self.values[rate]) for rate in needed))
        return [vertex({rate: own[seed] for rate, own in self.values.items() if seed in own}) for seed in sorted(seeds)]


def vertex(values: Mapping[float, float]) -> float:
    """Return the logarithm to base 2 of the best rate, by the parabola through the best value and its neighbours."""
    rates = sorted(values)
    place = min(range(len(rates)), key=lambda i: values[rates[i]])
    middle = math.log2(rates[place])
    if place in (0, len(rates) - 1):
        return middle
    (left, right) = (math.log2(rates[i]) - middle for i in (place - 1, place + 1))
    down, up = (values[rates[i]] - values[rates[place]] for i in (place - 1, place + 1))
    if not (math.isfinite(down) and math.isfinite(up)) or down + up <= 0:
        return middle
    # The parabola through (left, down), (0, 0) and (right, up).
    return middle + (down * right**2 - up * left**2) / (2 * (down * right - up * left))


Curves = dict[str, dict[int, Curve]]  # by parametrisation, then by width, the narrowest first


def draw_transfer(name: str, metric: str, out: Path | None) -> list[str]:
    """Draw a sweep's curves; return what it says of the transfer, line by line, and the picture's file.

    Args:
        name: of the sweep in runs/sweeps, or path of its folder.
        metric: that the runs logged, of which less is better.
        out: the picture; None for one in the sweep's folder.

    Raises:
        UserError: there is no such sweep, its runs have no such values, or they are not to be compared.
    """
    folder = find_sweep_folder(name)
    path = out or folder / FILE
    records = [run for run in read_runs(folder).records if not run.is_final]
    found = curves_of(records, metric)
    write_figure(path, draw(found, f"{folder.name}: {metric} after the last epoch", metric))
    return [*in_words(found, metric), str(path)]


def curves_of(records: Iterable[RunRecord], metric: str) -> Curves:
    """Return the curve of each parametrisation and width.

    Args:
        records: runs that have finished, or failed, which makes their value infinite; others are left out, and so is a
            width without a finite mean.
        metric: of which the value after the last epoch counts.

    Raises:
        UserError: more of the metric is better, the runs differ in what is to be equal, such as their epochs, no width
            has values at two rates, or no parametrisation has two widths.
    """
    if metric_named(metric).goal == "maximize":
        raise UserError(f"--metric={metric}: more of it is better: name one of which less is, such as val/loss")
    ended = [run for run in records if run.state in ("finished", "failed") and has_a_place(run.settings)]
    for key in EQUAL:
        if len(known := {str(run.settings.get(key)) for run in ended}) > 1:
            raise UserError(f"the runs differ in {key} ({', '.join(sorted(known))}): name a sweep in which it is equal")
    found: Curves = {}
    for run, curve in sorted(last_of_each(zip(ended, curves(ended, metric), strict=True)), key=width_of):
        settings = run.settings
        if run.state == "finished" and not curve:
            raise UserError(f"--metric={metric}: run {run.run_id} has no value of it; classifiers log {METRIC}")
        by_width = found.setdefault(str(settings.get("parametrization", STANDARD)), {})
        own = by_width.setdefault(settings["width"], Curve())
        value = curve[-1][1] if curve and run.state == "finished" else math.inf
        own.values.setdefault(settings["lr"], {})[settings.get("seed", 0)] = value
        own.seconds += [run.train_seconds] if run.state == "finished" and run.train_seconds else []
    for name, width in [(name, width) for name, widths in found.items() for width in widths]:
        if min(found[name][width].means().values()) == math.inf:
            warn(f"{NAMES.get(name, name)}, width {width} is left out: some seed failed at every rate")
            del found[name][width]
    if not any(len(curve.values) > 1 for widths in found.values() for curve in widths.values()):
        raise UserError("no width has finished runs at two learning rates: let the sweep go on, or name another")
    if max(map(len, found.values())) < 2:
        raise UserError("no parametrisation has finished runs at two widths: let the sweep go on, or name another")
    return {name: found[name] for name in sorted(found, key=lambda name: (name != STANDARD, name)) if found[name]}


def last_of_each(pairs: Iterable[tuple[RunRecord, Points]]) -> Iterable[tuple[RunRecord, Points]]:
    """Return runs with their curves, of several with the same settings the last: one that failed was run again."""
    oldest_first = sorted(pairs, key=lambda pair: pair[0].created)
    names = ("parametrization", "width", "lr", "seed")
    return {repr([run.settings.get(name) for name in names]): (run, curve) for run, curve in oldest_first}.values()


def width_of(pair: tuple[RunRecord, Points]) -> Any:
    """Return the width of a run that stands beside its curve."""
    return pair[0].settings["width"]


def has_a_place(settings: Mapping[str, Any]) -> bool:
    """Return whether the settings of a run have a rate, a width and a seed that its value can be drawn at."""
    numbers = [settings.get("lr"), settings.get("width"), settings.get("seed", 1)]
    return all(is_finite(number) and number >= 0 for number in numbers) and min(numbers[:2]) > 0


def moved(widths: Mapping[int, Curve]) -> tuple[float, float | None]:
    """Return by how many notches the best rate differs at most between widths, and its deviation; None for one seed."""
    known = [curve.optima() or [math.log2(curve.best_rate())] for curve in widths.values()]
    ends = min(known, key=statistics.mean), max(known, key=statistics.mean)
    is_known = all(len(optima) > 1 for optima in ends)
    low, high = map(statistics.mean, ends)
    return high - low, math.hypot(*map(statistics.stdev, ends)) if is_known else None


def moves(widths: Mapping[int, Curve]) -> str:
    """Return in words by how much the best rate moves between widths."""
    notches, deviation = moved(widths)
    return f"the best rate moves by {notches:.2f}{'' if deviation is None else f' ± {deviation:.2f}'} notches"


def in_words(found: Curves, metric: str) -> list[str]:
    """Return what curves say, line by line."""
    lines = []
    for name, widths in found.items():
        lines.append(f"{NAMES.get(name, name)}:")
        for width, curve in widths.items():
            best = curve.best_rate()
            optima = curve.optima() or [math.log2(best)]
            place = f"2^{statistics.mean(optima):.2f}"
            place += f" ± {statistics.stdev(optima):.2f}" if len(optima) > 1 else ""
            place += ", at the end of those tried" if curve.is_at_end() else ""
            value = shown(metric, curve.means()[best])
            num = max(len(by_seed) for by_seed in curve.values.values())
            lines.append(f"  width {width}: best rate {best:g} ({place}), {metric} {value}, {counted(num, 'seed')}")
        lines += comparison_of(widths, metric)
    return lines


def comparison_of(widths: Mapping[int, Curve], metric: str) -> list[str]:
    """Return in words how the best rate moves with the width, and what the narrowest one's is worth in the widest."""
    if len(widths) < 2:
        return []
    narrow, *_, wide = widths
    means = widths[wide].means()
    best = [min(curve.means().values()) for curve in widths.values()]
    order = "falls" if all(one > other for one, other in pairwise(best)) else "does not fall"
    lines = [f"  {moves(widths)} (factors of 2); at its best rate the metric {order} from each width to the next"]
    if (rate := widths[narrow].best_rate()) in means:
        price = means[rate] - min(means.values())
        at_rate = f"  width {wide} at the best rate of width {narrow}, {rate:g}"
        lines.append(f"{at_rate}: {shown(metric, means[rate])}, {price:.4f} above its best")
    if widths[narrow].seconds and widths[wide].seconds:
        costs = [statistics.mean(widths[width].seconds) for width in (narrow, wide)]
        lines.append(
            f"  a run took {costs[0]:.1f} s of training at width {narrow} and {costs[1]:.1f} s at width {wide}: "
            f"{costs[1] / costs[0]:.1f} times as much"
        )
    return lines


def draw(found: Curves, headline: str, metric: str) -> Any:
    """Return a figure of the metric over the rate: a column for each parametrisation, a line for each width."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure  # imported late: takes a second

    figure = Figure(figsize=(6.5 * len(found), 5.5), layout="constrained")
    figure.suptitle(
        f"{headline}\nStars: the best rate of each width, between those tried. Where they stand above each other, "
        "the best rate of a narrow network serves a wide one."
    )
    grid = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    all_widths = sorted({width for widths in found.values() for width in widths})
    colours = {width: colormaps["viridis"](i / len(all_widths)) for i, width in enumerate(all_widths)}
    for axes, (name, widths) in zip(grid, found.items(), strict=True):
        for width, curve in widths.items():
            draw_curve(axes, curve, colours[width], f"width {width}")
        title = "; ".join([NAMES.get(name, name), *([moves(widths)] if len(widths) > 1 else [])])
        axes.set(title=title, xlabel="learning rate")
        axes.set_xscale("log", base=2)
        axes.grid(alpha=0.3)
    means = [value for widths in found.values() for curve in widths.values() for value in curve.means().values()]
    finite = sorted(filter(math.isfinite, means))
    highest = min(finite[-1], finite[0] + max(MOST_ABOVE, 3 * (statistics.median(finite) - finite[0])))
    margin = 0.04 * (highest - finite[0]) or 0.05
    above = sum(value > highest for value in means)
    cut = f", {above} of {counted(len(means), 'mean')} above the frame or not finite" if above else ""
    grid[0].set(ylabel=f"{metric}{cut}", ylim=(finite[0] - margin, highest + margin))
    grid[0].legend()
    return figure


def draw_curve(axes: Any, curve: Curve, colour: Any, label: str) -> None:
    """Draw the mean over the seeds, their range, and a star at the best rate."""
    means = {rate: mean for rate, mean in curve.means().items() if math.isfinite(mean)}
    rates: Sequence[float] = list(means)
    axes.plot(rates, list(means.values()), marker="o", color=colour, label=label)
    low, high = ([extreme(curve.values[rate].values()) for rate in rates] for extreme in (min, max))
    axes.fill_between(rates, low, high, color=colour, alpha=0.2, linewidth=0)
    optimum = 2 ** statistics.mean(curve.optima()) if curve.optima() else curve.best_rate()
    axes.plot(optimum, min(means.values()), "*", color=colour, markersize=18, markeredgecolor="black")
