from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from data import digits

ORACLE = load_digits()


def bilinear(image, size):
    places = (np.arange(size) + 0.5) * 8 / size - 0.5
    weights = np.stack([np.interp(places, np.arange(8), row) for row in np.eye(8)])  # [8, size]
    return weights.T @ image @ weights


def as_sorted_rows(images, labels):
    return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


@pytest.mark.parametrize(("image_size", "side"), [(0, 32), (8, 8), (16, 16)])
def test_digits_are_those_of_scikit_learn_upscaled(image_size, side):
    dataset = digits.load(Path(), image_size, 0)
    images = torch.cat([dataset.train.images, dataset.test.images]).numpy()
    labels = torch.cat([dataset.train.labels, dataset.test.labels])
    expected = [bilinear(image / 16, side) * 255 for image in ORACLE.images]
    expected = np.stack(expected).round().astype(np.uint8)
    assert images.shape == (1797, 3, side, side)
    assert as_sorted_rows(images[:, 0], labels) == as_sorted_rows(expected, ORACLE.target)


def test_digits_have_three_equal_channels():
    images = digits.load(Path(), 0, 0).train.images
    assert images.is_contiguous()
    assert torch.equal(images[:, 0], images[:, 1])
    assert torch.equal(images[:, 0], images[:, 2])


def test_test_images_are_a_stratified_fifth():
    test = digits.load(Path(), 0, 0).test
    exact = np.bincount(ORACLE.target) * 360 / 1797
    assert len(test.labels) == 360
    assert np.abs(test.labels.bincount().numpy() - exact).max() <= 1


def test_classes_name_the_labels():
    assert digits.load(Path(), 0, 0).classes == tuple(str(name) for name in ORACLE.target_names)
