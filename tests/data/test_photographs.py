"""Augmentation of photographs, against torchvision's, image by image."""

import math
from dataclasses import replace

import pytest
import torch
from torchvision.transforms import RandomErasing, RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from data.augmentation import Augmentation
from data.dataset import DatasetInfo, Split
from data.datasets import describe
from data.loader import Loader
from data.photographs import Boxes, centre_crop, crop_boxes, draw_boxes, erase, jitter_colours, resized_crop, turn
from tests.loaded import load_splits


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def smooth_images(num, side=40):
    """Images without noise, whose values do not jump between neighbours."""
    coarse = torch.rand(num, 3, 6, 6)
    large = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False)
    return (255 * large.clamp(0, 1)).byte()


@pytest.mark.parametrize("size", [16, 40, 64])
@pytest.mark.parametrize("mirrored", [False, True])
def test_crops_are_those_of_torchvision_antialiased(size, mirrored):
    images = torch.randint(0, 256, (30, 3, 40, 48), dtype=torch.uint8)
    boxes = draw_boxes(30, 40, 48, (0.05, 1.0), 4 / 3)
    ours = crop_boxes(images, boxes, size, torch.full((30,), mirrored))
    for image, result, *box in zip(images, ours, *boxes, strict=True):
        top, left, height, width = map(int, box)
        theirs = tv.resized_crop(image.float(), top, left, height, width, [size, size], antialias=True)
        theirs = theirs.flip(-1) if mirrored else theirs
        torch.testing.assert_close(result.float(), theirs, atol=0.51, rtol=0)


def test_a_whole_image_of_the_same_size_is_itself():
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    zeros, sides = torch.zeros(2, dtype=torch.long), torch.full((2,), 16)
    assert torch.equal(crop_boxes(images, Boxes(zeros, zeros, sides, sides), 16, torch.tensor([False, False])), images)


@pytest.mark.parametrize(("least", "ratio"), [(0.08, 4 / 3), (0.5, 2.0)])
def test_boxes_are_distributed_as_torchvision_draws_them(least, ratio):
    ours = torch.stack(draw_boxes(4000, 60, 80, (least, 1.0), ratio)).float()
    image = torch.zeros(3, 60, 80)
    draws = [RandomResizedCrop.get_params(image, (least, 1.0), (1 / ratio, ratio)) for _ in range(4000)]
    theirs = torch.tensor(draws).T.float()
    torch.testing.assert_close(ours.mean(1), theirs.mean(1), atol=1.5, rtol=0.03)
    torch.testing.assert_close(ours.std(1), theirs.std(1), atol=1.0, rtol=0.06)
    ratios = [(width / height).log() for _, _, height, width in (ours, theirs)]
    assert ratios[0].mean().item() == pytest.approx(ratios[1].mean().item(), abs=least / 20)
    top, left, height, width = ours
    assert (top + height).max() <= 60
    assert (left + width).max() <= 80
    assert (top + height)[height < 60].max() == 60
    assert (left + width)[width < 80].max() == 80


def test_half_of_the_crops_are_mirrored():
    ramp = torch.arange(40, dtype=torch.uint8).mul(6).expand(2000, 3, 40, 40)
    crops = resized_crop(ramp, 8, 0.3, 1.2).float()
    assert 0.45 < (crops[:, 0, 0, 0] > crops[:, 0, 0, -1]).double().mean() < 0.55


def test_images_are_turned_by_at_most_the_angle_to_either_side():
    bar = torch.zeros(500, 3, 41, 41, dtype=torch.uint8)
    bar[:, :, 20, 10:31] = 255
    turned = turn(bar, 30)[:, 0].double()
    y, x = torch.meshgrid(torch.arange(41.0) - 20, torch.arange(41.0) - 20, indexing="ij")
    angles = [math.degrees(math.atan2((t * y * x.sign()).sum(), (t * x.abs()).sum())) for t in turned]
    assert -31 < min(angles) < -26
    assert 26 < max(angles) < 31


def test_what_comes_in_at_the_corners_is_no_black():
    assert turn(torch.full((20, 3, 24, 24), 200, dtype=torch.uint8), 45).unique().tolist() == [200]


@pytest.mark.parametrize("strength", [0.2, 0.5])
def test_colours_change_by_at_most_the_strength(strength):
    grey = torch.full((500, 3, 4, 4), 100, dtype=torch.uint8)
    values = jitter_colours(grey, strength)[:, 0, 0, 0].float()  # contrast and saturation leave an even grey as it is
    assert 100 * (1 - strength) - 2 <= values.min() < 100 * (1 - 0.9 * strength)
    assert 100 * (1 + 0.9 * strength) < values.max() <= 100 * (1 + strength) + 2


def test_colours_of_each_image_change_in_a_way_of_its_own():
    images = smooth_images(1).expand(20, -1, -1, -1)
    assert len(jitter_colours(images, 0.4).unique(dim=0)) == 20


def test_boxes_are_erased_in_the_share_of_images_and_of_the_size_that_the_paper_has():
    images = torch.ones(2000, 3, 32, 32)
    erased = (erase(images, 0.25)[:, 0] == 0).double()
    areas = erased.mean((1, 2))
    assert 0.22 < (areas > 0).double().mean() < 0.28
    theirs = torch.stack([(RandomErasing(1.0)(images[0])[0] == 0).double().mean() for _ in range(500)])
    assert areas[areas > 0].mean().item() == pytest.approx(theirs.mean().item(), rel=0.15)
    assert areas.max() < 0.36
    for mask in erased[areas > 0][:20]:
        assert mask.any(1).sum() * mask.any(0).sum() == mask.sum()  # a box


@pytest.mark.parametrize("kind", ["none", "crop_flip", "randaugment"])
@pytest.mark.parametrize("more", [{}, {"crop_scale": 0.3}, {"rotation": 20.0, "colour_jitter": 0.3}])
def test_every_augmentation_gives_images_of_the_size_that_models_see(kind, more):
    images = smooth_images(6)
    for size in (40, 32):
        result = Augmentation(kind, **more).of_pixels(images, size)
        assert (result.shape, result.dtype) == ((6, 3, size, size), torch.uint8)


def test_validation_sees_the_central_square_of_images_that_are_kept_larger():
    info, splits = load_splits(
        "digits",
        "",
        image_size=28,
        train_fraction=1.0,
        val_fraction=0.1,
        data_seed=0,
        normalisation="unit",
        max_corrupt_images=0,
        eval_crop=0.875,
    )
    assert (info.image_size, info.stored_size) == (28, 32)
    assert "8x8 -> 32x32, of which 28x28 are seen" in info.in_one_line()
    assert describe("digits", 28, 0.875).image_size == describe("digits", 0, 0.875).image_size == 28
    assert "32x32, of which 28x28 are seen" in replace(info, preparation="").in_one_line()
    loader = Loader(splits["val"], info, torch.device("cpu"))
    expected = splits["val"].images[:, :, 2:30, 2:30].float() / 255
    index = torch.arange(5)
    torch.testing.assert_close(next(iter(loader.evaluation_batches(500))).images, expected)
    assert torch.equal(loader.pictures(index), expected[:5])
    torch.testing.assert_close(loader.batch(index).images, expected[:5])
    [batch] = loader.training_batches(
        seed=0, epoch=0, batch_size=len(loader), augmentation=Augmentation(crop_scale=0.5)
    )
    assert batch.images.shape[1:] == (3, 28, 28)


def test_images_no_larger_than_what_is_seen_stay_as_they_are():
    images = smooth_images(2, 16)
    assert centre_crop(images, 16) is images
    info = DatasetInfo("", 16, (), (0.0,) * 3, (1.0,) * 3, {}, "")
    [batch] = Loader(Split(images, torch.zeros(2)), info, torch.device("cpu")).evaluation_batches(2)
    torch.testing.assert_close(batch.images, images / 255)
