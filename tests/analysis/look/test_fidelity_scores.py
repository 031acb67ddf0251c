"""Scores of features against closed forms, hand arithmetic, brute force and torchmetrics."""

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.stats import entropy
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from analysis.look.fidelity_scores import (
    fit_gaussian,
    frechet_distance,
    inception_score,
    kernel_distance,
    manifold_scores,
    square_root,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def random_features(num, size, seed=0, shift=0.0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((num, size)) + shift)


def fid(real, fake):
    gaussian = fit_gaussian(real)
    return frechet_distance(gaussian, fit_gaussian(fake), square_root(gaussian.covariance))


def features_of(mean, covariance, num=200, seed=0):
    """Features whose mean and unbiased covariance are exactly these."""
    rows = random_features(num, len(mean), seed).numpy()
    rows -= rows.mean(axis=0)
    white = rows @ np.linalg.inv(np.linalg.cholesky(np.cov(rows, rowvar=False))).T
    return torch.from_numpy(white @ np.linalg.cholesky(covariance).T + mean)


def random_covariance(size, seed):
    factor = np.random.default_rng(seed).standard_normal((size, 2 * size))
    return factor @ factor.T / size


def test_fid_of_gaussians_with_independent_features_is_that_by_hand():
    real = features_of(np.array([0.0, 1.0, 2.0]), np.diag([1.0, 4.0, 9.0]))
    fake = features_of(np.array([1.0, 1.0, 0.0]), np.diag([4.0, 4.0, 1.0]), seed=1)
    # Shifts 1 and 2; deviations 1 and 2, 2 and 2, 3 and 1.
    assert fid(real, fake) == pytest.approx(1 + 4 + 1 + 0 + 4, abs=1e-9)


@pytest.mark.parametrize("size", [5, 60])
def test_fid_of_gaussians_is_the_closed_form_to_a_thousandth(size):
    means = np.random.default_rng(5).standard_normal((2, size))
    real, fake = (random_covariance(size, seed) for seed in (1, 2))
    root = scipy.linalg.sqrtm(real @ fake).real
    expected = np.square(means[0] - means[1]).sum() + np.trace(real + fake - 2 * root)
    result = fid(features_of(means[0], real), features_of(means[1], fake, num=300, seed=1))
    assert result == pytest.approx(expected, abs=1e-3, rel=0)
    assert result == pytest.approx(expected, rel=1e-9)


def test_fid_of_fewer_images_than_features_is_exact():
    real, fake = random_features(20, 50), random_features(30, 50, seed=1)
    centred = [(rows - rows.mean(dim=0)).numpy() / np.sqrt(len(rows) - 1) for rows in (real, fake)]
    common = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()  # the same trace, with no root at all
    spread = sum(np.square(rows).sum() for rows in centred)
    shift = (real.mean(dim=0) - fake.mean(dim=0)).square().sum().item()
    assert fid(real, fake) == pytest.approx(shift + spread - 2 * common, abs=1e-3, rel=0)
    assert fid(real, real) == pytest.approx(0, abs=1e-3)


def as_torchmetrics(metric, real, fake):
    metric = metric.set_dtype(torch.float64)
    for rows, is_real in ((real, True), (fake, False)):
        metric.update(rows, real=is_real)
    return metric.compute()


class Given(torch.nn.Module):
    """Features of images that are features already, whatever torchmetrics has made of their range."""

    num_features = 16

    def forward(self, images):
        return images.double()


def test_fid_and_kid_are_those_of_torchmetrics():
    real, fake = (random_features(400, 16, seed).clamp(-3, 3) * 20 + 100 for seed in (0, 1))
    real, fake = (rows.round().byte() for rows in (real, fake * 1.1))  # which takes uint8 alone
    theirs = as_torchmetrics(FrechetInceptionDistance(Given(), normalize=False), real, fake)
    assert fid(real, fake) == pytest.approx(theirs.item(), rel=1e-6)
    whole = KernelInceptionDistance(Given(), subsets=1, subset_size=400, normalize=False)
    mean, _ = as_torchmetrics(whole, real, fake)
    assert kernel_distance(real, fake) == pytest.approx(mean.item(), rel=1e-6)


@pytest.mark.parametrize("rows_at_once", [3, 1024])
def test_kid_is_that_of_two_loops(rows_at_once, monkeypatch):
    monkeypatch.setattr("analysis.look.fidelity_scores.ROWS_AT_ONCE", rows_at_once)
    real, fake = random_features(7, 4), random_features(9, 4, seed=1, shift=0.5)

    def mean(rows, columns, among_themselves):
        values = [
            (rows[i] @ columns[j] / 4 + 1) ** 3
            for i in range(len(rows))
            for j in range(len(columns))
            if not (among_themselves and i == j)
        ]
        return np.mean(values)

    expected = mean(real, real, True) + mean(fake, fake, True) - 2 * mean(real, fake, False)
    assert kernel_distance(real, fake) == pytest.approx(expected, rel=1e-9)


def test_kid_is_unbiased():
    # A biased estimate of 20 images each would be above 0 every time.
    values = [kernel_distance(*random_features(40, 8, seed).split(20)) for seed in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(300)
    assert min(values) < 0


def brute_force(real, fake, k):
    def ball(points, i):
        return sorted(np.linalg.norm(points - points[i], axis=1))[k]  # the nearest is itself

    def distances(one, other):
        return np.array([[np.linalg.norm(a - b) for b in other] for a in one])

    between = distances(real, fake)
    real_balls = np.array([ball(real, i) for i in range(len(real))])
    fake_balls = np.array([ball(fake, i) for i in range(len(fake))])
    inside = between < real_balls[:, None]
    return {
        "precision": np.mean([inside[:, j].any() for j in range(len(fake))]),
        "recall": np.mean([(between[i] < fake_balls).any() for i in range(len(real))]),
        "density": inside.sum() / (k * len(fake)),
        "coverage": np.mean([between[i].min() < real_balls[i] for i in range(len(real))]),
    }


@pytest.mark.parametrize("k", [1, 5])
def test_precision_recall_density_and_coverage_are_those_of_brute_force(k, monkeypatch):
    monkeypatch.setattr("analysis.look.fidelity_scores.ROWS_AT_ONCE", 7)
    real, fake = random_features(40, 3), random_features(30, 3, seed=1, shift=0.8)
    scores = manifold_scores(real, fake, k)
    assert scores == pytest.approx(brute_force(real.numpy(), fake.numpy(), k))
    assert 0 < scores["coverage"] < 1


def test_precision_recall_density_and_coverage_by_hand():
    real = torch.tensor([[0.0], [1.0], [3.0], [7.0]])  # balls of 1, 1, 2, 4 to the nearest neighbour
    fake = torch.tensor([[0.5], [4.0], [20.0], [20.5]])  # balls of 3.5, 3.5, 0.5, 0.5
    # 0.5 lies in the balls of 0 and 1, 4 in those of 3 and 7, the others in none.
    expected = {"precision": 2 / 4, "recall": 4 / 4, "density": 4 / 4, "coverage": 4 / 4}
    assert manifold_scores(real, fake, 1) == expected


def test_a_collapsed_model_is_precise_and_covers_nothing():
    real = random_features(200, 4)
    fake = real[:1] + 1e-3 * random_features(200, 4, seed=1)
    scores = manifold_scores(real, fake)
    assert scores["precision"] == 1
    assert max(scores["recall"], scores["coverage"]) < 0.05


def test_inception_score_by_hand():
    sure = torch.eye(4).repeat(50, 1)  # every class as often, each image of one for certain
    assert inception_score(sure) == pytest.approx(4)
    assert inception_score(torch.full((200, 4), 0.25)) == pytest.approx(1)
    assert inception_score(sure[::4]) == pytest.approx(1)  # one class alone


def test_inception_score_is_the_mean_over_ten_parts_of_scipys_relative_entropy():
    shares = random_features(200, 6).softmax(dim=1)
    parts = shares.numpy().reshape(10, 20, 6)
    expected = np.mean([np.exp(np.mean([entropy(p, part.mean(axis=0)) for p in part])) for part in parts])
    assert inception_score(shares) == pytest.approx(expected)


@pytest.mark.parametrize("num", [11, 19, 95, 200])
def test_inception_score_of_any_number_is_over_the_ten_parts_of_the_authors_code(num):
    shares = random_features(num, 6, seed=1).softmax(dim=1)
    scores = []
    for i in range(10):
        part = shares.numpy()[(i * num) // 10 : ((i + 1) * num) // 10]
        kl = part * (np.log(part) - np.log(np.expand_dims(np.mean(part, 0), 0)))
        scores.append(np.exp(np.mean(np.sum(kl, 1))))
    assert inception_score(shares) == pytest.approx(np.mean(scores))


def test_inception_score_of_fewer_images_than_parts_is_one():
    assert inception_score(torch.eye(4)) == pytest.approx(1)
