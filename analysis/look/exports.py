"""Trained networks as files that run without this project: TorchScript, torch.export and ONNX.

A classifier takes images as they come, uint8 [B, H, W, 3] of the run's size, and gives probabilities [B, C]; its
normalisation is inside. A generator takes latents [B, Z] and, if it is conditional, labels [B], and gives images
[B, H, W, 3] in [0, 1]; one that draws codes takes noise [B, T, K] from the exponential distribution. B may be any
number from 1 on.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from analysis.look.trained_run import TrainedRun
from data.dataset import DatasetInfo
from data.errors import UserError, first_line
from data.files import replace_file
from data.photographs import centre_crop
from models.core.abilities import Classifies, DrawsFromLatents, DrawsFromPrior
from models.parts.labelling import labelling_of

METADATA = "metadata.json"  # in TorchScript and torch.export; in ONNX its keys are the model's own properties
LARGEST_DIFFERENCE = 1e-4  # of an exported network's outputs from the run's own
NUM_COMPARED = 3  # inputs

Inputs = tuple[Tensor, ...]
Runner = Callable[[Inputs], Tensor]  # of an exported network, loaded again


class ExportedClassifier(nn.Module):
    """A classifier from images [B, H, W, 3] uint8 to probabilities [B, C].

    Args:
        model: one that `Classifies`, in evaluation mode.
        info: of its images.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, model: Any, info: DatasetInfo) -> None:
        super().__init__()
        self.model = model
        self.side = info.image_size
        self.labelling = labelling_of(info)
        self.net = model.image_network() if hasattr(model, "image_network") else None
        self.register_buffer("shift", 255 * torch.tensor(info.mean).view(3, 1, 1))
        self.register_buffer("scale", 1 / (255 * torch.tensor(info.std).view(3, 1, 1)))

    def forward(self, images: Tensor) -> Tensor:
        normalised = self.prepare(images)
        logits = self.model.predict(normalised) if self.net is None else self.net(normalised)
        return self.labelling.probabilities(logits.float())

    def prepare(self, images: Tensor) -> Tensor:
        """Return images as the run's network gets them in evaluation: [B, S, S, 3] uint8 -> [B, 3, H, W] float32."""
        return (centre_crop(images.permute(0, 3, 1, 2), self.side).float() - self.shift) * self.scale


class ExportedGenerator(nn.Module):
    """A generator from latents [B, Z], drawn from N(0, 1), and classes [B] int64 to images [B, H, W, 3] in [0, 1].

    Args:
        model: one that `DrawsFromLatents`, in evaluation mode; if it is not conditional, there are no classes.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        if labels is None:
            labels = torch.zeros(latents.shape[0], dtype=torch.long, device=latents.device)
        return self.model.pictures_of(latents, labels).permute(0, 2, 3, 1)


class ExportedSampler(ExportedGenerator):
    """A generator from noise [B, T, K], drawn from the exponential distribution, to images [B, H, W, 3] in [0, 1].

    Args:
        model: one that `DrawsFromPrior`, in evaluation mode.
    """

    def forward(self, noise: Tensor) -> Tensor:  # type: ignore[override]
        return self.model.pictures_drawn_by(noise).permute(0, 2, 3, 1)


class Exportable:
    """A run's network as it is exported, with inputs to try it on.

    Args:
        run: without images, on the CPU.
        as_generator: whether to export what draws images of a model that also classifies.

    Raises:
        UserError: its model neither classifies nor draws images of latents or noise.
    """

    def __init__(self, run: TrainedRun, as_generator: bool = False) -> None:
        model, info = run.objective, run.info
        self.run = run
        self.network: nn.Module
        generator = torch.Generator().manual_seed(0)
        if isinstance(model, Classifies) and not as_generator:
            self.network, self.output = ExportedClassifier(model, info), "probabilities"
            shape = (NUM_COMPARED, info.kept_size, info.kept_size, 3)
            self.inputs = {"images": torch.randint(256, shape, dtype=torch.uint8, generator=generator)}
        elif isinstance(model, DrawsFromLatents):
            self.network, self.output = ExportedGenerator(model), "images"
            self.inputs = {"latents": torch.randn(NUM_COMPARED, model.latent_size, generator=generator)}
            if model.num_labels:
                self.inputs["labels"] = torch.arange(NUM_COMPARED) % model.num_labels
        elif isinstance(model, DrawsFromPrior):
            self.network, self.output = ExportedSampler(model), "images"
            noise = torch.empty(NUM_COMPARED, *model.noise_shape)
            self.inputs = {"noise": noise.exponential_(generator=generator)}
        else:
            able = "draws no images" + (", and predicts no classes" if not as_generator else "")
            raise UserError(f"{run.settings.model} {able}: name another run")
        self.network.eval().requires_grad_(False)

    @property
    def examples(self) -> Inputs:
        """The inputs in order, that the network is traced with."""
        return tuple(self.inputs.values())

    def metadata(self) -> dict[str, Any]:
        """Return what a user of the network has to know, in what JSON can hold."""
        info, shapes = self.run.info, {name: list(it.shape[1:]) for name, it in self.inputs.items()}
        return {
            "inputs": {
                name: f"{self.inputs[name].dtype} [batch, {', '.join(map(str, shapes[name]))}]" for name in shapes
            },
            "output": self.output,
            **({"latent_size": shapes["latents"][0]} if "latents" in shapes else {}),
            **({"noise_shape": shapes["noise"]} if "noise" in shapes else {}),
            "classes": list(info.classes),
            "labels": "several an image" if info.several_labels else "one an image",
            "image_size": info.kept_size,
            "seen_size": info.image_size,
            "mean": list(info.mean),
            "std": list(info.std),
            "resizing": "PIL.ImageOps.fit(PIL.ImageOps.exif_transpose(image).convert('RGB'), (image_size, image_size))",
            "jpeg": "PIL.Image.Image.draft(image, 'RGB', (image_size, image_size))",
            "transparent_pixels": "over white",
            "grey_of_16_bits": "value // 256",
            "normalisation": "inside",
            "model": self.run.settings.model,
            "run": self.run.settings.run_id,
            "data": info.fingerprint,
        }

    def traced(self) -> torch.export.ExportedProgram:
        """Return the network as a graph, in which the batch may have any size."""
        batch = torch.export.Dim("batch")
        return torch.export.export(self.network, self.examples, dynamic_shapes=tuple({0: batch} for _ in self.inputs))


def put(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file as `replace_file` does, into a folder that is made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, write)


def to_torchscript(network: Exportable, path: Path) -> Runner:
    """Write TorchScript, for torch.jit.load and libtorch; the metadata is an extra file in it."""
    extra = {METADATA: json.dumps(network.metadata())}
    traced = torch.jit.trace(network.network, network.examples, check_trace=False)
    put(path, lambda unfinished: torch.jit.save(traced, str(unfinished), _extra_files=extra))
    loaded = torch.jit.load(str(path))
    return lambda inputs: loaded(*inputs)


def to_pt2(network: Exportable, path: Path) -> Runner:
    """Write a program of torch.export, for torch.export.load and AOTInductor; the metadata is an extra file in it."""
    extra = {METADATA: json.dumps(network.metadata())}
    program = network.traced()

    def write(unfinished: Path) -> None:
        with unfinished.open("wb") as file:
            torch.export.save(program, file, extra_files=extra)

    put(path, write)
    loaded = torch.export.load(path).module()
    return lambda inputs: loaded(*inputs)


def to_onnx(network: Exportable, path: Path) -> Runner:
    """Write ONNX, its metadata among the model's properties.

    Raises:
        UserError: a library is not installed.
    """
    for library in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(library) is None:
            raise UserError(f"--to=onnx needs {library}: pip install -c constraints.txt -e '.[export]'")
    import onnxruntime

    program = torch.onnx.export(
        network.traced(), input_names=list(network.inputs), output_names=[network.output], dynamo=True, verbose=False
    )
    assert program is not None
    properties = {key: it if isinstance(it, str) else json.dumps(it) for key, it in network.metadata().items()}
    program.model.metadata_props.update(properties)
    put(path, lambda unfinished: program.save(unfinished, external_data=False))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(inputs: Inputs) -> Tensor:
        given = {name: value.numpy() for name, value in zip(network.inputs, inputs, strict=True)}
        return torch.from_numpy(np.asarray(session.run(None, given)[0]))

    return run


FORMATS: Mapping[str, tuple[str, Callable[[Exportable, Path], Runner]]] = {  # name -> end of the file's name, function
    "torchscript": (".pt", to_torchscript),
    "pt2": (".pt2", to_pt2),
    "onnx": (".onnx", to_onnx),
}


def export(network: Exportable, form: str, path: Path) -> Runner:
    """Write a network to a file in a format of FORMATS, and return what runs the file.

    Raises:
        UserError: the network cannot be written in this format.
    """
    with warnings.catch_warnings(), torch.no_grad(), without_fused_layers():
        warnings.simplefilter("ignore")  # of the exporters, on what the comparison below would show
        try:
            return FORMATS[form][1](network, path)
        except (UserError, OSError, MemoryError):
            raise
        except Exception as error:  # exporters raise nearly anything
            told = f"--to={form}: {network.run.settings.model} cannot be written so ({first_line(error)})"
            raise UserError(f"{told}: try another") from None


@contextmanager
def without_fused_layers() -> Iterator[None]:
    """Let torch compute a transformer's layers step by step: exporters do not know its fused ones."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def greatest_difference(network: Exportable, runner: Runner, inputs: Inputs) -> float:
    """Return how far the outputs of an exported network are from the run's own, at most.

    Raises:
        UserError: it is too far.
    """
    with torch.no_grad():
        expected = network.network(*inputs)
        single = torch.cat([runner(tuple(one[i : i + 1] for one in inputs)) for i in range(len(inputs[0]))])
        difference = max((found - expected).abs().max().item() for found in (runner(inputs), single))
    if not difference <= LARGEST_DIFFERENCE:
        raise UserError(f"the exported network's outputs differ by {difference:.1e} from the run's own: do not use it")
    return difference
