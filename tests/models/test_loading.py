"""What a model refuses is told before images are decoded."""

from dataclasses import replace

import pytest

from data.errors import UserError
from models import loading
from models.loading import check_model
from models.parts.backbone import BackboneSettings
from models.registry import MODELS, find_model
from models.timm_classifier import TimmSettings


def settings_of(model, **values):
    return find_model(model).settings_class(model=model, **values)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"model": "cnn", "optimizer": "adamm"}, "--optimizer=adamm is not known"),
        ({"model": "nano_vit", "num_heads": 7}, "--num_heads=7"),
        ({"model": "cnn", "depth": 7}, "--depth=7 halves 64-pixel images to nothing"),
        ({"model": "dc_gan", "image_size": 48}, "48-pixel images cannot be made"),
        ({"model": "timm", "arch": "resnett18", "weights": "weights.pt"}, "--arch=resnett18 is not known"),
    ],
)
def test_what_a_model_refuses_is_told_where_nothing_of_the_images_but_their_size_is_known(values, told):
    with pytest.raises(UserError, match=told):
        check_model(settings_of(dataset="folder", **values))


@pytest.mark.parametrize("model", MODELS)
def test_every_model_is_let_pass_as_it_is(model):
    settings = settings_of(model, dataset="folder", image_size=32)
    if isinstance(settings, BackboneSettings):  # in place of a large network
        settings = replace(settings, arch="test_efficientnet", input_size=32)
    if isinstance(settings, TimmSettings):
        settings = replace(settings, stem="own")
    check_model(settings)


def test_a_model_is_not_built_in_advance_for_images_that_are_not_decoded(monkeypatch):
    monkeypatch.setattr(loading, "build_objective", lambda *_: pytest.fail("built"))
    check_model(settings_of("cnn", dataset="digits", optimizer="adamm"))
