"""How good a model's own images are: FID, KID, precision, recall, density, coverage, Inception Score.

Of any model that samples, at any time by `measure`, or of a finished run by `python -m analysis.generation RUN`.
"""

from hashlib import sha256

import torch
from torch import Tensor

from analysis.drawing import IMAGES_AT_ONCE, Sample, draw, to_pixels
from analysis.extractors import Extractor
from analysis.generation_scores import (
    NEIGHBOURS,
    Gaussian,
    fit_gaussian,
    frechet_distance,
    inception_score,
    kernel_distance,
    manifold_scores,
    square_root,
)
from analysis.run_folder import replace_file
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
    cache = FeatureCache(cache_dir() / "features", extractor.description(), extractor.num_features)
    real = real_features(cache, real_images, extractor, quiet)
    drawn = draw(sample, num_images, seed, quiet=quiet)
    fake = torch.cat([extractor(part) for images in drawn for part in images.split(extractor.batch_size)])
    gaussian, root = real_gaussian(cache, real_images, real)
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


def real_features(cache: FeatureCache, images: Tensor, extractor: Extractor, quiet: bool) -> Tensor:
    """Features [N, D] of real images [N, 3, H, W] uint8, from the cache where it has them."""
    hashes, known = hash_images(images), cache.rows()
    missing = [i for i, key in enumerate(hashes) if key not in known]
    if missing and not compute_missing(cache, images, hashes, missing, extractor, extractor.batch_size, quiet):
        raise UserError(
            f"{cache.folder.name}: a feature of a real image is not a finite number: give another extractor"
        )
    return cache.read(hashes)


def real_gaussian(cache: FeatureCache, images: Tensor, features: Tensor) -> tuple[Gaussian, Tensor]:
    """Mean and covariance of the features of real images, and its root, from the cache where it has them."""
    key = sha256(b"".join(hash_images(images))).hexdigest()[:16]
    path = cache.folder / f"gaussian-{key}.pt"
    if not path.exists():
        gaussian = fit_gaussian(features)
        content = {**gaussian._asdict(), "root": square_root(gaussian.covariance)}
        replace_file(path, lambda unfinished: torch.save(content, unfinished))
    content = torch.load(path, weights_only=True)
    return Gaussian(content["mean"], content["covariance"]), content["root"]
