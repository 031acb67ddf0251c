"""Settings that have no effect beside the value of another one, which a run says, as its curves do not tell."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from data.visible import warn
from models.core.settings import Settings


class Need(NamedTuple):
    """What a setting needs to have an effect.

    Attributes:
        other: a setting of the same models.
        is_met: tells by the value of that one.
    """

    other: str
    is_met: Callable[[Any], bool]


NEEDS: Mapping[str, Need] = {
    "fold": Need("val_fraction", bool),
    "group_by": Need("val_fraction", bool),
    "crop_ratio": Need("crop_scale", bool),
    "momentum": Need("optimizer", lambda name: name not in ("adam", "adamw")),
    "beta1": Need("optimizer", lambda name: name in ("adam", "adamw")),
    "beta2": Need("optimizer", lambda name: name in ("adam", "adamw")),
    "interpolation": Need("input_size", bool),
    "decay_scaling": Need("parametrization", lambda name: name == "mup"),
    "noise_deviation": Need("likelihood", lambda name: name not in ("squared_error", "bernoulli")),
    "kl_warmup_epochs": Need("beta", bool),
    "free_bits": Need("beta", bool),
    "importance_samples": Need("classify_by", lambda name: name == "importance_weighted"),
    "fid_images": Need("fid_every", bool),
    "extractor": Need("fid_every", bool),
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
        options: of all settings of a model, the values that each may take.
    """
    needs = {name: need for name, need in NEEDS.items() if name in options}
    return {name: need.other for name, need in needs.items() if not any(map(need.is_met, options[need.other]))}
