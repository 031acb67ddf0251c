"""What a trial is checked by, and finds in its environment, when an agent starts it."""

import os
from typing import Any

import pytest

from analysis.read.storage import url_of_file
from sweeps.local import agent as agent_module
from sweeps.local.agent import Agent
from sweeps.local.contract import checked
from sweeps.local.device_memory import DeviceMemory
from sweeps.local.display import Display
from sweeps.local.limits import Limits
from sweeps.local.sweep_file import parse_sweep
from sweeps.local.trials import Trials
from tests.sweep_helpers import content


@pytest.fixture
def environment_of(tmp_path, monkeypatch):
    """Return the environment that the first trial of a sweep is started with."""

    def start(**changes: Any):
        started = []

        class Started:
            had_company = False

            def __init__(self, *arguments):
                started.append(arguments[-1])

        monkeypatch.setattr(agent_module, "TrialRun", Started)
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            monkeypatch.delenv(name)
        sweep = checked(parse_sweep(content(**changes)))
        trials = Trials(url_of_file(tmp_path / "study.db"), sweep, "s", 1)
        agent = Agent(trials, tmp_path / "s", Limits(2), DeviceMemory([{}]), Display(sweep, "s", 2, 1))
        agent.start(trials.take(2), 0)
        return started[0]

    return start


@pytest.mark.parametrize(
    ("told", "place"),
    [
        ({}, {}),
        ({"project": None, "entity": ""}, {}),
        ({"project": "digits"}, {"WANDB_PROJECT": "digits"}),
        ({"project": "digits", "entity": "team"}, {"WANDB_PROJECT": "digits", "WANDB_ENTITY": "team"}),
    ],
)
def test_a_trial_goes_to_the_project_and_the_entity_on_wandb_that_the_sweep_file_names(environment_of, told, place):
    environment = environment_of(**told)
    assert {name: environment[name] for name in ("WANDB_PROJECT", "WANDB_ENTITY") if name in environment} == place


def test_a_trial_is_checked_by_the_model_that_the_sweeps_command_names(environment_of):
    command = ["${interpreter}", "${program}", "--model=vae", "--dataset=digits", "${args}"]
    parameters = {"beta": {"min": 0.1, "max": 2.0}}
    assert "beta=" in environment_of(command=command, parameters=parameters)["WANDB_NAME"]
