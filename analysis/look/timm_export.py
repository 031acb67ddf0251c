"""Trained networks of timm as timm takes them: a file of weights, and a folder in the format of the Hugging Face hub.

The folder of any other network holds its weights under our own names, and the network itself as a program of
torch.export.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from analysis.look.exports import Exportable, Inputs, Runner, put, to_pt2
from analysis.look.model_card import NETWORK, WEIGHTS, model_card
from analysis.read.recipe import told_settings
from analysis.record import run_folder
from data.errors import UserError
from data.files import read_json, replace_file, write_json
from data.metrics import is_finite
from models.frozen_backbone import FrozenBackbone
from models.parts.backbone import BackboneSettings, Preprocess, TimmNet, size_options
from models.parts.classification import Classification
from models.parts.labelling import labelling_of
from models.parts.pretrained_weights import pretrained_config

CONFIG = "config.json"
PROBLEMS = {False: "single_label_classification", True: "multi_label_classification"}  # as transformers calls them
KEPT = ("mean", "std", "first_conv", "classifier", "fixed_input_size")  # of timm's own description


class TimmExport:
    """A trained network of timm, as timm builds it.

    Attributes:
        prepare: what turns normalised images of the run into those that the network expects.
        network: timm's, with its classifier.
        arch: its name in timm, without the tag of weights.
        size, crop, interpolation: side in pixels of the images it expects, the share of the side that is seen, and how
            images are resized.
        description: what timm says of the network, as far as it holds for these weights.
        options: of timm.create_model, besides the name.

    Raises:
        UserError: the run's network is none of timm's, or not as timm builds it.
    """

    def __init__(self, exportable: Exportable) -> None:
        run, model = exportable.run, exportable.run.objective
        if not is_timm(exportable):
            raise UserError(f"--to=timm: {run.settings.model} is no network as timm builds it: give --to=hf, or onnx")
        settings: BackboneSettings = model.settings
        net: TimmNet = model.image_network()
        self.prepare: Preprocess = net.prepare
        self.network = with_head(net, model) if isinstance(model, FrozenBackbone) else net.backbone
        self.arch = settings.arch.partition(".")[0]
        self.labelling = labelling_of(run.info)
        self.size = settings.input_size or run.info.image_size
        self.crop = crop_pct(run.info.image_size, run.info.kept_size)
        is_resized = self.size != run.info.image_size  # else Pillow alone resizes, bicubic
        self.interpolation = settings.interpolation if is_resized else "bicubic"
        config = pretrained_config(settings.arch)
        self.description: dict[str, Any] = {key: getattr(config, key) for key in KEPT}
        self.options: dict[str, Any] = {"num_classes": len(run.info.classes), **size_options(config, self.size)}

    def weights(self) -> dict[str, Tensor]:
        """Return the weights by timm's names."""
        return {name: value.contiguous().clone() for name, value in self.network.state_dict().items()}

    def load(self, path: Path) -> Runner:
        """Return what runs the weights in a file, loaded by timm."""
        import timm

        network = timm.create_model(self.arch, checkpoint_path=str(path), **self.options).eval()
        return lambda inputs: self.labelling.probabilities(network(inputs[0]))

    def load_folder(self, folder: Path) -> Runner:
        """Return what runs the network in a folder, which timm loads when it is asked to run."""
        import timm

        def run(inputs: Inputs) -> Tensor:
            network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
            return self.labelling.probabilities(network(inputs[0]))

        return run

    def config(self, exportable: Exportable) -> dict[str, Any]:
        """Return the description of a network in the format of timm's folders on the hub."""
        own: dict[str, Any] = {"input_size": [3, self.size, self.size], "crop_pct": self.crop, "crop_mode": "center"}
        own["interpolation"] = self.interpolation
        options = {key: value for key, value in self.options.items() if key != "num_classes"}
        return {
            "architecture": self.arch,
            **self.options,
            "num_features": self.network.num_features,
            "label_names": list(exportable.run.info.classes),
            "problem_type": PROBLEMS[exportable.run.info.several_labels],
            **({"model_args": options} if options else {}),
            "pretrained_cfg": {**self.description, **own, "num_classes": self.options["num_classes"]},
        }


def crop_pct(seen: int, kept: int) -> float:
    """Return the share of a side by which timm resizes images to `kept` pixels, to cut out the middle `seen`."""
    return seen / kept * (1 - 1e-6) if seen < kept else 1.0  # timm takes the whole pixels of seen / share


def is_timm(exportable: Exportable) -> bool:
    """Return whether timm builds a run's network: one of its own, with its own stem, that classifies."""
    settings = exportable.run.settings
    is_own = isinstance(settings, BackboneSettings) and getattr(settings, "stem", "own") == "own"
    return is_own and isinstance(exportable.run.objective, Classification)


def with_head(net: TimmNet, model: FrozenBackbone) -> nn.Module:
    """Return a backbone with a classifier of its own in place of the linear head after it.

    Raises:
        UserError: its classifier is no linear layer.
    """
    backbone: Any = net.backbone
    backbone.reset_classifier(len(model.info.classes))
    classifier, head = backbone.get_classifier(), model.net
    if not isinstance(classifier, nn.Linear) or classifier.weight.shape != head.weight.shape:
        raise UserError(f"--to=timm: the classifier of {model.settings.arch} is no linear layer: give --to=hf or onnx")
    weight = head.weight / head.deviation
    classifier.weight.data.copy_(weight)
    classifier.bias.data.copy_(head.bias - weight @ head.mean)
    return backbone.eval()


def to_timm(exportable: Exportable, path: Path) -> tuple[Runner, str]:
    """Write the weights of a network of timm; return what runs them, and how they are loaded.

    Raises:
        UserError: as `TimmExport`, or timm's network gives other outputs.
    """
    network = TimmExport(exportable)
    extra = {key: it if isinstance(it, str) else json.dumps(it) for key, it in metadata(exportable, network).items()}
    write_weights(path, network.weights(), extra)
    options = ", ".join(f"{key}={value}" for key, value in network.options.items())
    usage = f'timm.create_model("{network.arch}", checkpoint_path="{path}", {options})'
    return prepared(exportable, network, network.load(path)), usage


def write_weights(path: Path, weights: dict[str, Tensor], texts: dict[str, str]) -> None:
    """Write weights, and texts beside them, in the format of safetensors."""
    content = save(weights, metadata=texts)
    put(path, lambda unfinished: unfinished.write_bytes(content))


def metadata(exportable: Exportable, network: TimmExport) -> dict[str, Any]:
    """Return what a user of timm's network has to know: its normalisation is outside."""
    own = {key: network.description[key] for key in ("mean", "std")}
    shape = f"float32 [batch, 3, {network.size}, {network.size}]"
    outside = {"inputs": {"images": shape}, "output": "logits", "normalisation": "outside", "size": network.size}
    return {**exportable.metadata(), **own, **outside}


def prepared(exportable: Exportable, network: TimmExport, runner: Runner) -> Runner:
    """Return a runner that is given the run's images, for one that is given those that timm's network expects."""
    classifier: Any = exportable.network

    def run(inputs: Inputs) -> Tensor:
        return runner((network.prepare(classifier.prepare(inputs[0])),))

    return run


def to_hub(exportable: Exportable, folder: Path, results: Path) -> tuple[Runner, str]:
    """Write a folder for the Hugging Face hub; return what runs it, and how it is loaded.

    Args:
        exportable: the network.
        folder: a new or an empty one.
        results: the run's folder, for its settings and figures.

    Raises:
        UserError: a network of timm gives other outputs there.
    """
    summary, environment = (read_json(results / name) for name in (run_folder.SUMMARY, run_folder.ENVIRONMENT))
    metrics = {key: it for key, it in summary.items() if key.startswith(("test/", "val/")) and is_finite(it)}
    settings = told_settings(asdict(exportable.run.settings))
    is_timms = is_timm(exportable)
    if is_timms:
        network = TimmExport(exportable)
        facts, weights = metadata(exportable, network), network.weights()
        content, runner = network.config(exportable), prepared(exportable, network, network.load_folder(folder))
    else:
        facts = exportable.metadata()
        weights = {name: it.contiguous().clone() for name, it in exportable.run.objective.state_dict().items()}
        content, runner = {}, to_pt2(exportable, folder / NETWORK)
    write_weights(folder / WEIGHTS, weights, {"format": "pt"})
    write_json(folder / CONFIG, {**content, "about": facts, "metrics": metrics, "settings": settings})
    images = environment.get("images", exportable.run.info.name)
    page = model_card(facts, settings, metrics, is_timms, images)
    replace_file(folder / "README.md", lambda unfinished: unfinished.write_text(page, "utf-8"))
    how = f'timm.create_model("local-dir:{folder}", pretrained=True)' if is_timms else f"see {folder / 'README.md'}"
    return runner, how
