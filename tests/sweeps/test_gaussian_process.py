"""The Gaussian process of `bayes`: what it takes for likely, and on which scale it sees costs."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from optuna._gp.prior import default_log_prior
from torch.distributions import Gamma

from data.internals import set_prior_of_numbers
from sweeps.local.gaussian_process import gamma_log_density, gaussian_process, squashed
from sweeps.local.search import Search
from tests.sweep_helpers import LR, ask, study_of, sweep_of, tell


def regressor(*lengthscales):
    """One of Optuna whose first parameter is a list of values."""
    inverse = torch.tensor(lengthscales, dtype=torch.float64) ** -2
    is_list = torch.tensor([True] + [False] * (len(lengthscales) - 1))
    one = torch.tensor(1.0)
    return SimpleNamespace(
        inverse_squared_lengthscales=inverse, kernel_scale=one, noise_var=one, _is_categorical=is_list
    )


@pytest.mark.parametrize("lengthscales", [(0.2, 0.2, 3.0), (2.0, 0.5, 0.4)])
def test_lengthscales_of_numbers_have_the_prior_of_botorch_and_those_of_lists_that_of_optuna(lengthscales):
    sampler = SimpleNamespace(_log_prior=default_log_prior)
    set_prior_of_numbers(sampler, gamma_log_density)
    by_ours = sampler._log_prior(regressor(*lengthscales)) - sampler._log_prior(regressor(1.0, 1.0, 1.0))
    of_list = default_log_prior(regressor(lengthscales[0])) - default_log_prior(regressor(1.0))
    of_numbers = Gamma(3.0, 6.0).log_prob(torch.tensor(lengthscales[1:])) - Gamma(3.0, 6.0).log_prob(torch.tensor(1.0))
    assert float(by_ours) == pytest.approx(float(of_list + of_numbers.sum()), abs=1e-5)
    assert gaussian_process(0)._log_prior is not default_log_prior


def test_costs_keep_their_order_and_a_bad_one_does_not_hide_how_the_others_differ():
    costs = [0.31, 0.3, 0.35, 1e6, 0.5, 0.4]
    scaled = squashed(costs)
    assert np.argsort(scaled).tolist() == np.argsort(costs).tolist()
    few = squashed([0.9, 1.0, 1.1])
    assert few[2] - few[1] == pytest.approx(few[1] - few[0])  # about the median it is linear
    walls = [1.0, 1.1, 1.2, 1.3, 40.0, 2000.0]
    told = {"as they are": np.array(walls), "squashed": np.array(squashed(walls))}
    share = {name: np.ptp(each[:4]) / each.std() for name, each in told.items()}
    assert share["squashed"] > 5 * share["as they are"]


@pytest.mark.parametrize("costs", [[2.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 5.0], [1e308, 1e308, -1e307], [1e-320, 0.0]])
def test_odd_costs_stay_finite(costs):
    scaled = squashed(costs)
    assert all(map(math.isfinite, scaled))
    assert min(scaled) == scaled[costs.index(min(costs))]


def test_the_next_trials_are_the_same_whatever_the_unit_of_the_metric():
    found = []
    for unit in (1.0, 1024.0):
        sweep = sweep_of({"lr": LR})
        study = study_of(sweep, 0)
        for _ in range(6):
            trial, settings = ask(sweep, study)
            found.append(settings["lr"])
            tell(study, trial, unit * (math.log10(settings["lr"]) + 3) ** 2)
    assert found[:6] == pytest.approx(found[6:], rel=1e-3)


def test_lists_alone_are_searched_and_none_of_their_combinations_twice():
    sweep = sweep_of({name: {"values": list("pqrst")} for name in "abcd"})
    study = study_of(sweep, 0)
    study.sampler = Search(sweep, 0)
    tried = []
    for _ in range(12):
        trial, settings = ask(sweep, study)
        tried.append(tuple(settings.values()))
        tell(study, trial, sum("pqrst".index(value) for value in settings.values()))
    assert len(set(tried)) == 12
    assert min(sum(map("pqrst".index, each)) for each in tried[6:]) < min(
        sum(map("pqrst".index, each)) for each in tried[:6]
    )
