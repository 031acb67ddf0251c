import math

import pytest

from data.metrics import Best, Metric, is_epoch, is_finite, is_percentage, metric_named

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


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, True, "0.1", "NaN", [0.1]])
def test_what_is_no_finite_number_is_passed_over(value):
    assert not is_finite(value)
    assert metric_named("val/loss").best([{"epoch": 1, "val/loss": value}]) is None
    assert metric_named("val/loss").best([{"epoch": value, "val/loss": 0.1}]) is None


@pytest.mark.parametrize(
    ("name", "goal"),
    [("val/loss", "minimize"), ("test/accuracy", "maximize"), ("val/latent/nmi", "maximize"), ("val/ece", "minimize")]
    + [("val/fid_inception_2000", "minimize"), ("active_units", "maximize")],
)
def test_a_metric_by_its_name_knows_whether_more_is_better(name, goal):
    assert metric_named(name) == Metric(name, goal)


@pytest.mark.parametrize(("goal", "order"), [("minimize", [1.0, 2.0]), ("maximize", [2.0, 1.0])])
def test_the_least_cost_is_the_best(goal, order):
    assert sorted([2.0, 1.0], key=Metric("m", goal).cost) == order


def test_percentages_and_epochs_rows():
    assert [name for name in ("accuracy", "val/ece", "val/loss", "fid") if is_percentage(name)] == [
        "accuracy",
        "val/ece",
    ]
    assert [is_epoch(row) for row in ROWS] == [True] * 4 + [False]
