"""What `python -m analysis.record.wandb_end` says where it cannot upload a run."""

import os
import socket
import subprocess
import sys

import pytest

from analysis.record import run_folder, wandb_end
from data.files import write_json
from data.paths import CHECKOUT


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run's folder, on a machine without credentials."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    write_json(tmp_path / run_folder.SETTINGS, {"run_id": "a", "model": "mlp", "tags": "", "project": "p"})
    write_json(tmp_path / run_folder.ENVIRONMENT, {"pid": 1})
    return tmp_path


def error_of(capsys, *words):
    code = wandb_end.main(list(words))
    [line] = capsys.readouterr().err.splitlines()
    return code, line.removeprefix("analysis.record.wandb_end: ")


@pytest.mark.parametrize("words", [(), ("x", "F"), ("0", "F", "F")])
def test_words_that_are_not_understood_are_one_line(words, capsys):
    assert error_of(capsys, *words) == (2, "give the code 0 and the folder of a run")


def test_a_folder_without_a_run_is_named(tmp_path, capsys):
    assert error_of(capsys, "0", str(tmp_path)) == (
        2,
        f"{tmp_path} holds no run, or a damaged one: name the folder of a run",
    )


def test_a_run_is_uploaded_once_it_has_ended_unless_it_asks_itself(run, capsys):
    lock = run_folder.take(run)
    assert error_of(capsys, "0", str(run)) == (75, f"{run} is in progress: upload it once it has ended")
    write_json(run / run_folder.ENVIRONMENT, {"pid": os.getppid()})
    code, line = error_of(capsys, "0", str(run))
    assert (code, "no W&B credentials" in line) == (2, True)
    lock.release()


@pytest.mark.slow
def test_a_server_that_is_away_is_one_line(run):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    variables = {"WANDB_BASE_URL": url, "WANDB_API_KEY": "0" * 40, "WANDB_INIT_TIMEOUT": "2", "HOME": str(run)}
    words = [sys.executable, "-m", "analysis.record.wandb_end", "0", str(run)]
    done = subprocess.run(words, cwd=CHECKOUT, env={**os.environ, **variables}, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    *_, line = done.stderr.splitlines()
    assert line.startswith(f"analysis.record.wandb_end: {run} is not all on W&B (")
    assert line.endswith("try again later")
