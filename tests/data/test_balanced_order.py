import time

import numpy as np
import pytest
import torch

from data.balanced_order import balanced_order


def test_balanced_images_are_repeated_only_after_all_of_their_class():
    labels = torch.tensor([0] * 12 + [1] * 4)
    order = balanced_order(labels, torch.Generator().manual_seed(0))
    assert len(order[labels[order] == 0].unique()) == 8
    first, again = order[labels[order] == 1].split(4)
    assert sorted(first.tolist()) == sorted(again.tolist()) == [12, 13, 14, 15]
    assert not torch.equal(first, again)
    assert not torch.equal(order, balanced_order(labels, torch.Generator().manual_seed(1)))


def class_by_class(labels, generator):
    """`balanced_order`, by two passes over all images for each class."""
    members = [(labels == label).nonzero().flatten() for label in labels.unique()]
    rounds = -(-len(labels) // len(members))
    classes = torch.rand(rounds, len(members), generator=generator).argsort(1).flatten()[: len(labels)]
    order = torch.empty_like(labels)
    for number, own in enumerate(members):
        places = (classes == number).nonzero().flatten()
        drawn = [own[torch.randperm(len(own), generator=generator)] for _ in range(-(-len(places) // len(own)))]
        order[places] = torch.cat(drawn)[: len(places)] if drawn else own[:0]
    return order


@pytest.mark.parametrize("num_classes", [1, 7, 900])
def test_the_balanced_order_is_that_of_going_through_all_images_for_each_class(num_classes):
    labels = 3 * torch.from_numpy(np.random.RandomState(0).randint(0, num_classes, 1000))
    orders = [order(labels, torch.Generator().manual_seed(1)) for order in (balanced_order, class_by_class)]
    assert torch.equal(*orders)


def test_a_balanced_order_of_many_classes_is_found_in_no_time():
    labels = torch.arange(200_000) % 10_000
    start = time.process_time()
    balanced_order(labels, torch.Generator().manual_seed(0))
    assert time.process_time() - start < 2
