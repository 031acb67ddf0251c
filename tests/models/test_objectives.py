"""What every model must do, whatever it is: a new one enrols by its line in MODELS.

`python -m tests.models.test_objectives` writes the golden losses anew, after a change that was meant to alter them;
names of models write those alone.
"""

import argparse
import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from data.dataset import Batch, DatasetInfo
from data.seeding import mix_seeds, seed_everything
from models.core import abilities
from models.core.objective import LOGITS, only_trainable, wants_channels_last
from models.core.settings import kinds
from models.loading import build_objective
from models.parts.classification import Classification, ClassifierSettings
from models.registry import MODELS

# Settings that make a model quick, for those that are not by default; dropout stays on.
SMALL = {
    "mlp": {"width": 32, "dropout": 0.1},
    "cnn": {"width": 8, "head_width": 32},
    "resnet18": {"width": 8, "depth": 1},
    "nano_vit": {"patch_size": 4, "width": 32, "depth": 2, "num_heads": 4, "ffn_width": 64},
    "patch_lstm": {"patch_size": 4, "embedding_width": 16, "width": 32, "head_width": 32},
    "timm": {"arch": "test_vit", "pretrained": False},
    "resnet18_pretrained": {"arch": "test_resnet", "pretrained": False, "stem": "own"},
    "vit_b16_finetune": {"arch": "test_vit", "pretrained": False, "input_size": 64, "warmup_epochs": 0.0},
    "frozen": {"arch": "test_efficientnet", "pretrained": False, "input_size": 32},
    "vit_b16_frozen": {"arch": "test_efficientnet", "pretrained": False, "input_size": 32},
    "logistic_probe": {"arch": "test_resnet", "pretrained": False, "input_size": 32, "l2": 1e-4},
    "vae": {"width": 32, "depth": 2, "latent_size": 32, "beta": 1e-3},  # at beta 1 noise is not worth its KL
    "cvae": {"width": 32, "depth": 2, "latent_size": 32, "beta": 1e-3},
    "cvae_head": {"width": 32, "depth": 2, "latent_size": 32, "beta": 1e-3},
    "dc_gan": {"width": 8, "discriminator_width": 8, "latent_size": 16},
    "ac_gan": {"width": 8, "discriminator_width": 4, "latent_size": 16, "dropout": 0.1},
    "vq_vae": {"width": 64, "depth": 3, "codebook_decay": 0.9, "prior_width": 32, "prior_depth": 1},
}
INFO = DatasetInfo("synthetic", 32, tuple("abcdefghij"), (0.5, 0.4, 0.3), (0.25, 0.2, 0.3), {}, "")
NORMALISED = {  # by the default setting of that name
    "channel": INFO,
    "symmetric": replace(INFO, mean=(0.5,) * 3, std=(0.5,) * 3),
    "unit": replace(INFO, mean=(0.0,) * 3, std=(1.0,) * 3),
}
GOLDEN = Path(__file__).parents[1] / "golden"
NUM_GOLDEN_STEPS = 20
# Shares by which losses may differ: line searches, nearest codes and batch norm over maps of a few pixels amplify the
# last bits, which processors round differently, with AVX2, AVX-512 and AMX.
TOLERANCES = {"logistic_probe": 0.02, "resnet18_pretrained": 0.01, "vq_vae": 0.03}
WAITS = {f"aten::{name}" for name in ("bincount", "nonzero", "masked_select", "_local_scalar_dense", "equal")}
every_model = pytest.mark.parametrize("name", MODELS)
pytestmark = pytest.mark.usefixtures("one_thread")


def info_of(name):
    return NORMALISED[MODELS[name].settings_class.normalisation]


def build(name, **settings):
    return build_objective(
        MODELS[name].settings_class(model=name, **{**SMALL.get(name, {}), **settings}), info_of(name)
    )


def make_batch(objective, size, seed=0):
    shape = objective.input_shape()
    random = np.random.RandomState(seed)  # whose stream is the same with every version
    inputs = random.rand(size, *shape) - 0.5
    if len(shape) == 3:  # images, normalised
        mean, std = (np.array(values)[:, None, None] for values in (objective.info.mean, objective.info.std))
        inputs = (inputs + 0.5 - mean) / std
    return Batch(torch.from_numpy(inputs).float(), torch.arange(size) % len(INFO.classes))


def train_step(objective, phases, batch):
    """One step of every phase; returns its losses by the phase's name."""
    losses = {}
    for phase in phases:

        def loss_with_gradient(phase=phase):
            phase.optimizer.zero_grad(set_to_none=True)
            loss = objective(batch, phase.name)["loss"]
            loss.backward()
            return loss

        with only_trainable(objective, phase.optimizer):
            losses[phase.name] = phase.optimizer.step(loss_with_gradient).item()
        phase.optimizer.zero_grad(set_to_none=True)
    return losses


@torch.no_grad()
def metrics(objective, batch):
    torch.manual_seed(0)
    return objective.eval().evaluate(batch)


def weights(objective):
    return {name: parameter.detach().clone() for name, parameter in objective.named_parameters()}


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


class NoWaiting(TorchDispatchMode):
    """Refuses operations of which a GPU's processor has to wait for the result."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        assert name not in WAITS, f"{name} waits for the GPU"
        return func(*args, **(kwargs or {}))


@every_model
def test_a_training_step_does_not_wait_for_the_gpu(name):
    objective = build(name).train()
    batch = make_batch(objective, 8)
    for phase in objective.phases():
        with only_trainable(objective, phase.optimizer), NoWaiting():
            objective(batch, phase.name)["loss"].backward()


@every_model
def test_what_makes_an_ability_is_no_part_of_a_module_which_newer_pythons_do_not_see(name):
    objective = build(name)
    for has_it in filter(None, (objective, getattr(objective, "net", None))):
        for ability in (
            it for it in vars(abilities).values() if getattr(it, "_is_protocol", False) and it is not Protocol
        ):
            members = {*ability.__annotations__, *(key for key in vars(ability) if not key.startswith("_"))}
            is_able = all(hasattr(has_it, member) for member in members)
            assert is_able == all(inspect.getattr_static(has_it, member, None) is not None for member in members)
            assert is_able == isinstance(has_it, ability)


@every_model
def test_losses_are_finite_scalars(name):
    objective = build(name)
    for phase in objective.phases():
        terms = objective(make_batch(objective, 7), phase.name)
        assert "loss" in terms
        for term in terms.values():
            assert term.shape == ()
            assert term.isfinite()


@pytest.mark.parametrize("name", [name for name in MODELS if "width" in kinds(MODELS[name].settings_class)])
def test_the_least_width_trains(name):
    objective = build(name, width=1, **{"nano_vit": {"num_heads": 1}}.get(name, {}))
    for phase in objective.phases():
        assert objective(make_batch(objective, 4), phase.name)["loss"].isfinite()


@pytest.mark.parametrize("name", ["vae", "cvae", "cvae_head", "vq_vae"])
def test_an_autoencoder_is_to_draw_images_whole_of_which_it_sees_parts(name):
    objective, targets = build(name), []
    whole = make_batch(objective, 4)
    seen = Batch(torch.zeros_like(whole.images), whole.labels, whole.images)
    likelihood = objective.likelihood
    likelihood.forward = lambda output, images, to=likelihood.forward: targets.append(images) or to(output, images)
    objective(seen, objective.phases()[0].name)
    assert [target is whole.images for target in targets] == [True]


@every_model
def test_every_trainable_parameter_gets_a_gradient_in_some_phase(name):
    objective = build(name)
    reached = set()
    for phase in objective.phases():
        with only_trainable(objective, phase.optimizer):
            objective(make_batch(objective, 4), phase.name)["loss"].backward()
        reached |= {key for key, p in objective.named_parameters() if p.grad is not None}
        assert all(p.grad.isfinite().all() for p in objective.parameters() if p.grad is not None)
        objective.zero_grad(set_to_none=True)
    assert reached == {key for key, p in objective.named_parameters() if p.requires_grad}


@every_model
def test_every_trainable_parameter_belongs_to_one_optimizer(name):
    objective = build(name)
    held = [id(p) for phase in objective.phases() for group in phase.optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in objective.parameters() if p.requires_grad)


@every_model
def test_each_phase_moves_only_its_own_parameters(name):
    objective = build(name)
    for phase in objective.phases():
        own = {id(p) for group in phase.optimizer.param_groups for p in group["params"]}
        before = weights(objective)
        train_step(objective, (phase,), make_batch(objective, 4))
        moved = changed(before, weights(objective))
        assert moved
        assert moved <= {key for key, p in objective.named_parameters() if id(p) in own}


@every_model
def test_evaluate_gives_one_figure_an_image(name):
    for size in (5, 1):
        objective = build(name)
        values = metrics(objective, make_batch(objective, size))
        assert "loss" in values
        values.pop(LOGITS, None)
        for value in values.values():
            assert value.shape == (size,)
            assert value.isfinite().all()


@every_model
def test_a_classifiers_evaluation_gives_the_logits_that_it_predicts_by(name):
    objective = build(name)
    batch = make_batch(objective, 5)
    found = metrics(objective, batch)
    assert (LOGITS in found) == isinstance(objective, abilities.Classifies)
    if LOGITS in found:
        with torch.no_grad():
            torch.testing.assert_close(found[LOGITS], objective.predict(batch.images))


def assert_evaluated_alike_whatever_the_batch(objective, num_steps=3):
    """After a few steps of training, since at first a network may give all images the same."""
    phases = objective.phases()
    for step in range(num_steps):
        train_step(objective.train(), phases, make_batch(objective, 8, seed=step))
    batch = make_batch(objective, 6, seed=num_steps)
    whole = metrics(objective, batch)
    halves = [metrics(objective, Batch(batch.images[part], batch.labels[part])) for part in (slice(4), slice(4, 6))]
    for key, values in whole.items():
        torch.testing.assert_close(torch.cat([half[key] for half in halves]), values, rtol=1e-4, atol=1e-5)


@every_model
def test_an_image_is_evaluated_alike_whatever_batch_it_is_in(name):
    assert_evaluated_alike_whatever_the_batch(build(name, lr=1e-3))


class LessTheBatchsMean(torch.nn.Module):
    """A network that takes the mean of the batch from each image's outputs, which are all 0 at first."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3 * INFO.image_size**2, len(INFO.classes))
        torch.nn.init.zeros_(self.head.weight)

    def forward(self, images):
        logits = self.head(images.flatten(1))
        return logits - logits.mean(dim=0)


def test_a_network_that_takes_away_its_batchs_mean_is_found_out():
    objective = Classification(LessTheBatchsMean(), ClassifierSettings(), INFO)
    assert_evaluated_alike_whatever_the_batch(objective, num_steps=0)  # as yet all images look alike to it
    with pytest.raises(AssertionError, match="not close"):
        assert_evaluated_alike_whatever_the_batch(objective)


@every_model
def test_panels_are_images_in_unit_range(name):
    objective = build(name).eval()
    with torch.no_grad():
        panels = objective.panels(make_batch(objective, 5), torch.rand(5, 3, INFO.image_size, INFO.image_size))
    assert panels
    for panel in panels.values():
        assert panel.images.shape[1] == 3
        assert panel.images.ndim == 4
        assert panel.images.min() >= 0
        assert panel.images.max() <= 1
        assert len(panel.captions) in (0, len(panel.images))
        assert len(panel.marks) in (0, len(panel.images))


@every_model
def test_a_state_dict_carries_everything_evaluation_depends_on(name):
    trained, other = build(name, seed=1), build(name, seed=2)
    batch = make_batch(trained, 6)
    train_step(trained, trained.phases(), batch)
    expected = metrics(trained, batch)
    assert not torch.equal(metrics(other, batch)["loss"], expected["loss"])
    other.load_state_dict(trained.state_dict())
    for key, values in metrics(other, batch).items():
        assert torch.equal(values, expected[key]), key


@pytest.mark.slow
@every_model
def test_overfits_one_batch(name):
    objective = build(name, lr=3e-3)
    batch = make_batch(objective, 16)
    if batch.images.ndim == 4:  # squares of 8x8 pixels: what has to pass through few codes cannot tell noise from noise
        squares = batch.images[..., ::8, ::8].repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
        batch = batch._replace(images=squares)
    phases = objective.phases()
    first = metrics(objective, batch)["loss"].mean()
    for _ in range(12):
        objective.train()
        for _ in range(10):
            train_step(objective, phases, batch)
        if metrics(objective, batch)["loss"].mean() < first / 10:
            return
    pytest.fail(f"the loss is still {metrics(objective, batch)['loss'].mean():.3f}, from {first:.3f}")


@every_model
def test_weights_are_a_function_of_the_seed(name):
    first = weights(build(name, seed=1))
    torch.rand(3)  # which moves the global generator
    assert not changed(first, weights(build(name, seed=1)))
    assert changed(first, weights(build(name, seed=2)))


@every_model
def test_channels_last_is_a_layout_and_changes_no_figure(name):
    objective = build(name)
    batch = make_batch(objective, 4)
    if batch.images.ndim != 4:
        pytest.skip("features have no layout")
    expected = metrics(objective, batch)
    objective.to(memory_format=torch.channels_last)
    values = metrics(objective, Batch(batch.images.to(memory_format=torch.channels_last), batch.labels))
    for key in expected:
        torch.testing.assert_close(values[key], expected[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layout", "precision", "device", "expected"),
    [
        ("auto", "no", "cuda", True),
        ("auto", "bf16", "cpu", True),
        ("auto", "no", "cpu", False),
        ("auto", "no", "mps", False),
        ("on", "no", "cpu", True),
        ("off", "bf16", "cuda", False),
    ],
)
def test_convolutions_get_the_layout_that_is_faster(layout, precision, device, expected):
    objective = build("cnn", channels_last=layout, mixed_precision=precision)
    assert wants_channels_last(objective.settings, objective, torch.device(device)) is expected


def first_losses(name):
    objective = build(name, lr=1e-3)
    phases = objective.phases()
    losses = {phase.name: [] for phase in phases}
    for step in range(NUM_GOLDEN_STEPS):
        seed_everything(*mix_seeds(0, step, num=1))
        for phase, loss in train_step(objective, phases, make_batch(objective, 8, seed=step)).items():
            losses[phase].append(loss)
    return losses


@pytest.mark.slow
@every_model
def test_first_losses_match_the_golden_file(name):
    path = GOLDEN / f"{name}.json"
    assert path.exists(), f"python -m tests.models.test_objectives {name} writes it"
    golden = json.loads(path.read_text())
    losses = first_losses(name)
    assert losses.keys() == golden.keys()
    for phase, values in golden.items():
        assert losses[phase] == pytest.approx(values, rel=TOLERANCES.get(name, 1e-3)), phase


def write_golden(names):
    torch.set_num_threads(1)
    GOLDEN.mkdir(exist_ok=True)
    for name in names:
        losses = {phase: [round(loss, 6) for loss in values] for phase, values in first_losses(name).items()}
        (GOLDEN / f"{name}.json").write_text(json.dumps(losses, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.models.test_objectives", description="Write golden losses.")
    parser.add_argument("names", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)}; default: all")
    write_golden(parser.parse_args().names or MODELS)
