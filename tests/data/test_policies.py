"""RandAugment and TrivialAugment: what is drawn, and what the operations do, beside torchvision's."""

import math

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from data import policies
from data.augmentation import Augmentation
from data.policies import NUM_LEVELS, operations

HEIGHT, WIDTH = 16, 24
pytestmark = pytest.mark.usefixtures("one_thread")


def affine(image, shift=(0, 0), shear=(0.0, 0.0), center=None):
    return F.affine(image, angle=0.0, translate=list(shift), scale=1.0, shear=list(shear), center=center)


def angle(share):
    return math.degrees(math.atan(share))


TORCHVISIONS = {
    "shear_x": lambda image, share: affine(image, shear=(angle(share), 0.0), center=[0, 0]),
    "shear_y": lambda image, share: affine(image, shear=(0.0, angle(share)), center=[0, 0]),
    "translate_x": lambda image, pixels: affine(image, shift=(int(pixels), 0)),
    "translate_y": lambda image, pixels: affine(image, shift=(0, int(pixels))),
    "rotate": F.rotate,
    "brighten": lambda image, share: F.adjust_brightness(image, 1 + share),
    "saturate": lambda image, share: F.adjust_saturation(image, 1 + share),
    "contrast": lambda image, share: F.adjust_contrast(image, 1 + share),
    "sharpen": lambda image, share: F.adjust_sharpness(image, 1 + share),
    "posterize": lambda image, bits: F.posterize(image, round(bits)),
    "solarize": lambda image, share: F.solarize(image, 255 * share),
    "autocontrast": lambda image, _: F.autocontrast(image),
    "equalize": lambda image, _: F.equalize(image),
}
STRONGEST = {"randaugment": (0.3, (10, 7), 30, 0.9, 4), "trivialaugment": (0.99, (32, 32), 135, 0.99, 2)}


@pytest.mark.parametrize("policy", STRONGEST)
@pytest.mark.parametrize("name", TORCHVISIONS)
def test_an_operation_on_many_images_is_torchvisions_on_each(name, policy):
    choices = {each.change.__name__: each for each in operations(*STRONGEST[policy])}
    change, first, last, is_signed = choices[name]
    magnitudes = torch.linspace(first, last, NUM_LEVELS)
    magnitudes = torch.cat([magnitudes, -magnitudes]) if is_signed else magnitudes
    generator = torch.Generator().manual_seed(0)
    size = (len(magnitudes), 3, HEIGHT, WIDTH)
    images = torch.randint(256, size, dtype=torch.uint8, generator=generator)
    expected = torch.stack([TORCHVISIONS[name](*each) for each in zip(images, magnitudes.tolist(), strict=True)])
    difference = (change(images, magnitudes).int() - expected.int()).abs()
    assert (difference <= 1).float().mean() > 0.998  # a place half-way between two pixels may go to either


def random_image(height=8, width=12):
    return torch.randint(20, 230, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def nearest(result, results):
    """The share of values that differ by more than rounding from those of the result that is nearest."""
    return ((results.short() - result.short()).abs() > 1).flatten(1).float().mean(dim=1).min().item()


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
def test_whatever_torchvisions_policy_does_to_an_image_ours_does_too(policy, monkeypatch):
    monkeypatch.setattr(policies, "RANDAUGMENT_OPERATIONS", 1)
    theirs = {"randaugment": v2.RandAugment(num_ops=1), "trivialaugment": v2.TrivialAugmentWide()}[policy]
    torch.manual_seed(0)
    ours = getattr(policies, policy)(random_image().expand(8000, -1, -1, -1))
    assert max(nearest(theirs(random_image()), ours) for _ in range(30)) < 0.03


def test_randaugment_applies_as_many_operations_as_torchvisions_each_of_its_magnitude(monkeypatch):
    def add(images, magnitudes):
        return images + magnitudes.byte().view(-1, 1, 1, 1)

    monkeypatch.setattr(policies, "operations", lambda *told: [policies.Operation(add, 0, NUM_LEVELS - 1)])
    theirs = v2.RandAugment()
    added = policies.randaugment(torch.zeros(3, 3, 2, 2, dtype=torch.uint8))
    assert set(added.flatten().tolist()) == {theirs.num_ops * theirs.magnitude} == {2 * 9}


def test_randaugment_shifts_by_shares_of_the_width_and_of_the_height(monkeypatch):
    told = []
    monkeypatch.setattr(policies, "operations", lambda *args: told.append(args) or operations(*args))
    policies.randaugment(random_image(HEIGHT, WIDTH)[None])
    theirs = [v2.RandAugment._AUGMENTATION_SPACE[f"Translate{axis}"][0](31, HEIGHT, WIDTH)[-1] for axis in "XY"]
    assert told[0][1] == pytest.approx([shift.item() for shift in theirs])


def test_operations_and_signs_are_drawn_equally_often(monkeypatch):
    monkeypatch.setattr(policies, "RANDAUGMENT_OPERATIONS", 1)
    torch.manual_seed(0)
    images = random_image(HEIGHT, WIDTH).expand(7000, -1, -1, -1)
    results, counts = policies.randaugment(images).unique(dim=0, return_counts=True)
    assert len(results) == 9 * 2 + 5
    assert sorted(counts.tolist())[17] < 350 < sorted(counts.tolist())[18]  # of 250 with a sign, of 500 without
    expected = torch.tensor([250.0 if count < 350 else 500.0 for count in counts])
    assert ((counts - expected) ** 2 / expected).sum() < 48  # the 0.1 % quantile of 22 degrees of freedom


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
def test_every_image_draws_operations_of_its_own(policy):
    torch.manual_seed(0)
    images = torch.full((8, 3, 16, 16), 100, dtype=torch.uint8)  # which crops and flips leave alone
    images[:, :, 8:] = 50
    results = [len(Augmentation(policy).of_pixels(images, 16).unique(dim=0)) for _ in range(20)]
    assert min(results) > 1
    assert sum(results) > 20 * 4


def test_results_stay_in_the_places_of_their_images():
    images = torch.arange(64, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2) * 4
    choices = [policies.Operation(lambda images, unused, i=i: images + i, 0, 0) for i in range(3)]
    torch.manual_seed(0)
    added = policies.apply_one(images, choices, torch.zeros(64, dtype=torch.long)) - images
    assert set(added.unique().tolist()) == {0, 1, 2}
