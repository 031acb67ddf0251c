"""train.py with W&B's real client, beside a double of its server, or beside one that refuses or keeps silent."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from analysis.record import run_folder
from data.files import read_json
from tests.forks import Fork
from tests.wandb_server import API_KEY, WandbServer

RUN = ["--dataset=digits", "--model=mlp", "--width=16", "--epochs=2", "--run_id=a"]
LONG = ["--tracking=online", "--epochs=100000"]
pytestmark = [pytest.mark.slow, pytest.mark.waits]


def start(folder, url, *arguments, patches={}, **variables):
    own = {"WANDB_BASE_URL": url, "WANDB_API_KEY": API_KEY, "HOME": str(folder), "WANDB_CACHE_DIR": str(folder / "c")}
    own |= {"WANDB_CONFIG_DIR": str(folder / "config"), "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1"}
    log = folder / f"{len(list(folder.glob('*.log')))}.log"
    words = [*RUN, f"--runs_dir={folder / 'runs'}", *arguments]
    return Fork("train", words, log, environment={**own, **variables}, patches=patches)


def train(folder, url, *arguments, **variables):
    training = start(folder, url, *arguments, **variables)
    assert training.wait(200) == 0, training.output + training.errors
    return training.output


@pytest.fixture
def double():
    server = WandbServer()
    yield server
    server.close()


@pytest.fixture
def refusing(request):
    """A server that answers every request with one status, or with 0 accepts it and says nothing."""
    silence = threading.Event()

    class Refusal(BaseHTTPRequestHandler):
        def do_POST(self):
            if request.param == 0:
                silence.wait(60)
            self.send_response(request.param or 500)
            self.end_headers()

        do_GET = do_PUT = do_POST

        def log_message(self, *arguments):
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusal)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    silence.set()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("refusing", [401, 403, 500, 0], indirect=True)
def test_a_server_that_refuses_or_keeps_silent_leaves_the_run_offline(refusing, tmp_path):
    output = train(tmp_path, refusing, WANDB_INIT_TIMEOUT="5")
    assert run_folder.state(tmp_path / "runs" / "a") == "finished"
    assert "W&B: offline" in output
    assert "has failed" not in output
    assert "WARNING" not in output
    assert len(list((tmp_path / "runs" / "a" / "wandb").glob("offline-run-*"))) == 1


def test_the_servers_summary_has_the_best_figures_and_tables_and_pictures_beside_them(double, tmp_path):
    train(tmp_path, double.url, "--tracking=online")
    summary, own = double.run("a").summary, read_json(tmp_path / "runs" / "a" / run_folder.SUMMARY)
    assert summary["val/loss"] == own["val/loss"]
    assert {"val/per_class", "val/confusion_matrix", "panels/predictions"} <= summary.keys()
    assert double.faults == []


@pytest.mark.parametrize(("asked", "file"), [("auto", "best.pt"), ("final", "final.pt")])
def test_weights_on_wandb_say_what_they_are_and_which_images_they_come_from(asked, file, double, tmp_path):
    names = {"WANDB_NAME": "mine", "WANDB_RUN_GROUP": "wide nets", "WANDB_TAGS": "x,y"}
    train(tmp_path, double.url, "--tracking=online", f"--log_model={asked}", "--tags=z", **names)
    run, folder = double.run("a"), tmp_path / "runs" / "a"
    [model] = [artifact for artifact in run.artifacts if artifact["artifactTypeName"] == "model"]
    assert model["committed"]
    assert model["files"][file] == (folder / file).read_bytes()
    assert {"settings.json", "data.json"} <= model["files"].keys()
    assert model["aliases"] == sorted(["latest", Path(file).stem, "wide-nets"])
    metadata, environment = json.loads(model["metadata"]), read_json(folder / run_folder.ENVIRONMENT)
    assert metadata["metrics"]["val/loss"] == read_json(folder / run_folder.SUMMARY)["val/loss"]
    assert metadata["settings"]["width"] == 16
    assert metadata["classes"] == [str(digit) for digit in range(10)]
    assert metadata["data"] == environment["data"]
    assert metadata["commit"] == environment["commit"]
    [images] = [double.artifacts[identity] for identity in run.used]
    assert (images["artifactTypeName"], images["artifactCollectionName"]) == ("dataset", "dataset-digits")
    assert environment["data"] in images["files"]["manifest"].decode()
    assert (run.display_name, run.group, sorted(run.tags), run.job_type) == ("mine", "wide nets", ["x", "y"], "run")
    assert double.faults == []


def test_a_finished_run_keeps_its_weights_and_no_checkpoint(double, tmp_path):
    train(tmp_path, double.url, "--tracking=off", "--log_model=none")
    files = {path.name for path in (tmp_path / "runs" / "a").iterdir()}
    assert run_folder.BEST in files
    assert run_folder.CHECKPOINT not in files
    assert run_folder.LAST not in files


def wait_for_epochs(folder, num, seconds=60):
    deadline = time.monotonic() + seconds
    while len(run_folder.read_metrics(folder / "runs" / "a")) < num:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("seconds_between_sendings", ["1", "600"], ids=["all was sent", "nothing was sent"])
def test_after_a_kill_the_server_ends_up_with_every_row_once(seconds_between_sendings, double, tmp_path):
    slow = {"WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": seconds_between_sendings}
    killed = start(tmp_path, double.url, *LONG, **slow)
    wait_for_epochs(tmp_path, 6)
    killed.signal(signal.SIGKILL)
    killed.wait()
    folder = tmp_path / "runs" / "a"
    going_on = start(tmp_path, double.url, *LONG)
    num = len(run_folder.read_metrics(folder))
    wait_for_epochs(tmp_path, num + 3)
    going_on.signal(signal.SIGTERM)
    assert going_on.wait() == 128 + signal.SIGTERM
    logged = [row["epoch"] for row in run_folder.read_metrics(folder)]
    assert logged == list(range(1, len(logged) + 1))
    assert [row["epoch"] for row in double.run("a").history] == logged
    assert double.run("a").num_repeated == 0
    assert "WARNING" not in going_on.output + going_on.errors  # of W&B's client, on rows that it has had


def test_what_was_said_of_an_earlier_end_is_taken_back(double, tmp_path):
    (tmp_path / "runs" / "a" / "predictions.csv").mkdir(parents=True)
    failed = start(tmp_path, double.url, "--tracking=online")
    assert failed.wait() != 0
    assert double.run("a").summary["state"] == "failed"
    assert "directory" in double.run("a").summary["error"]
    (tmp_path / "runs" / "a" / "predictions.csv").rmdir()
    train(tmp_path, double.url, "--tracking=online")
    assert double.run("a").summary["state"] == "finished"
    assert "error" not in double.run("a").summary


def test_a_run_that_cannot_begin_has_failed_on_wandb_too(double, tmp_path):
    (tmp_path / "runs" / "a" / run_folder.DATA).mkdir(parents=True)
    assert start(tmp_path, double.url, "--tracking=online").wait() == 2
    assert run_folder.state(tmp_path / "runs" / "a") == "failed"
    run = double.run("a")
    assert (run.state, run.exit_code, run.summary["state"]) == ("failed", 1, "failed")


def test_wandbs_client_goes_on_from_the_rows_that_the_double_has(double, tmp_path, monkeypatch):
    variables = {"WANDB_BASE_URL": double.url, "WANDB_API_KEY": API_KEY, "HOME": str(tmp_path)}
    code = "import wandb; run = wandb.init(id='x', project='p', resume='allow'); print(run.resumed, run.starting_step)"
    told = []
    for _ in range(3):
        words = [sys.executable, "-c", f"{code}; run.log({{'loss': 1}}); run.log({{'loss': 2}}); run.finish()"]
        done = subprocess.run(words, cwd=tmp_path, env={**os.environ, **variables}, capture_output=True, text=True)
        told += [line for line in done.stdout.splitlines() if line.startswith(("True", "False"))]
    assert told == ["False 0", "True 2", "True 4"]


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_the_death_of_wandbs_own_process_ends_no_training(mode, double, tmp_path):
    training = start(tmp_path, double.url, *LONG, f"--tracking={mode}")
    wait_for_epochs(tmp_path, 2)
    [core] = [one for one in psutil.Process(training.pid).children(recursive=True) if "wandb-core" in one.name()]
    core.kill()
    wait_for_epochs(tmp_path, len(run_folder.read_metrics(tmp_path / "runs" / "a")) + 10)
    training.signal(signal.SIGTERM)
    assert training.wait() == 128 + signal.SIGTERM
    assert run_folder.state(tmp_path / "runs" / "a") == "stopped"
