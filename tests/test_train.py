"""One run from the command line to its folder, in this process."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from matplotlib.figure import Figure
from torch.nn import functional as F

import train
from analysis.look.trained_run import load_run
from analysis.record import run_folder
from data.files import read_json
from models.registry import MODELS

STOPPED = 128 + signal.SIGTERM
SMALL = ["--dataset=digits", "--model=mlp", "--width=32", "--lr=0.01", "--epochs=3", "--tracking=off"]


@pytest.fixture(autouse=True)
def _fresh_process_state(request, monkeypatch):
    """What a run changes in its process: accelerate's singletons and the signal handlers; and figures, drawn or not."""
    if "figures" not in request.fixturenames:
        leave_figures_empty(monkeypatch)
    monkeypatch.setattr(train.Tracker, "drop_checkpoint", lambda self: None)  # it is what most tests here compare
    for name in ("WANDB_SWEEP_PARAM_PATH", "WANDB_RUN_ID", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def leave_figures_empty(monkeypatch) -> None:
    """Draw none of matplotlib's figures, which takes half of a small run's time."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: Path(path).touch())


def run(runs_dir: Path, *arguments: str) -> int:
    AcceleratorState._reset_state(True)
    return train.main(overrides(f"--runs_dir={runs_dir}", *arguments))


def run_with_stop(monkeypatch, step: int, *arguments) -> int:
    """Run, and be sent SIGTERM during the given step, counted from 1."""
    original, steps = train.Trainer.train_step, []

    def train_step(self, batch):
        steps.append(batch)
        if len(steps) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(train.Trainer, "train_step", train_step)
        return run(*arguments)


def overrides(*arguments: str) -> list[str]:
    """SMALL, but for what a test gives itself; a width is of SMALL's model."""
    keys = {word.partition("=")[0] for word in arguments}
    keys |= {"--width"} if "--model" in keys else set()
    return [word for word in SMALL if word.partition("=")[0] not in keys] + list(arguments)


def epochs(folder: Path) -> list[dict]:
    """Logged rows of the epochs, without what depends on the clock and the machine."""
    return [row for row in all_rows(folder) if "lr" in row]


def all_rows(folder: Path) -> list[dict]:
    """Those of the epochs, and that of the closing evaluation."""
    clock = {"images_per_second", "epoch_seconds", "peak_memory_gib"}
    return [{key: value for key, value in row.items() if key not in clock} for row in run_folder.read_metrics(folder)]


def assert_same_state(a, b, where: str = "") -> None:
    """Bit-for-bit equality of two checkpoints, but for the clock."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a.keys() - {"epoch_seconds", "train_seconds"}:
            assert_same_state(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same_state(x, y, f"{where}/{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


@pytest.mark.slow
def test_a_run_leaves_its_settings_metrics_summary_pictures_and_weights(tmp_path, capsys, figures):
    assert run(tmp_path, "--run_id=a", "--test=True") == 0
    folder = tmp_path / "a"
    summary = read_json(folder / "summary.json")
    keys = {"val/loss", "val/accuracy", "best_epoch", "num_parameters", "train_seconds", "images_per_second"}
    assert keys | {"test/loss", "test/accuracy", "test/ece"} <= summary.keys()
    assert summary["state"] == "finished"
    assert summary["val/accuracy"] > 0.5
    assert summary["num_parameters"] == 3072 * 32 + 32 + 32 * 16 + 16 + 16 * 10 + 10
    rows = epochs(folder)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[-1]["images_seen"] == 3 * round(1437 * 0.9)
    assert summary["val/loss"] == min(row["val/loss"] for row in rows)
    assert summary["best_epoch"] == 1 + [row["val/loss"] for row in rows].index(summary["val/loss"])
    for name in ("curves.png", "best.pt", "checkpoint.pt", "environment.json", "panels/predictions-0003.png"):
        assert (folder / name).stat().st_size > 0, name
    for name in ("confusion_matrix.png", "reliability.png", "mistakes.png", "per_class.csv"):
        assert (folder / "panels" / name).stat().st_size > 0, name
    printed = capsys.readouterr().out
    assert f"test        loss {summary['test/loss']:.4f}, accuracy {100 * summary['test/accuracy']:.2f} %" in printed
    assert str(folder / "curves.png") in printed


@pytest.mark.slow
def test_without_validation_the_last_weights_are_tested(tmp_path):
    assert run(tmp_path, "--run_id=a", "--val_fraction=0", "--test=True") == 0
    summary = read_json(tmp_path / "a" / "summary.json")
    assert "val/loss" not in summary
    assert summary["best_epoch"] == 3
    checkpoint, best = (torch.load(tmp_path / "a" / name) for name in ("checkpoint.pt", "best.pt"))
    assert_same_state(checkpoint["objective"], best)


@pytest.mark.slow
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_patience_ends_a_run_and_the_weights_of_its_best_epoch_are_kept_and_tested(tmp_path, ema_decay):
    more = ["--test=True", "--eval_batch_size=50", f"--ema_decay={ema_decay}", "--log_model=final"]
    assert run(tmp_path, "--lr=0.02", "--epochs=50", "--patience=2", "--run_id=a", *more) == 0
    summary, rows = read_json(tmp_path / "a" / "summary.json"), epochs(tmp_path / "a")
    assert len(rows) < 50
    assert len(rows) == summary["epochs"] == summary["best_epoch"] + 2
    assert summary["val/loss"] == rows[summary["best_epoch"] - 1]["val/loss"]
    kept = load_run(tmp_path / "a")
    for name in ("val", "test"):
        images, labels = kept.split(name).images / 255, kept.split(name).labels
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (kept.info.mean, kept.info.std))
        with torch.no_grad():
            loss = F.cross_entropy(kept.objective.predict((images - mean) / std), labels)
        assert summary[f"{name}/loss"] == pytest.approx(loss.item(), rel=1e-4)
    last, checkpoint = (torch.load(tmp_path / "a" / name) for name in ("final.pt", "checkpoint.pt"))
    assert_same_state(last, checkpoint["ema" if ema_decay else "objective"])


@pytest.mark.slow
def test_the_same_seed_repeats_a_run_and_another_does_not(tmp_path):
    for run_id, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run(tmp_path, f"--run_id={run_id}", f"--seed={seed}", "--augmentation=crop_flip") == 0
    a, b, c = (epochs(tmp_path / run_id) for run_id in "abc")
    assert a == b
    assert a != c


@pytest.mark.slow
def test_a_finished_run_is_reported_and_not_repeated(tmp_path, capsys):
    run(tmp_path, "--run_id=a")
    before = (tmp_path / "a" / "metrics.jsonl").stat().st_mtime_ns
    capsys.readouterr()
    assert run(tmp_path, "--run_id=a") == 0
    assert "is finished" in capsys.readouterr().out
    assert (tmp_path / "a" / "metrics.jsonl").stat().st_mtime_ns == before


NOISY = ["--dropout=0.2", "--augmentation=trivialaugment", "--cutout=8", "--mixup=0.5", "--ema_decay=0.9"]
NOISY += ["--schedule=one_cycle", "--warmup_epochs=0.5", "--grad_clip=1", "--optimizer=sgd", "--accumulation_steps=2"]


@pytest.mark.slow
@pytest.mark.parametrize("step", [4, 11, 16], ids=["mid-epoch", "epoch's end", "second epoch"])  # 11 steps an epoch
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, monkeypatch, step):
    arguments = [*NOISY, "--run_id=cut", "--log_every=3", "--crop_scale=0.5", "--sampling=balanced"]
    assert run_with_stop(monkeypatch, step, tmp_path / "cut", *arguments) == STOPPED
    folder = tmp_path / "cut" / "cut"
    assert run_folder.state(folder) == "stopped"
    assert run(tmp_path / "cut", *arguments) == 0
    assert run(tmp_path / "whole", *arguments) == 0
    whole = tmp_path / "whole" / "cut"
    assert_same_state(*(torch.load(path / "checkpoint.pt") for path in (folder, whole)))
    assert epochs(folder) == epochs(whole)
    steps = [[row.get("step/classify/loss") for row in run_folder.read_metrics(path)] for path in (folder, whole)]
    assert steps[0] == steps[1]
    assert run_folder.state(folder) == "finished"


def test_a_run_that_has_begun_is_held_before_its_state_is_read(tmp_path, monkeypatch):
    assert run_with_stop(monkeypatch, 4, tmp_path, "--run_id=a") == STOPPED
    held, read = [], train.prepare
    monkeypatch.setattr(
        train, "prepare", lambda *given: held.append(run_folder.is_in_progress(tmp_path / "a")) or read(*given)
    )
    assert run(tmp_path, "--run_id=a") == 0
    assert held == [True]
    assert not run_folder.is_in_progress(tmp_path / "a")


def test_rows_are_on_the_disk_before_a_checkpoint_that_counts_them(tmp_path, monkeypatch):
    done, save = [], train.Trainer.save
    monkeypatch.setattr(train.os, "fsync", lambda number: done.append("rows"))
    monkeypatch.setattr(train.Trainer, "save", lambda *given: done.append("checkpoint") or save(*given))
    assert run(tmp_path, "--run_id=a", "--epochs=1") == 0
    first = done.index("checkpoint")
    assert done[first - 1] == "rows"


# Settings that make a model quick, for those that are not with --width=4.
GAN = ["--width=4", "--discriminator_width=4"]
TIMM = ["--pretrained=False", "--input_size=32", "--arch=test_efficientnet"]
QUICK = {
    "mlp": [],
    "nano_vit": ["--width=16", "--depth=1", "--patch_size=8"],
    "patch_lstm": ["--width=8", "--patch_size=8"],
    "timm": TIMM,
    "resnet18_pretrained": [*TIMM, "--stem=own"],
    "vit_b16_finetune": [*TIMM, "--frozen_stages=1"],
    "frozen": [*TIMM, "--flips", "--standardise"],
    "vit_b16_frozen": TIMM,
    "logistic_probe": [*TIMM, "--flips", "--epochs=6", "--patience=0"],  # an epoch has but one step
    "vae": ["--width=4", "--latent_images=0"],
    "vq_vae": ["--width=4", "--prior_width=8"],
    "dc_gan": [*GAN, "--diffaugment=colour,translation,cutout", "--r1=1", "--ema_decay=0.9"],
    "ac_gan": [*GAN, "--spectral_norm", "--n_critic=2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_every_model_goes_on_from_its_checkpoint(tmp_path, monkeypatch, figures, model):
    arguments = ["--epochs=1", "--train_fraction=0.5", "--run_id=a", f"--model={model}"]
    arguments += QUICK.get(model, ["--width=4"])
    assert run(tmp_path / "whole", *arguments) == 0
    leave_figures_empty(monkeypatch)
    assert run_with_stop(monkeypatch, 5, tmp_path / "cut", *arguments) == STOPPED
    assert run_folder.state(tmp_path / "cut" / "a") == "stopped"
    assert run(tmp_path / "cut", *arguments) == 0
    assert_same_state(*(torch.load(tmp_path / name / "a" / "checkpoint.pt") for name in ("cut", "whole")))
    assert epochs(tmp_path / "cut" / "a") == epochs(tmp_path / "whole" / "a")
    rows = all_rows(tmp_path / "whole" / "a")
    (tmp_path / "whole" / "a" / run_folder.SUMMARY).unlink()  # as if it had been killed in the closing evaluation
    torch.rand(7)
    assert run(tmp_path / "whole", *arguments) == 0
    assert repr(all_rows(tmp_path / "whole" / "a")) == repr(rows)


@pytest.mark.slow
def test_a_run_whose_epochs_have_one_step_can_be_stopped(tmp_path, monkeypatch):
    arguments = ["--batch_size=1293", "--run_id=a", "--epochs=6"]
    assert run_with_stop(monkeypatch, 3, tmp_path, *arguments) == STOPPED
    assert run_folder.state(tmp_path / "a") == "stopped"
    assert len(epochs(tmp_path / "a")) == 2
    assert run(tmp_path, *arguments) == 0
    assert [row["epoch"] for row in epochs(tmp_path / "a")] == [1, 2, 3, 4, 5, 6]


FROZEN = ["--model=frozen", *TIMM, "--feature_precision=fp32", "--lr=0.01"]


@pytest.mark.slow
def test_a_frozen_network_is_run_once_and_its_features_serve_every_run(tmp_path, capsys, progress_told):
    features = f"--feature_dir={tmp_path / 'features'}"
    assert run(tmp_path, *FROZEN, features, "--run_id=a") == 0
    assert "1437/1437" not in capsys.readouterr().err  # two bars, of training and validation
    [rows] = [path for path in (tmp_path / "features").glob("*/features") if path.stat().st_size]
    before = rows.stat().st_size, rows.stat().st_mtime_ns
    changes = (
        [],
        ["--val_fraction=0.3"],
        ["--train_fraction=0.5", "--data_seed=1"],
        ["--optimizer=sgd", "--batch_size=32"],
    )
    for i, change in enumerate(changes):
        assert run(tmp_path, *FROZEN, features, f"--run_id=b{i}", *change) == 0
        assert "features of" not in capsys.readouterr().err
    assert (rows.stat().st_size, rows.stat().st_mtime_ns) == before
    assert epochs(tmp_path / "a") == epochs(tmp_path / "b0")  # whether features were computed or read
    assert run(tmp_path, *FROZEN, features, "--run_id=c", "--test") == 0
    assert "features of" in capsys.readouterr().err
    images = rows.with_name("images").read_bytes()
    keys = {images[i : i + 16] for i in range(0, len(images), 16)}
    assert len(keys) == len(images) // 16 <= 1797


@pytest.mark.slow
def test_pictures_of_a_frozen_network_s_run_are_the_images(tmp_path):
    from PIL import Image

    assert run(tmp_path, *FROZEN, "--run_id=a", "--epochs=1") == 0
    assert run(tmp_path, "--run_id=b", "--epochs=1") == 0
    grids = [Image.open(tmp_path / name / "panels" / "predictions-0001.png") for name in "ab"]
    assert grids[0].size == grids[1].size
    boxes = [
        (4 + column * 164, 4 + row * 180, 164 + column * 164, 164 + row * 180) for row in (0, 1) for column in (0, 5)
    ]
    for box in boxes:  # without the captions, which are of other networks
        assert grids[0].crop(box).tobytes() == grids[1].crop(box).tobytes()
    assert (tmp_path / "a" / "panels" / "mistakes.png").exists()


@pytest.mark.slow
def test_checkpoints_of_a_frozen_network_hold_the_head_alone(tmp_path):
    assert run(tmp_path, *FROZEN, "--run_id=a", "--epochs=1") == 0
    summary = read_json(tmp_path / "a" / "summary.json")
    assert summary["num_parameters"] == 256 * 10 + 10
    assert summary["total_parameters"] == 99_196 + 2_570
    assert (tmp_path / "a" / "best.pt").stat().st_size < 4 * (2_570 + 2 * 256) + 4_000  # and its standardisation
    assert (tmp_path / "a" / "checkpoint.pt").stat().st_size < 3 * 4 * 2_570 + 10_000


@pytest.mark.slow
def test_a_probe_walks_its_strengths_and_keeps_the_best(tmp_path):
    probe = ["--model=logistic_probe", *TIMM, "--l2=100", "--l2_ratio=0.01", "--run_id=a", "--epochs=5", "--test"]
    assert run(tmp_path, *probe) == 0
    rows, summary = epochs(tmp_path / "a"), read_json(tmp_path / "a" / "summary.json")
    assert [row["train/fit/l2"] for row in rows] == pytest.approx([100, 1, 1e-2, 1e-4, 1e-6], rel=1e-4)
    fits = [row["train/fit/cross_entropy"] for row in rows]
    assert fits == sorted(fits, reverse=True)
    losses = [row["val/loss"] for row in rows]
    assert 1 < summary["best_epoch"] == 1 + losses.index(min(losses))
    assert summary["val/loss"] == min(losses)
    assert [row["images_seen"] for row in rows] == [1293 * epoch for epoch in range(1, 6)]


@pytest.mark.slow
def test_metrics_logged_after_the_checkpoint_are_forgotten_on_resuming(tmp_path, monkeypatch):
    run_with_stop(monkeypatch, 15, tmp_path, "--run_id=a")
    metrics = tmp_path / "a" / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + json.dumps({"epoch": 2, "lr": 9}) + '\n{"epoch": 3, "l')
    assert run(tmp_path, "--run_id=a") == 0
    assert [row["epoch"] for row in epochs(tmp_path / "a")] == [1, 2, 3]
    assert 9 not in [row["lr"] for row in epochs(tmp_path / "a")]


@pytest.mark.slow
def test_resume_finds_the_latest_unfinished_run(tmp_path, monkeypatch):
    run_with_stop(monkeypatch, 3, tmp_path, "--run_id=a")
    run(tmp_path, "--run_id=b")
    before = read_json(tmp_path / "a" / "settings.json")
    AcceleratorState._reset_state(True)
    assert train.main([f"--runs_dir={tmp_path}", "--resume"]) == 0
    assert run_folder.state(tmp_path / "a") == "finished"
    assert read_json(tmp_path / "a" / "settings.json") == {**before, "resume": True}


def test_a_stopped_run_tells_its_best_so_far(tmp_path, monkeypatch):
    run_with_stop(monkeypatch, 15, tmp_path, "--run_id=a")
    summary = read_json(tmp_path / "a" / "summary.json")
    assert summary["best_epoch"] == 1
    assert summary["val/loss"] == epochs(tmp_path / "a")[0]["val/loss"]
