"""The adversarial models: losses, regularisers, phases that leave each other alone, several processes."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.parametrize import is_parametrized

from data.dataset import Batch, DatasetInfo
from data.errors import UserError
from models.core.objective import only_trainable
from models.loading import build_objective
from models.parts.adversarial_losses import LOSSES, gradient_penalty
from models.registry import MODELS
from tests.two_processes import in_two_processes

INFO = DatasetInfo("synthetic", 32, ("dark", "light"), (0.5,) * 3, (0.5,) * 3, {}, "")
SMALL = {"width": 4, "discriminator_width": 4, "latent_size": 8}
GANS = ("dc_gan", "ac_gan")
every_gan = pytest.mark.parametrize("name", GANS)
pytestmark = pytest.mark.usefixtures("one_thread")


def build(name="dc_gan", info=INFO, **settings):
    return build_objective(MODELS[name].settings_class(model=name, **{**SMALL, **settings}), info)


def make_batch(size, seed=0, image_size=32):
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.rand(size, 3, image_size, image_size, generator=generator) * 2 - 1, torch.arange(size) % 2)


def take_step(gan, phase, batch):
    with only_trainable(gan, phase.optimizer):
        gan(batch, phase.name)["loss"].backward()
    phase.optimizer.step()
    phase.optimizer.zero_grad(set_to_none=True)


def state(net):
    return {key: value.clone() for key, value in net.state_dict().items()}


def same(before, after):
    return all(torch.equal(before[key], after[key]) for key in before)


REGULARISERS = [
    {},
    {"spectral_norm": True, "loss": "hinge"},
    {"r1": 1.0, "diffaugment": "colour,translation,cutout"},
]


@every_gan
@pytest.mark.parametrize("settings", REGULARISERS, ids=str)
def test_each_phase_leaves_the_others_network_bit_identical_with_its_statistics(name, settings):
    gan = build(name, **settings)
    for phase, own, other in zip(
        gan.phases(), (gan.discriminator, gan.generator), (gan.generator, gan.discriminator), strict=True
    ):
        before, own_before = state(other), state(own)
        take_step(gan, phase, make_batch(6))
        assert same(before, state(other)), phase.name
        assert not same(own_before, state(own)), phase.name
        assert all(p.grad is None for p in other.parameters())


@every_gan
def test_the_discriminators_statistics_are_those_of_real_images_alone(name):
    gan = build(name, **({"dropout": 0.0} if name == "ac_gan" else {}))
    batch, expected = make_batch(6), copy.deepcopy(gan.discriminator)
    expected(batch.images)
    gan(batch, "discriminate")
    assert same({k: v for k, v in state(expected).items() if "running" in k}, state(gan.discriminator))


def test_in_the_others_phase_a_network_still_normalises_by_its_batch():
    gan, batch = build(), make_batch(6)
    with torch.no_grad():
        expected = copy.deepcopy(gan.discriminator)(batch.images)
        gan.discriminator.requires_grad_(False)
        gan.draw = lambda labels: batch.images
        losses = gan(batch, "generate")
    torch.testing.assert_close(losses["loss"], F.softplus(-expected).mean())


def test_losses_are_those_of_hand_arithmetic():
    scores = torch.tensor([-2.0, 0.5, 3.0])
    hinge = LOSSES["hinge"]
    assert hinge.real(scores, 0.0).tolist() == [3.0, 0.5, 0.0]
    assert hinge.fake(scores, 0.0).tolist() == [0.0, 1.5, 4.0]
    assert hinge.generator(scores).tolist() == [2.0, -0.5, -3.0]
    plain = LOSSES["non_saturating"]
    assert plain.real(torch.zeros(1), 0.0).item() == pytest.approx(math.log(2))
    assert plain.generator(scores).tolist() == pytest.approx([math.log(1 + math.exp(-s)) for s in (-2, 0.5, 3)])
    for smoothing in (0.0, 0.1):
        real = F.binary_cross_entropy_with_logits(scores, torch.full((3,), 1 - smoothing), reduction="none")
        fake = F.binary_cross_entropy_with_logits(scores, torch.full((3,), smoothing), reduction="none")
        torch.testing.assert_close(plain.real(scores, smoothing), real)
        torch.testing.assert_close(plain.fake(scores, smoothing), fake)


@pytest.mark.parametrize(
    "settings",
    [{}, {"real_smoothing": 0.1}, {"real_smoothing": 0.1, "fake_smoothing": 0.2}, {"loss": "hinge"}],
    ids=str,
)
def test_the_discriminators_loss_is_that_of_real_and_of_generated_images(settings):
    gan = build(**settings)
    real, fake = torch.tensor([[2.0], [-1.0]]), torch.tensor([[-0.5], [-3.0]])
    terms = gan.discriminator_terms(real, fake, torch.zeros(2, dtype=torch.long))
    if "loss" in settings:
        expected = (0 + 2 + 0.5 + 0) / 2
    else:
        targets = [1 - settings.get("real_smoothing", 0.0)] * 2 + [settings.get("fake_smoothing", 0.0)] * 2
        cross_entropy = nn.BCEWithLogitsLoss(reduction="none")
        expected = cross_entropy(torch.cat([real, fake])[:, 0], torch.tensor(targets)).sum().item() / 2
    assert terms["loss"].item() == pytest.approx(expected)
    assert [terms[key].item() for key in ("real_score", "fake_score", "told_apart")] == [0.5, -1.75, 0.75]


def test_images_are_evaluated_by_the_unsmoothed_loss_of_real_ones_and_the_weighted_cross_entropy():
    gan, batch = build("ac_gan", aux_weight=0.3, real_smoothing=0.2).eval(), make_batch(5)
    with torch.no_grad():
        found, outputs = gan.evaluate(batch), gan.discriminator(batch.images)
    told = -outputs[:, 1:].log_softmax(1)[torch.arange(5), batch.labels]
    torch.testing.assert_close(found["loss"], F.softplus(-outputs[:, 0]) + 0.3 * told)


def test_smoothing_is_for_training_alone():
    gan, batch = build(real_smoothing=0.2, initialisation="orthogonal").eval(), make_batch(5)
    with torch.no_grad():
        found, scores = gan.evaluate(batch)["loss"], gan.discriminator(batch.images)[:, 0]
    torch.testing.assert_close(found, F.softplus(-scores))


def test_the_gradient_penalty_and_its_gradient_are_those_of_hand_arithmetic():
    images = torch.randn(4, 3, 2, 2, requires_grad=True)
    weight = torch.randn(12, requires_grad=True)
    penalty = gradient_penalty(images.flatten(1) @ weight, images)  # each score's gradient is the weight
    torch.testing.assert_close(penalty, weight.square().sum())
    [gradient] = torch.autograd.grad(penalty, weight)
    torch.testing.assert_close(gradient, 2 * weight)
    penalty = gradient_penalty((weight[0] * images.square() / 2).sum(dim=(1, 2, 3)), images)
    torch.testing.assert_close(penalty, weight[0] ** 2 * images.square().sum() / 4)


def test_r1_adds_half_of_gamma_times_the_penalty():
    losses = {}
    for gamma in (0.0, 10.0):
        gan = build(r1=gamma)
        torch.manual_seed(1)
        losses[gamma] = gan(make_batch(5), "discriminate")
    assert losses[10.0]["r1"] > 0
    torch.testing.assert_close(losses[10.0]["loss"], losses[0.0]["loss"] + 5 * losses[10.0]["r1"])


def test_r1_is_that_of_the_score_and_not_of_the_classes():
    gan, batch = build("ac_gan", r1=1.0, initialisation="orthogonal").eval(), make_batch(4)
    images = batch.images.requires_grad_()
    penalty = gradient_penalty(gan.discriminator(images)[:, 0], images)
    torch.testing.assert_close(gan(batch, "discriminate")["r1"], penalty)


def test_r1_trains_in_mixed_precision():
    gan = build(r1=10.0)
    with torch.autocast("cpu", torch.bfloat16):
        terms = gan(make_batch(5), "discriminate")
    terms["loss"].backward()
    assert terms["r1"].dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in gan.discriminator.parameters())


@pytest.mark.parametrize("blanks", [{"cutout": 8}, {"erasing": 0.5}])
def test_real_images_with_parts_blanked_out_are_refused(blanks):
    gan = build(**blanks)  # as one that was trained before is read
    with pytest.raises(UserError, match="would teach the generator to draw .*: leave it out, or give --diffaugment"):
        gan.phases()


def test_smoothing_of_the_hinge_loss_is_refused():
    with pytest.raises(UserError, match="--loss=hinge has no labels to smooth"):
        build(loss="hinge", fake_smoothing=0.1)


@every_gan
def test_averaged_weights_have_a_spectral_norm_of_their_own(name):
    gan = build(name, spectral_norm=True, lr=0.02)
    average = ModelEmaV3(gan, 0.9, use_warmup=True)
    phases = gan.phases()
    for step in range(30):
        for phase in phases:
            take_step(gan, phase, make_batch(8, seed=step))
            phase.optimizer.zero_grad()
        average.update(gan, step + 1)
    found = []
    for _ in range(2):  # the same live model gives the same result
        average.module.mend_average(gan)
        average.module.eval()
        layers = [module for module in average.module.discriminator.modules() if is_parametrized(module)]
        found.append([module.weight.flatten(1) for module in layers])
    assert all(map(torch.equal, *found))
    norms = [torch.linalg.matrix_norm(weight, 2).item() for weight in found[0]]
    assert norms == pytest.approx([1] * len(norms), rel=0.03)


@every_gan
def test_spectral_norm_holds_every_layer_of_the_discriminator_at_one(name):
    gan = build(name, spectral_norm=True)
    phases = gan.phases()
    for step in range(30):
        take_step(gan, phases[0], make_batch(4, seed=step))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in gan.discriminator.modules())
    weights = [m.weight for m in gan.discriminator.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    norms = [torch.linalg.matrix_norm(weight.flatten(1), 2).item() for weight in weights]
    assert norms == pytest.approx([1.0] * len(norms), abs=0.2)


def test_the_two_optimizers_have_their_own_rates_and_the_generator_waits_for_the_critic():
    gan = build(lr=1e-3, discriminator_lr=4e-3, beta1=0.3, beta2=0.9, n_critic=3)
    phases = {phase.name: phase for phase in gan.phases()}
    groups = {name: phase.optimizer.param_groups for name, phase in phases.items()}
    assert {group["lr"] for group in groups["discriminate"]} == {4e-3}
    assert {group["lr"] for group in groups["generate"]} == {1e-3}
    assert {group["betas"] for name in groups for group in groups[name]} == {(0.3, 0.9)}
    assert {name: phase.every for name, phase in phases.items()} == {"discriminate": 1, "generate": 3}
    assert all(group["lr"] == 1e-3 for phase in build(lr=1e-3).phases() for group in phase.optimizer.param_groups)


def test_weights_begin_as_asked():
    for name in GANS:
        gan = build(name, width=16, discriminator_width=16)
        weights = torch.cat([p.flatten() for p in gan.parameters() if p.ndim > 1])
        assert weights.std().item() == pytest.approx(0.02, rel=0.02)
        gan = build(name, initialisation="orthogonal")
        for module in gan.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.ConvTranspose2d):
                rows = module.weight.detach().flatten(1)
                gram = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
                torch.testing.assert_close(gram, torch.eye(len(gram)), atol=1e-4, rtol=0)


@every_gan
@pytest.mark.parametrize("image_size", [16, 32, 64, 128])
def test_images_may_have_any_side_of_a_doubled_four(name, image_size):
    gan = build(name, replace(INFO, image_size=image_size), width=2, discriminator_width=2).eval()
    with torch.no_grad():
        assert gan.sample(2, seed=0).shape == (2, 3, image_size, image_size)
        assert gan.evaluate(make_batch(2, image_size=image_size))["loss"].shape == (2,)


@pytest.mark.parametrize("image_size", [4, 28, 48, 96])
def test_other_sides_are_refused(image_size):
    with pytest.raises(UserError, match=f"{image_size}-pixel images cannot be made by doubling 4x4: give --image_size"):
        build(info=replace(INFO, image_size=image_size))


def test_default_networks_are_the_papers():
    gan = build_objective(MODELS["dc_gan"].settings_class(model="dc_gan"), replace(INFO, image_size=64))
    shapes = [tuple(p.shape) for p in gan.generator.parameters() if p.ndim == 4]
    assert shapes == [(1024, 512, 4, 4), (512, 256, 4, 4), (256, 128, 4, 4), (128, 3, 4, 4)]
    shapes = [tuple(p.shape) for p in gan.discriminator.parameters() if p.ndim == 4]
    assert shapes == [(128, 3, 4, 4), (256, 128, 4, 4), (512, 256, 4, 4), (1024, 512, 4, 4)]
    settings = MODELS["ac_gan"].settings_class(model="ac_gan")
    gan = build_objective(settings, replace(INFO, classes=tuple("abcdefghij")))
    assert [tuple(p.shape) for p in gan.generator.parameters() if p.ndim > 1] == [
        (384 * 16, 110), (384, 192, 5, 5), (192, 96, 5, 5), (96, 3, 5, 5)
    ]  # fmt: skip
    layers = [m for m in gan.discriminator.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.out_channels, m.stride[0]) for m in layers] == [
        (16, 2), (32, 1), (64, 2), (128, 1), (256, 2), (512, 1)
    ]  # fmt: skip
    assert gan.discriminator[-1].weight.shape == (11, 512 * 4 * 4)
    assert sum(isinstance(m, nn.Dropout) and m.p == 0.5 for m in gan.discriminator) == 6


@every_gan
def test_samples_are_a_function_of_the_seed_and_the_labels_alone(name):
    gan = build(name).eval()
    with torch.no_grad():
        before = torch.get_rng_state()
        first = gan.sample(6, seed=1)
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(3)
        assert torch.equal(gan.sample(6, seed=1), first)
        assert not torch.equal(gan.sample(6, seed=2), first)
        ones = gan.sample(6, 1, torch.ones(6, dtype=torch.long))
    assert (name == "dc_gan") == torch.equal(ones, first)
    if name == "ac_gan":
        assert torch.equal(ones[::2], first[::2])  # whose turn is label 1


def test_panels_are_of_the_same_noise_in_every_run():
    panels = [build(seed=seed).noise for seed in (1, 2)]
    assert torch.equal(*panels)
    gan = build("ac_gan").eval()
    with torch.no_grad():
        panel = gan.panels(make_batch(2), torch.rand(2, 3, 32, 32))["samples_by_class"]
        light = gan.pictures_of(gan.noise[:8], torch.ones(8))
    assert panel.captions[:3] == ("dark", "light", "dark")
    torch.testing.assert_close(panel.images[1::2], light)  # the second of two columns


@torch.no_grad()
def test_an_interpolation_goes_from_one_noise_to_another():
    gan = build().eval()
    panel = gan.closing_panels()["interpolations"]
    assert panel.images.shape == (80, 3, 32, 32)
    ends = gan.pictures_of(gan.noise[:16], torch.zeros(16))
    torch.testing.assert_close(panel.images[::10], ends[::2])
    torch.testing.assert_close(panel.images[9::10], ends[1::2], atol=1e-5, rtol=0)


def two_tones(size):
    """Dark images of label 0 and light ones of label 1."""
    labels = torch.arange(size) % 2
    tones = torch.tensor([-0.7, 0.7])[labels].view(-1, 1, 1, 1)
    return Batch(tones + 0.1 * torch.randn(size, 3, 16, 16), labels)


@pytest.mark.slow
def test_the_generator_learns_what_images_of_a_label_look_like_and_the_head_to_tell_them():
    torch.manual_seed(0)
    gan = build("ac_gan", replace(INFO, image_size=16), width=8, discriminator_width=4, lr=2e-3, dropout=0.1)
    phases = gan.phases()
    for _ in range(130):
        for phase in phases:
            take_step(gan, phase, two_tones(16))
    gan.eval()
    with torch.no_grad():
        assert gan.evaluate(two_tones(20))["accuracy"].mean() == 1
        tones = gan.sample(40, seed=0).mean(dim=(1, 2, 3)) * 2 - 1
    assert tones[1::2].mean() - tones[::2].mean() > 0.4


def test_the_averaged_generator_is_the_one_that_samples_with_averaged_statistics():
    from timm.utils import ModelEmaV3  # the processes of another test have no use for it

    gan = build(lr=1e-2)
    ema = ModelEmaV3(gan, 0.9, use_warmup=True)
    phases, expected = gan.phases(), None
    for step in range(3):
        for phase in phases:
            take_step(gan, phase, make_batch(6, seed=step))
        ema.update(gan, step + 1)
        decay = 0.0 if step == 0 else min(0.9, 1 - (1 + step) ** (-2 / 3))
        now = {key: value for key, value in state(gan).items() if value.is_floating_point()}
        expected = now if expected is None else {k: decay * expected[k] + (1 - decay) * v for k, v in now.items()}
    averaged = state(ema.module)
    for key, value in expected.items():
        torch.testing.assert_close(averaged[key], value)
    twin = build(seed=9).eval()
    twin.load_state_dict(averaged)
    with torch.no_grad():
        samples = ema.module.sample(4, seed=0)
        assert torch.equal(samples, twin.sample(4, seed=0))
        assert not torch.equal(samples, gan.eval().sample(4, seed=0))


def train_as_rank(rank):
    gan = build("ac_gan", r1=1.0, diffaugment="colour,translation,cutout")
    alone = copy.deepcopy(gan)
    together = DistributedDataParallel(gan, find_unused_parameters=True)
    phases, batch = gan.phases(), make_batch(6, seed=rank)
    for phase, net, same_net in zip(
        phases, (gan.discriminator, gan.generator), (alone.discriminator, alone.generator), strict=True
    ):
        torch.manual_seed(rank)
        expected = torch.autograd.grad(alone(batch, phase.name)["loss"], list(same_net.parameters()))
        torch.manual_seed(rank)
        with only_trainable(gan, phase.optimizer):
            together(batch, phase.name)["loss"].backward()
        for parameter, gradient in zip(net.parameters(), expected, strict=True):
            distributed.all_reduce(gradient)
            torch.testing.assert_close(parameter.grad, gradient / 2, rtol=1e-4, atol=1e-6)
        gan.zero_grad(set_to_none=True)
    for step in range(3):
        for phase in phases:
            with only_trainable(gan, phase.optimizer):
                together(make_batch(6, seed=10 * step + rank), phase.name)["loss"].backward()
            phase.optimizer.step()
            phase.optimizer.zero_grad(set_to_none=True)
    return dict(gan.named_parameters())


@pytest.mark.slow
def test_two_processes_take_the_mean_of_their_gradients_and_stay_alike(tmp_path):
    first, second = in_two_processes(train_as_rank, tmp_path)
    assert all(torch.equal(first[key], second[key]) for key in first)
