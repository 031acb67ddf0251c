"""Rows about steps, training on a few batches again and again, and epochs of a few steps."""

from itertools import count
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from models.core.training import Trainer
from models.loading import load_model, read_data
from models.resolve import merge, parse, validate

LOSS = "step/classify/loss"
NORM = "step/classify/gradient_norm"


MLP = ("--model=mlp", "--width=4", "--batch_size=128")


def make_trainer(*arguments, model=MLP):
    told = parse(["--dataset=digits", *model, *arguments], {})
    settings = validate(merge(told, {}), {})
    accelerator = Accelerator(cpu=True)
    info, splits = read_data(settings)
    return Trainer(settings, accelerator, *load_model(settings, info, splits, accelerator))


def train(trainer, num_epochs=1):
    """Train, and return the rows about steps."""
    rows = []
    trainer.step_log.write = rows.append
    for _ in range(num_epochs):
        trainer.train_epoch(None)
        trainer.terms = dict(trainer.progress.terms)
        trainer.progress.finish_epoch()
    return rows


def weights(trainer):
    return torch.cat([parameter.flatten() for parameter in trainer.objective.parameters()])


def test_rows_tell_the_mean_of_the_steps_since_the_row_before_at_the_epoch_as_x_axis(monkeypatch):
    seconds = count()  # one from each look at the clock to the next: a row takes a second
    monkeypatch.setattr("models.core.step_log.time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    trainer = make_trainer("--log_every=4", "--lr=0.1", "--schedule=cosine", "--epochs=2")
    rows = train(trainer, 2)
    assert trainer.steps_per_epoch == 11
    assert [row["step"] for row in rows] == [4, 8, 12, 16, 20]
    assert [row["epoch"] for row in rows] == [step / 11 for step in (4, 8, 12, 16, 20)]
    assert [row["images_seen"] for row in rows][:2] == [512, 1024]
    second = torch.stack(trainer.terms["train/classify/loss"])  # of the second epoch's 11 steps
    means = [second[:1].mean(), second[1:5].mean(), second[5:9].mean()]
    assert [row[LOSS] for row in rows[2:]] == pytest.approx([mean.item() for mean in means])
    assert rows[0]["step/lr"] > rows[-1]["step/lr"] > 0
    assert [row["step/images_per_second"] for row in rows] == [512, 512, 128, 512, 512]  # one step of the second epoch
    assert all("lr" not in row for row in rows)  # which epochs alone have


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_the_gradient_norm_is_that_before_clipping_and_logging_changes_nothing(clip, monkeypatch):
    trainers = [make_trainer(f"--log_every={every}", f"--grad_clip={clip}") for every in (0, 1)]
    expected = []
    backward = trainers[1].accelerator.backward

    def noting(loss):
        backward(loss)
        gradients = [parameter.grad.flatten() for parameter in trainers[1].objective.parameters()]
        expected.append(torch.cat(gradients).norm().item())

    monkeypatch.setattr(trainers[1].accelerator, "backward", noting)
    rows = [train(trainer) for trainer in trainers]
    assert rows[0] == []
    assert [row[NORM] for row in rows[1]] == pytest.approx(expected, rel=1e-4)
    assert torch.equal(*map(weights, trainers))


def test_every_phase_has_a_norm_of_its_own():
    trainer = make_trainer("--log_every=1", "--limit_batches=1", model=("--model=vq_vae", "--width=4"))
    [row] = train(trainer)
    assert {phase.name for phase in trainer.phases} == {
        key.split("/")[1] for key in row if key.endswith("/gradient_norm")
    }


def test_a_few_batches_are_the_same_images_in_every_epoch():
    trainer = make_trainer("--overfit_batches=2")
    assert trainer.steps_per_epoch == 2
    assert len(trainer.loader) == 256
    epochs = [sorted(torch.cat([batch.images for batch in trainer.batches(i)]).sum((1, 2, 3)).tolist()) for i in (0, 1)]
    assert epochs[0] == epochs[1]


def data_of(*arguments):
    return read_data(validate(merge(parse(["--dataset=digits", *arguments], {}), {}), {}))


@pytest.mark.parametrize("size", [1, 500])
def test_a_circumstance_does_not_decide_which_images_a_limited_evaluation_sees(size):
    few = ("--model=mlp", "--limit_batches=2", "--batch_size=50")
    _, expected = data_of(*few)
    _, found = data_of(*few, f"--eval_batch_size={size}")
    assert len(found["val"].labels) == 100
    assert torch.equal(found["val"].images, expected["val"].images)


def test_a_limit_on_batches_of_all_images_leaves_all_of_them_to_evaluate():
    whole, limited = (data_of("--model=logistic_probe", *words)[0] for words in ([], ["--limit_batches=1"]))
    assert limited.num_images == whole.num_images


def test_limited_epochs_see_other_images_each_and_evaluations_are_short():
    info, splits = data_of("--model=mlp", "--limit_batches=2", "--batch_size=50", "--test=True")
    assert {name: len(split.labels) for name, split in splits.items()} == info.num_images
    assert info.num_images == {"train": 1293, "val": 100, "test": 100}
    shares = [split.labels.bincount().double() / len(split.labels) for split in (splits["test"], splits["val"])]
    assert all(0.06 < share < 0.14 for each in shares for share in each)  # all ten classes, not the first ones
    trainer = make_trainer("--limit_batches=2")
    assert trainer.steps_per_epoch == 2
    first, second = (next(trainer.batches(epoch)).images for epoch in (0, 1))
    assert not torch.equal(first, second)
    assert [len(terms) for terms in (train(trainer), trainer.terms["train/classify/loss"])] == [0, 2]
