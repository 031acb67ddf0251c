"""What a run is called on W&B, and what the log of W&B's client holds."""

import struct
from importlib import import_module
from pathlib import Path

import pytest

from analysis.record.wandb_alert import alert
from analysis.record.wandb_start import LONGEST_NAME, RunFacts, name_on_wandb, short, trial_name
from data.internals import wandb_steps
from sweeps.local.launch import unless_set

NUMBERS = {0.00031: "3.1e-4", 3.1e-4 * 1.00001: "3.1e-4", 0.05: "0.05", 1.0: "1", 1e-5: "1e-5", 12345.6: "1.23e4"}


@pytest.mark.parametrize(("value", "text"), NUMBERS.items())
def test_a_setting_is_written_in_few_letters(value, text):
    assert short(value) == text


def test_a_trial_is_called_by_its_number_and_what_its_sweep_varies():
    assert trial_name("007", {"lr": 3.1e-4, "weight_decay": 0.05, "augmentation": "crop_flip"}) == (
        "007 lr=3.1e-4 weight_decay=0.05 augmentation=crop_flip"
    )
    long = trial_name("007", {f"setting{i}": "x" * 20 for i in range(20)})
    assert len(long) <= LONGEST_NAME
    assert long.endswith(" ...")


def facts(run_id, sweep, **earlier):
    return RunFacts(Path(), {"model": "mlp", "run_id": run_id, "lr": 0.1, "tags": "z"}, {}, sweep, earlier)


def test_a_trial_of_wandbs_agent_is_called_by_what_differs_from_the_models_defaults():
    assert name_on_wandb(facts("abc", {"lr": 0.1, "schedule": "constant"})) == "lr=0.1"  # constant is the default
    assert name_on_wandb(facts("abc", {})) == "abc"
    assert name_on_wandb(facts("final-abc-seed1", {"lr": 0.1})) == "final-abc-seed1"


def test_runs_know_what_they_are():
    kinds = {run_id: facts(run_id, sweep).job_type for run_id, sweep in (("a", {}), ("b", {"lr": 1}))}
    assert kinds == {"a": "run", "b": "trial"}
    assert facts("final-b-seed1", {"lr": 1}).job_type == "final"
    assert facts("final-attempt", {}).job_type == "run"


def test_a_trial_that_goes_on_by_hand_is_labelled_as_before_but_for_what_is_told_now(monkeypatch):
    variables = {"WANDB_NAME": "007 lr=0.1", "WANDB_RUN_GROUP": "rates", "WANDB_ENTITY": "cats"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    labels = facts("a", {"lr": 0.1}).labels
    for name in variables:
        monkeypatch.delenv(name)
    by_hand = facts("a", {}, job_type="trial", wandb_labels=labels)
    own = {"job_type": "trial", "notes": "", "tags": "z"}
    monkeypatch.setenv("WANDB_NOTES", "by hand")
    monkeypatch.setenv("WANDB_ENTITY", "of another project")  # a run stays where it is
    assert by_hand.labels == {"name": "007 lr=0.1", "group": "rates", "entity": "cats", **own, "notes": "by hand"}


@pytest.mark.parametrize("damaged", [{"wandb_labels": "x"}, {"wandb_labels": {"name": [1]}, "job_type": 5}, {}])
def test_damaged_labels_end_no_run(damaged):
    labels = facts("a", {}, **damaged).labels
    assert (labels["job_type"], labels["tags"]) == ("run", "z")
    assert all(isinstance(text, str) for text in labels.values())


class ClientRun:
    """What the alert needs of a run of W&B's client."""

    def __init__(self, resumed):
        self.resumed, self.name, self.summary, self.alerts = resumed, "as it is on W&B", {}, []

    def alert(self, *words):
        self.alerts.append(words)

    def finish(self):
        """Close it."""


@pytest.mark.parametrize("resumed", [False, True])
def test_an_alert_goes_to_the_project_of_the_trials_and_their_group_whatever_they_are_called(resumed, monkeypatch):
    asked, run = {}, ClientRun(resumed)
    monkeypatch.setattr("wandb.init", lambda **words: asked.update(words) or run)
    monkeypatch.setenv("WANDB_RUN_GROUP", "wide nets")
    address = "https://wandb.ai/cats/my%20project%2C%20%C3%A9/runs/abc"  # as `wandb.Settings.run_url` writes it
    message = {"sweep": "rates", "state": "paused", "text": "why", "trials": {"finished": 1}, "trial_hours": 2.0}
    alert(address, message)
    assert (asked["entity"], asked["project"], asked["group"]) == ("cats", "my project, é", "wide nets")
    assert run.alerts == [("sweep rates paused", "why", "WARN")]
    assert run.summary == {"state": "paused", "trials": {"finished": 1}, "trial_hours": 2.0}
    assert run.name == ("as it is on W&B" if resumed else "sweep rates")  # the user may have renamed it there


def test_what_the_user_says_of_a_run_counts(monkeypatch):
    monkeypatch.setenv("WANDB_NAME", "mine")
    monkeypatch.setenv("WANDB_RUN_GROUP", "")
    assert unless_set({"WANDB_NAME": "ours", "WANDB_RUN_GROUP": "sweep"}) == {"WANDB_RUN_GROUP": "sweep"}


def fragment(kind, content):
    return bytes(4) + struct.pack("<HB", len(content), kind) + content


def record_of_row(step):
    record = import_module("wandb.proto.wandb_internal_pb2").Record()
    record.history.step.num = step
    return record.SerializeToString()


def test_a_log_that_a_kill_has_cut_short_is_read_and_mended(tmp_path):
    log, row = tmp_path / "run-a.wandb", record_of_row(7)
    whole = b":W&B\xe1\xbe\x00" + fragment(1, record_of_row(6)) + fragment(2, row[:3]) + fragment(4, row[3:])
    for rest in (b"", bytes(5), fragment(1, record_of_row(8))[:-2], fragment(2, row[:3]), bytes(100)):
        log.write_bytes(whole + rest)
        assert wandb_steps(log) == [6, 7]
        assert log.read_bytes() == whole
    log.write_bytes(whole + fragment(1, b"\xff\xff") + fragment(1, row))  # a disk's fault, which is left as it is
    assert wandb_steps(log) == [6, 7]
    assert len(log.read_bytes()) > len(whole)
