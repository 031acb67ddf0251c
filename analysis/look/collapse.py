"""Whether a model that makes images has collapsed: its samples, a GAN's discriminator, an autoencoder's latents."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from data.metrics import is_epoch
from data.visible import percent

NUM_WATCHED = 256  # samples whose variety is measured
SIDE = 16  # pixels that images are first reduced to, so that noise does not pass for variety
LEAST_VARIETY = 0.5  # of samples, as a share of that of real images; below it they have collapsed
MOST_TOLD_APART = 0.99  # share of an epoch's images; above it a discriminator leaves nothing to learn
LEAST_ACTIVE = 0.5  # latent units, a mean of an epoch's batches; below it most batches have none
TOLD_APART = "train/discriminate/told_apart"  # GANs alone log it

Sign = tuple[dict[str, Any], str]  # what a summary says of it, and a warning in words; "" where all is well


def variety(samples: Tensor, real: Tensor) -> float | None:
    """Return how far each sample is from the one most like it, as a share of the same distance among real images.

    It is 1 where samples differ as real images do, and 0 where each has a double: a few modes are as much of a
    collapse as one. Images are compared at 16x16 pixels, as by a person who squints. Doubles of a real image are passed
    over, and the most like it of the others is taken: data that hold pictures twice are no less varied for that.

    Args:
        samples: [N, 3, H, W] in [0, 1].
        real: as many real images, [N, 3, H, W].

    Returns:
        The share; None where all real images are equal, or there is but one: there is no distance to compare with.
    """
    among_real = nearest_distance(real, to_doubles=False)
    return None if among_real.isinf() else (nearest_distance(samples) / among_real).item()


def are_equal(images: Tensor) -> bool:
    """Return whether no two of the images [N, 3, H, W] differ at 16x16 pixels, so that they have no variety."""
    return bool(nearest_distance(images, to_doubles=False).isinf())


def nearest_distance(images: Tensor, to_doubles: bool = True) -> Tensor:
    """Return the distance of each image to the one most like it, averaged over them: a scalar.

    Args:
        images: [N, 3, H, W].
        to_doubles: whether an equal image may be the one most like it, which then is at a distance of 0; otherwise the
            mean is infinite where all images are equal.
    """
    pixels = F.adaptive_avg_pool2d(images.float(), SIDE).flatten(1)
    exact = "donot_use_mm_for_euclid_dist"  # else doubles are not at a distance of 0
    distances = torch.cdist(pixels, pixels, compute_mode=exact).fill_diagonal_(torch.inf)
    if not to_doubles:
        distances[distances == 0] = torch.inf
    return distances.min(dim=1).values.mean()


def signs_of_collapse(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a run's summary says of collapse, of as many signs as the model has logged metrics of.

    Args:
        rows: logged metrics of the run.

    Returns:
        discriminator_saturated: whether in the last epoch it told real images from samples nearly always; of a GAN.
        posterior_collapse: whether no latent unit is active; of a variational autoencoder.
        sample_variety: of the last epoch, see `variety`; of a model that samples.
        mode_collapse: whether that is too little.
        warning: all of them in words, with the epoch since when they hold; left out where all is well.
    """
    epochs = [row for row in rows if is_epoch(row)]
    closing = [row for row in rows if not is_epoch(row)]
    signs: dict[str, Any] = {}
    warnings = []
    for sign, warning in (sign_of_discriminator(epochs), sign_of_latents(epochs, closing), sign_of_samples(epochs)):
        signs |= sign
        warnings += [warning] if warning else []
    return {**signs, "warning": "; ".join(warnings)} if warnings else signs


def sign_of_discriminator(epochs: Sequence[Mapping[str, Any]]) -> Sign:
    """Return whether a GAN's discriminator leaves nothing to learn."""
    told_apart = logged(epochs, TOLD_APART)
    if not told_apart:
        return {}, ""
    last, since = lasting(told_apart, lambda share: share > MOST_TOLD_APART)
    share = percent(last)
    warning = f"discriminator saturated since epoch {since}: it tells {share} of real and generated images apart"
    return {"discriminator_saturated": since is not None}, warning if since is not None else ""


def sign_of_latents(epochs: Sequence[Mapping[str, Any]], closing: Sequence[Mapping[str, Any]]) -> Sign:
    """Return whether no latent unit is active: of a whole split at the end of a run, before it of training batches.

    Args:
        epochs: what the epochs have logged.
        closing: what the run's closing evaluation has logged; nothing before it.
    """
    active = logged(epochs, "/active_units")
    if not active:
        return {}, ""
    _, since = lasting(active, lambda num: num < LEAST_ACTIVE)
    at_the_end = logged(closing, "/posterior_collapse")
    has_collapsed = any(at_the_end.values()) if at_the_end else since is not None
    when, remedy = f"since epoch {since}", "try a smaller --beta, or --kl_warmup_epochs"
    if since is None:  # the KL is not the cause: weights of an early epoch, or batch norm that lags behind
        when, remedy = "of the kept weights", "some are in training: try more epochs"
    warning = (
        f"posterior collapse {when}: no latent unit is active, "
        f"so that the latents hold nothing of the images ({remedy})"
    )
    return {"posterior_collapse": has_collapsed}, warning if has_collapsed else ""


def sign_of_samples(epochs: Sequence[Mapping[str, Any]]) -> Sign:
    """Return whether samples vary too little; modes, and a generator that loses them, are said of a GAN alone."""
    varieties = logged(epochs, "/sample_variety")
    if not varieties:
        return {}, ""
    last, since = lasting(varieties, lambda value: value < LEAST_VARIETY)
    what, yet = "too little variety", ", perhaps for want of training,"
    if logged(epochs, TOLD_APART):
        what, yet = "mode collapse", ", or an untrained generator"
    from_the_start = since == next(iter(varieties))  # then it may have learnt too little yet
    what += yet if from_the_start else ""
    warning = f"{what} since epoch {since}: samples vary {last:.2f} times as much as real images"
    return {"sample_variety": last, "mode_collapse": since is not None}, warning if since is not None else ""


def logged(rows: Sequence[Mapping[str, Any]], name: str) -> dict[int, float]:
    """Return the values by epoch of the metric whose name ends so."""
    return {row["epoch"]: value for row in rows for key, value in row.items() if key.endswith(name)}


def lasting(values: Mapping[int, float], is_bad: Callable[[float], bool]) -> tuple[float, int | None]:
    """Return the last of some values by epoch, and the epoch since when all are bad; None where the last is not."""
    since = None
    for epoch, value in values.items():
        since = (epoch if since is None else since) if is_bad(value) else None
    return list(values.values())[-1], since
