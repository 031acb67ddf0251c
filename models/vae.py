"""Variational autoencoder without labels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from data.dataset import Batch
from models.core.settings import Count
from models.parts.variational import Variational, VariationalSettings


@dataclass(frozen=True, kw_only=True)
class VaeSettings(VariationalSettings):
    """A variational autoencoder with a convolutional encoder and decoder and a Gaussian latent."""

    latent_images: Count = 10_000
    """Largest number of images of each split whose latents are analysed at the end of a run; 0 for no analysis."""


class Vae(Variational):
    """A variational autoencoder whose latents can be read out and decoded."""

    settings: VaeSettings

    def latent_means(self, images: Tensor) -> Tensor:
        """Return the posterior means [B, Z] of images [B, 3, H, W], which are normalised as in training."""
        return self.posterior_means(Batch(images, unlabelled(images)))

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents [B, Z] into images [B, 3, H, W] in [0, 1]."""
        return self.pictures_of(latents, unlabelled(latents))


def unlabelled(values: Tensor) -> Tensor:
    """Return zeros in place of labels, one for each of the values: [B, ...] -> [B]."""
    return torch.zeros(len(values), dtype=torch.long, device=values.device)
