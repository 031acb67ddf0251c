"""Combinations that differ in settings without effect alone, which would train the same run again."""

import pytest

from sweeps.local.contract import by_settings
from sweeps.local.remarks import lines_of_grid
from sweeps.local.search import Search, left_of_grid, settings_of
from tests.sweep_helpers import LR, ask, study_of, sweep_of, tell

MLP = {"model": {"value": "mlp"}, "dataset": {"value": "digits"}}
MOMENTA = {"momentum": {"values": [0.0, 0.5, 0.9]}}
OPTIMIZERS = {"optimizer": {"values": ["adam", "sgd"]}}


def tried(parameters, num, seed=0, **changes):
    """The optimizer and the momentum of the first trials of a search whose values are all the same."""
    sweep = by_settings(sweep_of({**MLP, **parameters}, **changes))
    study, found = study_of(sweep, seed), []
    for _ in range(num):
        trial, settings = ask(sweep, study)
        found.append((settings.get("optimizer"), settings["momentum"]))
        tell(study, trial, 1.0)
    return found


def grid_of(parameters, **changes):
    return by_settings(sweep_of({**MLP, **parameters}, method="grid", **changes)).grid()


def test_a_grid_has_one_combination_of_those_that_differ_in_what_has_no_effect_in_them():
    schedules = {"schedule": {"values": ["constant", "cosine"]}}
    expected = {("adam", 0.0), ("sgd", 0.0), ("sgd", 0.5), ("sgd", 0.9)}
    grid = grid_of({**MOMENTA, **OPTIMIZERS, **schedules})
    assert len(grid) == 2 * len(expected)
    for schedule in ("constant", "cosine"):
        own = [point for point in grid if point["schedule"] == schedule]
        assert {(point["optimizer"], point["momentum"]) for point in own} == expected
    found = tried({**MOMENTA, **OPTIMIZERS}, 4, method="grid")
    assert found == [("adam", 0.0), ("sgd", 0.0), ("sgd", 0.5), ("sgd", 0.9)]


def test_a_setting_may_have_no_effect_by_what_the_command_tells_or_by_its_default_or_in_one_of_the_models_alone():
    command = ["${interpreter}", "${program}", "--optimizer=sgd", "${args}"]
    assert len(grid_of(MOMENTA)) == 1
    assert len(grid_of(MOMENTA, command=command)) == 3
    models = {"model": {"values": ["mlp", "vae"]}, "beta": {"values": [0.0, 1.0]}}
    assert len(grid_of({**models, "free_bits": {"values": [0.0, 0.1, 0.2]}})) == 1 + (1 + 3)


def test_twins_that_are_left_out_of_a_grid_are_counted():
    sweep = by_settings(sweep_of({**MLP, **MOMENTA, **OPTIMIZERS}, method="grid"))
    assert lines_of_grid(sweep) == [
        "2 of 6 combinations of the grid are left out, as they differ from others only in settings without effect there"
    ]
    models = {"model": {"values": ["mlp", "vae"]}, "beta": {"values": [0.0, 1.0]}}
    assert lines_of_grid(by_settings(sweep_of({**MLP, **models}, method="grid"))) == []


def test_another_programs_grid_has_every_combination():
    assert len(sweep_of({**MOMENTA, **OPTIMIZERS}, method="grid").grid()) == 6


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_combination_is_not_left_if_a_trial_of_an_earlier_grid_has_its_twin(momentum):
    sweep = by_settings(sweep_of({**MLP, **MOMENTA, **OPTIMIZERS}, method="grid"))
    study = study_of(sweep, 0)
    study.enqueue_trial({"optimizer": "adam", "momentum": momentum})
    assert settings_of(sweep, study.ask())["momentum"] == momentum
    left = left_of_grid(sweep, study.trials)
    assert [(point["optimizer"], point["momentum"]) for point in left] == [("sgd", 0.0), ("sgd", 0.5), ("sgd", 0.9)]


@pytest.mark.parametrize("seed", range(3))
def test_a_bayesian_search_tries_no_twin_as_long_as_there_is_something_else(seed):
    found = tried({**MOMENTA, **OPTIMIZERS}, 4, seed)
    assert len({("adam", 0.0) if optimizer == "adam" else (optimizer, momentum) for optimizer, momentum in found}) == 4
    found = tried({**OPTIMIZERS, "momentum": {"min": 0.0, "max": 0.9}}, 8, seed)
    assert [optimizer for optimizer, _ in found].count("adam") == 1
    assert len({momentum for optimizer, momentum in found if optimizer == "sgd"}) == 7


def test_a_search_is_exhausted_when_only_twins_are_left():
    sweep = by_settings(sweep_of({**MLP, **MOMENTA, **OPTIMIZERS}))
    study, search = study_of(sweep, 0), Search(sweep, 0)
    for number in range(4):
        assert not search.has_tried_all(study.trials), number
        tell(study, ask(sweep, study)[0], 1.0)
    assert search.has_tried_all(study.trials)


def test_a_trial_of_a_model_that_the_sweep_has_no_more_stands_for_no_combination():
    models = {"model": {"values": ["mlp", "vae"]}}
    sweep = by_settings(sweep_of({**MLP, **models, **MOMENTA, **OPTIMIZERS}, method="grid"))
    assert sweep.key({"momentum": 0.5}) == {("momentum", 0.5)}
    assert sweep.key({"model": "cnn", "momentum": 0.5, "optimizer": "adam"}) not in sweep.parts_of_grid[0]


def test_what_has_an_effect_is_no_twin():
    sweep = by_settings(sweep_of({**MLP, "lr": LR, **MOMENTA, **OPTIMIZERS}))
    search = Search(sweep, 0)
    points = {"lr": 0.01, "momentum": 0.5, "optimizer": "sgd"}
    assert search.values(points) != search.values({**points, "momentum": 0.9})
    assert search.values({**points, "optimizer": "adam"}) != search.values({**points, "optimizer": "adam", "lr": 0.02})
