"""Networks by whose features generated images are held against real ones: the Inception of FID, or any of timm."""

from typing import Protocol

import torch
from torch import Tensor


class Extractor(Protocol):
    """A network by whose features images are compared."""

    name: str  # in the names of the metrics
    num_features: int
    batch_size: int  # images at once

    def description(self) -> dict[str, object]:
        """All that the features of an image depend on; "arch" and "precision" are among it."""

    def __call__(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] uint8, wherever they are, to features [B, D] float32 on the extractor's device."""

    def classify(self, features: Tensor) -> Tensor | None:
        """Class probabilities [N, K] of features [N, D]; None where the network knows no classes."""


def build_extractor(name: str, device: torch.device) -> Extractor:
    """The extractor of that name: "inception", or a network of timm.

    Raises:
        UserError: its weights are not on this machine and cannot be downloaded, or timm does not know it.
    """
    raise NotImplementedError
