"""What holds on a GPU; where there is none, nothing here runs."""

import math

import pytest
import torch

from analysis.record import run_folder
from data.augmentation import Augmentation, cutout
from data.files import read_json
from models.registry import MODELS
from tests.test_train import GAN, QUICK, _fresh_process_state, epochs, run  # noqa: F401

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


def last_epoch(tmp_path, *arguments):
    """Run, and return the figures of the last epoch."""
    assert run(tmp_path, "--run_id=a", *arguments) == 0
    assert run_folder.state(tmp_path / "a") == "finished"
    rows = epochs(tmp_path / "a")
    assert all(math.isfinite(value) for row in rows for value in row.values() if isinstance(value, float))
    return rows[-1]


@pytest.mark.parametrize("model", MODELS)
def test_every_model_trains_in_bf16(tmp_path, model):
    last_epoch(tmp_path, "--epochs=1", f"--model={model}", *QUICK.get(model, ["--width=4"]), "--mixed_precision=bf16")


@pytest.mark.parametrize("model", ["mlp", "cnn", "patch_lstm", "cvae_head", "dc_gan"])
def test_gradients_are_scaled_in_fp16(tmp_path, model):
    small = QUICK.get(model, ["--width=4"])
    last_epoch(tmp_path, "--epochs=2", f"--model={model}", *small, "--mixed_precision=fp16", "--grad_clip=1")


@pytest.mark.parametrize("model", ["mlp", "cnn", "nano_vit"])
def test_a_compiled_network_learns_what_an_uncompiled_one_learns(tmp_path, model):
    arguments = [f"--model={model}", *QUICK.get(model, ["--width=8"]), "--dropout=0", "--lr=0.002"]
    plain = last_epoch(tmp_path / "plain", *arguments)
    compiled = last_epoch(tmp_path / "compiled", *arguments, "--compile")
    assert compiled["val/loss"] == pytest.approx(plain["val/loss"], rel=0.05)


@pytest.mark.parametrize("model", ["mlp", "cnn", "nano_vit"])  # a VAE's noise comes from the device's own generator
def test_a_gpu_learns_what_a_cpu_learns(tmp_path, monkeypatch, model):
    small = [f"--model={model}", *QUICK.get(model, ["--width=8"]), "--augmentation=crop_flip", "--epochs=1"]
    small += ["--dropout=0"]
    on_gpu = last_epoch(tmp_path / "gpu", *small)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    on_cpu = last_epoch(tmp_path / "cpu", *small)
    assert "NVIDIA" in str(read_json(tmp_path / "gpu" / "a" / run_folder.ENVIRONMENT))
    assert on_gpu["val/loss"] == pytest.approx(on_cpu["val/loss"], rel=0.02)


@pytest.mark.parametrize("resident", ["device", "host"])
def test_where_the_images_are_kept_changes_nothing(tmp_path, resident):
    row = last_epoch(tmp_path / resident, "--epochs=1", f"--resident={resident}")
    auto = last_epoch(tmp_path / "auto", "--epochs=1")
    assert row["train/classify/loss"] == pytest.approx(auto["train/classify/loss"], rel=1e-5)


@pytest.mark.parametrize("name", ["none", "crop_flip"])
def test_images_are_augmented_on_a_gpu_as_on_a_cpu(name):
    images = torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8)
    torch.manual_seed(0)
    on_cpu = cutout(Augmentation(name).of_pixels(images, 32).float(), 8)
    torch.manual_seed(0)
    on_gpu = cutout(Augmentation(name).of_pixels(images.cuda(), 32).float(), 8)
    assert torch.equal(on_cpu, on_gpu.cpu())


def test_a_run_goes_on_from_its_checkpoint_on_a_gpu(tmp_path, monkeypatch):
    from tests.test_train import STOPPED, run_with_stop

    arguments = ["--run_id=a", "--mixed_precision=bf16", "--ema_decay=0.9"]
    assert run_with_stop(monkeypatch, 20, tmp_path, *arguments) == STOPPED
    assert run_folder.state(tmp_path / "a") == "stopped"
    assert run(tmp_path, *arguments) == 0
    assert run_folder.state(tmp_path / "a") == "finished"
    assert [row["epoch"] for row in epochs(tmp_path / "a")] == [1, 2, 3]


def test_too_large_a_batch_is_one_line(tmp_path, capsys):
    torch.cuda.set_per_process_memory_fraction(0.002)
    try:
        code = run(tmp_path, "--model=cnn", "--width=1024", "--image_size=8", "--eval_batch_size=100")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert code == 1
    assert "lower --batch_size" in capsys.readouterr().err
