"""Whether runs may be ranked side by side: whether they saw the same images, the same split, and the same code."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from analysis.read.recipe import model_and_dataset
from analysis.read.records import RunRecord
from analysis.terminal import number
from data.visible import listed

# Settings that say which images are for validation, and how many of them are seen:
SPLIT = ("data_seed", "train_fraction", "val_fraction", "fold", "group_by", "limit_batches")
LIMITED = (*SPLIT, "batch_size")  # of runs with limit_batches, which are batches of that size
MOST_NAMED = 3  # values of each thing that differs
COMMIT_LETTERS = 10
LONGEST_VALUE = 60  # letters

Thing = TypeVar("Thing")


def warning_of(records: Sequence[RunRecord]) -> str:
    """Return one line that says in what the runs differ that makes their values no fair comparison; "" for nothing.

    Runs that do not know a thing, as those on W&B do not know their commit, differ in nothing by that. Final runs are
    left out: they have no validation images, and are in no ranking. So are the further runs of trials that have
    several, which have other folds by intention.
    """
    searched = [record for record in records if not record.is_final]
    names = {(record.sweep, record.run_id) for record in searched}
    ranked = [
        record
        for record in searched
        if record.first_of_trial == record.run_id or (record.sweep, record.first_of_trial) not in names
    ]
    told = (*data_that_differs(ranked), *splits_that_differ(ranked), code_that_differs(ranked))
    found = [text for text in told if text]
    return f"These runs may not be comparable: they differ in {'; '.join(found)}." if found else ""


def data_that_differs(records: Sequence[RunRecord]) -> list[str]:
    """Return the models and datasets, where there are several, and the images of each dataset that differ."""
    pairs = [" on ".join(model_and_dataset(record.settings)) for record in records]
    by_dataset: dict[str, list[RunRecord]] = {}
    for record in records:
        by_dataset.setdefault(record.dataset, []).append(record)
    images = [several(f"the images of {name}", own, images_seen) for name, own in by_dataset.items()]
    return [several("models or datasets", pairs, str), *images]


def images_seen(record: RunRecord) -> Any:
    """Return the fingerprint of a run's images; None where it is not known."""
    return record.environment.get("data")


def predicted_images(record: RunRecord, split: str) -> str:
    """Return what is the same of two runs that have predicted the same images of a split, "val" or "test"."""
    settings = record.settings
    own = LIMITED if settings.get("limit_batches") else SPLIT if split == "val" else ()
    values = [settings.get(name) or "none" for name in own]  # a run may be older than a setting
    return repr([record.dataset, images_seen(record), *values])


def by_images(things: Sequence[Thing], record_of: Callable[[Thing], RunRecord]) -> dict[str, list[Thing]]:
    """Return things of runs, grouped by the fingerprint of the images that the runs saw.

    Runs without one join the others if these all saw the same images, else they are a group of their own.

    Args:
        things: what has a run each.
        record_of: returns its run.
    """
    groups: dict[str, list[Thing]] = {}
    for thing in things:
        groups.setdefault(str(images_seen(record_of(thing)) or ""), []).append(thing)
    return groups if len(groups.keys() - {""}) > 1 else {"": list(things)}


def splits_that_differ(records: Sequence[RunRecord]) -> list[str]:
    """Return the settings of the split into training and validation images that differ, with their values."""

    def value_of(name: str) -> Callable[[RunRecord], Any]:
        return lambda record: "none" if (value := record.settings.get(name)) == "" else value

    are_limited = any(record.settings.get("limit_batches") for record in records)
    return [several(name, records, value_of(name)) for name in (LIMITED if are_limited else SPLIT)]


def code_that_differs(records: Sequence[RunRecord]) -> str:
    """Return the versions of the code, where there are several."""
    return several("code", records, lambda record: code_version(record.environment))


def code_version(environment: Mapping[str, Any]) -> str:
    """Return the version of the code that a run was made with, as short as tells two of them apart.

    That is the beginning of the commit, with "-dirty" where the source had been changed, and a hash of the changes.
    """
    commit = environment.get("commit")
    if not isinstance(commit, str) or not commit:
        return ""
    own, dirty, _ = commit.partition("-dirty")
    return " ".join(filter(None, (own[:COMMIT_LETTERS] + dirty, str(environment.get("changes") or ""))))


def several(what: str, things: Sequence[Any], value_of: Callable[[Any], Any]) -> str:
    """Return the values that things have, the commonest first, behind what they are called; "" where there is one."""
    values = (value_of(thing) for thing in things)
    counts = Counter(number(value)[:LONGEST_VALUE] for value in values if value not in (None, ""))
    if len(counts) < 2:
        return ""
    named = [f"{value} ({count:,})" for value, count in counts.most_common()]
    return f"{what}: {listed(named, MOST_NAMED)}"
