"""Combinations of settings that train.py refuses, though it takes each setting by itself."""

import pytest
import yaml

from data.errors import UserError
from sweeps import agent, study
from sweeps.local import refusals
from sweeps.local.contract import checked
from sweeps.local.enqueued import choice_of
from sweeps.local.estimate import probe_trials
from sweeps.local.remarks import lines_of_grid
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
    [line] = lines_of_grid(sweep)
    assert line.startswith("4 of 12 combinations of the grid are left out, since train.py refuses them, the first: --")
    assert lines_of_grid(vit({"num_heads": {"values": [3, 5]}, "width": {"value": 60}}, method="grid")) == []


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
        assert not search.has_tried_all(study.trials), number
        tell(study, ask(sweep, study)[0], 1.0)
    assert search.has_tried_all(study.trials)


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


@pytest.mark.parametrize("program", [lambda file: agent.main([file]), lambda _: study.main(["--plan"])])
def test_a_runs_folder_that_cannot_be_made_is_refused_with_the_remedy(program, tmp_path, monkeypatch, capsys):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(content(parameters=VIT, method="grid")))
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path / "s.yaml" / "runs"))
    assert program(str(tmp_path / "s.yaml")) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].endswith(" cannot be written (Not a directory): choose another runs folder by VISION_SWEEPS_RUNS")


def test_each_model_is_built_once_whatever_its_rate_and_seed(monkeypatch):
    built = []
    monkeypatch.setattr(refusals, "build", built.append)
    sweep = vit({**HEADS, "lr": {"values": [0.1, 0.01]}, "seed": {"values": [1, 2, 3]}}, method="grid")
    assert len(sweep.grid()) == 6 * 2 * 3
    assert len(built) == len(set(built)) == 6


def test_models_are_built_for_a_limited_time_and_what_comes_after_it_is_let_pass_and_said(monkeypatch):
    monkeypatch.setattr(refusals, "MOST_SECONDS", 0.0)
    sweep = vit(method="grid")
    assert len(sweep.grid()) == 6
    assert any("without a look at them" in line for line in lines_of_grid(sweep))


def test_a_sweep_is_taken_whose_ranges_have_few_values_that_go_together():
    sevens = {"num_heads": {"value": 7}, "width": {"min": 60, "max": 100}}  # 63, 70, ... 98; not 60, 80 and 100
    assert all(width % 7 == 0 for _, width in tried(vit(sevens, method="random"), 3))
    vit({"num_heads": {"value": 397}, "width": {"min": 396, "max": 700}})  # 397 alone


def test_a_grid_is_taken_of_which_one_combination_among_many_is_not_refused():
    widths = {"width": {"values": [60, *(7 * i + 1 for i in range(1, 30))]}, "num_heads": {"values": [60, 67, 71, 73]}}
    sweep = vit({**widths, "lr": {"values": [0.1, 0.01]}}, method="grid")
    expected = {(60, 60), (71, 71)}
    assert {(point["num_heads"], point["width"]) for point in sweep.grid()} >= expected


def test_an_optimizer_that_is_not_known_is_refused_beside_ranges():
    with pytest.raises(UserError, match="^every combination is refused: --optimizer=adma is not known"):
        vit(
            {
                "num_heads": {"value": 4},
                "width": {"value": 64},
                "weight_decay": {"min": 0.0, "max": 1.0},
                "optimizer": {"value": "adma"},
            }
        )


def test_a_choice_of_the_users_own_that_is_refused_is_told_in_one_line():
    with pytest.raises(UserError, match=r"^--enqueue=num_heads=5 width=96: .*--num_heads=5 does not divide --width=96"):
        choice_of("num_heads=5 width=96", vit())


@pytest.mark.parametrize("widths", [{"values": [60, 96, 97]}, {"min": 60, "max": 97}])
def test_an_estimate_trains_no_trial_that_is_refused(widths):
    for one in probe_trials(vit({"num_heads": {"values": [5, 6]}, "width": widths})):
        assert one.settings["width"] % one.settings["num_heads"] == 0
