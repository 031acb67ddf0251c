"""Runs as processes of their own: launchers, signals, kills, a full disk."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from analysis.record import run_folder
from data.files import read_json

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
ACCELERATE = [str(BIN / "accelerate"), "launch", "--cpu", "--num_processes"]
RUN = ["--dataset=digits", "--model=mlp", "--width=64", "--lr=0.001", "--batch_size=64", "--run_id=a"]
LONG = ["--epochs=100000", "--tracking=off"]
TIMEOUT_SECONDS = 120
FROZEN = ["--pretrained=False", "--arch=test_efficientnet", "--input_size=32", "--feature_precision=fp32"]


def start(
    runs_dir: Path, *arguments: str, launcher: tuple[str, ...] = (sys.executable,), **options
) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [word for word in RUN if not (word.startswith("--width") and any("--model" in word for word in arguments))]
    command = [*launcher, "train.py", *words, f"--runs_dir={runs_dir}", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **{**pipes, **options})


def finish(process: subprocess.Popen) -> tuple[int, str]:
    output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    return process.returncode, output


def wait_until(condition, what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.05)


def wait_for_epoch(folder: Path, epoch: int) -> None:
    wait_until(lambda: len(run_folder.read_metrics(folder)) >= epoch, f"{folder} reaches epoch {epoch}")


def descendants(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def assert_all_end(processes: list[psutil.Process], seconds: float) -> None:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    for process in alive:
        process.kill()
    assert alive == []


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)["objective"]


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    # No dropout and no batch norm: the same batches then give the same weights, up to the order of sums.
    # Of 1,150 training images neither drops one in the last step.
    once = ["--epochs=2", "--tracking=off", "--test=True", "--val_fraction=0.2", "--optimizer=sgd", "--lr=0.01"]
    two = start(tmp_path / "two", *once, launcher=(*ACCELERATE, "2"))
    code, output = finish(two)
    assert code == 0, output
    code, _ = finish(start(tmp_path / "one", *once))
    assert code == 0
    folders = [tmp_path / name / "a" for name in ("one", "two")]
    assert [read_json(folder / "environment.json")["num_processes"] for folder in folders] == [1, 2]
    one, two = map(weights, folders)
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-4, atol=1e-6)
    one, two = (read_json(folder / "summary.json") for folder in folders)
    for key in ("val/loss", "test/loss", "val/accuracy", "test/accuracy"):
        assert one[key] == pytest.approx(two[key], rel=1e-5)


@pytest.mark.slow
def test_two_processes_solve_a_logistic_regression_as_one(tmp_path):
    arguments = ["--model=logistic_probe", *FROZEN, "--epochs=2", "--tracking=off", "--val_fraction=0.2", "--test=True"]
    arguments += ["--batch_size=0", "--lr=1", "--l2=1"]  # all 1,150 training images
    code, output = finish(start(tmp_path / "two", *arguments, launcher=(*ACCELERATE, "2")))
    assert code == 0, output
    code, output = finish(start(tmp_path / "one", *arguments))
    assert code == 0, output
    assert "features of" not in output  # which the others have kept
    one, two = (weights(tmp_path / name / "a") for name in ("one", "two"))
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-3, atol=1e-3)
    one, two = (read_json(tmp_path / name / "a" / "summary.json") for name in ("one", "two"))
    for key in ("val/loss", "test/loss"):
        assert one[key] == pytest.approx(two[key], rel=1e-4)


def kept_features(folder: Path) -> dict[bytes, bytes]:
    """Features of every image by its hash, as they lie in the files of the one cache that is not empty."""
    [path] = [path for path in folder.glob("*/images") if path.stat().st_size]
    keys, rows = path.read_bytes(), path.with_name("features").read_bytes()
    width = 256 * 4  # bytes of a row
    return {keys[16 * i : 16 * i + 16]: rows[width * i : width * (i + 1)] for i in range(len(keys) // 16)}


@pytest.mark.slow
def test_a_kill_while_features_are_computed_costs_only_the_batch_under_way(tmp_path):
    often = "import sys, data.feature_cache as cache, train; cache.SECONDS_BETWEEN_WRITES = 0; "
    often += "sys.exit(train.main(sys.argv[2:]))"
    launcher = (sys.executable, "-c", often)
    arguments = ["--model=frozen", *FROZEN, "--feature_batch_size=2", "--epochs=1", "--tracking=off", "--batch_size=64"]
    arguments += ["--train_fraction=0.2", "--val_fraction=0"]  # 287 images
    for name in ("whole", "killed"):
        folder = tmp_path / name / "features"
        process = start(tmp_path / name, *arguments, f"--feature_dir={folder}", launcher=launcher)
        if name == "killed":
            wait_until(lambda folder=folder: [p for p in folder.glob("*/images") if p.stat().st_size > 160], "features")
            process.kill()
            process.communicate()
            before = kept_features(folder)
            assert 10 < len(before) < 287
            process = start(tmp_path / name, *arguments, f"--feature_dir={folder}", launcher=launcher)
        code, output = finish(process)
        assert code == 0, output
    whole, killed = (kept_features(tmp_path / name / "features") for name in ("whole", "killed"))
    assert killed == whole
    rest = len(whole) - len(before)
    assert f" {rest}/{rest} " in output
    assert before.items() <= killed.items()


@pytest.mark.slow
def test_two_processes_go_on_bit_for_bit(tmp_path):
    arguments = ["--epochs=4", "--tracking=off", "--model=cnn", "--width=4", "--augmentation=crop_flip"]
    cut = start(tmp_path / "cut", *arguments, launcher=(*ACCELERATE, "2"))
    wait_for_epoch(tmp_path / "cut" / "a", 1)
    cut.send_signal(signal.SIGTERM)
    finish(cut)
    wait_until(lambda: run_folder.state(tmp_path / "cut" / "a") == "stopped", "the run is stopped")
    for name in ("cut", "whole"):
        code, output = finish(start(tmp_path / name, *arguments, launcher=(*ACCELERATE, "2")))
        assert code == 0, output
    cut, whole = (weights(tmp_path / name / "a") for name in ("cut", "whole"))
    for key in cut:
        assert torch.equal(cut[key], whole[key]), key


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_tracked_run_with_its_state_saved(tmp_path, number):
    process = start(tmp_path, "--epochs=100000", "--tracking=offline", start_new_session=True)
    wait_for_epoch(tmp_path / "a", 2)
    os.killpg(process.pid, number)  # as a terminal does, W&B's own processes included
    code, output = finish(process)
    assert code == 0, output
    assert "stopped; to go on" in output
    assert run_folder.state(tmp_path / "a") == "stopped"
    assert list((tmp_path / "a" / "wandb").glob("offline-run-*/run-a.wandb"))


@pytest.mark.slow
def test_a_second_signal_ends_the_process_at_once(tmp_path):
    slow_to_save = "import sys, time, train; train.Trainer.save = lambda self, path: time.sleep(TIMEOUT); "
    slow_to_save += "sys.exit(train.main(sys.argv[2:]))"
    slow_to_save = slow_to_save.replace("TIMEOUT", str(TIMEOUT_SECONDS))
    process = start(tmp_path, *LONG, launcher=(sys.executable, "-c", slow_to_save))
    wait_for_epoch(tmp_path / "a", 1)
    process.send_signal(signal.SIGTERM)
    time.sleep(1.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=5) == 128 + signal.SIGTERM


@pytest.mark.slow
def test_a_signal_that_arrives_twice_at_once_is_one_request(tmp_path):
    # As a rank under torchrun is told to stop by a batch system and, a moment later, by torchrun itself.
    process = start(tmp_path, *LONG)
    wait_for_epoch(tmp_path / "a", 1)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code == 0, output
    assert run_folder.state(tmp_path / "a") == "stopped"


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_training_dies_with_its_launcher_and_can_be_gone_on_with(tmp_path, num_processes, number):
    launcher = start(tmp_path, *LONG, launcher=(*ACCELERATE, str(num_processes)))
    wait_for_epoch(tmp_path / "a", 1)
    family = descendants(launcher)
    assert len(family) >= num_processes
    launcher.send_signal(number)
    assert_all_end(family, seconds=30)
    launcher.communicate(timeout=TIMEOUT_SECONDS)
    assert run_folder.state(tmp_path / "a") == "stopped"
    assert weights(tmp_path / "a")


def start_agent(runs_dir: Path, *launcher: str) -> subprocess.Popen:
    """A process that starts training as an agent does: with a sweep's variable, in a group of its own."""
    code = "import os, subprocess, sys; os.environ['WANDB_SWEEP_PARAM_PATH'] = 'none.yaml'; "
    code += "subprocess.run(sys.argv[1:], process_group=0)"
    command = [sys.executable, "-c", code, *(launcher or (sys.executable,))]
    return start(runs_dir, *LONG, launcher=tuple(command), start_new_session=True)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [(), (*ACCELERATE, "2")], ids=["python", "accelerate2"])
def test_training_dies_with_its_agent_above_all_launchers(tmp_path, launcher):
    agent = start_agent(tmp_path, *launcher)
    wait_for_epoch(tmp_path / "a", 1)
    family = descendants(agent)
    agent.kill()
    assert_all_end(family, seconds=30)
    agent.communicate(timeout=TIMEOUT_SECONDS)
    assert run_folder.state(tmp_path / "a") == "stopped"
    assert weights(tmp_path / "a")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [(), (*ACCELERATE, "2")], ids=["python", "accelerate2"])
def test_no_training_begins_whose_agent_died_while_it_was_imported(tmp_path, launcher):
    agent = start_agent(tmp_path, *launcher)
    wait_until(lambda: descendants(agent), "the agent starts training")
    family = descendants(agent)
    agent.kill()
    assert_all_end(family, seconds=60)
    _, output = finish(agent)
    assert "the launcher is gone" in output
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_a_run_in_the_background_outlives_its_shell(tmp_path):
    # The shell's variables are no launcher's: the README sets one to choose the precision.
    command = [sys.executable, "train.py", *RUN, f"--runs_dir={tmp_path}", "--epochs=3", "--tracking=off"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"}
    shell = ["sh", "-c", f"{shlex.join(command)} >/dev/null 2>&1 & exit 0"]
    subprocess.run(shell, cwd=ROOT, env=environment, check=True, start_new_session=True)
    wait_until(lambda: run_folder.state(tmp_path / "a") == "finished", "the run ends by itself")


@pytest.mark.slow
def test_a_signal_to_all_launchers_of_several_processes_leaves_their_state_saved(tmp_path):
    # accelerate dies of it, and torchrun hands it on: two reasons to stop, which must not pass for a second signal.
    slow_to_save = "import sys, time, train; save = train.Trainer.save; "
    slow_to_save += "train.Trainer.save = lambda self, path: (self.progress.step and time.sleep(3), save(self, path)); "
    slow_to_save += "sys.exit(train.main([word for word in sys.argv[1:] if word != 'train.py']))"
    (tmp_path / "slow.py").write_text(f"import sys; sys.path.append({str(ROOT)!r}); {slow_to_save}")
    launcher = (*ACCELERATE, "2", str(tmp_path / "slow.py"))
    process = start(tmp_path, *LONG, "--batch_size=4", launcher=launcher, start_new_session=True)
    wait_for_epoch(tmp_path / "a", 1)
    family = descendants(process)
    os.killpg(process.pid, signal.SIGTERM)
    assert_all_end(family, seconds=30)
    process.communicate(timeout=TIMEOUT_SECONDS)
    assert run_folder.state(tmp_path / "a") == "stopped"
    assert weights(tmp_path / "a")


@pytest.mark.slow
def test_a_run_that_nothing_launched_outlives_its_shell(tmp_path):
    shell = start(tmp_path, *LONG, launcher=("/bin/sh", "-c", '"$@" & wait', "sh", sys.executable))
    wait_for_epoch(tmp_path / "a", 1)
    [training] = descendants(shell)
    shell.kill()
    epoch = len(run_folder.read_metrics(tmp_path / "a"))
    wait_for_epoch(tmp_path / "a", epoch + 20)
    assert run_folder.state(tmp_path / "a") == "unfinished"
    training.terminate()
    assert_all_end([training], seconds=30)


@pytest.mark.slow
def test_a_kill_loses_at_most_the_epoch_under_way(tmp_path):
    arguments = ["--tracking=off", "--augmentation=crop_flip", "--epochs=30"]
    killed = start(tmp_path / "killed", *arguments)
    for epoch in (3, 9, 15):
        wait_for_epoch(tmp_path / "killed" / "a", epoch)
        killed.kill()
        killed.communicate()
        done = torch.load(tmp_path / "killed" / "a" / "checkpoint.pt", weights_only=True)["progress"]["epoch"]
        assert done >= len(run_folder.read_metrics(tmp_path / "killed" / "a")) - 1
        killed = start(tmp_path / "killed", *arguments)
    assert finish(killed)[0] == 0
    assert finish(start(tmp_path / "whole", *arguments))[0] == 0
    killed, whole = (weights(tmp_path / name / "a") for name in ("killed", "whole"))
    for key in killed:
        assert torch.equal(killed[key], whole[key]), key
    rows = run_folder.read_metrics(tmp_path / "killed" / "a")
    assert [row["epoch"] for row in rows if "lr" in row] == list(range(1, 31))


@pytest.mark.slow
def test_a_full_disk_keeps_the_checkpoint_before(tmp_path):
    assert finish(start(tmp_path, "--epochs=4", "--tracking=off", "--lr=0.002"))[0] == 0
    (tmp_path / "a" / "summary.json").unlink()
    size = (tmp_path / "a" / "checkpoint.pt").stat().st_size
    shrunk = torch.load(tmp_path / "a" / "checkpoint.pt", weights_only=True)
    shrunk["progress"] |= {"epoch": 3, "num_logged": 3}  # as though the last epoch had not been
    torch.save(shrunk, tmp_path / "a" / "checkpoint.pt")
    before = (tmp_path / "a" / "checkpoint.pt").read_bytes()
    limited = f"import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, ({size // 2}, {size // 2}));"
    limited += "runpy.run_path('train.py', run_name='__main__')"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", limited, *RUN, "--epochs=4", "--tracking=off", "--lr=0.002"]
    done = subprocess.run(
        [*command, f"--runs_dir={tmp_path}"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "could not be written" in done.stderr
    assert (tmp_path / "a" / "checkpoint.pt").read_bytes() == before
    assert not list((tmp_path / "a").glob(".*unfinished"))


@pytest.mark.slow
def test_start_up_imports_no_library_that_it_may_not_need():
    command = "import sys, train; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"timm", "torchvision", "sklearn", "matplotlib", "wandb", "optuna"} & set(done.stdout.split())


@pytest.mark.slow
def test_a_run_in_progress_is_left_alone_by_a_second_one_of_its_name(tmp_path):
    process = start(tmp_path, *LONG)
    wait_for_epoch(tmp_path / "a", 2)
    rows = run_folder.read_metrics(tmp_path / "a")
    second = start(tmp_path, *LONG)
    code, output = finish(second)
    assert code == 2
    assert "is in progress in another process" in output
    assert run_folder.read_metrics(tmp_path / "a")[: len(rows)] == rows
    process.terminate()
    code, output = finish(process)
    assert code == 0, output
    later = [row["epoch"] for row in run_folder.read_metrics(tmp_path / "a")]
    assert later == list(range(1, len(later) + 1))
