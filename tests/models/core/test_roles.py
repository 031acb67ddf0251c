"""What settings are for, and values that would fail later."""

import json

import pytest

from data.errors import UserError
from models.core.settings import CIRCUMSTANCES, INVOCATION, kinds
from models.registry import MODELS
from tests.models.core.test_settings import (
    parse,
    save_run,  # noqa: F401
)


def test_the_roles_of_settings_are_marked_on_their_fields():
    of_starts = {"run_id", "runs_dir", "resume", "stop_after", "dry_run", "find_lr", "find_batch_size"}
    assert of_starts == INVOCATION
    assert {
        *("data_dir", "resident", "decode", "max_corrupt_images", "feature_dir", "eval_batch_size"),
        *("tracking", "project", "tags", "log_model", "checkpoint_artifact"),
        *("panels_every", "preview", "log_every", "profile", "save_minutes"),
    } == CIRCUMSTANCES - INVOCATION


@pytest.mark.parametrize("name", MODELS)
def test_a_model_marks_no_setting_of_its_own(name):
    """Readers of runs derive the lists from the settings of every run alone, which load no torch."""
    own = kinds(MODELS[name].settings_class)
    assert {key for key, kind in own.items() if kind.role} == CIRCUMSTANCES


@pytest.mark.parametrize("text", ["0.5", "half"])
def test_a_saved_value_of_another_type_is_refused(text, save_run, tmp_path):
    runs_dir = save_run("a")
    path = tmp_path / "runs" / "a" / "settings.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lr": text}))
    with pytest.raises(UserError, match=f"lr='{text}' is of type str, not float"):
        parse(runs_dir, "--run_id=a")


def test_a_sweeps_project_is_saved_so_that_resuming_by_hand_goes_to_the_same(save_run, tmp_path):
    assert parse(WANDB_PROJECT="of-the-sweep").project == "of-the-sweep"
    assert parse("--project=own", WANDB_PROJECT="of-the-sweep").project == "own"
    runs_dir = save_run("a", "--project=of-the-sweep")
    assert parse(runs_dir, "--run_id=a").project == "of-the-sweep"
    assert parse(runs_dir, "--run_id=a", WANDB_PROJECT="of-the-shell").project == "of-the-sweep"


@pytest.mark.parametrize(
    "argument",
    [
        "--seed=-1",
        "--seed=4294967296",
        "--data_seed=4294967296",
        "--epochs=9007199254740993",
        f"--run_id={'a' * 201}",
        "--runs_dir=",
    ],
)
def test_numbers_and_names_that_would_fail_later_are_refused(argument):
    with pytest.raises(UserError, match=argument.partition("=")[0]):
        parse(argument)
