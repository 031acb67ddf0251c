"""The closer looks at a model, chosen by what it can do: at its classes, its latents, its codes, its samples.

A model takes part by having the methods of a protocol in `models.core.abilities`; nothing here names a model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from analysis.look.attention import NUM_PANEL_IMAGES, attention_panel
from analysis.look.calibration import calibration_of
from analysis.look.classification import analyse_classifier
from analysis.look.codes import analyse_codes
from analysis.look.collapse import NUM_WATCHED, are_equal, variety
from analysis.look.extractors import Extractor, build_extractor
from analysis.look.fidelity import check_numbers, measure
from analysis.look.label_scores import analyse_labels
from analysis.look.latents import analyse_latents, check_latents
from analysis.look.panels import animate, render
from analysis.look.split_predictions import Predictions, predict_split, save_predictions
from analysis.record import run_folder
from analysis.record.findings import Analysis
from data.dataset import split_looked_at
from data.files import write_json
from data.loader import Loader
from data.visible import warn
from models.core.abilities import Classifies, HasAttention, HasCodes, HasLatents, Samples
from models.core.objective import Objective
from models.core.panel import Panel
from models.core.training import judged_split
from models.parts.sampling import sample_metric_names

NUM_PICTURES = 32  # images of the validation split that panels show

find_extractor = cache(build_extractor)  # loaded once a process


@dataclass(frozen=True)
class Subject:
    """A trained model to look at.

    Attributes:
        model: in evaluation mode.
        loaders: of its splits.
        split: whose images are looked at.
        folder: of the run.
        logits: of the splits that a classifier has been evaluated on just now, by their names.
    """

    model: Any  # an Objective, and whatever ability a look asks for
    loaders: Mapping[str, Loader]
    split: str
    folder: Path
    logits: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def loader(self) -> Loader:
        """The loader of the split that is looked at."""
        return self.loaders[self.split]

    @property
    def panels(self) -> Path:
        """The folder that pictures are drawn into."""
        return self.folder / run_folder.PANELS

    def predictions(self, split: str) -> Predictions:
        """Return what the model, a classifier, predicts of a split."""
        loader = self.loaders[split]
        known = self.logits.get(split)
        return predict_split(self.model, loader) if known is None else Predictions.of(known, loader)


def look_at_classes(subject: Subject) -> Analysis:
    """Look at what a classifier gets right and wrong, and keep what it predicts of validation and test images."""
    info = subject.model.info
    names = [name for name in subject.loaders if name in ("val", "test", subject.split)]
    predictions = {name: subject.predictions(name) for name in names}
    save_predictions(subject.folder / run_folder.PREDICTIONS, predictions, info)
    if "val" in predictions:
        weights = {run_folder.MEASURED: run_folder.weights_fingerprint(subject.folder)}
        write_json(subject.folder / run_folder.CALIBRATION, {**calibration_of(predictions["val"]), **weights})
    analyse = analyse_labels if info.several_labels else analyse_classifier
    return analyse(predictions[subject.split], subject.loader, info.classes, subject.split, subject.panels)


def look_at_samples(subject: Subject) -> Analysis:
    """Make an animation of the samples that were drawn in the course of training."""
    path = subject.panels / "training.gif"
    frames = sorted(subject.panels.glob("samples*-[0-9]*.png"))
    return Analysis(images=render({path: lambda path: animate(frames, path)} if frames else {}))


def look_at_closing(subject: Subject) -> Analysis:
    """Compute the metrics and draw the panels that a model has only for the end of a run."""
    panels = {subject.panels / f"{name}.png": panel for name, panel in subject.model.closing_panels().items()}
    return Analysis(images=render(panels), metrics=subject.model.closing_metrics(subject.loader))


@torch.no_grad()
def closer_look(subject: Subject) -> Analysis:
    """Take every look that the model allows, and return all that there is to log; later looks are shown last."""
    model, settings, panels = subject.model, subject.model.settings, subject.panels
    panels.mkdir(exist_ok=True)
    found = []
    if isinstance(model, Objective):
        found.append(look_at_closing(subject))
    if isinstance(model, HasLatents) and settings.latent_images:
        found.append(analyse_latents(model, subject.loaders, subject.split, panels))
    if isinstance(model, HasCodes):
        found.append(analyse_codes(model, subject.loader, settings.eval_batch_size, panels))
    if isinstance(model, Samples):
        found.append(look_at_samples(subject))
    if isinstance(model, Classifies):
        found.append(look_at_classes(subject))
    return Analysis(
        {name: value for each in found for name, value in each.metrics.items()},
        {name: path for each in found for name, path in each.images.items()},
        {name: table for each in found for name, table in each.tables.items()},
    )


def get_ready(model: Any, loaders: Mapping[str, Loader]) -> None:
    """Check and load what the looks at a model need, so that a lack of it is told before training begins.

    Raises:
        UserError: there are too few images to look at latents or to measure samples, or the network that samples are
            to be measured by cannot be had.
    """
    settings = model.settings
    if isinstance(model, HasLatents) and settings.latent_images:
        otherwise = ", or --latent_images=0 for no look"
        check_latents(loaders, split_looked_at(loaders), settings.latent_images, otherwise)
    if not sample_metric_names(model):
        return
    for name in {judged_split(loaders), split_looked_at(loaders)}:
        if settings.fid_every:
            check_numbers(settings.fid_images, len(loaders[name]))
        if len(loaders[name]) < 2:
            warn(f"{name} has 1 image: sample_variety is left out, which compares two")
        elif are_equal(watched(loaders[name])):
            warn(f"{name} has equal images alone: sample_variety is left out, which compares different ones")
    if settings.fid_every:
        find_extractor(settings.extractor, loaders["train"].device)


@torch.no_grad()
def sample_metrics(model: Any, loader: Loader, epoch: int) -> dict[str, float]:
    """Return how good a model's samples are: their variety in every epoch, FID and the like where they are due.

    Args:
        model: in evaluation mode; one that does not sample has no such metrics.
        loader: of the real images.
        epoch: finished epochs.
    """
    settings, names, metrics = model.settings, sample_metric_names(model), dict[str, float]()
    if "sample_variety" in names:
        real = watched(loader)
        labels = loader.labels_in_proportion(len(real)) if model.num_labels else None
        share = variety(model.sample(len(real), settings.seed, labels), real)
        metrics |= {} if share is None else {"sample_variety": share}
    if "generated_accuracy" in names:
        metrics["generated_accuracy"] = accuracy_on_samples(model, loader, settings.seed)
    if names and settings.fid_every and (epoch % settings.fid_every == 0 or epoch == settings.epochs):
        extractor: Extractor = find_extractor(settings.extractor, loader.device)
        metrics |= measure(model.sample, bool(model.num_labels), loader, extractor, settings.fid_images, settings.seed)
    return metrics


def watched(loader: Loader) -> Tensor:
    """Return the real images [N, 3, H, W] in [0, 1] of a split that the variety of samples is compared with."""
    return loader.pictures(loader.some(min(NUM_WATCHED, len(loader))))


def accuracy_on_samples(model: Any, loader: Loader, seed: int) -> float:
    """Return how often a model names the class that it was asked to make an image of."""
    labels = torch.arange(NUM_WATCHED) % model.num_labels
    pixels = 255 * model.sample(NUM_WATCHED, seed, labels)
    return (model.predict(loader.normalise(pixels)).argmax(dim=1).cpu() == labels).float().mean().item()


@torch.no_grad()
def draw_panels(model: Any, loader: Loader, folder: Path, epoch: int) -> dict[str, Path]:
    """Draw a model's panels of some images of a split into `folder`, and return their files by name."""
    drawn = loader.some(NUM_PICTURES)
    batch, pictures = loader.batch(drawn), loader.pictures(drawn)
    panels: dict[str, Panel] = model.panels(batch, pictures)
    net = getattr(model, "net", None)
    if isinstance(net, HasAttention) and "predictions" in panels:
        few = slice(NUM_PANEL_IMAGES)
        captions = panels["predictions"].captions[few]
        panels["attention"] = attention_panel(net, batch.images[few], pictures[few], captions)
    rendered = render({folder / f"{name}-{epoch:04d}.png": panel for name, panel in panels.items()})
    return {name.rpartition("-")[0]: path for name, path in rendered.items()}
