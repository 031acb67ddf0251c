"""The training loop: what settings ask of each step, the average of the weights, random numbers of processes."""

from types import SimpleNamespace

import pytest
import torch
from torch import distributed
from torch.nn.utils.parametrize import is_parametrized

from data.errors import UserError
from models.core.training import Trainer
from tests.models.core.test_step_log import make_trainer, train

GAN = ("--model=dc_gan", "--width=4", "--discriminator_width=4", "--latent_size=8", "--batch_size=16")
SGD = ("--optimizer=sgd", "--momentum=0", "--schedule=constant")
pytestmark = pytest.mark.usefixtures("one_thread")


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def after_each_step(trainer, monkeypatch, look):
    """Train an epoch, and return what a look finds after each of its steps."""
    found, step = [], Trainer.train_step

    def train_step(trainer, batch):
        step(trainer, batch)
        found.append(look())

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", train_step)
        train(trainer)
    return found


def test_the_evaluated_weights_are_the_moving_average_of_those_after_each_step(monkeypatch):
    trainer = make_trainer("--ema_decay=0.5", "--limit_batches=5", *SGD, "--lr=0.1")
    live = after_each_step(trainer, monkeypatch, lambda: weights(trainer.objective))
    average = live[0]
    for step, now in enumerate(live, 1):
        average = average.lerp(now, 1 - min(0.5, 1 - step ** (-2 / 3)))
    assert len(live) == 5
    torch.testing.assert_close(weights(trainer.evaluated), average)
    assert not torch.allclose(weights(trainer.evaluated), live[-1])


def test_a_checkpoint_holds_the_live_weights_and_their_average(tmp_path):
    trainer, other = (make_trainer("--ema_decay=0.5", "--limit_batches=5", "--lr=0.1", f"--seed={i}") for i in (1, 2))
    train(trainer)
    trainer.save(tmp_path / "a.pt")
    other.restore(tmp_path / "a.pt")
    assert torch.equal(weights(other.objective), weights(trainer.objective))
    assert torch.equal(weights(other.evaluated), weights(trainer.evaluated))
    assert not torch.equal(weights(other.evaluated), weights(other.objective))


def test_the_loss_of_a_step_in_parts_is_the_mean_of_theirs():
    losses = []
    for parts in (1, 2):
        trainer = make_trainer(f"--accumulation_steps={parts}", "--limit_batches=1", "--dropout=0")
        train(trainer)
        losses += [loss.item() for loss in trainer.terms["train/classify/loss"]]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_patience_ends_as_many_judged_epochs_after_the_best():
    trainer = make_trainer("--patience=2")
    trainer.progress.best, trainer.progress.best_epoch = {"val/loss": 1.0}, 3
    found = []
    for trainer.progress.judged_epoch in (3, 4, 5):
        found.append(trainer.is_out_of_patience())
    assert found == [False, False, True]


def test_an_epoch_ends_with_spectral_norms_of_the_averaged_weights():
    trainer = make_trainer("--spectral_norm", "--ema_decay=0.9", "--lr=0.02", "--limit_batches=10", model=GAN)
    train(trainer, 3)
    layers = [net for net in trainer.evaluated.eval().discriminator.modules() if is_parametrized(net)]
    norms = [torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() for layer in layers]
    assert norms == pytest.approx([1] * 4, rel=0.03)


def test_a_clipped_step_of_gradient_descent_is_as_long_as_the_rate_times_the_norm():
    trainer = make_trainer("--grad_clip=0.01", "--limit_batches=1", *SGD, "--lr=0.5")
    before = weights(trainer.objective)
    train(trainer)
    assert (weights(trainer.objective) - before).norm().item() == pytest.approx(0.5 * 0.01, rel=1e-3)


def test_balanced_sampling_reaches_the_batches():
    counts = next(make_trainer("--sampling=balanced").batches(0)).labels.bincount()
    assert sorted(counts.tolist()) == [12] * 2 + [13] * 8  # 128 images of 10 classes


def test_the_generator_steps_once_in_n_critic_steps_of_the_discriminator():
    trainer = make_trainer("--n_critic=3", "--limit_batches=6", model=GAN)
    train(trainer)
    num = {name: len(trainer.terms[f"train/{name}/loss"]) for name in ("discriminate", "generate")}
    assert num == {"discriminate": 6, "generate": 2}


def test_a_row_of_a_step_without_the_generators_turn_has_no_norm_of_its_gradients():
    rows = train(make_trainer("--n_critic=3", "--log_every=1", "--limit_batches=4", model=GAN))
    assert ["step/generate/gradient_norm" in row for row in rows] == [True, False, False, True]


def test_a_row_tells_of_the_generators_turns_since_the_row_before():
    trainer = make_trainer("--n_critic=3", "--log_every=6", "--limit_batches=13", model=GAN)
    rows = train(trainer)
    losses = torch.stack(trainer.terms["train/generate/loss"])  # in steps 0, 3, 6, 9 and 12
    expected = [losses[:2].mean().item(), losses[2:4].mean().item()]
    assert [row["step/generate/loss"] for row in rows] == pytest.approx(expected)
    assert all(row["step/generate/gradient_norm"] > 0 for row in rows)  # of steps 3 and 9
    assert len({row["step/generate/gradient_norm"] for row in rows}) == 2


def test_a_row_without_the_generators_turn_since_the_row_before_has_no_loss_of_it():
    rows = train(make_trainer("--n_critic=3", "--log_every=1", "--limit_batches=4", model=GAN))
    assert ["step/generate/loss" in row for row in rows] == [True, False, False, True]


def test_a_norm_beyond_all_numbers_is_told_and_changes_no_gradient():
    trainer = make_trainer()
    parameters = list(trainer.objective.parameters())
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 1e20)
    assert trainer.clip(parameters).isinf()
    assert all((parameter.grad == 1e20).all() for parameter in parameters)


def test_the_generators_turn_goes_on_over_the_end_of_an_epoch():
    trainer, num = make_trainer("--n_critic=3", "--limit_batches=4", model=GAN), []
    for _ in range(2):
        train(trainer)
        num.append(len(trainer.terms["train/generate/loss"]))
    assert num == [2, 1]  # in steps 0, 3 and 6


def test_the_model_is_told_of_parts_of_an_epoch(monkeypatch):
    trainer = make_trainer("--limit_batches=4")
    found = [after_each_step(trainer, monkeypatch, lambda: trainer.objective.epoch) for _ in range(2)]
    assert found == [[0, 1 / 4, 2 / 4, 3 / 4], [1, 5 / 4, 6 / 4, 7 / 4]]


def test_the_seconds_of_an_epoch_count_those_before_a_stop():
    trainer = make_trainer("--limit_batches=2")
    trainer.progress.epoch_seconds = 1000.0
    trainer.train_epoch(None)
    assert 1000 < trainer.progress.epoch_seconds < 1300


def test_every_process_draws_random_numbers_of_its_own():
    trainer, found = make_trainer(), []
    for rank in (0, 1):
        trainer.accelerator = SimpleNamespace(process_index=rank)
        found += [seed for epoch in (0, 1) for seed in trainer.seeds(epoch)]
    assert len(found) == len(set(found)) == 2 * 2 * 11


def test_images_that_cannot_be_read_are_not_laid_on_the_checkpoint_that_a_run_goes_on_from(tmp_path):
    trainer = make_trainer()
    trainer.save(tmp_path / "a.pt")
    trainer.restore(tmp_path / "a.pt")

    def batches(*_):
        yield from ()
        raise ValueError("they have moved")

    trainer.batches = batches
    with pytest.raises(ValueError, match="^they have moved"):
        trainer.train_epoch(None)


FAULTS_OF_A_STEP = [
    distributed.DistBackendError("NCCL error in: unhandled system error"),
    RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
]


@pytest.mark.parametrize("error", FAULTS_OF_A_STEP, ids=str)
def test_a_fault_of_the_first_step_is_not_laid_on_the_checkpoint_that_a_run_goes_on_from(error, tmp_path):
    def fail(*_):
        raise error

    trainer = make_trainer()
    trainer.save(tmp_path / "a.pt")
    trainer.restore(tmp_path / "a.pt")
    trainer.prepared = fail
    with pytest.raises(type(error)) as caught:
        trainer.train_epoch(None)
    assert caught.value is error


@pytest.mark.parametrize("shape", [(7,), ()])
@pytest.mark.parametrize(
    ("optimizer", "state"), [("adam", "exp_avg"), ("adamw", "exp_avg_sq"), ("sgd", "momentum_buffer")]
)
def test_a_state_that_fused_kernels_would_read_beyond_is_refused_at_once(optimizer, state, shape, tmp_path):
    trainer, other = (make_trainer(f"--optimizer={optimizer}", "--limit_batches=1") for _ in range(2))
    train(trainer)
    own = trainer.phases[0].optimizer
    own.state[own.param_groups[0]["params"][0]][state] = torch.zeros(shape)
    trainer.save(tmp_path / "a.pt")
    with pytest.raises(UserError, match=rf"a.pt does not fit its run's settings \(its {state} has the shape"):
        other.restore(tmp_path / "a.pt")


def test_a_state_of_an_optimizer_is_laid_on_the_checkpoint_whenever_its_turn_comes(tmp_path):
    arguments = "--n_critic=3", "--limit_batches=4", "--optimizer=nadam"
    trainer, other = (make_trainer(*arguments, model=GAN) for _ in range(2))
    train(trainer)  # the generator's next turn is in step 6, the third of the second epoch
    generator = trainer.phases[1].optimizer
    generator.state[generator.param_groups[0]["params"][0]]["exp_avg"] = torch.zeros(7)
    trainer.save(tmp_path / "a.pt")
    other.restore(tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"a.pt does not fit its run's settings"):
        other.train_epoch(None)
    assert other.progress.step == 2
