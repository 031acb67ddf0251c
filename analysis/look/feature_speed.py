"""Speed of computing features beside a bare `model(x)` loop, by `python -m analysis.feature_benchmark`.

    bare   the frozen network over and over on one batch that lies on the device, resized and normalised already
    ours   different uint8 images from main memory: copied, resized, normalised, their features stored in a new cache

The two take turns in one process, after a warm-up; the bare loop is measured at every batch size, ours at its own.
"""

import statistics
import sys
import tempfile
import time
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator

from analysis.command_line import Parser, run_program, whole_number
from data.feature_cache import FeatureCache, cached_features
from models.frozen_backbone import Extractor, FrozenSettings
from models.parts.backbone import find_weights


def seconds(work: Callable[[], object]) -> float:
    """Seconds that some work takes, until the device is done."""
    started = time.perf_counter()
    work()
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter() - started


@torch.inference_mode()
def bare_loop(extractor: Extractor, batch_size: int, num_images: int) -> None:
    """Run the network alone on `num_images` images."""
    network = extractor.network
    pixels = torch.zeros(batch_size, 3, 32, 32, device=extractor.device)
    batch = network.prepare(pixels).contiguous(memory_format=torch.channels_last)
    with torch.autocast(extractor.device.type, torch.bfloat16, enabled=extractor.precision == "bf16"):
        for _ in range(-(-num_images // batch_size)):
            network.backbone(batch)


def fill_cache(extractor: Extractor, num_features: int, images: torch.Tensor, accelerator: Accelerator) -> None:
    """Compute the features of images into a cache that is empty."""
    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache(Path(folder), extractor.description(extractor.precision), num_features)
        cached_features(cache, images, extractor, extractor.batch_size, accelerator)


def compare(options: Namespace) -> None:
    """Measure both in turn and print their speeds and ratios."""
    settings = FrozenSettings(arch=options.arch, pretrained=False, input_size=options.input_size)
    precision, num_images, rounds = options.precision, options.num_images, options.rounds
    batch_sizes = [int(size) for size in options.batch_sizes.split(",")]
    accelerator = Accelerator()
    extractor = Extractor(settings, settings.input_size, find_weights(settings), accelerator.device)
    extractor.precision = precision
    images = torch.randint(256, (num_images, 3, 32, 32), dtype=torch.uint8)
    num_features = extractor(images[: extractor.batch_size]).shape[1]
    speeds: dict[str, list[float]] = {name: [] for name in [*(f"bare, batch {size}" for size in batch_sizes), "ours"]}
    for size in batch_sizes:
        bare_loop(extractor, size, size)
    for _ in range(rounds):
        for size in batch_sizes:
            whole = -(-num_images // size) * size
            elapsed = seconds(partial(bare_loop, extractor, size, num_images))
            speeds[f"bare, batch {size}"].append(whole / elapsed)
        elapsed = seconds(partial(fill_cache, extractor, num_features, images, accelerator))
        speeds["ours"].append(num_images / elapsed)
    print(f"{settings.arch} at {settings.input_size} px, {precision}, {num_images} images, {rounds} rounds, images/s:")
    for name, values in speeds.items():
        print(f"  {name:<18}{statistics.median(values):>10,.1f} ({min(values):,.1f}-{max(values):,.1f})")
    best = max((name for name in speeds if name != "ours"), key=lambda name: statistics.median(speeds[name]))
    ratios = [own / bare for own, bare in zip(speeds["ours"], speeds[best], strict=True)]
    print(f"ours (batch {extractor.batch_size}) over {best}, the best of them:")
    print(f"  {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")


def main(arguments: Sequence[str]) -> int:
    """Compare the two for one network; returns the exit code."""
    parser = Parser(
        prog="python -m analysis.feature_benchmark", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", default="vit_base_patch16_224", help="network of timm, with random weights")
    parser.add_argument("--input_size", type=int, default=224, help="side in pixels")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--batch_sizes", default="16,64,256", help="of the bare loop, comma-separated")
    parser.add_argument("--num_images", type=whole_number, default=512, help="of each measurement")
    parser.add_argument("--rounds", type=whole_number, default=5, help="times that each is measured")
    return run_program("feature_benchmark", lambda: compare(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
