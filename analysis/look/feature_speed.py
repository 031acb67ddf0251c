"""Speed of computing features beside a bare `model(x)` loop."""

import statistics
from collections.abc import Sequence
from functools import partial

import torch
from accelerate import Accelerator

from analysis.look.timing import median_and_range, ratios, seconds
from data.feature_cache import FeatureCache, cached_features
from data.files import scratch_folder
from models.parts.feature_extractor import FeatureExtractor, FrozenNetwork


def compare_feature_speeds(
    network: FrozenNetwork, precision: str, batch_sizes: Sequence[int], num_images: int, num_rounds: int
) -> str:
    """Measure the bare loop and ours in turn, and return a table of their speeds and ratios.

    Args:
        network: that computes the features.
        precision: "bf16" or "fp32".
        batch_sizes: of the bare loop; ours has its own.
        num_images: of each measurement.
        num_rounds: times that each is measured.
    """
    accelerator = Accelerator()
    extractor = FeatureExtractor(network, accelerator.device)
    extractor.precision = precision
    images = torch.randint(256, (num_images, 3, 32, 32), dtype=torch.uint8)
    num_features = extractor(images[: extractor.batch_size]).shape[1]
    for size in batch_sizes:
        bare_loop(extractor, size, size)  # warms up
    bare: dict[str, list[float]] = {f"bare, batch {size}": [] for size in batch_sizes}
    ours: list[float] = []
    for _ in range(num_rounds):
        for size, rates in zip(batch_sizes, bare.values(), strict=True):
            whole = -(-num_images // size) * size
            rates.append(whole / seconds(partial(bare_loop, extractor, size, num_images)))
        ours.append(num_images / seconds(partial(fill_cache, extractor, num_features, images, accelerator)))
    best = max(bare, key=lambda name: statistics.median(bare[name]))
    title = (
        f"{network.arch} at {network.input_size} px, {precision}, {num_images} images, {num_rounds} rounds, images/s:"
    )
    told = {name: median_and_range(rates, ",.1f", width=10) for name, rates in {**bare, "ours": ours}.items()}
    rows = [f"  {name:<18}{rate}" for name, rate in told.items()]
    ratio = f"ours (batch {extractor.batch_size}) over {best}, the best of them:"
    return "\n".join([title, *rows, ratio, f"  {median_and_range(ratios(ours, bare[best]))}"])


@torch.inference_mode()
def bare_loop(extractor: FeatureExtractor, batch_size: int, num_images: int) -> None:
    """Run the network over and over on one batch that is prepared already, for `num_images` images at least.

    It computes as the extractor does, by the same kernels and no more coarsely.
    """
    network = extractor.network
    pixels = torch.zeros(batch_size, 3, 32, 32, device=extractor.device)
    batch = network.prepare(pixels).contiguous(memory_format=torch.channels_last)
    with extractor.arithmetic():
        for _ in range(-(-num_images // batch_size)):
            network.backbone(batch)


def fill_cache(extractor: FeatureExtractor, num_features: int, images: torch.Tensor, accelerator: Accelerator) -> None:
    """Compute the features of images as a run does, into an empty cache."""
    with scratch_folder() as folder:
        cache = FeatureCache(folder, extractor.description(extractor.precision), num_features)
        cached_features(cache, images, extractor, extractor.batch_size, accelerator)
