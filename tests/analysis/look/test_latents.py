import csv
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from analysis.latent import main
from analysis.look.latent_figures import (
    cluster_panel,
    draw_embedding,
    embed,
    interpolate,
    interpolation_panel,
    traversal_panel,
)
from analysis.look.latent_scores import (
    Clustering,
    agreement,
    cluster,
    compare,
    linear_probe,
    nearest_neighbours,
)
from analysis.look.latents import Encoded, Scores, choose, draw, encode, name_clusters, score, untrained_like
from analysis.record import run_folder
from analysis.record.findings import Analysis
from analysis.record.resume import resolve
from data.dataset import DatasetInfo, Split
from data.datasets import describe
from data.files import write_json
from data.loader import Loader
from models.core import checkpoint
from models.loading import build_objective

CLASSES = ("ant", "bee", "cat", "dog")
INFO = DatasetInfo("synthetic", 8, CLASSES, (0.0,) * 3, (1.0,) * 3, {}, "")
SCORES = ("kmeans_accuracy", "hungarian_accuracy", "nmi", "ari", "probe_accuracy", "neighbour_accuracy")


@pytest.fixture(autouse=True)
def same_threads():
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


def blobs(num, num_classes=4, num_units=6, spread=0.1, seed=0):
    """Latents well apart by class, and their classes."""
    random = np.random.default_rng(seed)
    labels = np.arange(num) % num_classes
    centres = 3 * np.eye(num_classes, num_units)
    return (centres[labels] + spread * random.standard_normal((num, num_units))).astype(np.float32), labels


def clusters_of(assignments):
    assignments = np.array(assignments)
    return Clustering(assignments, np.zeros((assignments.max() + 1, 1)))


def test_permuted_classes_agree_perfectly():
    labels = np.arange(40) % 4
    found = agreement(clusters_of(np.array([2, 0, 3, 1])[labels]), labels)
    assert found.majority.tolist() == found.matched.tolist() == [1, 3, 0, 2]
    assert found.purity.tolist() == [1, 1, 1, 1]
    figures = (found.majority_accuracy, found.hungarian_accuracy, found.nmi, found.ari)
    assert figures == pytest.approx((1, 1, 1, 1))


def test_chance_clusters_have_no_adjusted_rand_index():
    random = np.random.default_rng(0)
    found = agreement(clusters_of(random.integers(10, size=20_000)), random.integers(10, size=20_000))
    assert abs(found.ari) < 1e-3
    assert found.nmi < 2e-3
    assert 0.1 <= found.hungarian_accuracy <= found.majority_accuracy < 0.13


def test_majority_vote_lets_two_clusters_share_a_class_and_the_matching_does_not():
    # Rows are clusters, columns classes: (3, 0), (2, 1). Both clusters are mostly class 0.
    found = agreement(clusters_of([0, 0, 0, 1, 1, 1]), np.array([0, 0, 0, 0, 0, 1]))
    assert found.majority.tolist() == [0, 0]
    assert found.purity.tolist() == pytest.approx([1, 2 / 3])
    assert found.majority_accuracy == pytest.approx(5 / 6)
    assert found.matched.tolist() == [0, 1]
    assert found.hungarian_accuracy == pytest.approx(4 / 6)


@pytest.mark.parametrize(("num_clusters", "num_classes"), [(3, 3), (5, 3), (3, 5)])
def test_agreement_is_that_of_scipy_and_sklearn_whatever_the_numbers(num_clusters, num_classes):
    random = np.random.default_rng(1)
    labels = random.integers(num_classes, size=200)
    assignments = np.where(random.random(200) < 0.5, labels, random.integers(num_clusters, size=200)) % num_clusters
    found = agreement(clusters_of(assignments), labels)
    counts = np.array(
        [[(labels[assignments == k] == c).sum() for c in range(num_classes)] for k in range(num_clusters)]
    )
    rows, columns = linear_sum_assignment(-counts)
    assert found.hungarian_accuracy == pytest.approx(counts[rows, columns].sum() / 200)
    assert found.majority_accuracy == pytest.approx(sum(max(row) for row in counts) / 200)
    assert found.nmi == pytest.approx(normalized_mutual_info_score(labels, assignments))
    assert found.ari == pytest.approx(adjusted_rand_score(labels, assignments))
    assert len(set(found.matched)) == num_clusters


def test_an_empty_cluster_is_pure_of_nothing():
    found = agreement(Clustering(np.array([0, 0, 2]), np.zeros((3, 1))), np.array([1, 1, 0]))
    assert found.purity.tolist() == [1, 0, 1]
    assert found.majority_accuracy == 1


def test_k_means_finds_clusters_that_are_there_and_their_centres():
    latents, labels = blobs(200)
    clustering = cluster(latents, 4, seed=0)
    assert agreement(clustering, labels).hungarian_accuracy == 1
    for number, centre in enumerate(clustering.centres):
        np.testing.assert_allclose(centre, latents[clustering.assignments == number].mean(0), atol=1e-4)


@pytest.mark.slow
def test_clusters_are_a_function_of_the_seed_and_the_best_of_several_starts():
    latents = np.random.default_rng(0).standard_normal((500, 8)).astype(np.float32)
    first, second, other = (cluster(latents, 10, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.assignments, second.assignments)
    assert (first.assignments != other.assignments).any()
    inertia = ((latents - first.centres[first.assignments]) ** 2).sum()
    assert inertia <= KMeans(10, n_init=1, random_state=3).fit(latents).inertia_ * (1 + 1e-5)


@pytest.mark.slow
def test_neighbours_vote_as_in_sklearn():
    random = np.random.default_rng(0)
    labels, test_labels = random.integers(4, size=1500), random.integers(4, size=1200)
    train = (random.standard_normal((1500, 5)) + labels[:, None]).astype(np.float32)
    test = (random.standard_normal((1200, 5)) + test_labels[:, None]).astype(np.float32)
    expected = KNeighborsClassifier(10, algorithm="brute").fit(train, labels).score(test, test_labels)
    assert 0.3 < expected < 0.95
    assert nearest_neighbours(train, labels, test, test_labels) == pytest.approx(expected)


def test_fewer_training_images_than_neighbours_all_vote():
    assert nearest_neighbours(np.zeros((3, 2)), np.array([1, 1, 0]), np.ones((2, 2)), np.array([1, 0])) == 0.5


def test_a_probe_learns_what_is_linear_whatever_its_scale_and_nothing_else():
    random = np.random.default_rng(0)
    features = random.standard_normal((2000, 2)).astype(np.float32)
    scaled = features * np.array([1e-3, 1e3], dtype=np.float32)
    linear, crossed = (features[:, 0] > 0).astype(int), (features.prod(1) > 0).astype(int)
    assert linear_probe(scaled[:1000], linear[:1000], scaled[1000:], linear[1000:]) > 0.97
    assert linear_probe(scaled[:1000], crossed[:1000], scaled[1000:], crossed[1000:]) < 0.7
    assert linear_probe(scaled[:1000], linear[:1000], scaled[1000:], 1 - linear[1000:]) < 0.03


@pytest.mark.slow
def test_the_comparison_tells_features_with_classes_from_noise():
    train, train_labels = blobs(400, seed=1)
    test, labels = blobs(200, seed=2)
    random = np.random.default_rng(0)
    noise = random.standard_normal((600, 3)).astype(np.float32)
    features = {"latent": (train, test), "pixels": (noise[:400], noise[400:])}
    agreements = {name: agreement(cluster(rows, 4, 0), labels) for name, (_, rows) in features.items()}
    table, metrics = compare(features, agreements, train_labels, labels)
    assert list(metrics) == [f"{name}/{score}" for name in features for score in SCORES]
    assert table.columns == ("features", "dimensions", *SCORES)
    assert [row[:2] for row in table.rows] == [("latent", 6), ("pixels", 3)]
    assert all(metrics[f"latent/{score}"] > 0.99 for score in SCORES)
    assert metrics["pixels/ari"] < 0.1
    assert max(metrics["pixels/probe_accuracy"], metrics["pixels/neighbour_accuracy"]) < 0.4
    assert list(table.rows[1][2:]) == [round(metrics[f"pixels/{score}"], 4) for score in SCORES]


@pytest.mark.slow
@pytest.mark.parametrize("many_points", [0, 1000])
def test_a_map_keeps_neighbours_by_either_way_to_its_forces(many_points, monkeypatch):
    monkeypatch.setattr("analysis.look.latent_figures.MANY_POINTS", many_points)
    latents, labels = blobs(120)
    points = embed(latents, seed=0)
    assert points.shape == (120, 2)
    near = NearestNeighbors(n_neighbors=6).fit(points).kneighbors(return_distance=False)
    assert (labels[near] == labels[:, None]).mean() > 0.99


@pytest.mark.slow
def test_a_map_is_a_function_of_the_seed():
    latents = np.random.default_rng(0).standard_normal((120, 6)).astype(np.float32)
    points = embed(latents, seed=0)
    np.testing.assert_array_equal(points, embed(latents, seed=0))
    torch.set_num_threads(2 if torch.get_num_threads() == 1 else 1)
    np.testing.assert_array_equal(points, embed(latents, seed=0))


@pytest.mark.slow
@pytest.mark.parametrize("latents", [np.zeros((40, 5)), np.random.default_rng(0).standard_normal((5, 3))])
def test_collapsed_or_few_latents_have_a_map_too(latents):
    assert np.isfinite(embed(latents.astype(np.float32), seed=0)).all()


def test_a_map_that_is_flat_is_drawn_in_a_frame_that_is_not(tmp_path):
    points = np.stack([np.linspace(0, 100, 18), np.linspace(0, 5, 18)], axis=1)
    draw_embedding(points, {"class": (np.zeros(18, int), {0: "cat"})}, tmp_path / "map.png")
    is_drawn = np.asarray(Image.open(tmp_path / "map.png").convert("L")) < 250
    frame = is_drawn.mean(axis=1) > 0.5  # rows with a line from left to right
    top, *_, bottom = np.flatnonzero(frame)
    assert bottom - top > 0.7 * len(is_drawn)


def test_interpolations_turn_evenly_and_keep_their_ends():
    start, end = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    [path] = interpolate(start, end, torch.tensor([0, 1 / 3, 1 / 2, 1]))
    third = 2 + 2 / 3  # its length; 30 degrees are a third of the way
    expected = [[2, 0], [third * 3**0.5 / 2, third / 2], [3 / 2**0.5, 3 / 2**0.5], [0, 4]]
    torch.testing.assert_close(path, torch.tensor(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("end", [[3.0, 3.0], [0.0, 0.0], [-1.0, -1.0], [1.0, 1.0]])
def test_interpolations_without_a_plane_to_turn_in_are_straight(end):
    [path] = interpolate(torch.ones(1, 2), torch.tensor([end]), torch.tensor([0, 0.25, 1]))
    expected = [[1, 1], [0.75 + end[0] / 4, 0.75 + end[1] / 4], end]
    torch.testing.assert_close(path, torch.tensor(expected), atol=1e-4, rtol=0)


def as_images(latents):
    """Latents [B, Z] as images whose first pixels hold them."""
    images = torch.zeros(len(latents), 3, 8, 8)
    images[:, 0, 0, : latents.shape[1]] = latents
    return images


def test_an_interpolations_row_lies_between_its_two_images():
    latents, pictures = torch.rand(4, 3), torch.rand(4, 3, 8, 8)
    panel = interpolation_panel(as_images, latents, pictures, CLASSES)
    rows = panel.images.unflatten(0, (2, panel.columns))
    torch.testing.assert_close(rows[:, [0, -1]].flatten(0, 1), pictures)
    torch.testing.assert_close(rows[:, [1, -2]].flatten(0, 1), as_images(latents), atol=1e-5, rtol=0)
    assert panel.captions == ("ant", *[""] * 8, "bee", "cat", *[""] * 8, "dog")


def test_samples_round_a_centre_have_the_clusters_own_spread(monkeypatch):
    monkeypatch.setattr("analysis.look.latent_figures.NUM_SAMPLES", 4000)
    latents = torch.tensor([[0.0, 5.0], [2.0, 5.0], [9.0, 9.0]])
    panel = cluster_panel(as_images, latents, np.array([0, 0, 2]), ("0: ant 50 %", "empty", "2: cat 100 %"), seed=0)
    drawn = panel.images[:, 0, 0, :2].unflatten(0, (2, 4001))  # a row for each cluster that is not empty
    assert panel.captions == ("0: ant 50 %", *[""] * 4000, "2: cat 100 %", *[""] * 4000)
    torch.testing.assert_close(drawn[:, 0], torch.tensor([[1.0, 5.0], [9.0, 9.0]]))
    torch.testing.assert_close(drawn[:, 1:].mean(1), drawn[:, 0], atol=0.05, rtol=0)
    torch.testing.assert_close(drawn[:, 1:].std(1), torch.tensor([[1.0, 0.0], [0.0, 0.0]]), atol=0.05, rtol=0)


def test_a_traversal_moves_one_unit_at_a_time_the_most_active_first():
    latents = torch.tensor([[1.0, 0.0, 5.0], [3.0, 0.2, 5.0]])  # deviations 1, 0.1 and 0 round 2, 0.1 and 5
    picture = torch.rand(3, 8, 8)
    panel = traversal_panel(as_images, latents, latents[0], picture)
    rows = panel.images.unflatten(0, (3, 8))
    assert all(torch.equal(row[0], picture) for row in rows)
    moved = rows[:, 1:, 0, 0, :3]
    steps = torch.arange(-3.0, 4)
    torch.testing.assert_close(moved[0], torch.stack([2 + steps, 0 * steps, 0 * steps + 5], dim=1))
    torch.testing.assert_close(moved[1], torch.stack([0 * steps + 1, 0.1 + 0.1 * steps, 0 * steps + 5], dim=1))
    assert panel.captions[::8] == ("unit 0, deviation 1.00", "unit 1, deviation 0.10", "unit 2, deviation 0.00")


@pytest.mark.parametrize("num_names", [2, 10, 20, 200])
def test_points_of_a_map_have_the_colours_of_their_numbers(num_names, tmp_path):
    points, numbers = np.random.default_rng(0).random((400, 2)), np.arange(400) % num_names
    names = {number: f"class {number}" for number in range(num_names)}
    draw_embedding(points, {"clusters": (numbers, names), "classes": (numbers[::-1], names)}, tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as image:
        assert image.size == (1400, 800)
        colours = {colour for count, colour in image.convert("RGB").getcolors(2**24) if count > 40}
    assert len(colours) >= min(num_names, 20)


class Model:
    """Latents that hold the classes, found in the first pixels of an image."""

    def encode(self, images):
        return 10 * images[:, 0, 0, :6]

    def random_encode(self, images):
        return images[:, 2, 0, :5].double()  # a channel without the class

    def decode(self, latents):
        return as_images(latents).clamp(0, 1)


def loaders(num_train=120, num_test=60, collapsed=False):
    random = np.random.default_rng(0)
    splits = {}
    for name, num in (("train", num_train), ("test", num_test)):
        latents, labels = blobs(num, seed=num)
        images = torch.from_numpy(random.integers(256, size=(num, 3, 8, 8), dtype=np.uint8))
        codes = torch.from_numpy((latents * 20 + 60).clip(0, 255).astype(np.uint8))
        images[:, 0, 0, :6] = codes[:1] if collapsed else codes
        splits[name] = Loader(Split(images, torch.from_numpy(labels)), INFO, torch.device("cpu"))
    return splits


def analyse(folder, given=None, classes=CLASSES, num_images=50):
    model, splits = Model(), given or loaders()
    encoders = {"latent": model.encode, "random": model.random_encode}
    chosen = zip(("test", "train"), choose(splits, "test", num_images, seed=7), strict=True)
    images, train = (encode(encoders, splits[name], index, batch_size=16) for name, index in chosen)
    scores = score(images, train if classes else None, len(classes), seed=7)
    if scores.table:
        scores.table.save(folder / "latent.csv")
    pictures = draw(model.decode, images, scores, classes, 7, folder)
    return Analysis(scores.metrics, pictures, {"latent": scores.table} if scores.table else {})


@pytest.mark.parametrize(("num_images", "num_own"), [(10, 10), (500, 60)])
def test_probes_learn_from_other_images_than_they_are_tried_on(num_images, num_own):
    own, others = (index.tolist() for index in choose(loaders(), "train", num_images, seed=7))
    assert (len(own), len(others)) == (num_own, num_own)
    assert not set(own) & set(others)
    assert own == sorted(own)
    own, others = choose(loaders(), "test", num_images, seed=7)
    assert (len(own), len(others)) == (min(num_images, 60), min(num_images, 120))


@pytest.mark.slow
def test_an_analysis_has_the_figures_of_latents_beside_pixels_and_an_untrained_net(tmp_path):
    analysis = analyse(tmp_path)
    names = [f"{name}/{score}" for name in ("latent", "random", "pixels") for score in SCORES]
    assert set(analysis.metrics) == set(names)
    assert analysis.metrics["latent/kmeans_accuracy"] == 1
    assert analysis.metrics["latent/neighbour_accuracy"] == 1
    assert analysis.metrics["random/kmeans_accuracy"] < 0.7
    with (tmp_path / "latent.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["features", "dimensions", *SCORES]
    assert [row[:2] for row in rows] == [["latent", "6"], ["random", "5"], ["pixels", "192"]]
    assert analyse(tmp_path).metrics == analysis.metrics


@pytest.mark.slow
def test_an_analysis_draws_its_pictures(tmp_path):
    sizes = {}
    for name, path in analyse(tmp_path).images.items():
        assert path == tmp_path / f"{name}.png"
        with Image.open(path) as image:
            sizes[name] = image.size
    cell = 160 + 4, 160 + 4 + 16
    assert sizes == {
        "tsne": (1400, 800),
        "clusters": (8 * cell[0] + 4, 4 * cell[1] + 4),
        "interpolations": (10 * cell[0] + 4, 8 * cell[1] + 4),
        "traversals": (8 * cell[0] + 4, 6 * cell[1] + 4),
    }


def test_a_cluster_on_the_map_has_the_colour_of_the_class_that_it_is_named_after():
    assignments, labels = np.array([0, 0, 0, 1, 1, 3]), np.array([0, 0, 1, 0, 0, 2])  # cluster 2 is empty
    clustering = Clustering(assignments, np.zeros((4, 1)))
    images = Encoded(None, torch.arange(6), labels, {})
    names, colourings = name_clusters(Scores(clustering, agreement(clustering, labels)), images, CLASSES)
    assert names == ["0: ant 67 %", "1: ant 100 %", "2: ant 0 %", "3: cat 100 %"]
    (colours, legend), (true_colours, classes) = colourings.values()
    assert colours.tolist() == [0, 0, 0, 0, 0, 2]
    assert legend == {0: "ant (clusters 0, 1)", 2: "cat (cluster 3)"}
    assert true_colours.tolist() == labels.tolist()
    assert all(legend[colour].startswith(classes[colour]) for colour in legend)
    assert next(iter(colourings)) == "clusters of k-means in the colour of their majority, 83.3 % right"


@pytest.mark.slow
def test_without_classes_there_are_clusters_and_pictures_but_no_accuracies(tmp_path):
    analysis = analyse(tmp_path, classes=())
    assert not analysis.metrics
    assert analysis.tables == {}
    assert not (tmp_path / "latent.csv").exists()
    with Image.open(analysis.images["tsne"]) as image:
        assert image.size == (700, 800)
    with Image.open(analysis.images["clusters"]) as image:
        assert image.height == 10 * 180 + 4


@pytest.mark.slow
def test_a_collapsed_model_is_analysed(tmp_path):
    analysis = analyse(tmp_path, loaders(collapsed=True))
    assert analysis.metrics["latent/ari"] == 0
    assert all(path.exists() for path in analysis.images.values())


@pytest.mark.slow
def test_fewer_images_than_classes_are_analysed(tmp_path):
    analysis = analyse(tmp_path, num_images=3)
    assert all(path.exists() for path in analysis.images.values())


@pytest.mark.slow
def test_raw_pixels_of_cifar10_cluster_as_the_literature_says(cifar10_dir):
    from data.cifar10 import load

    test = load(cifar10_dir, 0, 0).test
    pixels = (test.images[:2000].flatten(1).float() / 255).numpy()
    found = agreement(cluster(pixels, 10, seed=0), test.labels[:2000].numpy())
    assert 0.20 < found.majority_accuracy < 0.25  # 22.9 % by Xie et al. 2016 and others
    assert 0.07 < found.nmi < 0.11  # 0.087
    assert 0.03 < found.ari < 0.06  # 0.049


def test_the_untrained_model_has_the_weights_that_the_trained_one_began_with():
    model = build_objective(resolve(["--model=vae", "--dataset=digits", "--width=4", "--seed=5"], {}), INFO)
    torch.rand(7)  # as evaluations draw
    untrained = untrained_like(model, torch.device("cpu"))
    found = untrained.state_dict()
    assert all(torch.equal(found[name], weights) for name, weights in model.state_dict().items())
    assert not untrained.training  # else its batch norm would take the statistics of each batch


@pytest.mark.slow
def test_the_program_writes_into_the_runs_folder_and_says_whose_images_it_looked_at(tmp_path, capsys):
    folder = tmp_path / "a"
    folder.mkdir()
    settings = resolve(["--model=vae", "--dataset=digits", "--width=4"], {})
    write_json(folder / run_folder.SETTINGS, asdict(settings))
    checkpoint.save(folder / run_folder.BEST, build_objective(settings, describe("digits", 0)).state_dict())
    for words, split in (([], "test"), (["--split=val"], "val")):
        assert main([str(folder), "--num_images=40", *words]) == 0
        lines = capsys.readouterr().out.splitlines()
        figures = [line.split()[0] for line in lines if not line.startswith(str(folder))]
        assert all(name.startswith(f"{split}/") for name in figures)
        assert f"{split}/latent/kmeans_accuracy" in figures
    assert (folder / "latent" / "latent.csv").exists()
