"""Settings that have no effect beside the value of another one."""

import pytest

from models.core.settings import kinds
from models.idle_settings import NEEDS, idle, warn_of_idle
from models.registry import MODELS, find_model


def test_a_model_that_has_a_setting_has_the_one_that_it_needs():
    for model in MODELS:
        known = kinds(find_model(model).settings_class)
        assert all(other in known for name, (other, _) in NEEDS.items() if name in known)


@pytest.mark.parametrize(
    ("model", "given", "told"),
    [
        ("vae", {"noise_deviation": 0.3}, "--noise_deviation=0.3 has no effect with --likelihood=squared_error"),
        ("vae", {"noise_deviation": 0.3, "likelihood": "gaussian"}, ""),
        ("vae", {"likelihood": "bernoulli"}, ""),
        ("vae", {"free_bits": 0.5, "beta": 0.0}, "--free_bits=0.5 has no effect with --beta=0.0"),
        ("vae", {"free_bits": 0.5}, ""),
        ("vae", {"kl_warmup_epochs": 2.0, "beta": 0.0}, "--kl_warmup_epochs=2.0 has no effect with --beta=0.0"),
        ("dc_gan", {"fid_images": 500}, "--fid_images=500 has no effect with --fid_every=0"),
        ("dc_gan", {"extractor": "resnet18"}, "--extractor=resnet18 has no effect with --fid_every=0"),
        ("dc_gan", {"fid_images": 500, "fid_every": 5}, ""),
        ("dc_gan", {"optimizer": "sgd"}, ""),  # beta1 is its own default, which nobody has asked for
        ("cvae", {"importance_samples": 4}, ""),  # the rules are compared at the end, whichever classifies
        ("cnn", {"momentum": 0.8}, "--momentum=0.8 has no effect with --optimizer=adam"),
        ("cnn", {"momentum": 0.8, "optimizer": "sgd"}, ""),
        ("cnn", {"beta2": 0.9, "optimizer": "sgd"}, "--beta2=0.9 has no effect with --optimizer=sgd"),
        ("cnn", {"beta1": 0.8, "optimizer": "adamw"}, ""),
        ("cnn", {"crop_ratio": 2.0}, "--crop_ratio=2.0 has no effect with --crop_scale=0.0"),
        ("cnn", {"fold": "1/5", "val_fraction": 0.0}, "--fold=1/5 has no effect with --val_fraction=0.0"),
        ("cnn", {"group_by": "p", "val_fraction": 0.0}, ""),  # which also holds training and test images apart
        ("cnn", {"decay_scaling": "coupled"}, "--decay_scaling=coupled has no effect with --parametrization=standard"),
        ("frozen", {"normalisation": "unit"}, "--normalisation=unit has no effect with --model=frozen"),
        ("timm", {"normalisation": "unit"}, ""),
        ("timm", {"interpolation": "bicubic"}, "--interpolation=bicubic has no effect with --input_size=0"),
    ],
)
def test_what_was_set_in_vain_is_said_with_the_setting_that_makes_it_so(model, given, told, capsys):
    warn_of_idle(find_model(model).settings_class(model=model, **given))
    assert capsys.readouterr().err.strip() == told


def test_a_setting_is_not_idle_if_one_of_the_values_that_another_may_take_lets_it_have_an_effect():
    options = {"optimizer": ["adam"], "momentum": [0.8, 0.9], "beta1": [0.5]}
    assert idle(options) == {"momentum": "optimizer"}
    assert idle(options | {"optimizer": ["adam", "sgd"]}) == {}
