"""Networks of timm: finding and loading their pretrained weights, and preparing images as they expect them."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data import servers
from data.dataset import DatasetInfo
from data.errors import UserError, in_one_line, is_of_the_machine, suggestion
from data.internals import hub_file
from data.paths import default_data_dir, expanded
from data.visible import listed, warn
from models.core.settings import Count
from models.parts.classification import ClassifierSettings
from models.parts.timm_attention import missing_attention, timm_attention_weights

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
NO_RATES: Mapping[str, float] = {}
NUM_NAMED = 5  # weights that do not fit which an error message names, of each kind


@dataclass(frozen=True, kw_only=True)
class BackboneSettings(ClassifierSettings):
    """The settings of all models that use a network of timm."""

    arch: str = "resnet18"
    """Name of the network in timm (see `timm.list_models()`), with or without a dot and the tag of its weights."""
    pretrained: bool = True
    """Start from pretrained weights; if false, from random ones."""
    weights: str = ""
    """File of pretrained weights, in the format of safetensors or torch. If empty: weights/ARCH.safetensors (or .pth)
    in the folder that an empty data_dir stands for; if there is no such file, the weights are downloaded."""
    input_size: Count = 0
    """Side in pixels to which images are resized, with antialiasing; 0 for no resizing."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Interpolation by which images are resized."""


class Preprocess(nn.Module):
    """A layer that turns images of a dataset into images as a pretrained network expects them.

    It changes the normalisation first and the size second. The other order would give the same images, but take longer
    if they are enlarged. Bicubic interpolation overshoots at edges; such pixels are set back to black or full white, as
    they were in the images that the network was pretrained on.

    Args:
        info: the dataset's facts, for the normalisation of the images that come in.
        mean, std: the network's normalisation, one number a channel, of pixel values in [0, 1].
        size: side in pixels of the images that go out; 0 for no resizing.
        interpolation: "bilinear" or "bicubic".
    """

    scale: Tensor
    shift: Tensor
    black: Tensor
    white: Tensor

    def __init__(
        self, info: DatasetInfo, mean: tuple[float, ...], std: tuple[float, ...], size: int, interpolation: str
    ) -> None:
        super().__init__()
        own_mean, own_std, mean_wanted, std_wanted = (
            torch.tensor(values).view(3, 1, 1) for values in (info.mean, info.std, mean, std)
        )
        self.register_buffer("scale", own_std / std_wanted, persistent=False)
        self.register_buffer("shift", (own_mean - mean_wanted) / std_wanted, persistent=False)
        self.register_buffer("black", -mean_wanted / std_wanted, persistent=False)
        self.register_buffer("white", (1 - mean_wanted) / std_wanted, persistent=False)
        self.size = size
        self.interpolation = interpolation

    def forward(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, 3, size, size]
        images = torch.addcmul(self.shift, images, self.scale)
        if self.size in (0, images.shape[-1]):
            return images
        images = F.interpolate(images, size=self.size, mode=self.interpolation, antialias=True)
        return images if self.interpolation == "bilinear" else images.clamp(self.black, self.white)


class TimmNet(nn.Module):
    """A network of timm, preceded by the resizing and normalisation that it expects.

    Args:
        prepare: the layer that resizes and normalises the images.
        backbone: the network; it has its own head unless `head` is given.
        head: module from the pooled features of a backbone without a head to logits.
    """

    def __init__(self, prepare: Preprocess, backbone: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__()
        self.prepare = prepare
        self.backbone = backbone
        self.head = head or nn.Identity()
        if not missing_attention(backbone):
            self.num_prefix_tokens: int = backbone.num_prefix_tokens  # type: ignore[assignment]

    def forward(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, num_classes]
        return self.head(self.backbone(self.prepare(images)))

    def attention_weights(self, images: Tensor) -> list[Tensor]:
        """Return the attention weights of each layer, lowest first: [B, 3, H, W] -> one [B, heads, T, T] a layer.

        Raises:
            UserError: the network is of a kind whose attention weights cannot be read out.
        """
        return timm_attention_weights(self.backbone, self.prepare(images))


def network_size(settings: BackboneSettings, info: DatasetInfo) -> int:
    """Return the side in pixels of the images that the network gets; say so if they lose detail on the way to it."""
    size = settings.input_size or info.image_size
    if info.is_reduced and info.image_size < size:
        warn(
            f"{info.name}: images are reduced to {info.image_size} pixels and then enlarged to {size} for "
            f"{settings.arch}: --image_size={size} keeps their detail"
        )
    return size


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


def build_network(
    arch: str, num_classes: int, input_size: int, weights: Path | None, rates: Mapping[str, float] = NO_RATES
) -> nn.Module:
    """Build a network of timm and load its weights.

    Args:
        arch: timm's name of the network.
        num_classes: classes of its head; if the pretrained head has another number, it is replaced by a random one. 0
            for a network without a head, whose outputs are the pooled features.
        input_size: side in pixels of the images that the network will get.
        weights: file of pretrained weights; None for random ones.
        rates: of what is dropped at random in training, by timm's names of them.

    Raises:
        UserError: the weights do not fit, the network cannot be built for images of this size, it has no classifier
            although one is wanted, or it knows no such rate.
    """
    import timm

    _, shape = outline_network(arch, num_classes, input_size, rates)
    if num_classes and shape != (1, num_classes):
        raise UserError(f"--arch={arch} has no classifier, its output for an image is {tuple(shape[1:])}: name another")
    config = pretrained_config(arch)
    own = {**size_options(config, input_size), **rates}
    if weights is None:
        return timm.create_model(arch, num_classes=num_classes, **own)
    state = read_weights(weights)
    num_pretrained = num_classes_of(state, config)
    source = {"state_dict": state, "num_classes": num_pretrained, "custom_load": False}
    try:
        net = timm.create_model(arch, True, pretrained_cfg_overlay=source, num_classes=num_pretrained, **own)
    except Exception as error:  # timm's code that converts the weights may fail in any way, before torch checks them
        if is_of_the_machine(error):
            raise
        raise UserError(f"{weights} does not fit --arch={arch}: {misfits(error)}") from None
    if num_classes != num_pretrained:
        net.reset_classifier(num_classes)
    return net


def outline_network(
    arch: str, num_classes: int, input_size: int, rates: Mapping[str, float] = NO_RATES
) -> tuple[nn.Module, torch.Size]:
    """Return a network of timm without any values in its weights, and the shape of its output for one image.

    The shape is empty if the output is no tensor, but several of them.

    Raises:
        UserError: the network cannot be built for images of this size, or knows no such rate.
    """
    import timm

    options = {"num_classes": num_classes, **size_options(pretrained_config(arch), input_size), **rates}
    try:
        with torch.device("meta"), torch.no_grad():
            net = timm.create_model(arch, **options).eval()
            output = net(torch.empty(1, 3, input_size, input_size))
            return net, output.shape if isinstance(output, Tensor) else torch.Size()
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        for name, rate in rates.items():
            if isinstance(error, TypeError) and f"'{name}'" in str(error):
                raise UserError(f"--{name}={rate:g}: timm's {arch} does not take it: leave it out") from None
        reason = in_one_line(error)
        raise UserError(
            f"--arch={arch} cannot be built for {input_size}-pixel images ({reason}): set --input_size"
        ) from None


def size_options(config: Any, input_size: int) -> dict[str, int]:
    """Return the extra option of networks that are built for one image size; timm then fits the weights to it."""
    return {"img_size": input_size} if config.fixed_input_size else {}


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
