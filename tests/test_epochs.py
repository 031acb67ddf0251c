"""Runs that stop after an epoch, or are resumed with more epochs: nothing differs from one that ran through."""

import pytest

import train
from analysis.record import run_folder
from data.errors import UserError
from data.files import read_json
from models.resolve import validate
from tests.test_train import _fresh_process_state, epochs, overrides, run  # noqa: F401


@pytest.mark.parametrize("schedule", ["constant", "one_cycle"])
def test_a_run_that_stops_after_an_epoch_goes_on_as_if_it_had_run_through(schedule, tmp_path, capsys):
    words = (f"--schedule={schedule}", "--warmup_epochs=0.5")
    assert run(tmp_path, "--run_id=whole", *words) == 0
    assert run(tmp_path, "--run_id=parts", "--stop_after=2", *words) == 0
    assert "stopped; to go on: python train.py" in capsys.readouterr().out
    assert run_folder.state(tmp_path / "parts") == "stopped"
    assert len(epochs(tmp_path / "parts")) == 2
    assert run(tmp_path, "--run_id=parts", "--stop_after=1") == 0  # it is beyond that already
    assert len(epochs(tmp_path / "parts")) == 2
    assert run(tmp_path, "--run_id=parts") == 0
    assert epochs(tmp_path / "parts") == epochs(tmp_path / "whole")
    assert run_folder.state(tmp_path / "parts") == "finished"


@pytest.mark.parametrize(("minutes", "num_saved"), [(0, 0), (1e-9, 13), (1e9, 0)])
def test_a_crash_within_a_long_epoch_costs_what_came_after_the_last_save(minutes, num_saved, tmp_path, monkeypatch):
    words = (f"--save_minutes={minutes}", "--log_every=4", "--ema_decay=0.9", "--epochs=2", "--batch_size=64")
    assert run(tmp_path, "--run_id=whole", *words) == 0
    original, steps = train.Trainer.train_step, []

    def train_step(self, batch):
        steps.append(self.num_steps)
        if steps == list(range(14)):
            raise RuntimeError("the power fails")
        original(self, batch)

    monkeypatch.setattr(train.Trainer, "train_step", train_step)
    with pytest.raises(RuntimeError, match="the power fails"):
        run(tmp_path, "--run_id=a", *words)
    assert run(tmp_path, "--run_id=a", *words) == 0
    assert steps[14] == num_saved
    assert epochs(tmp_path / "a") == epochs(tmp_path / "whole")
    rows = [[row["images_seen"] for row in run_folder.read_metrics(tmp_path / name)] for name in ("a", "whole")]
    assert rows[0] == rows[1]


def test_a_stop_after_the_last_epoch_is_none(tmp_path):
    assert run(tmp_path, "--run_id=a", "--epochs=1", "--stop_after=1") == 0
    assert run_folder.state(tmp_path / "a") == "finished"


def test_a_run_of_a_constant_rate_is_extended_as_if_it_had_had_more_epochs_from_the_start(tmp_path):
    words = ("--warmup_epochs=1.5", "--ema_decay=0.9")
    assert run(tmp_path, "--run_id=whole", "--epochs=3", *words) == 0
    assert run(tmp_path, "--run_id=longer", "--epochs=2", "--stop_after=1", *words) == 0
    assert run(tmp_path, "--run_id=longer", "--epochs=3") == 0
    assert epochs(tmp_path / "longer") == epochs(tmp_path / "whole")
    assert read_json(tmp_path / "longer" / run_folder.SETTINGS)["epochs"] == 3


def refusal(capsys, *words):
    assert train.main(overrides(*words)) == 2
    return capsys.readouterr().err


def test_more_epochs_are_refused_where_the_schedule_ends_with_them_or_the_run_has_finished(tmp_path, capsys):
    folder = f"--runs_dir={tmp_path}"
    assert run(tmp_path, "--run_id=a", "--epochs=2", "--stop_after=1", "--schedule=cosine") == 0
    assert "epochs=3 differs from the 2 of run 'a', over which --schedule=cosine takes its whole course" in refusal(
        capsys, folder, "--run_id=a", "--epochs=3"
    )
    assert run(tmp_path, "--run_id=b", "--epochs=1") == 0
    assert "has finished after 1 epoch, and kept no checkpoint" in refusal(capsys, folder, "--run_id=b", "--epochs=2")
    assert run(tmp_path, "--run_id=c", "--epochs=2", "--stop_after=1") == 0
    assert "epochs=1 differs from the 2 of run 'c': leave it out" in refusal(capsys, folder, "--run_id=c", "--epochs=1")


def test_a_run_from_before_the_setting_schedule_is_one_of_a_constant_rate():
    saved = {"model": "mlp", "epochs": 2, "run_id": "old", "lr": 0.1}
    assert validate({"model": "mlp", "epochs": 5, "lr": 0.1}, saved).epochs == 5


def test_images_that_grow_over_the_epochs_have_a_course_too():
    saved = {"model": "mlp", "epochs": 2, "run_id": "old", "start_size": 8}
    with pytest.raises(UserError, match="over which --start_size=8 takes its whole course"):
        validate({"model": "mlp", "epochs": 5, "start_size": 8}, saved)
