"""Where on W&B the checkpoint of a run is looked for."""

from types import SimpleNamespace

import pytest

from analysis.record import run_folder
from analysis.record.wandb_artifacts import delete_checkpoints, fetch_checkpoint
from data.files import write_json
from models.core.settings import Settings


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """The names of artifacts that are asked for, by a user whose own entity is `me`."""
    names = []
    api = SimpleNamespace(default_entity="me", artifact_collection_exists=lambda name, kind: names.append(name))
    monkeypatch.setattr("wandb.Api", lambda timeout: api)
    monkeypatch.setattr("analysis.record.wandb_artifacts.choose_mode", lambda tracking: ("online", ""))
    monkeypatch.setattr("analysis.record.wandb_artifacts.client_settings", lambda: SimpleNamespace(entity=None))
    monkeypatch.delenv("WANDB_ENTITY", raising=False)
    return names


@pytest.mark.parametrize(("noted", "entity"), [({}, "me"), ({"wandb_labels": {"entity": "cats"}}, "cats")])
def test_a_run_that_goes_on_by_hand_looks_where_it_began(noted, entity, asked, tmp_path):
    write_json(tmp_path / run_folder.ENVIRONMENT, noted)
    assert not fetch_checkpoint(Settings(run_id="a", project="p"), tmp_path)
    assert asked == [f"{entity}/p/checkpoint-a"]


def test_the_checkpoints_that_are_deleted_are_the_runs_own(asked):
    delete_checkpoints(SimpleNamespace(entity="cats", project="p", id="a"), and_latest=True)
    assert asked == ["cats/p/checkpoint-a"]
