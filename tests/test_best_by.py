"""Which epoch's weights a run keeps, tests and uploads, and what it says of it."""

import json

import pytest
import torch

import train
from analysis.record import run_folder
from analysis.record.evaluation import Evaluation
from analysis.record.resume import resolve
from data.errors import UserError
from data.files import read_json, write_json
from tests.test_train import (
    STOPPED,
    _fresh_process_state,  # noqa: F401
    assert_same_state,
    epochs,
    run,
    run_with_stop,
)

QUICK = ["--run_id=a", "--train_fraction=0.1", "--width=4", "--depth=1", "--epochs=5", "--panels_every=9"]
VALIDATION = [  # of five epochs; the least loss is in the second, the best accuracy in the third
    {"loss": 0.9, "accuracy": 0.5, "perplexity": 4.0},
    {"loss": 0.4, "accuracy": 0.7, "perplexity": 3.0},
    {"loss": 0.5, "accuracy": 0.8, "perplexity": 5.0},
    {"loss": 0.6, "accuracy": 0.8, "perplexity": 9.0},
    {"loss": 0.7, "accuracy": 0.6, "perplexity": 8.0},
]


@pytest.fixture
def scripted(monkeypatch):
    """Validation as in VALIDATION; the metrics of the weights that are tested are those of the first epoch again."""
    due = iter([*VALIDATION, VALIDATION[0]])
    monkeypatch.setattr(train, "evaluate", lambda *arguments: Evaluation(dict(next(due))))
    monkeypatch.setattr(train, "check_best_by", lambda *arguments: None)
    kept = []
    save_best = train.Run.save_best
    monkeypatch.setattr(
        train.Run, "save_best", lambda self: kept.append(self.trainer.progress.epoch) or save_best(self)
    )
    return kept


@pytest.mark.parametrize(
    ("best_by", "epochs_kept", "elsewhere"),
    [
        ("", [1, 2], {"val/accuracy": {"value": 0.8, "epoch": 3}}),
        ("val/accuracy", [1, 2, 3], {"val/loss": {"value": 0.4, "epoch": 2}}),
        (
            "maximize val/perplexity",
            [1, 3, 4],
            {"val/loss": {"value": 0.4, "epoch": 2}},
        ),
    ],
)
def test_the_kept_weights_are_the_best_by_the_metric_that_was_asked_for(
    best_by, epochs_kept, elsewhere, tmp_path, scripted, capsys
):
    assert run(tmp_path, *QUICK, f"--best_by={best_by}") == 0
    summary, at = read_json(tmp_path / "a" / "summary.json"), epochs_kept[-1]
    assert scripted == epochs_kept
    assert (summary["best_by"], summary["best_epoch"]) == (best_by or "val/loss", at)
    assert {f"val/{name}": value for name, value in VALIDATION[at - 1].items()}.items() <= summary.items()
    assert summary["best"] == elsewhere
    printed = " ".join(capsys.readouterr().out.split())
    assert f"(epoch {at}, whose weights are kept, by {best_by or 'val/loss'})" in printed
    [(name, best)] = elsewhere.items()
    value = f"{100 * best['value']:.2f} %" if name == "val/accuracy" else f"{best['value']:.4f}"
    assert f"best logged {name} {value} in epoch {best['epoch']}" in printed


def test_patience_follows_the_metric_that_was_asked_for(tmp_path, scripted):
    assert run(tmp_path, *QUICK, "--best_by=val/accuracy", "--patience=1") == 0
    assert len(epochs(tmp_path / "a")) == 4  # by the loss there would be three


def test_a_training_loss_can_choose_the_weights_where_nothing_is_held_out(tmp_path):
    arguments = ["--val_fraction=0", "--best_by=train/classify/loss", "--epochs=2"]
    assert run(tmp_path, *QUICK, *arguments) == 0
    rows, summary = epochs(tmp_path / "a"), read_json(tmp_path / "a" / "summary.json")
    losses = [row["train/classify/loss"] for row in rows]
    assert summary["best_by"] == "train/classify/loss"
    assert summary["train/classify/loss"] == min(losses) == losses[summary["best_epoch"] - 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--best_by=val/acuracy"], "--best_by=val/acuracy: no run logs it, did you mean val/accuracy"),
        (["--best_by=max val/accuracy"], "--best_by=max val/accuracy: no run logs it, did you mean val/accuracy"),
        (["--best_by=maximize val/codes_used", "--model=vq_vae"], "no run logs it, did you mean val/loss"),
        (
            ["--best_by=train/autoencode/perplexity", "--model=vq_vae"],
            'give --best_by="minimize train/autoencode/perplexity" or --best_by="maximize train/autoencode/perplexity"',
        ),
        (["--best_by=val/real_score", "--model=dc_gan"], "does not tell whether less or more of it is better: give"),
        (["--best_by=test/accuracy"], "nothing is chosen on test images, take val/accuracy"),
        (["--best_by=val/loss", "--val_fraction=0"], "val_fraction is 0, so no images are left"),
        (["--patience=5", "--val_fraction=0"], "--patience=5 has nothing to follow without validation images"),
        (["--patience=5", "--model=dc_gan"], "--patience=5 has nothing to follow: leave it out, or give --best_by one"),
        (["--best_by=val/fid_inception_2000", "--model=dc_gan"], "that --fid_every names: give --fid_every=1"),
        (["--best_by=val/fid_inception_200", "--model=dc_gan"], "there are: train/discriminate/"),
    ],
)
@pytest.mark.parametrize("dry_run", [[], ["--dry_run"]], ids=["run", "dry run"])
def test_what_no_run_logs_is_refused_in_one_line_before_anything_is_written(
    arguments, message, dry_run, tmp_path, capsys
):
    assert run(tmp_path, "--run_id=a", *arguments, *dry_run) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--patience=5"],
        ["--patience=0", "--val_fraction=0"],
        ["--patience=5", "--val_fraction=0", "--best_by=train/classify/loss"],
        ["--patience=5", "--model=vq_vae", "--best_by=maximize train/autoencode/perplexity"],
        ["--patience=5", "--val_fraction=0", "--model=dc_gan", "--fid_every=1"],
        ["--model=frozen", "--arch=resnet18", "--pretrained=False", "--val_fraction=0"],  # its default is 2
    ],
)
def test_patience_that_can_end_a_run_or_that_nobody_asked_for_is_let_pass(arguments, tmp_path):
    assert run(tmp_path, *arguments, "--dry_run") == 0


def older(folder):
    """Take from a run's settings what runs of before the setting had not."""
    settings = read_json(folder / run_folder.SETTINGS)
    del settings["best_by"]
    write_json(folder / run_folder.SETTINGS, settings)


def test_a_run_older_than_the_setting_goes_on_bit_for_bit_and_keeps_its_choice(tmp_path, monkeypatch):
    assert run(tmp_path, *QUICK, "--epochs=3") == 0
    assert run_with_stop(monkeypatch, 4, tmp_path / "stopped", *QUICK, "--epochs=3") == STOPPED
    older(tmp_path / "stopped" / "a")
    with pytest.raises(UserError, match="--best_by=val/accuracy differs from the '' of run 'a'"):
        resolve([f"--runs_dir={tmp_path / 'stopped'}", "--run_id=a", "--best_by=val/accuracy"], {})
    assert run(tmp_path / "stopped", *QUICK, "--epochs=3") == 0
    assert epochs(tmp_path / "a") == epochs(tmp_path / "stopped" / "a")
    for name in ("best.pt", "checkpoint.pt"):
        whole, resumed = (torch.load(root / "a" / name) for root in (tmp_path, tmp_path / "stopped"))
        assert_same_state(dict(whole), dict(resumed))
    summary = json.loads((tmp_path / "stopped" / "a" / "summary.json").read_text())
    assert summary["best_by"] == "val/loss"
