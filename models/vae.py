"""Variational autoencoder of images alone."""

from dataclasses import dataclass

import torch
from torch import Tensor

from data.dataset import Batch, DatasetInfo
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


def unlabelled(values: Tensor) -> Tensor:
    """The labels of images without: [B, ...] -> [B] zeros."""
    return torch.zeros(len(values), dtype=torch.long, device=values.device)


def build(settings: VaeSettings, info: DatasetInfo) -> Vae:
    """The autoencoder that `settings` describe.

    Raises:
        UserError: the images cannot be halved `depth` times, or the likelihood does not suit them.
    """
    return Vae(settings, info)
