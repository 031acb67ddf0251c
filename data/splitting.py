"""The images of a dataset divided among training, validation and test: by class, by group, or into folds."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.dataset import Dataset, Split
from data.errors import UserError
from data.visible import counted


@dataclass(frozen=True)
class Splitting:
    """How the images to train on are divided.

    Attributes:
        train_fraction: share of them that is used at all.
        val_fraction: share of those that is held out to validate with; 0 for none, where the dataset's own images to
            validate with are trained on.
        seed: another seed holds out other images, see `stratified_order`.
        fold: such as "2/5": the second of five equal parts is held out, whatever `val_fraction`; "" for no folds.
        group_by: regular expression that finds in the name of an image's file what it shows, a patient, say; "" for
            the dataset's own groups, if it has any.
    """

    train_fraction: float
    val_fraction: float
    seed: int
    fold: str = ""
    group_by: str = ""

    def folds(self) -> tuple[int, int]:
        """Return the number of the fold that is held out, counted from 0, and that of all folds."""
        number, _, num = self.fold.partition("/")
        return int(number) - 1, int(num)


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """Return a random order of the images in which every stretch holds the classes in their overall proportions.

    The order depends on the labels and the seed alone, also in later versions of numpy: RandomState's random numbers
    are guaranteed never to change.

    Args:
        labels: [N] int64; [N, C] of several labels an image, each set of which then counts as a class.
        seed: another seed gives another order.

    Returns:
        [N] int64 indices.
    """
    random = np.random.RandomState(seed)
    shuffled = random.permutation(len(labels))
    classes = (labels if labels.ndim == 1 else labels.unique(dim=0, return_inverse=True)[1]).numpy()[shuffled]
    names, own, counts = np.unique(classes, return_inverse=True, return_counts=True)
    by_class = np.argsort(own, kind="stable")
    rank = np.empty(len(labels), np.int64)  # of each image in its own class
    rank[by_class] = np.arange(len(labels)) - (np.cumsum(counts) - counts)[own[by_class]]
    # Each class is shifted by a different amount; else the first stretch would hold no image of any small class.
    starts = (random.permutation(len(names)) + 0.5) / len(names)
    place = (rank + starts[own]) / counts[own]  # in (0, 1): how far down the list of its own class an image stands
    return torch.from_numpy(shuffled[np.argsort(place, kind="stable")])


def divide_groups(labels: Tensor, groups: Tensor, shares: Sequence[float], seed: int) -> Tensor:
    """Divide images into parts so that no group is torn apart, and each part has about its share of every class.

    Groups are dealt out one by one, the largest first, each to the part that then lacks the most of its classes; of
    several, to the one that lacks the most images.

    Args:
        labels: [N] int64, or [N, C] of several labels an image.
        groups: [N] int64, the number of each image's group.
        shares: of the parts, which add up to 1.
        seed: another seed divides them in another way.

    Returns:
        [N] int64, the number of each image's part.
    """
    _, own = np.unique(groups.numpy(), return_inverse=True)
    image, label, num_classes = memberships(labels)
    num_groups = own.max() + 1

    # The classes that each group has, and how many images of each: a table of all would take gigabytes.
    pairs, counts = np.unique(own[image] * num_classes + label, return_counts=True)
    group_of, class_of = np.divmod(pairs, num_classes)
    bounds = np.searchsorted(group_of, np.arange(num_groups + 1))

    # The groups from the largest on, those of one size at random.
    sizes = np.bincount(own[image])  # images of each group, or labels and images
    shuffled = np.random.RandomState(seed).permutation(num_groups)
    largest_first = shuffled[np.argsort(-sizes[shuffled], kind="stable")]

    # Each is dealt to the part that wants it most.
    wanted = np.outer(shares, np.bincount(label))
    lacking = np.array(shares) * len(label)
    part_of = np.zeros(num_groups, np.int64)
    for group in largest_first:
        its = slice(bounds[group], bounds[group + 1])
        row = np.zeros(num_classes)  # whole, since sums of the few that are not 0 would be rounded in another way
        row[class_of[its]] = counts[its]
        scores = wanted @ row
        part_of[group] = np.argmax(np.where(scores == scores.max(), lacking, -np.inf))
        wanted[part_of[group]] -= row
        lacking[part_of[group]] -= counts[its].sum()
    return torch.from_numpy(part_of[own])


def memberships(labels: Tensor) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the images and the classes of all pairs of an image and a class that it has, and the number of classes.

    Of several labels an image, there is one class more, that of all images, so that those without a label count, too.
    """
    if labels.ndim == 1:
        return np.arange(len(labels)), labels.numpy(), int(labels.max()) + 1
    table = np.pad(labels.numpy(), ((0, 0), (0, 1)), constant_values=1)
    image, label = np.nonzero(table)
    return image, label, table.shape[1]


def make_splits(dataset: Dataset, how: Splitting) -> dict[str, Split]:
    """Return the splits of a dataset by name: "train", "val" and "test".

    "train" and "val" are parts of the dataset's training images with equal shares of every class, unless it has images
    of its own to validate with; folds are made of all of these. "test" holds its test images. A split is left out if
    there is nothing to put in it.

    Raises:
        UserError: the fractions, folds or groups leave no image to train on or to validate with, or a group is in two
            of the dataset's own splits.
    """
    dataset = with_groups(dataset, how.group_by)
    images, own_val = dataset.train, dataset.val
    if own_val is not None and (how.fold or not how.val_fraction):
        images, own_val = images.join(own_val), None
    check_groups(replace(dataset, train=images, val=own_val))
    if own_val is not None:
        how = replace(how, val_fraction=0.0)  # no others are held out
    total = len(images.labels)
    order = stratified_order(images.labels, how.seed)[: round(total * how.train_fraction)]
    val, train = hold_out(images, order, how)
    if not len(order):
        raise UserError(f"--train_fraction={how.train_fraction} leaves none of {total} images to train on: raise it")
    if how.val_fraction and not (len(train) and len(val)):
        lacking = "validation" if len(train) else "training"
        raise UserError(describe_lack(lacking, images.select(order), how))
    return replace(dataset, train=images.select(train), val=images.select(val) if len(val) else own_val).splits


def describe_lack(lacking: str, images: Split, how: Splitting) -> str:
    """Return that of some images none are left to train on, or none to validate with, and what can be done."""
    setting = f"--fold={how.fold}" if how.fold else f"--val_fraction={how.val_fraction}"
    remedies = {
        "training": "leave it out" if how.fold else "lower it",
        "validation": "take fewer folds" if how.fold else "raise it, or give 0",
    }
    num_groups = 0 if images.groups is None else len(images.groups.unique())
    groups = f" in {counted(num_groups, 'group')}" if num_groups else ""
    remedy = "tell more groups apart (--group_by), or give --val_fraction=0" if num_groups == 1 else remedies[lacking]
    return f"{setting} leaves no {lacking} image of {len(images.labels)}{groups}: {remedy}"


def hold_out(images: Split, order: Tensor, how: Splitting) -> tuple[Tensor, Tensor]:
    """Return the indices of the images that are held out, and of those to train on, each in the given order."""
    if not how.val_fraction or not len(order):
        return order[:0], order
    if images.groups is None:
        is_held_out = in_stretch_held_out(len(order), how)
    else:
        labels, groups = images.labels.index_select(0, order), images.groups.index_select(0, order)
        is_held_out = in_groups_held_out(labels, groups, how)
    return order[is_held_out], order[~is_held_out]


def in_stretch_held_out(num: int, how: Splitting) -> Tensor:
    """Return whether each of so many images is in the stretch of them that is held out, [num] bool."""
    if how.fold:
        part, num_folds = how.folds()
        start, end = (num * i // num_folds for i in (part, part + 1))
    else:
        start, end = 0, round(num * how.val_fraction)
    places = torch.arange(num)
    return (start <= places) & (places < end)


def in_groups_held_out(labels: Tensor, groups: Tensor, how: Splitting) -> Tensor:
    """Return whether each of N images is of a group that is held out, [N] bool, see `divide_groups`."""
    if how.fold:
        part, num = how.folds()
        return divide_groups(labels, groups, [1 / num] * num, how.seed) == part
    num = math.floor(1 / how.val_fraction + 1e-9)
    shares = [how.val_fraction] * num + [1 - num * how.val_fraction]
    parts = divide_groups(labels, groups, shares, how.seed)
    # The part whose size is the best; of equal ones the last, since the largest groups come first.
    misfits = (parts.bincount(minlength=num)[:num] - how.val_fraction * len(labels)).abs().tolist()
    return parts == max(range(num), key=lambda i: (-misfits[i], i))


def with_groups(dataset: Dataset, rule: str) -> Dataset:
    """Return a dataset whose images are grouped by what a regular expression finds in the names of their files.

    Where the expression has a group of its own, in parentheses, that is what counts.

    Raises:
        UserError: the expression has several groups of its own, the images are no files, or the name of one does not
            have what the rule looks for.
    """
    if not rule:
        return dataset
    if (num := re.compile(rule).groups) > 1:
        raise UserError(
            f"--group_by={rule} has {num} groups in parentheses: leave one, and write the others as (?:...)"
        )
    numbers: dict[str, int] = {}
    grouped: dict[str, Any] = {}
    for name, split in dataset.splits.items():
        if not split.names:
            raise UserError(f"--group_by={rule}: the images of {dataset.name} are no files, which it could go by")
        found = [re.search(rule, file) for file in split.names]
        if None in found:
            file = split.names[found.index(None)]
            raise UserError(f"--group_by={rule} is not found in {file}: write one that is in the name of every file")
        keys = [match.group(match.re.groups and 1) or "" for match in found if match]
        grouped[name] = split._replace(groups=torch.tensor([numbers.setdefault(key, len(numbers)) for key in keys]))
    return replace(dataset, **grouped)


def check_groups(dataset: Dataset) -> None:
    """Check that no group is in two of a dataset's own splits.

    Raises:
        UserError: one is, so that what is measured on the one has been learned on the other.
    """
    owners: dict[int, str] = {}
    for name, split in dataset.splits.items():
        for number, group in enumerate([] if split.groups is None else split.groups.tolist()):
            if (other := owners.setdefault(group, name)) != name:
                file = split.names[number]
                raise UserError(f"{file} of the split {name} is of a group that is also in {other}: move one of them")


def class_counts(splits: Iterable[Split], num_classes: int) -> tuple[int, ...]:
    """Return the number of images of each class, all splits together."""
    labels = torch.cat([split.labels for split in splits])
    counts = labels.sum(0).long() if labels.ndim > 1 else labels.bincount(minlength=num_classes)[:num_classes]
    return tuple(counts.tolist())


def describe_holding_out(how: Splitting, splits: Mapping[str, Split]) -> str:
    """Return how the images to validate with were chosen, in a few words; "" where it was at random."""
    if "val" not in splits:
        return ""
    groups = splits["val"].groups
    fold = f"val is fold {how.fold.replace('/', ' of ')}" if how.fold else ""
    whole = "" if groups is None else f"{counted(len(groups.unique()), 'whole group')} in val"
    return ", ".join(filter(None, (fold, whole)))
