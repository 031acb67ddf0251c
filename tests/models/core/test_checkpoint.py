import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data.errors import UserError
from models.core import checkpoint, optimization
from tests.data.faults import FAULTS_OF_THE_MACHINE
from tests.models.test_objectives import build, make_batch, train_step

ROOT = Path(__file__).parents[3]
# Files of this process may grow to `limit` bytes, which ends a write as a full disk does.
FULL_DISK = """
import os, resource, sys
from pathlib import Path
import torch
from models.core import checkpoint

path, limit = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    checkpoint.save(path, {"weights": torch.ones(100_000)})
except OSError as error:
    print("OSError:", error)
    held = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    print("room still taken:", [path for path in held if "checkpoint.pt" in path])
"""


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path):
    content = {
        "weights": torch.randn(3, 4),
        "half": torch.randn(5).bfloat16(),
        "optimizers": [{"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}],
        "progress": {"epoch": 3, "best": {"val/loss": 0.5}, "name": "cnn", "none": None},
    }
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, content)
    loaded = checkpoint.load(path)
    assert loaded.keys() == content.keys()
    assert loaded["progress"] == content["progress"]
    assert loaded["optimizers"] == content["optimizers"]
    assert loaded["half"].dtype == torch.bfloat16
    for key in ("weights", "half"):
        assert torch.equal(loaded[key], content[key])
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_checkpoint_takes_the_place_of_the_one_before(tmp_path):
    for epoch in (1, 2):
        checkpoint.save(tmp_path / "checkpoint.pt", {"epoch": epoch})
    assert checkpoint.load(tmp_path / "checkpoint.pt") == {"epoch": 2}


def old_checkpoint(path, monkeypatch, **settings):
    """A checkpoint of the versions in which the number of dimensions alone told what has weight decay."""
    with monkeypatch.context() as patch:
        patch.setattr(optimization, "UNDECAYED", ())
        objective = build("nano_vit", **settings)
        [phase] = phases = objective.phases()
    train_step(objective, phases, make_batch(objective, 4))
    content = {"objective": objective.state_dict(), "ema": {}, "optimizers": [phase.optimizer.state_dict()]}
    checkpoint.save(path, {**content, "scaler": {}, "progress": {"epoch": 3, "terms": {}}})
    return phase.optimizer


def restore(path, **settings):
    objective = build("nano_vit", seed=9, **settings)
    [phase] = phases = objective.phases()
    checkpoint.restore_training(path, SimpleNamespace(scaler=None, device="cpu"), objective, None, phases)
    return phase.optimizer


def test_an_old_checkpoint_without_weight_decay_is_restored(tmp_path, monkeypatch):
    saved = old_checkpoint(tmp_path / "a.pt", monkeypatch)
    restored = restore(tmp_path / "a.pt")
    for group, other in zip(saved.param_groups, restored.param_groups, strict=True):
        for one, two in zip(group["params"], other["params"], strict=True):
            assert torch.equal(one, two)
            assert torch.equal(saved.state[one]["exp_avg"], restored.state[two]["exp_avg"])


def test_an_old_checkpoint_with_weight_decay_of_class_tokens_is_refused_in_one_line(tmp_path, monkeypatch):
    old_checkpoint(tmp_path / "a.pt", monkeypatch, weight_decay=0.1)
    with pytest.raises(UserError, match="also gave class tokens, positions or codes weight decay: finish the run"):
        restore(tmp_path / "a.pt", weight_decay=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("missing_bytes", [400_000, 100], ids=["in the weights", "at the very end"])
def test_a_full_disk_keeps_the_checkpoint_before_and_says_so(missing_bytes, tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"weights": torch.ones(100_000)})
    limit = path.stat().st_size - missing_bytes
    checkpoint.save(path, {"weights": torch.zeros(100_000)})
    command = [sys.executable, "-c", FULL_DISK, str(path), str(limit)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert process.returncode == 0, process.stderr
    said = os.strerror(errno.EFBIG)
    assert process.stdout == f"OSError: [Errno {errno.EFBIG}] {said}: '{path}'\nroom still taken: []\n"
    assert torch.equal(checkpoint.load(path)["weights"], torch.zeros(100_000))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_what_the_system_says_of_a_full_disk_is_not_hidden_by_torch():
    with pytest.raises(OSError, match="No space left on device") as failed:
        checkpoint.save(Path("/dev/full"), {"weights": torch.ones(100_000)})
    assert failed.value.errno == errno.ENOSPC


def test_loading_runs_no_code(tmp_path):
    torch.save({"code": Path}, tmp_path / "checkpoint.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        checkpoint.load(tmp_path / "checkpoint.pt")


def test_the_scale_of_gradients_in_fp16_goes_on(tmp_path):
    objective, restored = build("mlp"), []
    content = {"objective": objective.state_dict(), "ema": {}, "optimizers": [], "scaler": {"scale": 4.0}}
    checkpoint.save(tmp_path / "a.pt", {**content, "progress": {"terms": {}}})
    accelerator = SimpleNamespace(scaler=SimpleNamespace(load_state_dict=restored.append), device="cpu")
    checkpoint.restore_training(tmp_path / "a.pt", accelerator, objective, None, ())
    assert restored == [{"scale": 4.0}]


def test_epochs_add_up_to_the_time_of_training():
    progress = checkpoint.Progress()
    for seconds in (2.0, 3.0):
        progress.epoch_seconds = seconds
        progress.finish_epoch()
    assert (progress.epoch, progress.train_seconds, progress.epoch_seconds) == (2, 5.0, 0.0)


def test_images_of_several_phases_count_once_for_the_speed():
    progress = checkpoint.Progress(epoch_seconds=4.0)
    for phase in ("discriminate", "generate", "discriminate"):
        progress.add(phase, {"loss": torch.tensor(0.0), "penalty": torch.tensor(0.0)}, 10)
    assert progress.images_per_second() == 5.0


def test_an_epochs_mean_counts_every_image_once():
    progress = checkpoint.Progress()
    for value, num_images in ((1.0, 3), (5.0, 1)):
        progress.add("classify", {"loss": torch.tensor(value)}, num_images)
    alone = SimpleNamespace(reduce=lambda values, how: values)
    assert progress.epoch_means(alone) == {"train/classify/loss": (3 * 1.0 + 5.0) / 4}


ODD_PROGRESS = [{"epoch": "3"}, {"epoch": None}, {"best": [1]}, {"num_logged": 2.5}, {"news": 1}, {"terms": 3}]


@pytest.mark.parametrize("progress", ODD_PROGRESS)
def test_a_checkpoint_with_an_odd_value_is_refused_in_one_line(tmp_path, progress):
    objective = build("mlp")
    content = {"objective": objective.state_dict(), "ema": {}, "optimizers": [], "scaler": {}}
    checkpoint.save(tmp_path / "a.pt", {**content, "progress": {"epoch": 3, "terms": {}, **progress}})
    with pytest.raises(UserError, match=r"a.pt does not fit its run's settings") as caught:
        checkpoint.restore_training(tmp_path / "a.pt", SimpleNamespace(scaler=None, device="cpu"), objective, None, ())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["text", 3, None, torch.zeros(3), torch.zeros(2).to_sparse(), "gone"])
def test_weights_that_do_not_fit_are_refused_in_one_line(tmp_path, value):
    objective = build("mlp")
    content = {**objective.state_dict(), "net.head.weight": value}
    checkpoint.save(tmp_path / "a.pt", content if value != "gone" else {"net.head.weight": torch.zeros(1)})
    with pytest.raises(UserError, match=r"a.pt does not fit its run's settings") as caught:
        checkpoint.load_weights(tmp_path / "a.pt", objective)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", FAULTS_OF_THE_MACHINE, ids=lambda error: type(error).__name__)
def test_a_fault_of_the_machine_is_not_laid_on_a_file(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(type(error)) as caught:
        checkpoint.load(tmp_path / "a.pt")
    assert caught.value is error
    with pytest.raises(type(error)) as caught, checkpoint.refusing_misfits(tmp_path / "a.pt"):
        fail()
    assert caught.value is error


def test_places_beyond_a_damaged_file_are_laid_on_it(tmp_path):
    checkpoint.save(tmp_path / "a.pt", {"weights": torch.zeros(9)})
    content = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(content.replace(b"PK\x01\x02", bytes([255]) * 4))  # its table of contents
    with pytest.raises(UserError, match="a.pt is damaged"):
        checkpoint.load(tmp_path / "a.pt")
