"""How much of the classes a latent space holds: agreement of clusters, a linear probe, nearest neighbours."""

import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from analysis.record.findings import Table

NUM_STARTS = 3  # of k-means; on raw pixels of CIFAR-10 five starts end where one does
NUM_NEIGHBOURS = 10
PROBE_STRENGTH = 0.01  # scikit-learn's C: weight of the summed cross-entropy beside half the weights' squared norm
PROBE_STEPS = 100  # of L-BFGS at most; raw pixels use them all


class Clustering(NamedTuple):
    """The clusters that k-means found."""

    assignments: np.ndarray  # [N] cluster of each image
    centres: np.ndarray  # [K, Z]


class Agreement(NamedTuple):
    """How far clusters are classes."""

    majority: np.ndarray  # [K] most frequent class of each cluster
    purity: np.ndarray  # [K] that class's share of the cluster; 0 for an empty cluster
    matched: np.ndarray  # [K] class of each cluster if no two may share one; once classes run out, further numbers
    majority_accuracy: float
    hungarian_accuracy: float
    nmi: float  # normalised mutual information, by the arithmetic mean of the entropies
    ari: float  # adjusted Rand index: 0 for chance, 1 for equality


def cluster(features: np.ndarray, num_clusters: int, seed: int) -> Clustering:
    """Return the clusters of features by k-means: the best of three k-means++ starts.

    Args:
        features: [N, Z]; they are not scaled, so that units of which the decoder makes little use count little.
        num_clusters: at most N.
        seed: of the starts.
    """
    from sklearn.cluster import KMeans  # imported late: takes a second
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters: a collapsed model
        fitted = KMeans(num_clusters, n_init=NUM_STARTS, random_state=seed).fit(features)
    return Clustering(fitted.labels_, fitted.cluster_centers_)


def agreement(clustering: Clustering, labels: np.ndarray) -> Agreement:
    """Return how far clusters are classes, by the majority of each (many to one) and by a matching (one to one).

    Args:
        clustering: of N images.
        labels: [N] true classes.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    num_clusters = len(clustering.centres)
    counts = np.zeros((num_clusters, max(num_clusters, labels.max() + 1)), dtype=int)  # with empty classes if need be
    np.add.at(counts, (clustering.assignments, labels), 1)
    rows, matched = linear_sum_assignment(counts, maximize=True)
    return Agreement(
        majority=counts.argmax(1),
        purity=counts.max(1) / counts.sum(1).clip(1),
        matched=matched,
        majority_accuracy=float(counts.max(1).sum() / len(labels)),
        hungarian_accuracy=float(counts[rows, matched].sum() / len(labels)),
        nmi=float(normalized_mutual_info_score(labels, clustering.assignments)),
        ari=float(adjusted_rand_score(labels, clustering.assignments)),
    )


def linear_probe(train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray) -> float:
    """Return the test accuracy of a multinomial logistic regression on standardised features, with an L2 penalty.

    Args:
        train: [N, Z], of two classes at least.
        train_labels: [N].
        test: [M, Z].
        test_labels: [M].
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(C=PROBE_STRENGTH, max_iter=PROBE_STEPS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return float(probe.fit(train, train_labels).score(test, test_labels))


def nearest_neighbours(train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray) -> float:
    """Return the test accuracy of the vote of the 10 nearest training images; a tie goes to the lower class.

    Args:
        train: [N, Z].
        train_labels: [N].
        test: [M, Z].
        test_labels: [M].
    """
    # Euclidean distances by torch in float32 take two thirds of scikit-learn's time.
    points, votes = torch.as_tensor(train), torch.nn.functional.one_hot(torch.as_tensor(train_labels))
    num = min(NUM_NEIGHBOURS, len(points))
    parts = torch.as_tensor(test).split(1000)  # all distances at once might not fit into memory
    near = torch.cat([torch.cdist(part, points).topk(num, largest=False).indices for part in parts])  # [M, 10]
    return float((votes[near].sum(1).argmax(1).numpy() == test_labels).mean())


def compare(
    features: Mapping[str, tuple[np.ndarray, np.ndarray]],
    agreements: Mapping[str, Agreement],
    train_labels: np.ndarray,
    test_labels: np.ndarray,
) -> tuple[Table, dict[str, float]]:
    """Measure several kinds of features of the same images by the same scores.

    Args:
        features: by the kind's name, of the training images [N, Z] and of the test images [M, Z].
        agreements: by the kind's name, of the clusters of the test features with the classes.
        train_labels: [N].
        test_labels: [M].

    Returns:
        A table with a row for each kind, and the same as metrics named kind/score.
    """
    rows: list[tuple[str | float, ...]] = []
    metrics: dict[str, float] = {}
    for name, (train, test) in features.items():
        scores = {
            "kmeans_accuracy": agreements[name].majority_accuracy,
            "hungarian_accuracy": agreements[name].hungarian_accuracy,
            "nmi": agreements[name].nmi,
            "ari": agreements[name].ari,
            "probe_accuracy": linear_probe(train, train_labels, test, test_labels),
            "neighbour_accuracy": nearest_neighbours(train, train_labels, test, test_labels),
        }
        rows.append((name, test.shape[1], *(round(value, 4) for value in scores.values())))
        metrics |= {f"{name}/{key}": value for key, value in scores.items()}
    return Table(("features", "dimensions", *scores), rows), metrics
