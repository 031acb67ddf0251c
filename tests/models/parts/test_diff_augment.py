"""DiffAugment: differentiable, the same for real and generated images, and what it says."""

import pytest
import torch

from data.dataset import Batch, DatasetInfo
from data.errors import UserError
from models.loading import build_objective
from models.parts.diff_augment import POLICIES, colour, parse_policy, translation
from models.registry import MODELS

INFO = DatasetInfo("synthetic", 32, (), (0.5,) * 3, (0.5,) * 3, {}, "")


@pytest.mark.parametrize("name", POLICIES)
def test_gradients_pass_through_every_change(name):
    images = torch.rand(3, 3, 8, 8, dtype=torch.double, requires_grad=True)

    def change(images):
        torch.manual_seed(0)
        return POLICIES[name](images)

    assert torch.autograd.gradcheck(change, images, fast_mode=True)


def test_a_translation_shifts_each_image_by_at_most_an_eighth_with_grey_behind():
    images = torch.zeros(200, 3, 16, 16)
    images[:, :, 8, 8] = 1
    torch.manual_seed(0)
    moved = translation(images)
    assert (moved.sum(dim=(1, 2, 3)) == 3).all()
    places = moved[:, 0].flatten(1).argmax(dim=1)
    found = {(place // 16 - 8, place % 16 - 8) for place in places.tolist()}
    assert found == {(row, column) for row in range(-2, 3) for column in range(-2, 3)}
    ones = translation(torch.ones(50, 3, 16, 16))
    assert set(ones.unique().tolist()) == {0.0, 1.0}
    assert ones.mean(dim=(1, 2, 3)).min() == (14 / 16) ** 2


def test_colours_change_as_the_paper_says(monkeypatch):
    images = torch.rand(2, 3, 4, 4)
    draws = torch.tensor([[0.9, 0.1], [0.25, 1.0], [0.0, 0.5]])  # brightness, saturation, contrast of two images
    monkeypatch.setattr(torch, "rand", lambda *size: draws.view(size))
    changed = colour(images)
    for i, (shift, saturation, contrast) in enumerate([(0.4, 0.5, 0.5), (-0.4, 2.0, 1.0)]):
        x = images[i] + shift
        x = (x - x.mean(0)) * saturation + x.mean(0)
        x = (x - x.mean()) * contrast + x.mean()
        torch.testing.assert_close(changed[i], x)


def test_a_cutout_blanks_at_most_a_quarter():
    blank = (POLICIES["cutout"](torch.ones(100, 3, 16, 16)) == 0).float().mean(dim=(1, 2, 3))
    assert blank.max() == 0.25
    assert blank.min() < 0.2  # where it reaches over the border


def test_a_policy_is_a_list_of_names_in_a_fixed_order():
    assert parse_policy("") == ()
    assert parse_policy("cutout, colour") == (colour, POLICIES["cutout"])
    with pytest.raises(UserError, match="--diffaugment=color: color is not known, did you mean colour.; there are: "):
        parse_policy("color")


def test_the_discriminator_sees_no_image_unchanged():
    settings = MODELS["dc_gan"].settings_class(model="dc_gan", width=2, discriminator_width=2, diffaugment="colour")
    gan, seen = build_objective(settings, INFO), []
    gan.changes = (lambda images: images * 0 + 0.25,)
    gan.discriminator.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    batch = Batch(torch.rand(4, 3, 32, 32), torch.zeros(4, dtype=torch.long))
    gan(batch, "discriminate"), gan(batch, "generate")
    assert len(seen) == 3
    assert all((images == 0.25).all() for images in seen)
