"""The best value in each part of a setting's range, against runs whose values are known."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from analysis import report
from analysis.compare.comparison import compare
from analysis.compare.importance import FEWEST_RUNS
from analysis.compare.isolation import MOST_BINS, MOST_NAMES, Bin, isolation, isolation_data
from analysis.compare.what_mattered import expected
from analysis.read.runs import read_runs
from data.metrics import Metric
from tests.run_folders import write_run

LOSS = Metric("val/loss", "minimize")


def loss(lr, optimizer):
    return 0.5 + 0.3 * math.log10(lr / 1e-3) ** 2 + {"sgd": 0.4, "adam": 0.0}[optimizer]


def searched(folder, num, value=loss, seed=0):
    """A comparison of runs with random settings, and these by the name of their run."""
    draw, told = random.Random(seed), {}
    for i in range(num):
        told[f"run{i}"] = {"lr": 10 ** draw.uniform(-5, -1), "optimizer": draw.choice(("sgd", "adam"))}
        write_run(folder / f"run{i}", [3.0, value(**told[f"run{i}"])], days=i, **told[f"run{i}"])
    return compare("runs", read_runs(folder).records, LOSS), told


def test_each_bin_has_the_best_of_all_its_runs_whatever_their_other_settings(tmp_path):
    comparison, told = searched(tmp_path, 40)
    found = isolation(comparison)
    assert found.keys() == {"lr", "optimizer"}
    assert sum(one.num_runs for one in found["lr"]) == sum(one.num_runs for one in found["optimizer"]) == 40
    assert 2 < len(found["lr"]) <= MOST_BINS
    for one in found["lr"]:
        inside = [name for name, settings in told.items() if one.low <= settings["lr"] <= one.high]
        assert len(inside) == one.num_runs
        assert one.best == pytest.approx(min(loss(**told[name]) for name in inside), rel=1e-5)
        assert loss(**told[one.run]) == pytest.approx(one.best, rel=1e-5)
    assert all(a.high < b.low for a, b in zip(found["lr"], found["lr"][1:], strict=False))


@pytest.mark.parametrize(("draw", "draws"), [("seed", (1, 2, 3)), ("fold", ("1/3", "2/3", "3/3"))])
def test_a_lucky_draw_says_nothing_of_a_setting(draw, draws, tmp_path):
    values = {4: (1.0, 1.1, 1.2), 8: (0.2, 1.9, 1.8)}  # 8 has the best run, and is worse on average
    for width, losses in values.items():
        for i, loss_of_draw in enumerate(losses):
            told = {"width": width, draw: draws[i]}
            write_run(tmp_path / f"run{width}-{i}", [3.0, loss_of_draw], days=i + width, **told)
    found = isolation(compare("runs", read_runs(tmp_path).records, LOSS))
    assert found.keys() == {"width"}
    assert [(one.low, one.num_runs, one.best) for one in found["width"]] == [
        (4, 3, pytest.approx(1.1)),
        (8, 3, pytest.approx(1.3)),
    ]
    assert [one.run for one in found["width"]] == ["run4-0", "run8-0"]


def test_bins_of_a_learning_rate_are_equally_wide_in_its_logarithm(tmp_path):
    for i, lr in enumerate(np.geomspace(1e-5, 1e-1, 32).tolist()):
        write_run(tmp_path / f"run{i}", [1.0 + i], days=i, lr=lr)
    bins = isolation(compare("runs", read_runs(tmp_path).records, LOSS))["lr"]
    assert [one.num_runs for one in bins] == [32 // MOST_BINS] * MOST_BINS


def test_where_sgd_alone_was_tried_the_surface_knows_what_adam_would_reach(tmp_path):
    comparison, told = searched(tmp_path, 60)
    fewest = [one for one in isolation(comparison)["lr"] if told[one.run]["optimizer"] == "sgd"]
    lines = isolation(comparison)["lr"]
    for one in lines:
        assert one.expected is not None
        better, mean, worse = one.expected
        assert better <= mean <= worse
        middle = math.sqrt(one.low * one.high)
        assert abs(mean - min(loss(middle, "adam"), loss(one.low, "adam"), loss(one.high, "adam"))) < 0.25
    assert all(one.expected[1] < one.best for one in fewest)


def test_more_is_better_where_the_metric_says_so(tmp_path):
    for i in range(12):
        write_run(tmp_path / f"run{i}", [1.0], [0.05 * i], days=i, width=16 if i % 2 else 32, lr=10.0**-i)
    found = isolation(compare("runs", read_runs(tmp_path).records, Metric("val/accuracy", "maximize")))["width"]
    assert [(one.low, one.best) for one in found] == [(16, 0.55), (32, 0.5)]
    for one in found:
        better, mean, worse = one.expected
        assert better >= mean >= worse


def test_final_runs_are_in_no_bin(tmp_path):
    folder = tmp_path / "sweeps" / "s"
    searched(folder, 9)
    write_run(folder / "final-run0-seed1", [0.1], lr=1e-3, optimizer="adam")
    comparison = compare("runs", read_runs(folder).records, LOSS)
    by_test_images = replace(comparison, entries=[replace(entry, is_ranked=True) for entry in comparison.entries])
    assert len(by_test_images.ranked) == 10
    assert [sum(one.num_runs for one in bins) for bins in isolation(by_test_images).values()] == [9, 9]


def test_few_runs_have_bins_but_no_surface_and_one_run_has_nothing(tmp_path):
    comparison, _ = searched(tmp_path / "few", FEWEST_RUNS - 1)
    assert all(one.expected is None for bins in isolation(comparison).values() for one in bins)
    assert isolation(searched(tmp_path / "one", 1)[0]) == {}


def test_a_setting_that_some_models_lack_has_bins_of_those_that_have_it(tmp_path):
    for i in range(12):
        own = {"model": "mlp"} if i % 2 else {"model": "cnn", "width": 8 * (1 + i % 4)}
        write_run(tmp_path / f"run{i}", [1.0 + i / 10], days=i, **own)
    found = isolation(compare("runs", read_runs(tmp_path).records, LOSS))
    assert [one.num_runs for one in found["width"]] == [3, 3]
    assert {one.low for one in found["model"]} == {"mlp", "cnn"}


def test_what_is_expected_of_a_model_is_not_what_another_model_reaches_that_lacks_its_settings(tmp_path):
    draw = random.Random(0)
    for i in range(30):
        write_run(tmp_path / f"resnet{i}", [1.0], [0.90 + draw.uniform(-0.005, 0.005)], days=i, model="resnet18")
        told = {"model": "cnn", "dropout": draw.choice((0.0, 0.2, 0.4))}
        write_run(tmp_path / f"cnn{i}", [1.0], [0.60 + draw.uniform(-0.005, 0.005)], days=i, **told)
    found = isolation(compare("runs", read_runs(tmp_path).records, Metric("val/accuracy", "maximize")))
    expected = {one.low: one.expected[1] for one in found["model"]}
    assert expected == {"cnn": pytest.approx(0.6, abs=0.02), "resnet18": pytest.approx(0.9, abs=0.02)}
    assert [one.expected[1] for one in found["dropout"]] == [pytest.approx(0.6, abs=0.02)] * 3


def test_what_is_expected_of_a_model_is_told_of_settings_that_it_has_where_these_matter(tmp_path):
    draw = random.Random(0)
    for i in range(30):
        write_run(tmp_path / f"resnet{i}", [1.0], [draw.uniform(0.7, 0.9)], days=i, model="resnet18")
        dropout = draw.choice((0.0, 0.2, 0.4))
        accuracy = 0.6 - dropout / 2 + draw.uniform(-0.005, 0.005)
        write_run(tmp_path / f"cnn{i}", [1.0], [accuracy], days=i, model="cnn", dropout=dropout)
    found = isolation(compare("runs", read_runs(tmp_path).records, Metric("val/accuracy", "maximize")))
    assert [one.expected for one in found["model"] if one.low == "cnn"] == [pytest.approx((0.6,) * 3, abs=0.02)]


def test_many_names_are_cut_to_those_with_most_runs_and_booleans_stay_booleans_in_the_page(tmp_path):
    for i in range(30):
        write_run(tmp_path / f"run{i}", [1.0 + i / 10], days=i, arch=f"net{i % 20}", residual=i % 3 == 0)
    data = isolation_data(compare("runs", read_runs(tmp_path).records, LOSS))
    assert len(data["arch"]) == MOST_NAMES
    assert sum(one["num_runs"] == 2 for one in data["arch"]) == 10
    assert {one["low"] for one in data["residual"]} == {False, True}


def test_the_terminal_has_a_table_with_the_most_important_setting_first(tmp_path, capsys):
    searched(tmp_path, 40)
    assert report.main(["--runs_dir", str(tmp_path), "--metric", "val/loss", "--text"]) == 0
    output = capsys.readouterr().out
    assert output.index("lr") < output.index("optimizer")
    for text in ("best val/loss", "expected", " to "):
        assert text in output
    assert not (tmp_path / "report.html").exists()


def test_the_terminal_has_the_mean_that_is_expected_and_a_deviation_to_each_side_the_lower_first():
    one = Bin(1, 2, num_runs=3, best=0.9, run="a", expected=(0.85, 0.8, 0.75))
    assert expected("val/accuracy", one) == "80.00 % (75.00 % to 85.00 %)"
    assert expected("val/accuracy", one._replace(expected=None)) == ""


def test_the_terminal_says_where_there_is_nothing_to_tell(tmp_path, capsys):
    write_run(tmp_path / "only", [1.0])
    assert report.main(["--runs_dir", str(tmp_path), "--metric", "val/loss", "--text"]) == 0
    assert "too few runs" in capsys.readouterr().out
