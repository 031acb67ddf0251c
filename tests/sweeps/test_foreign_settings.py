"""Settings that a storage holds, but that no agent has put there: each is a failed trial and one line, no crash."""

import os
import sqlite3
from argparse import Namespace
from contextlib import suppress

import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from data.errors import UserError
from sweeps.agent import open_trials
from sweeps.local.agent import Agent
from sweeps.local.device_memory import DeviceMemory
from sweeps.local.display import Display
from sweeps.local.limits import Limits
from sweeps.local.trials import Trials
from tests.sweep_helpers import LR, sweep_of

UNFIT = "its settings in the storage are not those of the sweep"
FOREIGN = {
    "a text for a number": (CategoricalDistribution(["many"]), "many", {}, UNFIT),
    "out of range": (IntDistribution(-5, 5), -3, {}, "--epochs=-3 is out of range"),
    "no settings": (IntDistribution(1, 5), 3, {"settings": 3}, UNFIT),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_trial_with_foreign_settings_fails_and_the_sweep_goes_on(tmp_path, capsys, case):
    space, value, notes, reason = FOREIGN[case]
    sweep = sweep_of({"epochs": {"min": 1, "max": 5}, "model": {"value": "cnn"}})
    trials = Trials(f"sqlite:///{tmp_path}/study.db", sweep, "s", seed=0)
    notes = {"run_id": "000-foreign", **notes}
    trials.study.add_trial(
        create_trial(
            state=TrialState.RUNNING, params={"epochs": value}, distributions={"epochs": space}, user_attrs=notes
        )
    )
    agent = Agent(trials, tmp_path, Limits(1), DeviceMemory([{}]), Display(sweep, "s", 1, 1))
    agent.fill_slots()
    [trial] = trials.all()
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["error"].startswith(reason)
    assert f"trial 0 failed: {reason}" in capsys.readouterr().out
    assert not agent.pool.runs
    assert not agent.work_is_left()


@pytest.mark.slow
@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM study_directions",
        "UPDATE trials SET number = 7",
        "UPDATE trial_user_attributes SET value_json = 'no JSON'",
        "UPDATE trial_params SET distribution_json = NULL",
        "UPDATE trials SET datetime_start = 'never'",
        "INSERT INTO trial_intermediate_values VALUES (1, 1, 1, X'61', 'FINITE')",
    ],
)
def test_a_database_that_something_else_has_written_to_is_refused_in_one_line(tmp_path, statement):
    url, sweep = f"sqlite:///{tmp_path}/study.db", sweep_of({"lr": LR})
    Trials(url, sweep, "s", seed=0).take(1)
    with sqlite3.connect(tmp_path / "study.db") as database:
        database.execute(statement)
    with pytest.raises(UserError, match="study.db") as caught:
        Trials(url, sweep, "s", seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("target", ["/dev/null", ".", "loop"])
def test_a_database_that_is_no_file_is_refused(tmp_path, target):
    (tmp_path / "loop").symlink_to(target)
    with pytest.raises(UserError, match="loop cannot be"):
        Trials(f"sqlite:///{tmp_path}/loop", sweep_of({"lr": LR}), "s", seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]


@pytest.mark.parametrize("target", ["sweep.yaml", "/dev/null"])
def test_a_link_in_place_of_the_copy_of_the_sweep_file_is_no_traceback_and_its_device_stays_one(
    tmp_path, monkeypatch, target
):
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path))
    (tmp_path / "file.yaml").write_text("method: random")
    folder = tmp_path / "sweeps" / "s"
    folder.mkdir(parents=True)
    (folder / "sweep.yaml").symlink_to(target)
    options = Namespace(file=tmp_path / "file.yaml", storage=None, seed=0)
    mode = os.stat("/dev/null").st_mode
    with suppress(OSError):
        open_trials(sweep_of({"lr": LR}), "s", folder, options)
    assert os.stat("/dev/null").st_mode == mode
    assert (folder / "sweep.yaml").is_symlink()
