"""What a model can do beyond being trained: `analysis.look` takes the closer looks at it that these allow.

A model has an ability by having its methods; there is nothing to register.
"""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Classifies(Protocol):
    """A model that tells the classes of what its batches hold."""

    def predict(self, images: Tensor) -> Tensor:
        """Return scores [B, num_classes] of a batch's images, whose softmax are class probabilities."""


@runtime_checkable
class Samples(Protocol):
    """A model that makes images of its own."""

    num_labels: int  # classes that can be asked for; 0 for a model that knows none

    def sample(self, num: int, seed: int, labels: Tensor | None = None) -> Tensor:
        """Return images drawn from the model's own prior: a function of the seed, the number and the labels alone.

        Args:
            num: of images, all made at once.
            seed: of the noise; the global random state is left alone.
            labels: [num] int64 classes, for a model that knows any; None for equally many of each class.

        Returns:
            [num, 3, H, W] in [0, 1], on the model's device.
        """


@runtime_checkable
class HasLatents(Protocol):
    """A model that encodes images as latent vectors and decodes those."""

    def latent_means(self, images: Tensor) -> Tensor:
        """Return posterior means [B, Z] of images [B, 3, H, W], normalised as in training."""

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [B, 3, H, W] in [0, 1] of latents [B, Z]."""


@runtime_checkable
class HasCodes(Protocol):
    """A model that encodes images as grids of codes out of a code book."""

    codebook_size: int

    def codes_of(self, images: Tensor) -> Tensor:
        """Return the indices [B, T] of the codes of images [B, 3, H, W], normalised as in training."""


@runtime_checkable
class HasAttention(Protocol):
    """A network, such as the `net` of a classifier, whose class token's attention can be had."""

    num_prefix_tokens: int  # tokens before those of the patches: the class token, which is the first, and registers

    def attention_weights(self, images: Tensor) -> list[Tensor]:
        """Return the weights [B, heads, T, T] of each layer, lowest first; patches stand row by row in a square."""
