"""Conditional variational autoencoder, Sohn et al. 2015, used as a classifier.

An image's loss is computed under each label; the label with the lowest loss is the prediction.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from data.dataset import Batch, DatasetInfo
from data.errors import UserError
from data.loader import Loader
from data.progress import progress_bar
from models.core.objective import LOGITS
from models.core.settings import Range
from models.parts.layers import is_exported, one_hot
from models.parts.likelihoods import gaussian_kl
from models.parts.variational import NUM_NOISES, Conditional, VariationalSettings

DECODED_AT_ONCE = 256  # images; their activations fit into a CPU's cache: a third less time than thousands at once
NUM_COMPARED = 2000  # images that each rule classifies at the end of a run, to compare the rules
NumDraws = Annotated[int, Range(1, NUM_NOISES)]  # more would be the same noise again


@dataclass(frozen=True, kw_only=True)
class CvaeSettings(VariationalSettings):
    """A VAE that is conditional on the label; it classifies an image as the label under which its loss is lowest."""

    classify_by: Literal["elbo_at_mean", "importance_weighted", "batch_mean"] = "elbo_at_mean"
    """Loss by which images are classified. elbo_at_mean: with the posterior mean as the latent; importance_weighted:
    the importance-weighted bound, https://arxiv.org/abs/1509.00519, with the same noise for all labels; batch_mean: a
    mistake of the original notebook, kept to show what it costs: the loss is averaged over the whole batch, with
    different noise for each label, so that all images of a batch get the same prediction."""
    importance_samples: NumDraws = 16
    """Latents that importance_weighted draws for each label."""


class Cvae(Conditional):
    """A conditional variational autoencoder that is also a generative classifier."""

    settings: CvaeSettings

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        features = self.encoder(batch.images)
        losses = RULES[self.settings.classify_by](self, features, batch.images)
        accuracy = (losses.argmin(dim=1) == batch.labels).float()
        return {**self.evaluation_terms(features, batch), "accuracy": accuracy, LOGITS: -losses}

    def label_losses(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, L]
        return RULES[self.settings.classify_by](self, self.encoder(images), images)

    def posteriors(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior's mean and log-variance under each label, both [B, L, Z], for features [B, F]."""
        mean, log_variance = for_every_label(self.posterior, features, self.num_labels).float().chunk(2, dim=2)
        return mean, log_variance

    def every_condition(self, num_images: int) -> Tensor:  # [B, L, num_labels]: for each image, all one-hot labels
        labels = torch.arange(self.num_labels, device=self.noise.device)
        return one_hot(labels, self.num_labels).expand(num_images, -1, -1)

    def in_parts(self, function: Callable[..., Tensor], *values: Tensor) -> Tensor:
        """Return a function's value for values of B images, each [B, ...], so many at once as are decoded fastest."""
        if is_exported():  # whose graph has no loop of a length that depends on the batch
            return function(*values)
        num = max(1, DECODED_AT_ONCE // self.num_labels)
        return torch.cat([function(*part) for part in zip(*(each.split(num) for each in values), strict=True)])

    def elbo_at_mean(self, features: Tensor, images: Tensor) -> Tensor:
        """Return the loss under each label, with the posterior mean as the latent: [B, F], [B, 3, H, W] -> [B, L].

        The posterior mean is an affine function of the features and the label, and so is all of the decoder before its
        first norm. So this part is computed once for each image, and a label only adds a constant, see
        `for_every_label`.
        """

        def begin_decoding(joined: Tensor) -> Tensor:
            mean = self.posterior(joined)[:, : self.settings.latent_size]
            return self.decoder.affine(torch.cat([mean, joined[:, self.num_features :]], dim=1))

        def reconstruction(hidden: Tensor, images: Tensor) -> Tensor:  # [B, L, C, h, w], [B, 3, H, W] -> [B, L]
            output = self.decoder.rest(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])
            return self.likelihood(output, images.unsqueeze(1))

        hidden = for_every_label(begin_decoding, features, self.num_labels)
        kl = gaussian_kl(*self.posteriors(features)).sum(dim=2)
        return self.in_parts(reconstruction, hidden, images) + self.settings.beta * kl

    def importance_weighted(self, features: Tensor, images: Tensor) -> Tensor:
        """Return the loss under each label, by the importance-weighted bound: [B, F], [B, 3, H, W] -> [B, L]."""
        loss = partial(self.importance_weighted_loss, num_draws=self.settings.importance_samples)
        return self.in_parts(loss, images, *self.posteriors(features), self.every_condition(images.shape[0]))

    def batch_mean(self, features: Tensor, images: Tensor) -> Tensor:
        """Return the batch's mean loss under each label, repeated for each image: [B, F], [B, 3, H, W] -> [B, L]."""
        mean, log_variance = self.posteriors(features)
        noise = torch.stack([self.noise_of(images, label) for label in range(self.num_labels)], dim=1)  # [B, L, Z]
        latents = mean + (log_variance / 2).exp() * noise
        conditions = self.every_condition(images.shape[0])
        output = self.decode_latents(latents.flatten(0, 1), conditions.flatten(0, 1)).unflatten(0, mean.shape[:2])
        losses = self.likelihood(output, images.unsqueeze(1))
        losses = losses + self.settings.beta * gaussian_kl(mean, log_variance).sum(dim=2)
        return losses.mean(dim=0).expand(images.shape[0], -1)

    def predict(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, L] scores, the negative losses
        return -self.label_losses(images)

    def closing_metrics(self, loader: Loader) -> dict[str, float]:
        compared = {f"{rule}_accuracy": value for rule, value in self.compare_rules(loader).items()}
        return {**super().closing_metrics(loader), **compared}

    def compare_rules(self, loader: Loader) -> dict[str, float]:
        """Return the accuracy of each rule, a value of the setting `classify_by`, on some images of a split."""
        right = {rule: 0 for rule in RULES if self.settings.beta or rule != "importance_weighted"}
        index = loader.some(NUM_COMPARED)
        with progress_bar("comparing rules", len(index), "images") as bar:
            for part in index.split(self.settings.eval_batch_size):
                images, labels, _ = loader.batch(part)
                features = self.encoder(images)
                for rule in right:
                    right[rule] += int((RULES[rule](self, features, images).argmin(dim=1) == labels).sum())
                bar.update(len(part))
        return {rule: num / len(index) for rule, num in right.items()}


def for_every_label(affine: Callable[[Tensor], Tensor], inputs: Tensor, num_labels: int) -> Tensor:
    """Return the values of an affine function of inputs joined with a one-hot label, for each input and each label.

    Because the function is affine, a label adds the same amount to the value for any input. So the function is computed
    once for each input and once for each label, and not for all pairs.

    Args:
        affine: function [N, F + L] -> [N, ...].
        inputs: [B, F].
        num_labels: number L of labels.

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
    """Build the autoencoder that `settings` describe.

    Raises:
        UserError: there are too few classes, the depth or the likelihood does not suit the images, or the
            importance-weighted bound is asked for with a beta of 0.
    """
    if settings.classify_by == "importance_weighted" and not settings.beta:
        raise UserError("--classify_by=importance_weighted is no bound at --beta=0: raise beta, or give elbo_at_mean")
    return Cvae(settings, info)
