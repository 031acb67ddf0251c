from functools import partial

import numpy as np
import pytest
import torch

from data import augmentation, photographs, policies
from data.augmentation import POLICIES, Augmentation, crop_flip, cutout
from models.parts import diff_augment

RANDOM = ["crop_flip", *POLICIES]
CHANGES = {
    **{kind: partial(Augmentation(kind).of_pixels, size=32) for kind in RANDOM},
    **diff_augment.POLICIES,
    "cutout": partial(cutout, size=8),
    "erase": partial(photographs.erase, share=0.5),
    "resized_crop": partial(photographs.resized_crop, size=24, least_area=0.3, largest_ratio=1.3),
    "turn": partial(photographs.turn, degrees=15.0),
    "jitter_colours": partial(photographs.jitter_colours, strength=0.4),
}


def random_images(num, height=16, width=24):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num, 3, height, width), dtype=torch.uint8, generator=generator)


def shifted_and_flipped(image):
    """Every result that crop_flip may give for an image [3, H, W]: (rows, columns, flipped) -> image."""
    _, height, width = image.shape
    rows, columns = height // 8, width // 8
    padded = np.pad(image, ((0, 0), (rows, rows), (columns, columns)), mode="reflect")
    results = {}
    for row in range(2 * rows + 1):
        for column in range(2 * columns + 1):
            crop = padded[:, row : row + height, column : column + width]
            results[row - rows, column - columns, False] = crop
            results[row - rows, column - columns, True] = crop[:, :, ::-1]
    return results


def chi_square(counts):
    expected = counts.sum() / counts.size
    return ((counts - expected) ** 2 / expected).sum()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_crop_flip_shifts_and_mirrors_with_reflected_borders(dtype):
    images = random_images(60).to(dtype)
    torch.manual_seed(0)
    results = crop_flip(images)
    assert (results.dtype, results.shape) == (images.dtype, images.shape)
    for image, result in zip(images.numpy(), results.numpy(), strict=True):
        assert sum(np.array_equal(result, candidate) for candidate in shifted_and_flipped(image).values()) == 1


def test_crop_flip_draws_every_shift_and_flip_equally_often():
    [image] = random_images(1)
    draws = {draw: number for number, draw in enumerate(shifted_and_flipped(image.numpy()))}
    number_of = {result.tobytes(): draws[draw] for draw, result in shifted_and_flipped(image.numpy()).items()}
    torch.manual_seed(0)
    results = crop_flip(image.expand(7_000, -1, -1, -1)).numpy()
    counts = np.bincount([number_of[result.tobytes()] for result in results], minlength=len(draws))
    assert len(draws) == 5 * 7 * 2
    assert chi_square(counts) < 111  # the 0.1 % quantile of 69 degrees of freedom


def test_crop_flip_of_images_too_small_to_shift_only_flips():
    images = random_images(50, 7, 7)
    torch.manual_seed(0)
    results = crop_flip(images)
    flipped = [torch.equal(result, image.flip(2)) for image, result in zip(images, results, strict=True)]
    kept = [torch.equal(result, image) for image, result in zip(images, results, strict=True)]
    assert [a != b for a, b in zip(flipped, kept, strict=True)] == [True] * 50
    assert 10 < sum(flipped) < 40


@pytest.mark.parametrize("name", ["none", *RANDOM])
def test_result_is_a_function_of_the_global_seed(name):
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(Augmentation(name).of_pixels(random_images(32), 24))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2]) == (name == "none")


@pytest.mark.parametrize("name", RANDOM)
def test_images_change_but_not_their_shape_type_or_source(name):
    images = random_images(64)
    torch.manual_seed(0)
    results = Augmentation(name).of_pixels(images, 24)
    assert (results.dtype, results.shape) == (images.dtype, images.shape)
    assert (results != images).flatten(1).any(1).float().mean() > 0.9
    assert torch.equal(images, random_images(64))


@pytest.mark.parametrize("name", CHANGES)
def test_a_device_is_sent_a_few_numbers_an_image_and_does_the_rest_itself(name, monkeypatch):
    sizes = []

    def sending(tensor, device):
        sizes.append(tensor.numel())
        return tensor.to(device)

    for module in (augmentation, diff_augment, photographs, policies):
        monkeypatch.setattr(module, "send", sending)
    assert CHANGES[name](torch.empty(50, 3, 32, 32, dtype=torch.uint8, device="meta")).device.type == "meta"
    assert sum(sizes) <= 50 * 10


def square(row, column, size, height, width):
    """The pixels that a square around a place blanks, [H, W]."""
    blank = np.zeros((height, width), bool)
    top, left = row - size // 2, column - size // 2
    blank[max(top, 0) : top + size, max(left, 0) : left + size] = True
    return blank


@pytest.mark.parametrize("size", [2, 5, 6])
def test_cutout_blanks_one_square_around_a_uniformly_drawn_pixel(size):
    height, width = 8, 10
    place = {
        square(row, column, size, height, width).tobytes(): row * width + column
        for row in range(height)
        for column in range(width)
    }
    images = torch.rand(8_000, 3, height, width) + 1
    torch.manual_seed(0)
    results = cutout(images, size)
    blank = results == 0
    assert torch.equal(results[~blank], images[~blank])
    assert torch.equal(blank, blank[:, :1].expand_as(blank))
    counts = np.bincount([place[mask.tobytes()] for mask in blank[:, 0].numpy()], minlength=height * width)
    assert len(place) == height * width
    assert chi_square(counts) < 124  # the 0.1 % quantile of 79 degrees of freedom


def test_cutout_leaves_its_source_alone():
    images = torch.ones(4, 3, 8, 8)
    assert (cutout(images, 4) == 0).any()
    assert (images == 1).all()


def test_cutout_of_twice_the_image_blanks_everything():
    assert (cutout(torch.ones(20, 3, 8, 8), 16) == 0).all()


@pytest.mark.parametrize("kind", RANDOM)
def test_images_are_shifted_and_mirrored_changed_by_a_policy_cut_and_reduced_in_that_order(kind):
    images = random_images(8, 24, 24)
    torch.manual_seed(0)
    changed = Augmentation(kind, side=8).of_pixels(images, 16)
    torch.manual_seed(0)
    shifted = crop_flip(images)
    whole = POLICIES[kind](shifted) if kind in POLICIES else shifted
    assert torch.equal(changed, photographs.reduce(whole[:, :, 4:20, 4:20], 8))


@pytest.mark.parametrize("kind", ["none", *RANDOM])
def test_resized_crops_have_the_area_and_the_ratio_that_are_told_and_are_changed_by_a_policy(kind):
    images = random_images(8, 24, 24)
    torch.manual_seed(0)
    changed = Augmentation(kind, crop_scale=0.3, crop_ratio=2.0).of_pixels(images, 16)
    torch.manual_seed(0)
    crops = photographs.resized_crop(images, 16, 0.3, 2.0)
    assert torch.equal(changed, POLICIES[kind](crops) if kind in POLICIES else crops)


def test_as_many_images_have_a_box_blanked_out_as_are_told():
    torch.manual_seed(0)
    blanked = Augmentation(erasing=0.125).blanked(torch.ones(2000, 3, 8, 8))
    assert 0.1 < (blanked == 0).flatten(1).any(1).double().mean() < 0.15
