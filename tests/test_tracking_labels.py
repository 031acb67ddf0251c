"""What runs are called, grouped, typed and tagged by W&B's real client, however they are gone on with."""

import pytest

from analysis.record import run_folder
from analysis.record.wandb_start import labels_in
from tests.test_tracking_by_turns import command_in, upload
from tests.test_tracking_online import double, start  # noqa: F401

SMALL = ("--dataset=digits", "--model=mlp", "--width=16", "--run_id=a", "--preview=0", "--epochs=4", "--panels_every=9")
AGENT = {"WANDB_NAME": "007 lr=0.02", "WANDB_RUN_GROUP": "mlp_lr", "WANDB_TAGS": "x,y", "WANDB_ENTITY": "cats"}
BY_TURNS = [("online", "online"), ("online", "offline"), ("offline", "offline")]
pytestmark = [pytest.mark.slow, pytest.mark.waits]


@pytest.fixture
def train(double, tmp_path):  # noqa: F811
    """Train to the end of an epoch and, where that is offline, upload it as the run says."""

    def go(epoch, mode, *words, may_upload=True, **variables):
        training = start(
            tmp_path, double.url, *SMALL, f"--stop_after={epoch}", f"--tracking={mode}", *words, **variables
        )
        assert training.wait(200) == 0, training.output + training.errors
        if mode == "offline" and may_upload:
            upload(command_in(training.output), double, tmp_path)
        assert double.faults == []

    return go


@pytest.fixture
def trial(tmp_path):
    """The variables of a trial of the local agent, with the file of its values."""
    path = tmp_path / "values.yaml"
    path.write_text("lr: {value: 0.02}\n", "utf-8")
    return {**AGENT, "WANDB_SWEEP_PARAM_PATH": str(path)}


def labels(run):
    return run.display_name, run.group, run.job_type, sorted(run.tags), run.entity


def epochs_of(run):
    return [row["epoch"] for row in run.history]


def test_a_run_of_0_1_0_was_tracked_where_its_address_says():
    assert labels_in({"wandb": "https://wandb.ai/the%20cats/p/runs/a"}) == {"entity": "the cats"}
    for environment in ({}, {"wandb": ""}, {"wandb": "nonsense"}, {"wandb": None}, {"wandb_labels": {}}):
        assert labels_in(environment) == {}


@pytest.mark.parametrize("modes", BY_TURNS, ids=" ".join)
def test_what_the_user_has_changed_on_the_site_stays(modes, double, train):  # noqa: F811
    train(1, modes[0], "--tags=z", WANDB_NAME="first", WANDB_NOTES="to do")
    run = double.run("a")
    assert (run.display_name, run.tags, run.notes) == ("first", ["z"], "to do")
    run.display_name, run.tags, run.notes = "renamed", ["best"], "done"
    train(2, modes[1], "--tags=z", WANDB_NAME="first", WANDB_NOTES="to do")
    assert (run.display_name, run.tags, run.notes) == ("renamed", ["best"], "done")
    assert (run.config["stop_after"], epochs_of(run)) == (2, [1, 2])  # later settings are sent


def test_tags_that_are_told_later_join_those_of_the_site(double, train):  # noqa: F811
    train(1, "offline", "--tags=z")
    run = double.run("a")
    run.display_name, run.tags = "renamed", ["best"]
    train(2, "online", "--tags=z,new")
    assert (run.display_name, run.tags) == ("renamed", ["best", "z", "new"])


@pytest.mark.parametrize("modes", BY_TURNS, ids=" ".join)
def test_a_trial_that_is_gone_on_with_by_hand_stays_a_trial_of_its_sweep(modes, double, train, trial):  # noqa: F811
    train(1, modes[0], **trial)
    expected = ("007 lr=0.02", "mlp_lr", "trial", ["x", "y"], "cats")
    assert labels(double.run("a")) == expected
    train(4, modes[1])
    assert labels(double.run("a")) == expected
    assert epochs_of(double.run("a")) == [1, 2, 3, 4, 4]
    assert [each for each in double.run("a").artifacts if each["artifactTypeName"] == "model"] == []


def test_parts_that_were_offline_are_uploaded_under_the_labels_of_the_first(double, train, trial):  # noqa: F811
    train(1, "offline", may_upload=False, **trial)
    train(2, "offline", may_upload=False)
    assert double.runs == {}
    train(4, "offline")
    assert labels(double.run("a")) == ("007 lr=0.02", "mlp_lr", "trial", ["x", "y"], "cats")
    assert epochs_of(double.run("a")) == [1, 2, 3, 4, 4]


def test_a_run_that_w_and_b_knows_and_that_had_not_begun_gets_its_labels(double, train, trial):  # noqa: F811
    double.run("a").has_begun = True  # a preempted run that was given back before it began
    train(1, "online", **trial)
    assert labels(double.run("a")) == ("007 lr=0.02", "mlp_lr", "trial", ["x", "y"], "cats")


def test_a_run_that_was_not_tracked_at_first_is_whole_on_w_and_b(double, tmp_path, train):  # noqa: F811
    train(1, "off")
    train(2, "offline", WANDB_NAME="late")
    assert double.run("a").display_name == "late"
    assert epochs_of(double.run("a")) == [row["epoch"] for row in run_folder.read_metrics(tmp_path / "runs" / "a")]


@pytest.mark.parametrize("modes", BY_TURNS, ids=" ".join)
def test_a_trial_of_w_and_bs_agent_belongs_to_its_sweep_by_hand_too(modes, double, train, trial):  # noqa: F811
    place = {"WANDB_SWEEP_ID": "sweep0", "WANDB_RUN_ID": "a", "WANDB_PROJECT": "project", "WANDB_ENTITY": "cats"}
    train(1, modes[0], **place, WANDB_SWEEP_PARAM_PATH=trial["WANDB_SWEEP_PARAM_PATH"])
    train(2, modes[1])
    run = double.run("a")
    assert (*labels(run), run.sweep, run.project) == ("lr=0.02", "sweep0", "trial", [], "cats", "sweep0", "project")
    assert epochs_of(run) == [1, 2]
