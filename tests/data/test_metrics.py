import math
import random

import pytest

from data.metrics import (
    Best,
    Metric,
    best_elsewhere,
    is_epoch,
    is_finite,
    is_percentage,
    metric_named,
    metrics_of_finals,
    shown,
    tells_goal,
    thinned,
)

ROWS = [
    {"epoch": 1, "lr": 0.1, "val/loss": 0.9, "val/accuracy": 0.5},
    {"epoch": 2, "lr": 0.1, "val/loss": 0.4, "val/accuracy": 0.80},
    {"epoch": 3, "lr": 0.1, "val/loss": 0.6, "val/accuracy": 0.85},
    {"epoch": 4, "lr": 0.1, "val/loss": math.nan, "val/accuracy": 0.85},
    {"epoch": 4, "test/loss": 0.5},
]


@pytest.mark.parametrize(
    ("name", "best"),
    [("val/loss", Best(0.4, 2)), ("val/accuracy", Best(0.85, 3)), ("test/loss", Best(0.5, 4)), ("val/kl", None)],
)
def test_the_best_value_of_a_metric_is_its_own_epochs_and_the_first_of_equal_ones(name, best):
    assert metric_named(name).best(ROWS) == best


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, True, "0.1", "NaN", [0.1], 10**400])
def test_what_is_no_finite_number_is_passed_over(value):
    assert not is_finite(value)
    assert metric_named("val/loss").best([{"epoch": 1, "val/loss": value}]) is None
    assert metric_named("val/loss").best([{"epoch": value, "val/loss": 0.1}]) is None


@pytest.mark.parametrize(
    ("name", "goal"),
    [("val/loss", "minimize"), ("test/accuracy", "maximize"), ("val/latent/nmi", "maximize"), ("val/ece", "minimize")]
    + [("val/fid_inception_2000", "minimize"), ("active_units", "maximize")]
    + [("val/sample_variety", "maximize"), ("val/codes_used", "maximize")],
)
def test_a_metric_by_its_name_knows_whether_more_is_better(name, goal):
    assert metric_named(name) == Metric(name, goal)


@pytest.mark.parametrize(("goal", "order"), [("minimize", [1.0, 2.0]), ("maximize", [2.0, 1.0])])
def test_the_least_cost_is_the_best(goal, order):
    assert sorted([2.0, 1.0], key=Metric("m", goal).cost) == order


@pytest.mark.parametrize(
    ("metric", "names"),
    [
        ("val/loss", ["accuracy", "mAP", "loss"]),
        ("val/accuracy", ["accuracy", "mAP", "loss"]),
        ("test/loss", ["loss", "accuracy", "mAP"]),
        ("val/fid_inception_2000", ["fid_inception_2000", "accuracy", "mAP", "loss"]),
    ],
)
def test_final_runs_are_told_by_what_their_sweep_is_after_unless_that_is_usual(metric, names):
    told = [each.name for each in metrics_of_finals(metric_named(metric)) if each.name.startswith("test/")]
    assert told == [f"test/{name}" for name in names]


def test_final_runs_without_test_images_are_told_by_the_metric_itself():
    assert metrics_of_finals(metric_named("val/accuracy"))[-1] == metric_named("val/accuracy")


def test_the_test_figure_of_a_metric_has_its_goal():
    assert metrics_of_finals(metric_named("maximize val/kl"))[0] == Metric("test/kl", "maximize")


def test_percentages_and_epochs_rows():
    assert [name for name in ("accuracy", "val/ece", "val/loss", "fid") if is_percentage(name)] == [
        "accuracy",
        "val/ece",
    ]
    assert [is_epoch(row) for row in ROWS] == [True] * 4 + [False]


@pytest.mark.parametrize(
    ("name", "value", "std", "text"),
    [
        ("val/accuracy", 0.548, None, "54.80 %"),
        ("test/accuracy", 0.548, 0.003, "54.80 ± 0.30 %"),
        ("val/ece", 1e-6, None, "0.00 %"),
        ("val/loss", 0.51234, None, "0.5123"),
        ("val/loss", 103.619, 2.5, "103.62 ± 2.50"),
        ("val/loss", 1e32, None, "1.000e+32"),
        ("val/loss", 1.234e-5, None, "1.234e-05"),
        ("val/loss", 0, None, "0.0000"),
        ("val/loss", math.nan, None, "nan"),
        ("val/loss", None, None, ""),
    ],
)
def test_a_metric_is_written_in_one_way(name, value, std, text):
    assert shown(name, value, std) == text


def test_a_long_curve_is_thinned_out_but_keeps_its_extremes_and_its_last_point():
    draw = random.Random(0)
    curve = [(epoch, draw.random()) for epoch in range(10_000)]
    values = [value for _, value in curve]
    few = curve[:0]
    for start in range(0, len(curve), 7):
        few = thinned(few + curve[start : start + 7], most=100)
    assert len(few) < 110
    assert few == sorted(few)
    assert set(few) < set(curve)
    assert few[-1] == curve[-1]
    assert {min(values), max(values)} <= {value for _, value in few}
    assert thinned(curve[:100], most=100) == curve[:100]


@pytest.mark.parametrize(
    ("text", "metric"),
    [
        ("val/loss", Metric("val/loss")),
        ("val/accuracy", Metric("val/accuracy", "maximize")),
        ("val/inception_score_inception_2000", Metric("val/inception_score_inception_2000", "maximize")),
        ("test/recall_tf_efficientnet_lite0_100", Metric("test/recall_tf_efficientnet_lite0_100", "maximize")),
        ("val/fid_inception_2000", Metric("val/fid_inception_2000")),
        ("maximize val/perplexity", Metric("val/perplexity", "maximize")),
        ("minimize val/real_score", Metric("val/real_score")),
        ("minimize val/accuracy", Metric("val/accuracy")),
        ("maximize", Metric("maximize")),
        ("best val/loss", Metric("best val/loss")),
    ],
)
def test_a_metric_is_found_by_its_name_with_its_goal_where_the_name_does_not_tell(text, metric):
    assert metric_named(text) == metric
    assert metric_named(metric.text()) == metric


@pytest.mark.parametrize("name", ["val/real_score", "train/discriminate/told_apart", "train/autoencode/perplexity"])
def test_a_metric_whose_name_tells_no_goal_is_written_with_one(name):
    assert not tells_goal(name)
    for goal in ("minimize", "maximize"):
        text = Metric(name, goal).text()
        assert text == f"{goal} {name}"
        assert tells_goal(text)
    assert tells_goal("val/loss")
    assert tells_goal("")


@pytest.mark.parametrize(
    ("value", "than", "is_better"),
    [(0.4, None, True), (0.4, 0.5, True), (0.5, 0.5, False), (0.6, 0.5, False), (math.nan, None, False)],
)
def test_a_value_is_better_where_its_metric_says_so(value, than, is_better):
    assert metric_named("val/loss").is_better(value, than) == is_better
    assert metric_named("val/accuracy").is_better(-value, than if than is None else -than) == is_better


def test_what_the_kept_weights_are_not_the_best_in_is_told_with_its_epoch():
    assert best_elsewhere(ROWS, ROWS[1]) == {"val/accuracy": {"value": 0.85, "epoch": 3}}
    assert best_elsewhere(ROWS, ROWS[2]) == {"val/loss": {"value": 0.4, "epoch": 2}}
    assert best_elsewhere(ROWS, {}) == best_elsewhere([], ROWS[0]) == {}
