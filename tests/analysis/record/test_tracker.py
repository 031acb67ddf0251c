import errno
import json
import os
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from analysis.record import run_folder
from analysis.record.tracker import Tracker
from analysis.record.wandb_start import RunFacts
from data.errors import UserError
from models.core.settings import Settings


def track(folder, num_logged=0, goes_on=False, **settings):
    values = asdict(Settings(tracking="off", run_id=folder.name, **settings))
    return Tracker(RunFacts(folder, values, {"device": "Abacus 9"}, {}), num_logged, goes_on)


def test_an_untracked_run_is_written_to_its_folder(tmp_path):
    folder = tmp_path / "runs" / "a"
    tracker = track(folder, lr=0.5)
    assert tracker.wandb is None
    tracker.log({"epoch": 1, "val/loss": 0.25})
    assert run_folder.read_metrics(folder) == [{"epoch": 1, "val/loss": 0.25}]  # flushed at once
    tracker.log({"epoch": 2, "val/loss": 0.125})
    assert run_folder.state(folder) == "unfinished"
    tracker.finish("finished", {"val/loss": 0.125}, 143)
    assert json.loads((folder / "settings.json").read_text())["lr"] == 0.5
    assert json.loads((folder / "environment.json").read_text()) == {"device": "Abacus 9", "job_type": "run"}
    assert (folder / "metrics.jsonl").read_text().count("\n") == 2
    summary = json.loads((folder / "summary.json").read_text())
    ended = datetime.fromisoformat(summary.pop("ended"))
    assert abs(datetime.now(UTC) - ended) < timedelta(minutes=1)
    assert summary == {"state": "finished", "val/loss": 0.125}


def test_what_only_an_earlier_start_knew_of_a_run_is_kept(tmp_path):
    known = {
        "job_type": "trial",
        "wandb": "https://wandb.ai/cats/p/runs/a",
        "wandb_labels": {"group": "sweep"},
        "not_applicable": ["width"],
    }
    (tmp_path / "environment.json").write_text(json.dumps({**known, "device": "Abacus 1"}))
    assert track(tmp_path).facts.job_type == "trial"
    assert json.loads((tmp_path / "environment.json").read_text()) == {**known, "device": "Abacus 9"}


def test_what_an_earlier_start_has_noted_is_not_kept_where_it_is_damaged(tmp_path):
    damaged = {"job_type": [1], "wandb": 5, "wandb_labels": "x", "not_applicable": {}}
    (tmp_path / "environment.json").write_text(json.dumps(damaged))
    track(tmp_path)
    assert json.loads((tmp_path / "environment.json").read_text()) == {"device": "Abacus 9", "job_type": "run"}


@pytest.mark.parametrize("num_logged", [0, 1])
def test_pictures_of_the_beginning_go_to_wandb_with_the_first_row_alone(num_logged, tmp_path):
    sent = []
    track(tmp_path).log({"epoch": 1})
    tracker = track(tmp_path, num_logged=num_logged)
    tracker.wandb = SimpleNamespace(log=lambda number, metrics, images, tables: sent.append((number, list(images))))
    tracker.first_images = {"panels/training_images": tmp_path / "x.png"}
    tracker.log({"epoch": num_logged + 1}, {"panels/predictions": tmp_path / "y.png"})
    first = [] if num_logged else ["panels/training_images"]
    assert sent == [(num_logged + 1, [*first, "panels/predictions"])]


@pytest.mark.parametrize("num_logged", [0, 2, 3])
def test_a_resumed_run_forgets_what_was_logged_after_its_checkpoint(num_logged, tmp_path):
    tracker = track(tmp_path)
    for epoch in (1, 2, 3):
        tracker.log({"epoch": epoch, "run": 1})
    assert tracker.finish("stopped", {}, 143) == 143
    tracker = track(tmp_path, num_logged=num_logged)
    assert run_folder.state(tmp_path) == "unfinished"
    assert tracker.num_logged == num_logged
    tracker.log({"epoch": num_logged + 1, "run": 2})
    kept = [{"epoch": epoch, "run": 1} for epoch in range(1, num_logged + 1)]
    assert run_folder.read_metrics(tmp_path) == [*kept, {"epoch": num_logged + 1, "run": 2}]
    assert tracker.finish("finished", {}, 143) == 0


@pytest.mark.parametrize(("goes_on", "num_kept"), [(False, 2), (True, 3)])
def test_the_row_of_a_closing_evaluation_is_kept_where_more_epochs_follow(goes_on, num_kept, tmp_path):
    tracker = track(tmp_path)
    logged = [{"epoch": 1, "lr": 0.1}, {"epoch": 2, "lr": 0.1}, {"epoch": 2, "test/loss": 0.5}]
    for row in logged:
        tracker.log(row)
    tracker.lock.release()
    tracker = track(tmp_path, num_logged=2, goes_on=goes_on)
    assert tracker.num_logged == num_kept
    assert run_folder.read_metrics(tmp_path) == logged[:num_kept]


def test_the_row_of_a_step_that_is_trained_again_is_not_kept(tmp_path):
    tracker = track(tmp_path)
    for row in ({"epoch": 1, "lr": 0.1}, {"epoch": 1.5, "step": 3, "step/lr": 0.1}):
        tracker.log(row)
    tracker.lock.release()
    assert track(tmp_path, num_logged=1, goes_on=True).num_logged == 1


def test_rows_that_a_folder_has_lost_keep_their_numbers_however_often_a_run_goes_on(tmp_path):
    tracker = track(tmp_path)
    for epoch in (1, 2, 3):
        tracker.log({"epoch": epoch, "lr": 0.1})
    log = tmp_path / run_folder.METRICS
    log.write_text(log.read_text().splitlines(keepends=True)[0])
    for num_logged, num_kept in ((3, 1), (3, 1), (4, 2)):  # the first was killed before its checkpoint
        tracker.lock.release()
        tracker = track(tmp_path, num_logged=num_logged)
        assert (tracker.num_logged, len(run_folder.read_metrics(tmp_path))) == (num_logged, num_kept)
        tracker.log({"epoch": tracker.num_logged + 1, "lr": 0.1})
    assert [row["epoch"] for row in run_folder.read_metrics(tmp_path)] == [1, 4, 5]


def test_a_row_that_the_disk_has_no_room_for_is_told_with_its_file_and_to_wandb(tmp_path):
    tracker, told = track(tmp_path), []
    tracker.wandb = SimpleNamespace(finish=lambda state, summary, code: told.append((state, summary["error"])))
    with open("/dev/full", "w") as full:
        os.dup2(full.fileno(), tracker.metrics_file.fileno())
    path = str(tmp_path / run_folder.METRICS)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        tracker.log({"epoch": 1})
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        tracker.finish("failed", {}, 0)
    assert told == [("failed", f"[Errno {errno.ENOSPC}] No space left on device: '{path}'")]


@pytest.mark.parametrize("name", ["runs", "runs/a"])
def test_a_folder_that_cannot_be_made_is_the_users_to_put_right(name, tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(UserError, match="cannot be written.*--runs_dir"):
        track(tmp_path / name)


def test_tracking_online_without_credentials_is_refused_before_anything_is_written(account, tmp_path, monkeypatch):
    monkeypatch.setattr("wandb.setup", lambda: SimpleNamespace(settings=account("https://api.wandb.ai")))
    settings = asdict(Settings(tracking="online", run_id="a"))
    with pytest.raises(UserError, match="wandb login"):
        Tracker(RunFacts(tmp_path / "runs" / "a", settings, {}, {}))
    assert not (tmp_path / "runs").exists()
