"""Settings that have no effect beside the value of another one, which a run says, as its curves do not tell."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from typing import Any

from data.visible import warn
from models.core.settings import Settings

OF_FEATURES = ("frozen", "vit_b16_frozen", "logistic_probe")  # models whose frozen network normalises by itself
# Setting -> the one that it needs, of the same models, and what tells by the value of that whether it has an effect.
NEEDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "fold": ("val_fraction", bool),
    "normalisation": ("model", lambda name: name not in OF_FEATURES),
    "crop_ratio": ("crop_scale", bool),
    "momentum": ("optimizer", lambda name: name not in ("adam", "adamw")),
    "beta1": ("optimizer", lambda name: name in ("adam", "adamw")),
    "beta2": ("optimizer", lambda name: name in ("adam", "adamw")),
    "interpolation": ("input_size", bool),
    "decay_scaling": ("parametrization", lambda name: name == "mup"),
    "noise_deviation": ("likelihood", lambda name: name not in ("squared_error", "bernoulli")),
    "kl_warmup_epochs": ("beta", bool),
    "free_bits": ("beta", bool),
    "fid_images": ("fid_every", bool),
    "extractor": ("fid_every", bool),
}


def warn_of_idle(settings: Settings) -> None:
    """Say which settings have another value than their default, and yet no effect."""
    values = asdict(settings)
    for name, other in idle({name: [value] for name, value in values.items()}).items():
        if values[name] != getattr(type(settings), name):
            warn(f"--{name}={values[name]} has no effect with --{other}={values[other]}")


def idle(options: Mapping[str, Collection[Any]]) -> dict[str, str]:
    """Return the settings that can have no effect, each with the one that it lacks.

    Args:
        options: of all settings of a model, as far as they are known, the values that each may take.
    """
    needs = {name: need for name, need in NEEDS.items() if {name, need[0]} <= options.keys()}
    return {name: other for name, (other, is_met) in needs.items() if not any(map(is_met, options[other]))}
