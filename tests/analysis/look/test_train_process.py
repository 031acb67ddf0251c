"""train.py as a process of a program of ours: what reaches it, and when it ends."""

import signal
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from analysis.look.train_process import run_train_py
from analysis.record import run_folder
from data.errors import UserError
from data.files import read_json
from tests.forks import Fork

SETTINGS = {"model": "mlp", "dataset": "digits", "width": 8, "lr": 0.01, "epochs": 1, "train_fraction": 0.5}
ENDLESS = {**SETTINGS, "epochs": 100_000}
TIMEOUT_SECONDS = 120
pytestmark = pytest.mark.usefixtures("lean")


def main(arguments: list[str]) -> None:
    """Be a program that trains in a folder of its own."""
    with tempfile.TemporaryDirectory(dir=arguments[0]) as folder:
        run_train_py(ENDLESS, Path(folder))


@pytest.mark.slow
def test_settings_come_from_the_program_alone(tmp_path, monkeypatch):
    (tmp_path / "sweep.yaml").write_text("lr: {value: 0.5}")
    for name, value in {
        "WANDB_SWEEP_PARAM_PATH": str(tmp_path / "sweep.yaml"),
        "WANDB_RUN_ID": "theirs",
        "ACCELERATE_MIXED_PRECISION": "bf16",
        "VISION_SWEEPS_RUNS": str(tmp_path / "theirs"),
    }.items():
        monkeypatch.setenv(name, value)
    folder = run_train_py({**SETTINGS, "run_id": "old", "resume": True}, tmp_path / "ours")
    settings = read_json(folder / run_folder.SETTINGS)
    assert run_folder.state(folder) == "finished"
    assert [path.parent for path in (tmp_path / "ours").glob(f"*/{run_folder.SETTINGS}")] == [folder]
    assert {key: settings[key] for key in SETTINGS} == SETTINGS
    assert (settings["mixed_precision"], settings["tracking"]) == ("no", "off")
    assert not (tmp_path / "theirs").exists()


@pytest.mark.slow
def test_a_run_that_fails_ends_in_one_line_with_the_last_of_its_output(tmp_path):
    with pytest.raises(UserError, match=r"train.py failed, exit code 2: .*--width=0 is out of range") as caught:
        run_train_py({**SETTINGS, "width": 0}, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_run_that_has_logged_enough_is_stopped(tmp_path):
    folder = run_train_py(ENDLESS, tmp_path, num_rows=2, to_the_end=False)
    assert run_folder.state(folder) == "stopped"
    assert len(run_folder.read_metrics(folder)) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_run_does_not_outlive_the_program_that_started_it(number, tmp_path):
    process = Fork(__name__, [str(tmp_path)], tmp_path.with_suffix(".log"))
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (rows := list(tmp_path.glob(f"*/*/{run_folder.METRICS}"))) or not rows[0].stat().st_size:
        assert time.monotonic() < deadline
        assert process.is_alive()
        time.sleep(0.05)
    training = psutil.Process(read_json(rows[0].parent / run_folder.ENVIRONMENT)["pid"])
    process.signal(number)
    process.wait(TIMEOUT_SECONDS)
    _, alive = psutil.wait_procs([training], TIMEOUT_SECONDS)
    for late in alive:
        late.kill()
    assert alive == []
    left = list(tmp_path.iterdir())
    assert bool(left) == (number == signal.SIGKILL)  # else the program has cleaned up after itself
