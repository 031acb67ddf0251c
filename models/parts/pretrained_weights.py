"""Pretrained weights of timm's networks: finding, downloading and reading them, and saying why they do not fit."""

import hashlib
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data import servers
from data.errors import UserError, in_one_line, is_of_the_machine, suggestion
from data.internals import hub_file
from data.paths import default_data_dir, expanded
from data.visible import listed

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
NUM_NAMED = 5  # weights that do not fit which an error message names, of each kind


def pretrained_config(arch: str, option: str = "--arch") -> Any:
    """Return timm's description of a network and of its pretrained weights.

    Args:
        arch: timm's name of the network.
        option: by which the user has named it.

    Raises:
        UserError: timm has no network of this name, or no weights of this tag.
    """
    import timm  # imported late: it takes a second

    name, _, tag = arch.partition(".")
    if not timm.is_model(name):
        raise UserError(f"{option}={arch} is not known{suggestion(name, timm.list_models())}; see timm.list_models()")
    if tag:
        tags = [other.partition(".")[2] for other in timm.list_pretrained(f"{name}.*")]
        if tag not in tags:
            raise UserError(
                f"{option}={arch}: {name} has no weights called {tag}; there are: {', '.join(tags) or 'none'}"
            )
    return timm.models.get_pretrained_cfg(arch)


def find_weights(arch: str, pretrained: bool = True, weights: str = "") -> Path | None:
    """Return the file of a network's pretrained weights; download it if it is not on this machine.

    Args:
        arch: timm's name of the network.
        pretrained: whether weights are wanted; if not, None is returned.
        weights: file to use; if empty, the file named after `arch` in the data folder, else the one on the hub.

    Raises:
        UserError: the file does not exist, there are no pretrained weights, or they cannot be downloaded.
    """
    if not pretrained:
        if weights:
            raise UserError(f"--weights={weights} is of no use to --pretrained=False: leave out one of them")
        return None
    if weights:
        path = expanded(weights)
        if not path.is_file():
            raise UserError(f"--weights={weights}: there is no such file")
        return path
    return pretrained_weights(arch, "--arch", "; or give --weights=FILE, or --pretrained=False for random ones")


def pretrained_weights(arch: str, option: str, otherwise: str) -> Path:
    """Return the file of a network's pretrained weights, in the data folder or the Hugging Face cache.

    They are downloaded into that cache where they are in neither.

    Args:
        arch: timm's name of the network.
        option: by which the user has named it.
        otherwise: what the user can do without them, to end a message with.

    Raises:
        UserError: there are no pretrained weights, or they cannot be downloaded.
    """
    folder = default_data_dir() / "weights"
    for path in (folder / (arch + suffix) for suffix in WEIGHT_SUFFIXES):
        if path.is_file():
            return path
    import huggingface_hub

    config = pretrained_config(arch, option)
    if not config.hf_hub_id:
        raise UserError(f"{option}={arch}: no hub has weights of it: name another{otherwise}")
    repository, revision, name = hub_file(config)
    cached = huggingface_hub.try_to_load_from_cache(repository, name, revision=revision)
    if isinstance(cached, str):
        return Path(cached)
    reason = servers.unreachable(huggingface_hub.constants.ENDPOINT)
    if not reason:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision))
        except Exception as error:  # also errors of its HTTP client, which is not the same in all versions
            reason = in_one_line(error)
    page = f"{huggingface_hub.constants.ENDPOINT}/{repository}"
    raise UserError(
        f"{option}={arch}: its weights could not be downloaded ({reason}): fetch {name} of {page} elsewhere and put it "
        f"at {folder / arch}{Path(name).suffix}{otherwise}"
    )


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the weights in a file, by name; a training checkpoint in timm's format will do, too.

    Raises:
        UserError: the file does not hold weights.
    """
    from timm.models import load_state_dict

    try:
        state = load_state_dict(str(path), weights_only=True)  # or older versions of timm run what a pickle holds
    except Exception as error:  # unpickling a file that is no pickle can raise any error
        if is_of_the_machine(error):
            raise
        raise UserError(f"{path} cannot be read as safetensors or torch weights ({type(error).__name__})") from None
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no table of weights: save a network's state_dict()")
    return state


def num_classes_of(state: dict[str, Tensor], config: Any) -> int:
    """Return the number of classes of the head that is among the weights; 0 if there is no head."""
    head = config.classifier if isinstance(config.classifier, str) else (config.classifier or ("",))[0]
    weight = state.get(f"{head}.weight")
    return 0 if weight is None else len(weight)


def misfits(error: Exception) -> str:
    """Return one line on weights that do not fit, out of torch's error: those missing, unexpected, of another shape."""
    message, found = str(error), []
    for kind in ("Missing", "Unexpected"):
        match = re.search(rf"{kind} key\(s\) in state_dict: (.*?)\.\s*(?:\n|$)", message)
        found.append((kind.lower(), re.findall(r'"([^"]+)"', match[1]) if match else []))
    shapes = re.findall(r"size mismatch for (\S+): .*?torch\.Size\((.*?)\).*?torch\.Size\((.*?)\)", message)
    found.append(("of another shape", [f"{key} {given} instead of {wanted}" for key, given, wanted in shapes]))
    parts = []
    for kind, keys in found:
        if keys:
            parts.append(f"{len(keys)} {kind} ({listed(keys, NUM_NAMED)})")
    return "; ".join(parts) or f"{type(error).__name__}, {' '.join(message.split())}"


def identity(weights: Path | None, seed: int) -> str:
    """Return a text that identifies a network's weights: the hash of their file or, for random ones, seed and versions.

    The versions are those of torch and timm, on which random weights also depend.
    """
    if weights is not None:
        with weights.open("rb") as file:
            return "sha256-" + hashlib.file_digest(file, "sha256").hexdigest()
    return f"random-seed{seed}-torch{torch.__version__}-timm{version('timm')}"
