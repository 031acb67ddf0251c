"""Combinations of settings that train.py refuses, though it takes each setting by itself."""

import pytest
import yaml

from data.errors import UserError
from sweeps import agent
from sweeps.local import refusals
from sweeps.local.contract import checked, lines_of_refused
from sweeps.local.search import Search
from tests.sweep_helpers import ask, content, study_of, sweep_of, tell

VIT = {"model": {"value": "nano_vit"}, "dataset": {"value": "digits"}, "depth": {"value": 1}}
HEADS = {"num_heads": {"values": [3, 5]}, "width": {"values": [60, 96, 100]}}  # 5 does not divide 96, nor 3 100
TAKEN = {(3, 60), (3, 96), (5, 60), (5, 100)}


def vit(parameters=HEADS, **changes):
    return checked(sweep_of({**VIT, **parameters}, **changes))


def tried(sweep, num, seed=0):
    """Heads and width of the first trials of a search whose values are all the same."""
    study, found = study_of(sweep, seed), []
    for _ in range(num):
        trial, settings = ask(sweep, study)
        found.append((settings["num_heads"], settings["width"]))
        tell(study, trial, 1.0)
    return found


def test_a_grid_leaves_out_what_the_model_refuses_and_says_how_much_and_why():
    sweep = vit({**HEADS, "lr": {"values": [0.1, 0.01]}}, method="grid")
    assert {(point["num_heads"], point["width"]) for point in sweep.grid()} == TAKEN
    assert len(sweep.grid()) == 2 * len(TAKEN)
    [line] = lines_of_refused(sweep)
    assert line.startswith("4 of 12 combinations of the grid are left out, since train.py refuses them: --num_heads=3")
    assert lines_of_refused(vit({"num_heads": {"values": [3, 5]}, "width": {"value": 60}}, method="grid")) == []


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_search_draws_again_what_the_model_refuses(method):
    found = tried(vit(method=method), 8)
    assert set(found) <= TAKEN
    if method == "bayes":
        assert set(found[:4]) == TAKEN


def test_a_search_is_exhausted_when_all_that_is_not_refused_was_tried():
    sweep = vit()
    study, search = study_of(sweep, 0), Search(sweep, 0)
    for number in range(4):
        assert not search.is_exhausted(study.trials), number
        tell(study, ask(sweep, study)[0], 1.0)
    assert search.is_exhausted(study.trials)


@pytest.mark.parametrize("method", ["grid", "random", "bayes"])
def test_a_sweep_is_taken_whose_last_values_are_refused_together_and_refused_if_all_are(method):
    assert tried(vit({"num_heads": {"values": [3, 5]}, "width": {"values": [100, 96]}}, method=method), 2)
    with pytest.raises(UserError, match=r"^every combination is refused: --num_heads=5 does not divide --width=9\d"):
        vit({"num_heads": {"value": 5}, "width": {"values": [96, 98, 99]}}, method=method)


def test_the_agent_ends_with_one_line_where_every_combination_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path))
    parameters = {**VIT, "num_heads": {"value": 5}, "width": {"values": [96, 98]}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(content(parameters=parameters, method="grid")))
    assert agent.main([str(tmp_path / "s.yaml")]) == 2
    assert "every combination is refused: --num_heads=5" in (said := capsys.readouterr().err)
    assert said.count("\n") == 1


def test_each_model_is_built_once_whatever_its_rate_and_seed(monkeypatch):
    built = []
    monkeypatch.setattr(refusals, "build", built.append)
    sweep = vit({**HEADS, "lr": {"values": [0.1, 0.01]}, "seed": {"values": [1, 2, 3]}}, method="grid")
    assert len(sweep.grid()) == 6 * 2 * 3
    assert len(built) == len(set(built)) == 6
