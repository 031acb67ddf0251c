"""Variational autoencoder of images alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from analysis.look.latents import analyse_latents
from analysis.record.tracker import Analysis
from data.dataset import Batch, DatasetInfo
from data.loader import Loader
from models.core.settings import Count
from models.parts.variational import Variational, VariationalSettings


@dataclass(frozen=True, kw_only=True)
class VaeSettings(VariationalSettings):
    """Convolutional encoder and decoder round a Gaussian latent."""

    latent_images: Count = 10_000
    """Images of each split, at most, whose latents are looked at closely at the end of a run; 0 for none."""


class Vae(Variational):
    """A variational autoencoder whose latents can be had."""

    settings: VaeSettings

    def latent_means(self, images: Tensor) -> Tensor:
        """Posterior means [B, Z] of images [B, 3, H, W], normalised as in training."""
        return self.posterior_means(Batch(images, unlabelled(images)))

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] of latents [B, Z]."""
        return self.pictures_of(latents, unlabelled(latents))

    def analyse(self, loaders: Mapping[str, Loader], split: str, folder: Path) -> Analysis:
        collapse = super().analyse(loaders, split, folder)
        settings = self.settings
        if not settings.latent_images:
            return collapse
        with torch.random.fork_rng():
            untrained = Vae(settings, self.info).to(loaders[split].device).eval()
        latents = analyse_latents(
            self.latent_means,
            self.decode,
            untrained.latent_means,
            loaders,
            split,
            folder,
            settings.eval_batch_size,
            self.info.classes,
            settings.seed,
            settings.latent_images,
        )
        return latents._replace(metrics={**collapse.metrics, **latents.metrics})


def unlabelled(values: Tensor) -> Tensor:
    """The labels of images without: [B, ...] -> [B] zeros."""
    return torch.zeros(len(values), dtype=torch.long, device=values.device)


def build(settings: VaeSettings, info: DatasetInfo) -> Vae:
    """The autoencoder that `settings` describe.

    Raises:
        UserError: the images cannot be halved `depth` times, or the likelihood does not suit them.
    """
    return Vae(settings, info)
