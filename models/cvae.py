"""Conditional variational autoencoder, Sohn et al. 2015, and classification by the label of the least loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from data.dataset import Batch, DatasetInfo
from data.errors import UserError
from data.loader import Loader
from models.core.settings import PositiveInt
from models.parts.layers import one_hot
from models.parts.likelihoods import gaussian_kl
from models.parts.variational import Conditional, VariationalSettings

DECODED_AT_ONCE = 256  # images of which a CPU's cache holds the activations: two thirds of the time of thousands
NUM_COMPARED = 2000  # images that every rule classifies at the end of a run


@dataclass(frozen=True, kw_only=True)
class CvaeSettings(VariationalSettings):
    """The label joins the encoder's features and the latent; images are classified by the label of the least loss."""

    classify_by: Literal["elbo_at_mean", "importance_weighted", "batch_mean"] = "elbo_at_mean"
    """Loss whose least names an image's label: with the posterior's mean for the latent, or by the importance-weighted
    bound, https://arxiv.org/abs/1509.00519, noise shared between the labels. batch_mean is the notebook's mistake, kept
    to show its price: the mean over the whole batch, noise of its own for each label, one prediction for all."""
    importance_samples: PositiveInt = 16
    """Latents drawn for each label by importance_weighted."""


class Cvae(Conditional):
    """A conditional variational autoencoder as a generative classifier."""

    settings: CvaeSettings

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        features = self.encoder(batch.images)
        losses = RULES[self.settings.classify_by](self, features, batch.images)
        accuracy = (losses.argmin(dim=1) == batch.labels).float()
        return {**self.evaluation_terms(features, batch), "accuracy": accuracy}

    def label_losses(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, L]
        return RULES[self.settings.classify_by](self, self.encoder(images), images)

    def posteriors(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior under every label, both [B, L, Z], of features [B, F]."""
        mean, log_variance = for_every_label(self.posterior, features, self.num_labels).float().chunk(2, dim=2)
        return mean, log_variance

    def every_condition(self, num_images: int) -> Tensor:  # [B, L, num_labels], each image's labels in order
        labels = torch.arange(self.num_labels, device=self.noise.device)
        return one_hot(labels, self.num_labels).expand(num_images, -1, -1)

    def elbo_at_mean(self, features: Tensor, images: Tensor) -> Tensor:
        """Loss under every label with the posterior's mean for the latent: [B, F], [B, 3, H, W] -> [B, L].

        The decoder is affine up to its first norm, as is the mean in the features, so that the labels share the work.
        """

        def begin_decoding(joined: Tensor) -> Tensor:
            mean = self.posterior(joined)[:, : self.settings.latent_size]
            return self.decoder.affine(torch.cat([mean, joined[:, self.num_features :]], dim=1))

        hidden = for_every_label(begin_decoding, features, self.num_labels)  # [B, L, C, h, w]
        num = max(1, DECODED_AT_ONCE // self.num_labels)
        reconstructions = [
            self.likelihood(self.decoder.rest(part.flatten(0, 1)).unflatten(0, part.shape[:2]), some.unsqueeze(1))
            for part, some in zip(hidden.split(num), images.split(num), strict=True)
        ]
        kl = gaussian_kl(*self.posteriors(features)).sum(dim=2)
        return torch.cat(reconstructions) + self.settings.beta * kl

    def importance_weighted(self, features: Tensor, images: Tensor) -> Tensor:
        """Loss under every label by the importance-weighted bound: [B, F], [B, 3, H, W] -> [B, L]."""
        mean, log_variance = self.posteriors(features)
        conditions = self.every_condition(len(images))
        return self.importance_weighted_loss(images, mean, log_variance, conditions, self.settings.importance_samples)

    def batch_mean(self, features: Tensor, images: Tensor) -> Tensor:
        """Mean loss of the batch under every label, the same for all images: [B, F], [B, 3, H, W] -> [B, L]."""
        mean, log_variance = self.posteriors(features)
        latents = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        conditions = self.every_condition(len(images))
        output = self.decode_latents(latents.flatten(0, 1), conditions.flatten(0, 1)).unflatten(0, mean.shape[:2])
        losses = self.likelihood(output, images.unsqueeze(1))
        losses = losses + self.settings.beta * gaussian_kl(mean, log_variance).sum(dim=2)
        return losses.mean(dim=0).expand(len(images), -1)

    def predict(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, L] scores, the negative losses
        return -self.label_losses(images)

    def closing_metrics(self, loader: Loader) -> dict[str, float]:
        compared = {f"accuracy_{rule}": value for rule, value in self.compare_rules(loader).items()}
        return {**super().closing_metrics(loader), **compared}

    def compare_rules(self, loader: Loader) -> dict[str, float]:
        """Accuracy of each rule on the first images of a split."""
        right = {rule: 0 for rule in RULES if self.settings.beta or rule != "importance_weighted"}
        index = torch.arange(min(NUM_COMPARED, len(loader)))
        for part in index.split(self.settings.eval_batch_size):
            images, labels = loader.batch(part)
            features = self.encoder(images)
            for rule in right:
                right[rule] += int((RULES[rule](self, features, images).argmin(dim=1) == labels).sum())
        return {rule: num / len(index) for rule, num in right.items()}


def for_every_label(affine: Callable[[Tensor], Tensor], inputs: Tensor, num_labels: int) -> Tensor:
    """Values of an affine function of [inputs, one-hot label] under every label, in one pass over the inputs.

    A label shifts the value by as much whatever the input.

    Args:
        affine: [N, F + L] -> [N, ...].
        inputs: [B, F].
        num_labels: L.

    Returns:
        [B, L, ...].
    """
    labels = F.pad(torch.eye(num_labels, device=inputs.device), (inputs.shape[1], 0))
    shift = affine(labels) - affine(torch.zeros_like(labels[:1]))
    return affine(F.pad(inputs, (0, num_labels))).unsqueeze(1) + shift


RULES: dict[str, Callable[[Cvae, Tensor, Tensor], Tensor]] = {
    "elbo_at_mean": Cvae.elbo_at_mean,
    "importance_weighted": Cvae.importance_weighted,
    "batch_mean": Cvae.batch_mean,
}


def build(settings: CvaeSettings, info: DatasetInfo) -> Cvae:
    """The autoencoder that `settings` describe.

    Raises:
        UserError: too few classes, sizes or a likelihood that do not suit the images, or a bound without a KL.
    """
    if settings.classify_by == "importance_weighted" and not settings.beta:
        raise UserError("--classify_by=importance_weighted is no bound at --beta=0: raise beta, or give elbo_at_mean")
    return Cvae(settings, info)
