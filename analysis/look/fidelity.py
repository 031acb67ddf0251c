"""How good a model's own images are: FID, KID, precision, recall, density, coverage, Inception Score.

Of any model that samples, at any time by `measure`, or of a finished run by `python -m analysis.generation RUN`.
"""

import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from analysis.command_line import Parser, run_program, whole_number
from analysis.look.extractors import INCEPTION, Extractor, build_extractor
from analysis.look.fidelity_scores import (
    NEIGHBOURS,
    Gaussian,
    fit_gaussian,
    frechet_distance,
    inception_score,
    kernel_distance,
    manifold_scores,
    square_root,
)
from analysis.look.samples import IMAGES_AT_ONCE, Sample, draw, load_drawing_run, to_pixels
from analysis.look.trained_run import best_device, find_run
from analysis.record import run_folder
from data.errors import UserError
from data.feature_cache import FeatureCache, compute_missing, hash_images
from data.loader import Loader
from data.paths import cache_dir


def measure(
    sample: Sample, loader: Loader, extractor: Extractor, num_images: int, seed: int, quiet: bool = False
) -> dict[str, float]:
    """Hold a model's images against those of a split; by one process, on its own device.

    As many images of the split are taken, evenly spaced, or all where it has no more. Their features are kept in the
    user's cache folder.

    Args:
        sample: the model's; it must be in evaluation mode.
        loader: of the real images.
        extractor: what sees both.
        num_images: how many the model draws, more than 5.
        seed: of its images.
        quiet: no progress bars.

    Returns:
        Metrics by name: fid, kid, precision, recall, density, coverage, and inception_score where the extractor knows
        classes, each followed by the extractor and the number of images: fid_inception_2000.

    Raises:
        UserError: fewer images than neighbours.
    """
    num_real = min(num_images, len(loader))
    if num_real <= NEIGHBOURS:
        raise UserError(f"{num_images} generated and {len(loader)} real images: there must be {NEIGHBOURS + 1} of each")
    real_images = pick(loader, num_real)
    hashes = hash_images(real_images)
    cache = FeatureCache(cache_dir() / "features", extractor.description(), extractor.num_features)
    real = real_features(cache, real_images, hashes, extractor, quiet)
    drawn = draw(sample, num_images, seed, quiet=quiet)
    fake = torch.cat([extractor(part) for images in drawn for part in images.split(extractor.batch_size)])
    gaussian, root = real_gaussian(cache, hashes, real)
    scores = {
        "fid": frechet_distance(gaussian, fit_gaussian(fake.cpu()), root),
        "kid": kernel_distance(real.to(fake), fake),
        **manifold_scores(real.to(fake), fake),
    }
    probabilities = extractor.classify(fake)
    if probabilities is not None:
        scores["inception_score"] = inception_score(probabilities)
    return {f"{name}_{extractor.name}_{num_images}": value for name, value in scores.items()}


def pick(loader: Loader, num: int) -> Tensor:
    """Images of a split, evenly spaced, so that they hold the classes in their proportions: [num, 3, H, W] uint8."""
    index = torch.arange(num) * len(loader) // num
    return torch.cat([to_pixels(loader.pictures(part)).cpu() for part in index.split(IMAGES_AT_ONCE)])


def real_features(
    cache: FeatureCache, images: Tensor, hashes: list[bytes], extractor: Extractor, quiet: bool
) -> Tensor:
    """Features [N, D] of real images [N, 3, H, W] uint8 and their hashes, from the cache where it has them."""
    known = cache.rows()
    missing = [i for i, key in enumerate(hashes) if key not in known]
    if missing and not compute_missing(cache, images, hashes, missing, extractor, extractor.batch_size, quiet):
        raise UserError(
            f"{cache.folder.name}: a feature of a real image is not a finite number: give another extractor"
        )
    return cache.read(hashes)


def real_gaussian(cache: FeatureCache, hashes: list[bytes], features: Tensor) -> tuple[Gaussian, Tensor]:
    """Mean and covariance of the features of images with these hashes, and its root, from the cache if there."""
    key = sha256(b"".join(hashes)).hexdigest()[:16]
    path = cache.folder / f"gaussian-{key}.pt"
    if not path.exists():
        gaussian = fit_gaussian(features)
        content = {**gaussian._asdict(), "root": square_root(gaussian.covariance)}
        run_folder.replace_file(path, lambda unfinished: torch.save(content, unfinished))
    content = torch.load(path, weights_only=True)
    return Gaussian(content["mean"], content["covariance"]), content["root"]


def keep(folder: Path, metrics: Mapping[str, float]) -> Path:
    """Add metrics to those that are kept of a run's images; returns their file."""
    path = folder / run_folder.GENERATION
    run_folder.write_json(path, {**run_folder.read_json(path), **metrics})
    return path


def measure_run(options: Namespace) -> None:
    """Measure the images of a finished run, print the figures and keep them in its folder.

    Raises:
        UserError: no such run or split, no weights, a model that draws nothing, or an extractor that cannot be had.
    """
    folder = find_run(options.run)
    extractors = [build_extractor(name, best_device()) for name in options.extractor]
    run = load_drawing_run(folder, options.data_dir)
    if options.split not in run.splits:
        raise UserError(f"--split={options.split}: the run has {', '.join(run.splits)}")
    loader = Loader(run.splits[options.split], run.info, best_device())
    for extractor in extractors:
        metrics = measure(run.objective.sample, loader, extractor, options.num, options.seed)
        named = {f"{options.split}/{name}": value for name, value in metrics.items()}
        print(*(f"{name:<44}{value:12.5f}" for name, value in named.items()), sep="\n")
        if extractor.classify(torch.zeros(1, extractor.num_features, device=best_device())) is None:
            print(f"no Inception Score by {extractor.name}: its weights come without classes")
        path = keep(folder, named)
    print(path)


def main(arguments: Sequence[str]) -> int:
    """Measure a run, or say in one line what keeps it from being measured; returns the exit code."""
    parser = Parser(
        prog="python -m analysis.generation", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="folder of a run, or its id in runs/ ($VISION_SWEEPS_RUNS)")
    parser.add_argument("--num", type=whole_number, default=10_000, help="images to draw (default: 10000)")
    parser.add_argument(
        "--extractor",
        nargs="+",
        default=[INCEPTION],
        metavar="NETWORK",
        help="inception, the network of FID, or names of timm's networks (default: inception)",
    )
    parser.add_argument("--split", default="test", help="the real images to hold them against (default: test)")
    parser.add_argument("--seed", type=int, default=0, help="of the images (default: 0)")
    parser.add_argument("--data_dir", default="", help="as for train.py; default: as the run was told")
    return run_program("generation", lambda: measure_run(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
