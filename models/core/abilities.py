"""Abilities that a model may have beyond being trained, such as classifying images or sampling new ones.

`analysis.look` chooses by them how a trained model is examined. A model has an ability if it has the methods and
attributes listed here; there is nothing to register or to inherit from. A parameter, a buffer or a network within the
model is no such attribute: from Python 3.12 on, `isinstance` does not see what a module keeps for itself.
"""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Classifies(Protocol):
    """A model that predicts the classes of images."""

    def predict(self, images: Tensor) -> Tensor:
        """Return logits [B, num_classes]; `models.parts.labelling` makes probabilities of them.

        Args:
            images: the images of a batch as the model's loader gives them, [B, 3, H, W] or features [B, D].
        """


@runtime_checkable
class Samples(Protocol):
    """A model that generates new images."""

    num_labels: int  # classes that can be asked for; 0 if the model is not conditional on a class

    def sample(self, num: int, seed: int, labels: Tensor | None = None) -> Tensor:
        """Sample images from the model. The same arguments give the same images.

        Args:
            num: how many images; they are made in one batch.
            seed: of the noise; the global random state is neither used nor changed.
            labels: [num] int64, the class of each image, for a conditional model; None for all classes alike.

        Returns:
            [num, 3, H, W] in [0, 1], on the model's device.
        """


@runtime_checkable
class DrawsFromLatents(Protocol):
    """A generative model that makes an image of a latent vector in one pass."""

    num_labels: int  # as of `Samples`
    latent_size: int  # Z

    def pictures_of(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Return the images [B, 3, H, W] in [0, 1] of latents [B, Z], drawn from N(0, 1), and labels [B] int64."""


@runtime_checkable
class DrawsFromPrior(Protocol):
    """A generative model that draws the codes of an image, one after another, from a prior that it has learned."""

    noise_shape: tuple[int, int]  # T codes an image, K codes to choose from

    def pictures_drawn_by(self, noise: Tensor) -> Tensor:
        """Return images [B, 3, H, W] in [0, 1] by noise [B, T, K] from the exponential distribution of mean 1."""


@runtime_checkable
class HasLatents(Protocol):
    """A model that encodes images as latent vectors and decodes latent vectors into images."""

    def latent_means(self, images: Tensor) -> Tensor:
        """Return the posterior means [B, Z] of images [B, 3, H, W], which are normalised as in training."""

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents [B, Z] into images [B, 3, H, W] in [0, 1]."""


@runtime_checkable
class HasCodes(Protocol):
    """A model that encodes each image as a grid of codes from a code book."""

    codebook_size: int

    def codes_of(self, images: Tensor) -> Tensor:
        """Return the code indices [B, T] of images [B, 3, H, W], which are normalised as in training."""


@runtime_checkable
class HasAttention(Protocol):
    """A network whose attention weights can be read out, for example the `net` of a classifier."""

    num_prefix_tokens: int  # tokens before those of the patches: first the class token, then registers, if any

    def attention_weights(self, images: Tensor) -> list[Tensor]:
        """Return the attention weights [B, heads, T, T] of each layer, lowest first.

        The tokens of the patches follow the prefix tokens. The patches form a square grid, taken row by row.
        """
