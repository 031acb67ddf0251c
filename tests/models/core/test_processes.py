"""Runs as processes of their own: launchers, signals, kills, a full disk.

What a launcher or an import does is seen in programs that are started; all else in forks, which import nothing.
"""

import itertools
import os
import resource
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
from data.errors import UserError
from data.files import read_json
from models.core.processes import start_all_processes
from tests.forks import LEAN, ROOT, Fork
from tests.two_processes import ranks_of_two

BIN = Path(sys.executable).parent
ACCELERATE = [str(BIN / "accelerate"), "launch", "--cpu", "--num_processes"]
RUN = ["--dataset=digits", "--lr=0.001", "--batch_size=64", "--run_id=a"]
LONG = ["--epochs=100000", "--tracking=off"]
TIMEOUT_SECONDS = 120
AT_EVERY_STEP = {"data.progress.SECONDS_BETWEEN_LINES": 0}  # what a log is told
FROZEN = ["--pretrained=False", "--arch=test_efficientnet", "--input_size=32", "--feature_precision=fp32"]


def words(runs_dir: Path, *arguments: str) -> list[str]:
    """The arguments of train.py for a small run, of an MLP unless they name another model."""
    mlp = [] if any(word.startswith("--model=") for word in arguments) else ["--model=mlp", "--width=64"]
    return [*RUN, *mlp, "--log_model=final", f"--runs_dir={runs_dir}", *arguments]


def start(
    runs_dir: Path, *arguments: str, launcher: tuple[str, ...] = (sys.executable,), **options
) -> subprocess.Popen:
    command = [*launcher, "train.py", *words(runs_dir, *arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **LEAN}, **{**pipes, **options})


def fork(runs_dir: Path, *arguments: str, **options) -> Fork:
    """Start the same as a fork."""
    runs_dir.mkdir(exist_ok=True)
    log = next(path for i in itertools.count() if not (path := runs_dir / f"{i}.log").exists())
    log.touch()
    return Fork("train", words(runs_dir, *arguments), log, **options)


def fork_ranks(runs_dir: Path, *arguments: str, **options) -> list[Fork]:
    """Start the two processes of one run."""
    return [fork(runs_dir, *arguments, environment=variables, **options) for variables in ranks_of_two()]


def finish_fork(*processes: Fork, expected: int = 0) -> str:
    """What runs that succeed, or end as expected, have said."""
    for process in processes:
        code = process.wait(TIMEOUT_SECONDS)
        assert code == expected, process.output + process.errors
    return "".join(process.output + process.errors for process in processes)


def keep(self) -> None:
    """Leave a finished run its checkpoint."""


def save_for_ever(self, path: Path) -> None:
    time.sleep(TIMEOUT_SECONDS)


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
    """Those of the checkpoint or, of a finished run, those after its last epoch."""
    if (folder / run_folder.CHECKPOINT).exists():
        return torch.load(folder / run_folder.CHECKPOINT, weights_only=True)["objective"]
    return torch.load(folder / run_folder.LAST, weights_only=True)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    # No dropout and no batch norm: the same batches then give the same weights, up to the order of sums.
    # Of 1,150 training images neither drops one in the last step.
    once = ["--epochs=2", "--tracking=off", "--test=True", "--val_fraction=0.2", "--optimizer=sgd", "--lr=0.01"]
    two = start(tmp_path / "two", *once, launcher=(*ACCELERATE, "2"))
    code, output = finish(two)
    assert code == 0, output
    finish_fork(fork(tmp_path / "one", *once))
    folders = [tmp_path / name / "a" for name in ("one", "two")]
    assert [read_json(folder / "environment.json")["num_processes"] for folder in folders] == [1, 2]
    assert [run_folder.read_metrics(folder)[1]["images_seen"] for folder in folders] == [2 * 1150] * 2
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
    assert "features of" in finish_fork(*fork_ranks(tmp_path / "two", *arguments, patches=AT_EVERY_STEP))
    assert "features of" not in finish_fork(fork(tmp_path / "one", *arguments))  # which the others have kept
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
    often = {"data.feature_cache.SECONDS_BETWEEN_WRITES": 0, **AT_EVERY_STEP}
    arguments = ["--model=frozen", *FROZEN, "--feature_batch_size=2", "--epochs=1", "--tracking=off", "--batch_size=64"]
    arguments += ["--train_fraction=0.2", "--val_fraction=0"]  # 287 images
    for name in ("whole", "killed"):
        folder = tmp_path / name / "features"
        process = fork(tmp_path / name, *arguments, f"--feature_dir={folder}", patches=often)
        if name == "killed":
            wait_until(lambda folder=folder: [p for p in folder.glob("*/images") if p.stat().st_size > 160], "features")
            process.signal(signal.SIGKILL)
            process.wait()
            before = kept_features(folder)
            assert 10 < len(before) < 287
            process = fork(tmp_path / name, *arguments, f"--feature_dir={folder}", patches=often)
        output = finish_fork(process)
    whole, killed = (kept_features(tmp_path / name / "features") for name in ("whole", "killed"))
    assert killed == whole
    rest = len(whole) - len(before)
    assert f"/{rest} " in output  # only those are computed
    assert before.items() <= killed.items()


@pytest.mark.slow
def test_two_processes_go_on_bit_for_bit(tmp_path):
    arguments = ["--epochs=4", "--tracking=off", "--model=cnn", "--width=4", "--augmentation=crop_flip"]
    cut = fork_ranks(tmp_path / "cut", *arguments)
    wait_for_epoch(tmp_path / "cut" / "a", 1)
    for rank in cut:
        rank.signal(signal.SIGTERM)
    finish_fork(*cut, expected=128 + signal.SIGTERM)
    assert run_folder.state(tmp_path / "cut" / "a") == "stopped"
    for name in ("cut", "whole"):
        finish_fork(*fork_ranks(tmp_path / name, *arguments))
    cut, whole = (weights(tmp_path / name / "a") for name in ("cut", "whole"))
    for key in cut:
        assert torch.equal(cut[key], whole[key]), key


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_tracked_run_with_its_state_saved(tmp_path, number):
    process = fork(tmp_path, "--epochs=100000", "--tracking=offline")
    wait_for_epoch(tmp_path / "a", 2)
    os.killpg(process.pid, number)  # as a terminal does, W&B's own processes included
    assert "stopped; to go on" in finish_fork(process, expected=128 + number)
    assert run_folder.state(tmp_path / "a") == "stopped"
    assert list((tmp_path / "a" / "wandb").glob("offline-run-*/run-a.wandb"))


@pytest.mark.slow
def test_a_second_signal_ends_the_process_at_once(tmp_path):
    process = fork(tmp_path, *LONG, patches={"train.Trainer.save": save_for_ever})
    wait_for_epoch(tmp_path / "a", 1)
    process.signal(signal.SIGTERM)
    time.sleep(1.2)
    assert process.is_alive()
    process.signal(signal.SIGTERM)
    assert process.wait(5) == 128 + signal.SIGTERM


@pytest.mark.slow
def test_a_signal_that_arrives_twice_at_once_is_one_request(tmp_path):
    # As a rank under torchrun is told to stop by a batch system and, a moment later, by torchrun itself.
    process = fork(tmp_path, *LONG)
    wait_for_epoch(tmp_path / "a", 1)
    process.signal(signal.SIGTERM)
    time.sleep(0.05)
    process.signal(signal.SIGTERM)
    finish_fork(process, expected=128 + signal.SIGTERM)
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
    command = [sys.executable, "train.py", *words(tmp_path, "--epochs=3", "--tracking=off")]
    environment = {**os.environ, **LEAN, "ACCELERATE_MIXED_PRECISION": "no"}
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
    training, *_ = descendants(shell)  # from Python 3.14 on it has a process that tracks its resources
    shell.kill()
    epoch = len(run_folder.read_metrics(tmp_path / "a"))
    wait_for_epoch(tmp_path / "a", epoch + 20)
    assert run_folder.state(tmp_path / "a") == "unfinished"
    training.terminate()
    assert_all_end([training], seconds=30)


@pytest.mark.slow
def test_a_kill_loses_at_most_the_epoch_under_way(tmp_path):
    arguments = ["--tracking=off", "--augmentation=crop_flip", "--epochs=30"]
    killed = fork(tmp_path / "killed", *arguments)
    for epoch in (3, 9, 15):
        wait_for_epoch(tmp_path / "killed" / "a", epoch)
        killed.signal(signal.SIGKILL)
        killed.wait()
        done = torch.load(tmp_path / "killed" / "a" / "checkpoint.pt", weights_only=True)["progress"]["epoch"]
        assert done >= len(run_folder.read_metrics(tmp_path / "killed" / "a")) - 1
        killed = fork(tmp_path / "killed", *arguments)
    finish_fork(killed, fork(tmp_path / "whole", *arguments))
    killed, whole = (weights(tmp_path / name / "a") for name in ("killed", "whole"))
    for key in killed:
        assert torch.equal(killed[key], whole[key]), key
    rows = run_folder.read_metrics(tmp_path / "killed" / "a")
    assert [row["epoch"] for row in rows if "lr" in row] == list(range(1, 31))


@pytest.mark.slow
def test_a_full_disk_keeps_the_checkpoint_before(tmp_path):
    arguments = ["--epochs=4", "--tracking=off", "--lr=0.002"]
    finish_fork(fork(tmp_path, *arguments, patches={"analysis.record.tracker.Tracker.drop_checkpoint": keep}))
    (tmp_path / "a" / "summary.json").unlink()
    size = (tmp_path / "a" / "checkpoint.pt").stat().st_size
    shrunk = torch.load(tmp_path / "a" / "checkpoint.pt", weights_only=True)
    shrunk["progress"] |= {"epoch": 3, "num_logged": 3}  # as though the last epoch had not been
    torch.save(shrunk, tmp_path / "a" / "checkpoint.pt")
    before = (tmp_path / "a" / "checkpoint.pt").read_bytes()
    limited = fork(tmp_path, *arguments)
    resource.prlimit(limited.pid, resource.RLIMIT_FSIZE, (size // 2, size // 2))
    assert limited.wait() == 1, limited.output + limited.errors
    assert f"{tmp_path / 'a' / 'checkpoint.pt'}" in limited.errors
    assert (tmp_path / "a" / "checkpoint.pt").read_bytes() == before
    assert not list((tmp_path / "a").glob(".*unfinished"))


@pytest.mark.slow
def test_start_up_imports_no_library_that_it_may_not_need():
    command = "import sys, train; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"timm", "torchvision", "sklearn", "matplotlib", "wandb", "optuna"} & set(done.stdout.split())


@pytest.mark.slow
def test_a_run_in_progress_is_left_alone_by_a_second_one_of_its_name(tmp_path):
    process = fork(tmp_path, *LONG)
    wait_for_epoch(tmp_path / "a", 2)
    rows = run_folder.read_metrics(tmp_path / "a")
    second = fork(tmp_path, *LONG)
    assert second.wait() == 75  # so that an agent takes it for no fault of the settings
    assert "is in progress in another process" in second.errors
    assert run_folder.read_metrics(tmp_path / "a")[: len(rows)] == rows
    process.signal(signal.SIGTERM)
    finish_fork(process, expected=128 + signal.SIGTERM)
    later = [row["epoch"] for row in run_folder.read_metrics(tmp_path / "a")]
    assert later == list(range(1, len(later) + 1))


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "WORLD_SIZE"])
@pytest.mark.parametrize("value", ["", "nonsense", "1.0", "9" * 5000, "\u0661"])
def test_a_launchers_variable_that_is_no_number_is_told(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"{name}=.* is no number"):
        start_all_processes([])


@pytest.mark.parametrize("name", ["DEEPSPEED", "FSDP", "MEGATRON_LM", "PARALLELISM_CONFIG"])
def test_a_launcher_that_would_divide_the_model_is_refused(monkeypatch, name):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(UserError, match=f"ACCELERATE_USE_{name}=true .* leave it out"):
        start_all_processes([])


@pytest.mark.parametrize("value", ["", "nonsense"])
def test_a_choice_of_the_cpu_that_is_neither_yes_nor_no_is_told(monkeypatch, value):
    monkeypatch.setenv("ACCELERATE_USE_CPU", value)
    with pytest.raises(UserError, match=f"ACCELERATE_USE_CPU={value} is neither yes nor no"):
        start_all_processes([])


@pytest.mark.parametrize("value", ["", "blah", "meta", "cuda:99"])
def test_a_device_that_is_not_there_is_told(monkeypatch, value):
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", value)
    with pytest.raises(UserError, match=f"ACCELERATE_TORCH_DEVICE={value} cannot be used here .*: unset it"):
        start_all_processes([])


def test_a_device_that_is_there_may_be_chosen(monkeypatch):
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "cpu")
    start_all_processes([])
