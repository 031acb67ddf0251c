"""The runs of a comparison by their recipe: those that differ in seed or fold alone are one row."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from analysis.compare.comparability import by_images, predicted_images
from analysis.compare.comparison import Comparison
from analysis.compare.entry import Entry
from analysis.compare.seeds import Draw, Interval, difference_over_images, duel, mean_over_seeds, verdict
from analysis.read.predictions import right_by_image
from analysis.read.recipe import DRAWS, recipe_of
from data.metrics import Metric, is_finite, metrics_of_finals

MOST_SINGLE = 10  # recipes of one run, the best of a kind, beside those of several: a whole search would hide these
OF_KEPT = " by the kept weights, which are not the best logged"
MOST_COMPARED = 50  # recipes that are compared with the first: each takes the time of a bootstrap over the images


class Recipe(NamedTuple):
    """Runs with one recipe.

    Attributes:
        is_final: whether they are final runs, which have figures of the test images.
        entries: the finished runs.
        num_draws: different seeds among them or, of a cross-validation, seeds and folds.
        metric: name of the metric by which it is compared.
        mean: of the runs' best logged values, with the interval over these.
        deviation: of these values; None for a single run.
        against_first: what is known of it and the first recipe of its kind; "" for that one, and for those far behind.
    """

    is_final: bool
    entries: Sequence[Entry]
    num_draws: int
    metric: str
    mean: Interval
    deviation: float | None
    against_first: str


class Recipes(NamedTuple):
    """The recipes of a comparison.

    Attributes:
        shown: of final runs, in the order of their trials, then others by what they reach.
        num_left_out: further ones of a single run, which stand behind those.
    """

    shown: list[Recipe]
    num_left_out: int


def recipes_of(comparison: Comparison) -> Recipes:
    """Return the recipes of a comparison: none where no two runs differ in seed or fold alone."""
    finished = [entry for entry in comparison.entries if entry.record.state == "finished"]
    final = [entry for entry in finished if entry.record.is_final]
    others = [entry for entry in finished if entry.is_ranked and not entry.record.is_final]
    judge = judge_of(final, comparison.metric)
    kinds = [(final, judge, [entry.record.run_id for entry in comparison.trials])] if judge else []
    kinds.append((others, comparison.metric, []))
    groups = [(group, metric) for entries, metric, _ in kinds for group in groups_of(entries).values()]
    if not any(len(by_draw(*group)) > 1 for group in groups):  # before predictions are read, and recipes compared
        return Recipes([], 0)
    shown = [recipe for kind in kinds for recipe in ranked_recipes(*kind)]
    return Recipes(shown, len(groups) - len(shown))


def judge_of(finals: Sequence[Entry], metric: Metric) -> Metric | None:
    """Return the metric by which final runs are compared, one that all have: of test images, where there are any.

    Args:
        finals: the runs.
        metric: that ranks the comparison, whose figure of the test images is taken first.
    """
    known = [{**entry.further, metric.name: entry.value} for entry in finals]
    shared = [each for each in metrics_of_finals(metric) if all(is_finite(own.get(each.name)) for own in known)]
    return shared[0] if finals and shared else None


def ranked_recipes(entries: Sequence[Entry], metric: Metric, trials: Sequence[str]) -> list[Recipe]:
    """Return the recipes of runs of one kind, the better first.

    Of those of one run there are the best few, and none where none has several: the leaderboard has them.

    Args:
        entries: the runs.
        metric: by which they are compared.
        trials: ids of trials, the best first. Final runs stand in the order of theirs, which validation images tell,
            and then in that of their starts: nothing is chosen by test images.
    """
    groups = groups_of(entries)
    values = {key: by_draw(group, metric) for key, group in groups.items()}

    def place_of(key: str) -> tuple[float, ...]:
        first = groups[key][0]
        if first.record.is_final:
            return place_of_trial(first, trials), min(entry.number for entry in groups[key])
        return (metric.cost(value_of_recipe(groups[key])),)

    order = sorted(groups, key=place_of)
    single = [key for key in order if len(values[key]) == 1]
    too_many = {*single[MOST_SINGLE if len(single) < len(order) else 0 :]}
    order = [key for key in order if key not in too_many]
    of_first = images_of(groups[order[0]], metric) if len(order) > 1 else {}

    def against_first(key: str) -> str:
        both = (*groups[key], *groups[order[0]])
        own = images_of(groups[key], metric) if are_of_the_same_images(both, metric) else {}
        over_images = difference_over_images(own, of_first)
        is_other = any(is_of_other_weights(entry, metric) for entry in both)
        contest, what = duel(values[key], values[order[0]], metric), "fold" if all_have_folds(both) else "seed"
        return verdict(contest, over_images, metric.name, OF_KEPT if is_other else "", what)

    return [
        Recipe(
            groups[key][0].record.is_final,
            groups[key],
            len(values[key]),
            metric.name,
            mean_over_seeds(list(values[key].values()), metric.name),
            statistics.stdev(values[key].values()) if len(values[key]) > 1 else None,
            against_first(key) if 0 < place <= MOST_COMPARED else "",
        )
        for place, key in enumerate(order)
    ]


def value_of_recipe(entries: Sequence[Entry]) -> float:
    """Return what runs of one recipe reach: their mean or, of a trial's runs, the value that its sweep counts it with.

    A trial that was ended early has an estimate for the seeds that it was spared: its first may have been easy ones.
    """
    trials = {entry.trial.run_id: entry.trial for entry in entries if entry.trial}
    if len(trials) == 1 and all(entry.trial for entry in entries):
        [trial] = trials.values()
        assert trial.value is not None
        return trial.value
    return statistics.fmean(entry.value or 0.0 for entry in entries)


def groups_of(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Return the runs that differ in seed or fold alone, together; those on other images differ in them."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        recipe = {key: value for key, value in recipe_of(entry.record.settings).items() if key not in DRAWS}
        groups.setdefault(repr(sorted(recipe.items(), key=str)), []).append(entry)
    return {
        f"{key} {images}": own
        for key, group in groups.items()
        for images, own in by_images(group, lambda entry: entry.record).items()
    }


def place_of_trial(entry: Entry, trials: Sequence[str]) -> int:
    """Return the place of the trial that a final run has its settings of; after all others where it is not there."""
    return trials.index(entry.record.trial) if entry.record.trial in trials else len(trials)


def by_draw(entries: Sequence[Entry], metric: Metric) -> dict[Draw, float]:
    """Return seed and fold -> value of the metric; of several runs of the same, their mean."""
    values: dict[Draw, list[float]] = {}
    for entry in entries:
        value = entry.value if entry.further.get(metric.name) is None else entry.further[metric.name]
        assert value is not None
        seed, fold = (entry.record.settings.get(name) for name in ("seed", "fold"))
        values.setdefault(Draw(seed if isinstance(seed, int) else 0, str(fold or "")), []).append(value)
    return {draw: statistics.fmean(own) for draw, own in values.items()}


def all_have_folds(entries: Sequence[Entry]) -> bool:
    """Return whether runs are of a cross-validation."""
    return all(entry.record.settings.get("fold") for entry in entries)


def is_of_other_weights(entry: Entry, metric: Metric) -> bool:
    """Return whether the value that `by_draw` takes is not that of the weights which have predicted the images."""
    return entry.kept is not None and entry.further.get(metric.name) is None


def images_of(entries: Sequence[Entry], metric: Metric) -> dict[str, float]:
    """Return image -> share of the runs that are right, where the metric is an accuracy and the runs are folders."""
    if not metric.name.endswith("/accuracy") or not all(entry.record.is_local for entry in entries):
        return {}
    return right_by_image([Path(entry.record.source) for entry in entries], metric.name.partition("/")[0])


def are_of_the_same_images(entries: Sequence[Entry], metric: Metric) -> bool:
    """Return whether runs have predicted the same images: some datasets name an image by its place in its split."""
    split = metric.name.partition("/")[0]
    return len({predicted_images(entry.record, split) for entry in entries}) == 1


def recipe_data(comparison: Comparison) -> dict[str, Any]:
    """Return what the page shows of the recipes, fit for JSON; a run is named by its place in the list of runs."""
    places = {entry.number: place for place, entry in enumerate(comparison.entries)}
    shown, num_left_out = recipes_of(comparison)
    rows = [
        {
            "kind": "final" if recipe.is_final else "run",
            "runs": [places[entry.number] for entry in recipe.entries],
            "numDraws": recipe.num_draws,
            "hasFolds": any(entry.record.settings.get("fold") for entry in recipe.entries),
            "metric": recipe.metric,
            "mean": recipe.mean.mean,
            "low": recipe.mean.low,
            "high": recipe.mean.high,
            "deviation": recipe.deviation,
            "againstFirst": recipe.against_first,
        }
        for recipe in shown
    ]
    return {"shown": rows, "numLeftOut": num_left_out}
