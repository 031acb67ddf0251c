"""Conditional variational autoencoder with a linear classifier on the encoder's features."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from data.dataset import Batch, DatasetInfo
from models.core.objective import LOGITS
from models.core.settings import NonNegative
from models.parts.variational import Conditional, VariationalSettings


@dataclass(frozen=True, kw_only=True)
class CvaeHeadSettings(VariationalSettings):
    """A VAE that is conditional on the label, and whose encoder also feeds a linear classifier."""

    gamma: NonNegative = 50.0
    """Weight of the classifier's cross-entropy, which is added to the loss of the VAE (a sum over pixels and units)."""


class CvaeHead(Conditional):
    """A conditional variational autoencoder whose encoder also learns to classify.

    The classifier sees the encoder's features before the label is appended to them.
    """

    settings: CvaeHeadSettings

    def __init__(self, settings: CvaeHeadSettings, info: DatasetInfo) -> None:
        super().__init__(settings, info)
        self.head = nn.Linear(self.num_features, self.num_labels)

    def forward(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        features = self.encoder(batch.images)
        terms, logits = self.training_terms(features, batch), self.head(features)
        cross_entropy = F.cross_entropy(logits, batch.labels)
        accuracy = (logits.argmax(dim=1) == batch.labels).float().mean()
        loss = terms["loss"] + self.settings.gamma * cross_entropy
        return {**terms, "loss": loss, "cross_entropy": cross_entropy, "accuracy": accuracy}

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        features = self.encoder(batch.images)
        terms, logits = self.evaluation_terms(features, batch), self.head(features).float()
        cross_entropy = F.cross_entropy(logits, batch.labels, reduction="none")
        accuracy = (logits.argmax(dim=1) == batch.labels).float()
        loss = terms["loss"] + self.settings.gamma * cross_entropy
        return {**terms, "loss": loss, "cross_entropy": cross_entropy, "accuracy": accuracy, LOGITS: logits}

    def predict(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, L] float32 logits
        return self.head(self.encoder(images)).float()
