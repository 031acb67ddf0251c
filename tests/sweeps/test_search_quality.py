"""The comparison of searches: its functions have the lowest values that are claimed, its table says who is ahead."""

import itertools
import json
import math
import sys

import pytest

from data.files import read_json
from sweeps.local.sweep_file import parse_sweep
from tests.search_quality import __main__ as comparison
from tests.search_quality.problems import problems
from tests.search_quality.record import FOLDER, GRIDS, best_loss
from tests.search_quality.searchers import config_of

LOWEST = {
    "branin": {"x": math.pi, "y": 2.275},
    "hartmann 3": {"x0": 0.114614, "x1": 0.555649, "x2": 0.852547},
    "hartmann 6": dict(
        zip([f"x{i}" for i in range(6)], [0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573], strict=True)
    ),
    "ackley 4": dict.fromkeys(["x0", "x1", "x2", "x3"], 3.7),
    "valley": {"lr": 0.01 * 0.15, "momentum": 0.85, "weight_decay": 10**-3.5},
    "mixed": {"lr": 10**-2.7, "dropout": 0.3, "num_layers": 5, "width": 160, "optimizer": "adamw"},
}


@pytest.mark.parametrize("name", LOWEST)
def test_the_lowest_value_is_where_the_literature_or_the_formula_has_it(name):
    problem = problems()[name]
    at_lowest = problem.value(LOWEST[name])
    assert at_lowest == pytest.approx(problem.best, abs=1e-4)
    sweep = parse_sweep(config_of(problem, "random"))
    for quantile in (0.1, 0.4, 0.8):
        drawn = {key: entry.value(entry.draw(quantile)) for key, entry in sweep.parameters.items()}
        assert problem.value(drawn) > at_lowest


def test_no_choice_is_better_than_the_best():
    problem = problems()["choices"]
    options = [entry["values"] for entry in problem.parameters.values()]
    values = [problem.value(dict(zip(problem.parameters, each, strict=True))) for each in itertools.product(*options)]
    assert min(values) == problem.best


@pytest.mark.parametrize("name", GRIDS)
def test_a_table_of_trainings_gives_what_was_trained_and_what_lies_between(name):
    table, problem = read_json(FOLDER / f"{name}_digits.json"), problems()[f"{name} on digits"]
    points = [dict(zip(table["axes"], each, strict=True)) for each in itertools.product(*table["axes"].values())]
    for place in range(0, len(points), 17):
        assert problem.value(points[place]) == pytest.approx(table["losses"][place])
    lower, upper = points[0], {**points[0], "lr": table["axes"]["lr"][1]}
    between = problem.value({**lower, "lr": math.sqrt(lower["lr"] * upper["lr"])})
    assert between == pytest.approx((problem.value(lower) + problem.value(upper)) / 2)
    assert problem.best == min(table["losses"])


@pytest.mark.slow
def test_a_recorded_training_comes_out_the_same_again():
    table = read_json(FOLDER / "mlp_digits.json")
    points = list(itertools.product(*table["axes"].values()))
    place = points.index((1e-2, 1e-3, 64, 0.0, "adamw"))
    told = dict(zip(table["axes"], points[place], strict=True))
    assert best_loss({**table["fixed"], **told}) == pytest.approx(table["losses"][place], rel=0.02)


def test_the_table_says_where_ours_is_behind_and_level_is_not_behind():
    near = [1.0, 1.1, 1.2, 1.3] * 5
    results = {("branin", "ours", i): [near[i], near[i], 9.0 + near[i]] for i in range(20)}
    results |= {("branin", "random", i): [near[i] - 0.05, 5.0 + near[i], near[i]] for i in range(20)}
    lines, is_ahead = comparison.table(results)
    assert not is_ahead
    assert ["behind" in line for line in lines[2:]] == [False, False, True]
    assert comparison.table({key: each[:2] + [1.0] for key, each in results.items()})[1]


def test_a_comparison_that_was_stopped_goes_on_and_does_nothing_twice(tmp_path, monkeypatch, capsys):
    path = tmp_path / "results.jsonl"
    words = ["--results", str(path), "--only", "branin", "random", "--seeds"]
    for num in ("2", "3"):
        monkeypatch.setattr(sys, "argv", ["search_quality", *words, num])
        assert comparison.main() == 0
    seeds = [json.loads(line)[2] for line in path.read_text().splitlines()]
    assert seeds == [0, 1, 2]
    output = capsys.readouterr().out
    assert "| branin | 10 |" in output
    assert "Without W&B's engine" in output
    three = read_results(path)
    assert all(a >= b >= c >= 0 for a, b, c in three)


def read_results(path):
    return [json.loads(line)[3] for line in path.read_text().splitlines()]
