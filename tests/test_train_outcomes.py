"""What becomes of a run: resuming and refusing, the best weights, faults, all of them one line."""

import copy
import csv
import functools
import io
import math
import os
import re
import signal
import subprocess
import sys

import pytest
import torch

import train
from analysis.record import run_folder
from data.files import read_json
from data.loader import Loader
from models.registry import MODELS
from tests.test_floors import ROOT
from tests.test_train import (
    GAN,
    STOPPED,
    _fresh_process_state,  # noqa: F401
    assert_same_state,
    epochs,
    overrides,
    run,
    run_with_stop,
)
from tests.trained_runs import save_run


@pytest.mark.slow
def test_resuming_on_other_images_is_refused(tmp_path, monkeypatch, capsys):
    from PIL import Image

    for name, colour in (("one", 10), ("two", 200)):
        for label in ("cat", "dog"):
            (tmp_path / name / label).mkdir(parents=True)
            for i in range(20):
                Image.new("RGB", (8, 8), (colour, i, 0)).save(tmp_path / name / label / f"{i}.png")
    folder = ["--run_id=a", "--dataset=folder", "--image_size=8", "--batch_size=4"]
    assert run_with_stop(monkeypatch, 3, tmp_path, *folder, f"--data_dir={tmp_path / 'one'}") == STOPPED
    assert run(tmp_path, *folder, f"--data_dir={tmp_path / 'two'}") == 2
    assert "holds other images" in capsys.readouterr().err
    assert run(tmp_path, *folder, f"--data_dir={tmp_path / 'one'}") == 0


def test_a_loss_that_is_not_finite_ends_the_run_at_once(tmp_path, capsys):
    assert run(tmp_path, "--lr=1e30", "--run_id=a") == 1
    message = capsys.readouterr().err
    assert "train/classify/loss is" in message
    assert "lr 1e+30" in message
    assert len(message.splitlines()) == 1
    assert run_folder.state(tmp_path / "a") == "failed"
    assert read_json(tmp_path / "a" / "summary.json")["error"] in message
    assert epochs(tmp_path / "a") == []


@pytest.fixture
def fids(monkeypatch):
    """FIDs to be had of every epoch, in place of those that need a network's weights."""
    values = [9.0, 5.0, 7.0, 6.0, 8.0]
    due = iter([*values, 4.0])

    def measure(sample, is_conditional, loader, extractor, num_images, seed):
        assert sample(2, seed).shape == (2, 3, 32, 32)
        return {f"fid_{extractor}_{num_images}": next(due), f"kid_{extractor}_{num_images}": 1.0}

    monkeypatch.setattr("analysis.look.closer.measure", measure)
    monkeypatch.setattr("analysis.look.closer.find_extractor", lambda name, device: name)
    return values


@pytest.mark.slow
def test_test_images_are_looked_at_once(tmp_path, monkeypatch):
    original, looks = Loader.evaluation_batches, []

    def evaluation_batches(self, *args):
        looks.append(self.labels)
        return original(self, *args)

    monkeypatch.setattr(Loader, "evaluation_batches", evaluation_batches)
    assert run(tmp_path, "--run_id=a", "--test=True", "--epochs=1") == 0
    rows = list(csv.DictReader((tmp_path / "a" / run_folder.PREDICTIONS).open(newline="")))
    own = [row["true"] == row["predicted"] for row in rows if row["split"] == "test"]
    assert sum(len(labels) == len(own) for labels in looks) == 1
    assert read_json(tmp_path / "a" / "summary.json")["test/accuracy"] == pytest.approx(sum(own) / len(own))


def test_a_run_that_diverges_says_so_in_its_summary(tmp_path, capsys):
    assert run(tmp_path, "--model=mlp", "--width=8", "--optimizer=sgd", "--lr=1e12", "--epochs=1", "--run_id=a") == 1
    assert "lower --lr" in capsys.readouterr().err
    summary = read_json(tmp_path / "a" / "summary.json")
    assert (summary["state"], summary["diverged"]) == ("failed", True)


DC_GAN = ["--model=dc_gan", *GAN, "--train_fraction=0.1", "--fid_every=1", "--extractor=tiny", "--fid_images=9"]


def test_a_lack_of_the_extractor_shows_before_training(tmp_path, capsys):
    arguments = ["--model=dc_gan", *GAN, "--fid_every=5", "--extractor=no_such_network", "--run_id=a"]
    assert run(tmp_path, *arguments) == 2
    assert "no_such_network" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("split", "fraction"), [("val", 0.1), ("train", 0.0)])
def test_a_gans_best_weights_are_those_of_the_least_fid(tmp_path, fids, split, fraction):
    kept = []
    save_best = train.Run.save_best
    train.Run.save_best = lambda self: (
        kept.append(copy.deepcopy(self.trainer.evaluated.state_dict())),
        save_best(self),
    )
    arguments = [f"--val_fraction={fraction}", "--test", "--epochs=5", "--run_id=a"]
    try:
        assert run(tmp_path, *DC_GAN, *arguments) == 0
    finally:
        train.Run.save_best = save_best
    rows, summary = epochs(tmp_path / "a"), read_json(tmp_path / "a" / "summary.json")
    assert [row[f"{split}/fid_tiny_9"] for row in rows] == fids
    assert (summary["best_epoch"], summary[f"{split}/fid_tiny_9"]) == (2, 5.0)
    assert summary["test/fid_tiny_9"] == 4.0  # of the best weights, once
    assert len(kept) == 2
    assert_same_state(dict(torch.load(tmp_path / "a" / "best.pt")), dict(kept[1]))


@pytest.mark.slow
def test_patience_follows_the_fid(tmp_path, fids):
    assert run(tmp_path, *DC_GAN, "--epochs=5", "--patience=2", "--run_id=a") == 0
    assert len(epochs(tmp_path / "a")) == 4


@pytest.mark.slow
def test_epochs_without_a_fid_do_not_count_for_patience(tmp_path, fids):
    arguments = [each for each in DC_GAN if not each.startswith("--fid_every")]
    assert run(tmp_path, *arguments, "--fid_every=2", "--epochs=9", "--patience=1", "--run_id=a") == 0
    assert len(epochs(tmp_path / "a")) == 6  # the FIDs of epochs 2, 4 and 6


@pytest.mark.slow
def test_without_a_fid_a_gans_newest_weights_are_kept(tmp_path):
    arguments = ["--model=dc_gan", *GAN, "--train_fraction=0.1", "--epochs=3", "--run_id=a"]
    assert run(tmp_path, *arguments) == 0
    summary = read_json(tmp_path / "a" / "summary.json")
    assert summary["best_epoch"] == summary["epochs"] == 3
    checkpoint, best = (torch.load(tmp_path / "a" / name) for name in ("checkpoint.pt", "best.pt"))
    assert_same_state(checkpoint["objective"], best)
    assert {"discriminator_saturated", "sample_variety", "mode_collapse"} <= summary.keys()


@pytest.mark.slow
def test_a_gan_of_labelled_images_classifies_and_leaves_its_pictures(tmp_path, capsys, figures):
    arguments = ["--model=ac_gan", *GAN, "--train_fraction=0.1", "--epochs=2", "--panels_every=1", "--run_id=a"]
    assert run(tmp_path, *arguments, "--test", "--mixed_precision=bf16") == 0
    summary = read_json(tmp_path / "a" / "summary.json")
    assert {"test/accuracy", "val/accuracy", "test/generated_accuracy", "val/generated_accuracy"} <= summary.keys()
    panels = tmp_path / "a" / "panels"
    for name in ("samples_by_class-0001", "samples_by_class-0002", "interpolations", "confusion_matrix"):
        assert (panels / f"{name}.png").stat().st_size > 0, name
    from PIL import Image

    with Image.open(panels / "training.gif") as film:
        assert film.n_frames == 2
        assert film.width == 640
    assert summary["mode_collapse"] is True  # two epochs make nothing
    assert "mode collapse, or an untrained generator since epoch 1" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_accumulation_computes_the_same_step(tmp_path):
    even = ["--val_fraction=0", "--train_fraction=0.8907"]  # 1,280 images: no step is smaller than the others
    run(tmp_path, "--run_id=a", *even)
    run(tmp_path, "--run_id=b", *even, "--accumulation_steps=4")
    for a, b in zip(epochs(tmp_path / "a"), epochs(tmp_path / "b"), strict=True):
        assert a["images_seen"] == b["images_seen"] == 1280 * a["epoch"]
        assert a["train/classify/loss"] == pytest.approx(b["train/classify/loss"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--mixed_precision=bf16", "--channels_last=on", "--resident=host"])
def test_ways_of_computing_barely_change_the_result(tmp_path, option):
    cnn = ["--model=cnn", "--width=8", "--epochs=2", "--lr=0.001"]
    run(tmp_path, "--run_id=a", *cnn)
    run(tmp_path, "--run_id=b", *cnn, option)
    a, b = (epochs(tmp_path / run_id)[-1]["train/classify/loss"] for run_id in "ab")
    assert a == pytest.approx(b, rel=0.05)


@pytest.mark.slow
def test_compiled_networks_train_and_keep_the_names_of_their_weights(tmp_path, monkeypatch):
    # Inductor would take half a minute to compile what this backend only traces.
    compile_in_place = functools.partialmethod(torch.nn.Module.compile, backend="aot_eager")
    monkeypatch.setattr(torch.nn.Module, "compile", compile_in_place)
    assert run(tmp_path, "--run_id=a", "--compile", "--epochs=1") == 0
    assert run(tmp_path, "--run_id=b", "--epochs=1") == 0
    a, b = (torch.load(tmp_path / run_id / "best.pt") for run_id in "ab")
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_a_compiled_gan_trains_with_a_gradient_of_gradients(tmp_path, monkeypatch):
    compile_in_place = functools.partialmethod(torch.nn.Module.compile, backend="aot_eager")
    monkeypatch.setattr(torch.nn.Module, "compile", compile_in_place)
    assert run(tmp_path, "--run_id=a", *GAN, "--model=dc_gan", "--epochs=1", "--compile", "--r1=1") == 0


def test_dry_run_prints_parameters_and_writes_nothing(tmp_path, capsys):
    arguments = ["--dry_run", "--model=cnn", "--dataset=cifar10", f"--runs_dir={tmp_path / 'runs'}"]
    assert train.main([*arguments, f"--data_dir={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["num_parameters: 1147914", "total_parameters: 1147914"]
    assert "lr: 0.000199" in lines
    assert any("Conv2d(3, 32" in line for line in lines)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_letters_that_the_terminal_lacks_are_told_as_numbers(tmp_path):
    command = [sys.executable, "train.py", "--dry_run", "--dataset=digits", f"--runs_dir={tmp_path}/数据"]
    found = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": "latin-1"}, capture_output=True)
    assert (found.returncode, found.stderr) == (0, b"")
    assert rb"/\u6570\u636e" in found.stdout


def test_dry_run_says_what_has_no_effect(capsys):
    assert train.main(["--dry_run", "--dataset=digits", "--momentum=0.5"]) == 0
    assert capsys.readouterr().err.splitlines() == ["--momentum=0.5 has no effect with --optimizer=adam"]


def test_help_names_every_setting_and_model(capsys):
    assert train.main(["--help"]) == 0
    printed = capsys.readouterr().out
    for name in ("--lr=", "--val_fraction=", "--patience=", "--label_smoothing=", *(f"--model={m}" for m in MODELS)):
        assert name in printed, name


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--help", "--model=vae"], {"vae"}),
        (["--model", "vae", "--help"], {"vae"}),
        (["-h", "--model=cnn", "--lr=1", "--model", "vae"], {"vae"}),  # the last one counts, as in a run
        (["--help", "--model"], set(MODELS)),
        (["--help", "lr"], set(MODELS)),
    ],
)
def test_help_is_of_the_model_that_is_named_with_or_without_an_equals_sign(words, told, capsys):
    assert train.main(words) == 0
    assert set(re.findall("^--model=([a-z0-9_]+): ", capsys.readouterr().out, re.MULTILINE)) == told


def test_help_whose_reader_is_gone_ends_without_a_word(tmp_path, monkeypatch, capsys):
    class Unread(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    with (tmp_path / "file").open("w") as file:
        output = Unread()
        output.fileno = file.fileno
        monkeypatch.setattr(sys, "stdout", output)
        assert train.main(["--help"]) == 128 + signal.SIGPIPE
    assert capsys.readouterr().err == ""


BAD_INPUT = {
    "misspelt": (["--epoch=3"], "did you mean --epochs?"),
    "type": (["--batch_size=many"], "--batch_size=many is not a whole number"),
    "model": (["--model=cnm"], "did you mean cnn?"),
    "dataset": (["--dataset=digit"], "did you mean digits?"),
    "no data": (["--dataset=folder", "--data_dir={tmp}/none"], "none is not a folder"),
    "empty data": (["--dataset=folder", "--data_dir={tmp}/empty"], "holds no images"),
    "half a download": (["--dataset=cifar10", "--data_dir={tmp}/half"], "data_batch_1.bin is missing"),
    "checksum": (["--dataset=cifar10", "--data_dir={tmp}/wrong"], "data_batch_1.bin is damaged"),
    "one class": (["--dataset=folder", "--data_dir={tmp}/one"], "a classifier needs 2"),
    "val_fraction": (["--val_fraction=0.0001"], "leaves no validation image"),
    "batch": (["--batch_size=2000"], "larger than the 1,293 training images"),
    "shares": (["--accumulation_steps=3"], "make it a multiple of 3"),
    "single images": (["--model=cnn", "--batch_size=4", "--accumulation_steps=4"], "too few for batch norm"),
    "nothing to mix": (["--batch_size=4", "--accumulation_steps=4", "--mixup=0.2"], "too few for batch norm or mixup"),
    "runs_dir": (["--runs_dir={tmp}/file/runs"], "name another --runs_dir"),
    "optimizer": (["--optimizer=adan_"], "did you mean"),
    "test": (["--dataset=folder", "--data_dir={tmp}/two", "--test", "--batch_size=2"], "no test images"),
    "fp16": (["--mixed_precision=fp16"], "needs a GPU"),
    "augmented features": (["--model=frozen", "--augmentation=crop_flip"], "features are computed once"),
    "no weights": (["--model=timm", "--arch=test_vit", "--weights={tmp}/none.pth"], "there is no such file"),
    "no gradients": (["--model=logistic_probe", "--optimizer=sgd"], "L-BFGS minimises one loss to the end"),
    "run_id": (["--run_id=../a"], "use letters, digits"),
    "nothing to resume": (["--resume"], "found no unfinished run"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_exit_code_2_and_writes_nothing(tmp_path, capsys, case):
    from PIL import Image

    arguments, expected = BAD_INPUT[case]
    for folder in ("half/cifar-10-batches-bin", "wrong/cifar-10-batches-bin", "one/cat", "two/cat", "two/dog"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / "data" / folder / f"{i}.png")
    for i in range(1, 6):
        (tmp_path / "data/wrong/cifar-10-batches-bin" / f"data_batch_{i}.bin").write_bytes(b"x" * 100)
    (tmp_path / "data" / "file").touch()
    (tmp_path / "data" / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    words = [word.format(tmp=tmp_path / "data") for word in arguments]
    if case != "runs_dir":
        words.append(f"--runs_dir={tmp_path / 'runs'}")
    assert train.main(overrides(*words)) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert len(message.strip().splitlines()) == 1
    assert [path for path in sorted(tmp_path.rglob("*")) if "vision-sweeps" not in str(path)] == before


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--runs_dir={tmp}/file/runs"], "cannot be written (Not a directory): name another --runs_dir"),
        (["--init_from=nosuch"], "--init_from=nosuch: "),
        (["--init_from={tmp}/other"], "other has no weights yet"),
        (["--init_from={tmp}/mlp", "--model=cnn"], "has --model=mlp: give --model=mlp, or another run"),
        (["--init_from={tmp}/wide", "--model=mlp", "--dataset=folder"], "wide has another form, "),
    ],
)
def test_what_is_wrong_whatever_the_images_is_refused_before_they_are_read(tmp_path, monkeypatch, capsys, words, line):
    (tmp_path / "file").touch()
    for run_id in ("other", "mlp"):
        (tmp_path / run_id).mkdir()
        (tmp_path / run_id / "settings.json").write_text('{"model": "mlp", "dataset": "digits"}')
    (tmp_path / "mlp" / "best.pt").touch()
    save_run(tmp_path / "wide", "mlp", width=24)
    monkeypatch.setattr(train, "read_data", lambda settings: pytest.fail("images were read"))
    told = [f"--runs_dir={tmp_path}", *(word.format(tmp=tmp_path) for word in words)]
    assert train.main(overrides(*told)) == 2
    assert line in capsys.readouterr().err


def test_resuming_with_other_settings_is_refused_and_changes_nothing(tmp_path, capsys, monkeypatch):
    run_with_stop(monkeypatch, 3, tmp_path, "--run_id=a")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    capsys.readouterr()
    assert train.main(overrides("--lr=0.5", f"--runs_dir={tmp_path}", "--run_id=a")) == 2
    assert "lr=0.5 differs from the 0.01 of run 'a'" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")} == before


@pytest.mark.slow
def test_a_vision_transformers_attention_is_drawn_while_it_trains(tmp_path, figures):
    arguments = ["--run_id=a", "--model=nano_vit", "--patch_size=8", "--depth=1", "--train_fraction=0.2", "--epochs=1"]
    assert run(tmp_path, *arguments, "--mixed_precision=bf16") == 0
    assert (tmp_path / "a" / "panels" / "attention-0001.png").stat().st_size > 0


@pytest.mark.slow
def test_a_sweep_wins_over_the_command_line(tmp_path, monkeypatch):
    (tmp_path / "sweep.yaml").write_text("wandb_version: 1\nlr: {value: 0.02}\nwidth: {value: 16}\n")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(tmp_path / "sweep.yaml"))
    monkeypatch.setattr("train.die_with_launcher", lambda: None)  # pytest's launcher is no agent
    assert run(tmp_path, "--run_id=a") == 0
    settings = read_json(tmp_path / "a" / "settings.json")
    assert (settings["lr"], settings["width"]) == (0.02, 16)
    assert epochs(tmp_path / "a")[0]["lr"] == 0.02


@pytest.mark.slow
def test_cifar10_is_learnt_in_a_few_hundred_steps(tmp_path, cifar10_dir):
    arguments = ["--dataset=cifar10", f"--data_dir={cifar10_dir}", "--model=cnn", "--width=16", "--lr=5e-3"]
    arguments += ["--schedule=one_cycle", "--batch_size=64", "--epochs=1", "--train_fraction=0.5"]
    arguments += ["--mixed_precision=bf16", "--run_id=a"]
    assert train.main([*arguments, f"--runs_dir={tmp_path}", "--tracking=off"]) == 0
    assert read_json(tmp_path / "a" / "summary.json")["val/accuracy"] > 0.5


@pytest.mark.slow
def test_a_crash_after_the_last_epoch_fails_the_run_with_its_reason_and_the_same_command_goes_on(
    tmp_path, monkeypatch, capsys
):
    command = ["--run_id=a", "--test=True"]
    with monkeypatch.context() as patch:
        patch.setattr(
            "train.closer.closer_look", lambda subject: (_ for _ in ()).throw(MemoryError("no room for the latents"))
        )
        assert run(tmp_path, *command) == 1
    assert "no memory (no room for the latents)" in capsys.readouterr().err
    failed = read_json(tmp_path / "a" / "summary.json")
    assert (failed["state"], failed["error"], failed["epochs"]) == ("failed", "no room for the latents", 3)
    assert not any(key.startswith("test/") for key in failed)
    assert run(tmp_path, *command) == 0
    summary, rows = read_json(tmp_path / "a" / "summary.json"), epochs(tmp_path / "a")
    assert summary["state"] == "finished"
    assert "error" not in summary
    assert summary["test/accuracy"] > 0.5
    assert len(rows) == 3


@pytest.mark.slow
def test_a_picture_that_cannot_be_drawn_costs_no_figure(tmp_path, monkeypatch, capsys, figures):
    def fail(*arguments):
        raise ValueError("ParseException: $ of a class name")

    monkeypatch.setattr("analysis.look.classification.draw_confusion_matrix", fail)
    assert run(tmp_path, "--run_id=a", "--test=True") == 0
    with (tmp_path / "a" / "predictions.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    gaps = [0.0] * 15  # of each fifteenth of the confidences, in images: Guo et al. 2017, arXiv 1706.04599
    for row in rows:
        share = float(row["probability"])
        gaps[math.ceil(15 * share) - 1] += share - (row["true"] == row["predicted"])
    expected = sum(map(abs, gaps)) / len(rows)
    assert read_json(tmp_path / "a" / "summary.json")["test/ece"] == pytest.approx(expected, abs=1e-6)
    assert "confusion_matrix.png could not be drawn: ParseException: $ of a class name" in capsys.readouterr().err
    assert (tmp_path / "a" / "panels" / "reliability.png").exists()
    assert not (tmp_path / "a" / "panels" / "confusion_matrix.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet18", "ac_gan"])
def test_batch_norm_never_meets_a_single_image(tmp_path, model):
    small = {
        "resnet18": ["--width=4", "--depth=1", "--image_size=8"],
        "ac_gan": ["--width=4", "--discriminator_width=2"],
    }
    remainder_of_one = ["--train_fraction=0.0452", "--val_fraction=0", "--batch_size=32"]  # 65 of 1,437 images
    assert run(tmp_path, f"--model={model}", *small[model], *remainder_of_one, "--epochs=1", "--run_id=a") == 0
    assert epochs(tmp_path / "a")[-1]["images_seen"] == 64


@pytest.mark.slow
def test_what_a_run_trains_on_is_told_before_its_first_step_and_noted(tmp_path, capsys):
    images = "10 classes (140-147 each), 1,293 train / 144 val / 360 test, 8x8 -> 32x32"
    assert run(tmp_path, "--run_id=a", "--epochs=1", "--momentum=0.5") == 0
    printed, warned = capsys.readouterr()
    assert "--momentum=0.5 has no effect with --optimizer=adam" in warned.splitlines()
    assert printed.index(f"digits: {images}") < printed.index("epoch 1/1")
    assert images in " ".join(printed[printed.index("epoch 1/1") :].split())  # of the report
    assert read_json(tmp_path / "a" / "environment.json")["images"] == images


@pytest.mark.parametrize("words", [["--width=100000000000"], ["--model=vae", "--latent_size=1000000000000"]])
def test_sizes_that_no_memory_holds_are_told_in_one_line(tmp_path, capsys, words):
    assert run(tmp_path, *words) == 1
    error = capsys.readouterr().err
    assert error.startswith("train.py: no memory (")
    assert len(error.splitlines()) == 1


def refusal_to_go_on(tmp_path, capsys):
    """What the run says, in one line, when it is to be resumed."""
    capsys.readouterr()
    assert run(tmp_path, "--run_id=a") == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    return error


@pytest.mark.slow
@pytest.mark.parametrize("content", [None, "{"], ids=["missing", "damaged"])
def test_a_run_whose_settings_are_gone_is_not_resumed_with_others(tmp_path, monkeypatch, capsys, content):
    run_with_stop(monkeypatch, 25, tmp_path, "--run_id=a")
    path = tmp_path / "a" / "settings.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    told = f"train.py: {path} is missing or damaged, beside a checkpoint: restore it"
    assert refusal_to_go_on(tmp_path, capsys).startswith(told)


@pytest.mark.slow
def test_a_checkpoint_that_was_cut_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    run_with_stop(monkeypatch, 25, tmp_path, "--run_id=a")
    path = tmp_path / "a" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    assert refusal_to_go_on(tmp_path, capsys).startswith(f"train.py: {path} is damaged (")


@pytest.mark.slow
def test_rows_that_a_resumed_run_has_lost_are_told(tmp_path, monkeypatch, capsys):
    run_with_stop(monkeypatch, 25, tmp_path, "--run_id=a")
    (tmp_path / "a" / "metrics.jsonl").unlink()
    assert run(tmp_path, "--run_id=a") == 0
    assert "metrics.jsonl has lost 2 of 2 rows: the curves lack them" in capsys.readouterr().out
