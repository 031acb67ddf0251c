"""Sweeps on W&B that are searched as here: by `wandb sweep-scheduler`, the real one, and by its parts."""

import json
from types import SimpleNamespace

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from analysis.record import run_folder
from data.errors import UserError
from sweeps.local.worth import costs_of
from sweeps.scheduler import settings, study
from tests.sweep_helpers import LR, content, study_of, sweep_of
from tests.sweep_helpers import ask as ask_here
from tests.sweep_helpers import tell as tell_here
from tests.wandb_site import server, site, wait_until  # noqa: F401

SCHEDULER = {
    "engine": "optuna",
    "source": "sweeps/scheduler.py",
    "optimizer": "study",
    "search_space": "settings",
}
PARAMETERS = {"lr": LR, "model": {"value": "mlp"}, "weight_decay": {"distribution": "log_normal", "mu": -8, "sigma": 1}}


def info(parameters=PARAMETERS, **keys):
    return SimpleNamespace(id="abc", config=content(parameters=parameters, scheduler=SCHEDULER, **keys))


def ask(hosted):
    trial = hosted.ask()
    return trial, settings(trial)


def test_it_proposes_what_the_local_agent_would():
    hosted, sweep = study(info()), sweep_of(PARAMETERS)
    local = study_of(sweep, 3407)
    for _ in range(6):
        (trial, told), (own, expected) = ask(hosted), ask_here(sweep, local)
        assert told == {"best_by": "val/loss", **expected}
        value = (told["lr"] - 0.01) ** 2
        trial.report(value, 1)
        hosted.tell(trial, value)
        tell_here(local, own, value)


def test_the_method_that_w_and_b_asks_for_is_that_of_the_scheduler_and_of_the_local_agent():
    assert ask(study(info(method="custom")))[1] == ask(study(info()))[1]
    assert sweep_of(PARAMETERS, method="custom", scheduler=SCHEDULER).method == "bayes"
    with pytest.raises(UserError, match="method custom is none of bayes, random, grid"):
        sweep_of(PARAMETERS, method="custom")


def test_runs_that_w_and_b_has_are_learnt_by_the_values_of_their_settings():
    hosted = study(info())
    hosted.enqueue_trial(
        {"lr": 0.02, "weight_decay": 3e-4, "model": "mlp", "epochs": 7, "environment": {"commit": "c"}}
    )
    _, told = ask(hosted)
    assert told["lr"] == 0.02
    assert told["weight_decay"] == pytest.approx(3e-4)
    with pytest.raises(UserError):
        hosted.enqueue_trial({"lr": 0.02, "weight_decay": 3e-4, "model": "cnn"})


def test_numbers_may_come_as_json_writes_them():
    read = yaml.safe_load(json.dumps({"lr": {**LR, "min": 1e-5}}))
    assert read["lr"]["min"] == "1e-05"
    assert study(info(read)).sampler.space == sweep_of({"lr": LR}).space


def test_the_scheduler_s_trial_of_the_function_gets_no_settings():
    assert settings(optuna.create_study().ask()) == {}


def test_a_grid_ends_when_each_combination_has_been_asked_for():
    hosted = study(info({"lr": {"values": [0.1, 0.2]}}, method="grid"))
    for number in range(2):
        assert not hosted.sampler.is_exhausted(hosted), number
        ask(hosted)
    assert hosted.sampler.is_exhausted(hosted)


def test_the_worst_are_stopped_by_the_rule_of_the_file():
    hosted = study(info(early_terminate={"type": "hyperband", "min_iter": 2, "eta": 2}))
    trials = [ask(hosted)[0] for _ in range(4)]
    for number, trial in enumerate(trials):
        for step in (1, 2):
            trial.report(float(number), step)
    assert [trial.should_prune() for trial in trials] == [False, False, False, True]


@pytest.mark.parametrize("num_rows", [1, 4])
def test_a_run_is_compared_at_its_epoch_though_w_and_b_gives_a_part_of_the_values_of_others(num_rows):
    hosted = study(info(early_terminate={"type": "hyperband", "min_iter": 10, "eta": 2}))

    def report(factor, epochs):
        trial = ask(hosted)[0]
        for epoch in epochs:
            trial.report(factor / epoch, num_rows * epoch - 1)
        return trial

    for factor in (1.0, 1.1):
        hosted.tell(report(factor, range(1, 51, 3)), factor / 50)
    assert not report(0.9, range(1, 11)).should_prune()  # they were at 0.1 by then, and at 0.02 in the end
    assert not report(5.0, range(1, 10)).should_prune()  # not yet at the band
    assert report(1.2, range(1, 11)).should_prune()


@pytest.mark.parametrize("strict", [True, False])
def test_values_that_are_no_numbers_keep_no_run_from_being_stopped_nor_are_they_learnt(strict):
    rule = {"type": "hyperband", "min_iter": 2, "eta": 2, "strict": strict}
    hosted = study(info(early_terminate=rule))
    trials = [ask(hosted)[0] for _ in range(5)]
    for number, trial in enumerate(trials):
        for step in (1, 2, 3):
            trial.report("NaN" if (number, step) in ((1, 1), (2, 2)) else float(number), step)  # as W&B writes it
    assert [trial.should_prune() for trial in trials] == [False, False, False, True, True]
    hosted.tell(trials[1], 1.0)
    with pytest.warns(UserWarning, match="nan is not acceptable"):
        hosted.tell(trials[2], float("nan"))
    assert [trial.state for trial in hosted.trials[1:3]] == [TrialState.COMPLETE, TrialState.FAIL]
    objectives = hosted.sampler.sweep.objectives
    assert [costs_of(objectives, trial) for trial in hosted.trials[1:3]] == [(1.0,), None]


def test_a_rule_that_lets_runs_wait_is_refused():
    with pytest.raises(UserError, match="W&B's runs cannot wait to be promoted: write type: hyperband"):
        study(info(early_terminate={"type": "asha", "min_iter": 1}))


@pytest.mark.slow
@pytest.mark.waits
def test_a_sweep_on_w_and_b_is_searched_from_here_and_goes_on_after_a_new_start(site, server):
    server.features = ["SWEEPS_LOCAL_SCHEDULER"]
    parameters = {"lr": LR, "dataset": {"value": "digits"}, "model": {"value": "mlp"}, "width": {"value": 16}}
    parameters |= {"epochs": {"value": 2}, "tracking": {"value": "online"}}
    config = content(parameters=parameters, scheduler=SCHEDULER, program="train.py")
    path = server.add_sweep(config, [])
    command = ("wandb", "sweep-scheduler", path, "--poll-interval", "1", "--batch-size", "1")

    def num_finished():
        return sum(run.state == "finished" for run in server.runs.values() if run.sweep)

    scheduler, agent = site.start(*command), site.agent(path)
    wait_until(lambda: num_finished() >= 1, "a trial")
    scheduler.terminate()
    scheduler.wait()
    again = site.start(*command)
    wait_until(lambda: num_finished() >= 3, "three trials")
    agent.terminate()
    again.terminate()
    tried = [run.config["lr"] for run in server.runs.values() if run.sweep]
    assert len(set(tried)) == len(tried)
    expected = study_of(sweep_of(parameters), 3407)
    assert tried[0] == ask_here(sweep_of(parameters), expected)[1]["lr"]
    first = next(run for run in server.runs.values() if run.sweep)
    assert first.config["best_by"] == "val/loss"
    assert run_folder.state(site.runs / first.name) == "finished"
    assert "Optimizer rejected" not in site.output(scheduler) + site.output(again)
