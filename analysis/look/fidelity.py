"""How good the samples of a model are: FID, KID, precision, recall, density, coverage and Inception Score.

`measure` takes any model that samples, in training or after it; `measure_run` takes a finished run.
"""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from analysis.look.extractors import Extractor
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
from analysis.look.samples import IMAGES_AT_ONCE, Sample, sample_images, sampler, to_pixels
from analysis.look.trained_run import TrainedRun, best_device
from analysis.record import run_folder
from data.errors import UserError
from data.feature_cache import FeatureCache, compute_missing, hash_images
from data.files import read_json, write_json
from data.loader import Loader
from data.paths import feature_dir
from models.core import checkpoint


def measure(
    sample: Sample, is_conditional: bool, loader: Loader, extractor: Extractor, num_images: int, seed: int
) -> dict[str, float]:
    """Compare samples of a model with the images of a split, in this process and on its device.

    The split gives as many images, of all classes in proportion, or all it has if those are fewer. Their features are
    kept in the user's cache folder. A conditional model is asked for samples of the very classes of these images: of
    other shares, perfect samples would not be like them.

    Args:
        sample: of a model in evaluation mode.
        is_conditional: whether it takes labels.
        loader: of the real images.
        extractor: network whose features are compared.
        num_images: samples, more than 5.
        seed: of the samples.

    Returns:
        fid, kid, precision, recall, density, coverage and, if the extractor knows classes, inception_score; each name
        ends with the extractor and the number of samples, as fid_inception_2000.

    Raises:
        UserError: fewer images than neighbours.
    """
    check_numbers(num_images, len(loader))
    num_real = min(num_images, len(loader))
    real_images = pick(loader, num_real)
    classes = loader.labels_in_proportion(num_real).tolist() if is_conditional else []
    hashes = hash_images(real_images)
    cache = FeatureCache(feature_dir(), extractor.description(), extractor.num_features)
    real = real_features(cache, real_images, hashes, extractor)
    sampled = sample_images(sample, num_images, seed, classes)
    fake = torch.cat([extractor(part) for images in sampled for part in images.split(extractor.batch_size)])
    probabilities = extractor.classify(fake)
    if fake.device.type == "mps":  # which lacks float64
        fake = fake.cpu()
    gaussian, root = real_gaussian(cache, hashes, real)
    scores = {
        "fid": frechet_distance(gaussian, fit_gaussian(fake.cpu()), root),
        "kid": kernel_distance(real.to(fake), fake),
        **manifold_scores(real.to(fake), fake),
    }
    if probabilities is not None:
        scores["inception_score"] = inception_score(probabilities.to(fake.device))
    return {f"{name}_{extractor.name}_{num_images}": value for name, value in scores.items()}


def check_numbers(num_images: int, num_real: int) -> None:
    """Refuse samples or real images of which some would have fewer than 5 neighbours.

    Raises:
        UserError: there are fewer than 6 of either.
    """
    if min(num_images, num_real) <= NEIGHBOURS:
        raise UserError(f"{num_images} generated and {num_real} real images: there must be {NEIGHBOURS + 1} of each")


def pick(loader: Loader, num: int) -> Tensor:
    """Return images of a split, of all classes in proportion: [num, 3, H, W] uint8."""
    return torch.cat([to_pixels(loader.pictures(part)).cpu() for part in loader.some(num).split(IMAGES_AT_ONCE)])


def real_features(cache: FeatureCache, images: Tensor, hashes: list[bytes], extractor: Extractor) -> Tensor:
    """Return the features [N, D] of real images, and add to the cache those that it lacks.

    Args:
        cache: of the extractor.
        images: [N, 3, H, W] uint8.
        hashes: N, of the images.
        extractor: of the features.

    Raises:
        UserError: a feature is not a finite number.
    """
    known = cache.rows()
    missing = [i for i, key in enumerate(hashes) if key not in known]
    if missing and not compute_missing(cache, images, hashes, missing, extractor, extractor.batch_size, quiet=False):
        raise UserError(
            f"{cache.folder.name}: a feature of a real image is not a finite number: give another extractor"
        )
    return cache.read(hashes)


def real_gaussian(cache: FeatureCache, hashes: list[bytes], features: Tensor) -> tuple[Gaussian, Tensor]:
    """Return mean and covariance of features [N, D], and the covariance's root; keep them beside the features.

    Args:
        cache: of the features.
        hashes: N, of the images, by which they are found again.
        features: [N, D].
    """
    key = sha256(b"".join(hashes)).hexdigest()[:16]
    path = cache.folder / f"gaussian-{key}.pt"
    if not path.exists():
        gaussian = fit_gaussian(features)
        content = {**gaussian._asdict(), "root": square_root(gaussian.covariance)}
        checkpoint.save(path, content)
    content = torch.load(path, weights_only=True)
    return Gaussian(content["mean"], content["covariance"]), content["root"]


def keep(folder: Path, metrics: Mapping[str, float], weights: str) -> Path:
    """Add metrics of a run's samples to those of the same weights that its folder keeps; return their file.

    Args:
        folder: of the run.
        metrics: by name.
        weights: what `run_folder.weights_fingerprint` told before they were loaded; a run in progress replaces them.
    """
    path = folder / run_folder.GENERATION
    known = read_json(path)
    if known.get(run_folder.MEASURED) != weights:  # or of a version that did not say which
        known = {}
    write_json(path, {**known, **metrics, run_folder.MEASURED: weights})
    return path


def measure_run(run: TrainedRun, extractor: Extractor, split: str, num_images: int, seed: int) -> dict[str, float]:
    """Compare the samples of a finished run with a split of its images; return the metrics by name, as split/metric.

    Raises:
        UserError: the run has no such split, or there are fewer images than neighbours.
    """
    loader = Loader(run.split(split), run.info, best_device())
    metrics = measure(sampler(run), bool(run.objective.num_labels), loader, extractor, num_images, seed)
    return {f"{split}/{name}": value for name, value in metrics.items()}
