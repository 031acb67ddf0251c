"""Convolutions whose weights get their gradient with images side by side, beside torch's own."""

import copy
import itertools

import pytest
import torch
from torch import nn

from data.dataset import Batch, DatasetInfo
from models.loading import build_objective
from models.parts import convolution
from models.parts.convolution import Convolution, is_suited, use_matrix_tiles
from models.registry import MODELS

pytestmark = pytest.mark.usefixtures("one_thread")
NUM, SIDE = 4, 6


def geometries():
    """Convolutions of two channels in and three out, transposed ones and others."""
    for kernel, stride, padding in itertools.product((1, 2, 3, 4, 5), (1, 2, 3), (0, 1, 2)):
        yield nn.Conv2d(2, 3, kernel, stride, padding)
        for output_padding in range(stride):
            if (SIDE - 1) * stride + kernel + output_padding > 2 * padding:
                yield nn.ConvTranspose2d(2, 3, kernel, stride, padding, output_padding)


def text(module):
    return f"{type(module).__name__}({module.extra_repr()})"


SUITED = [module for module in geometries() if is_suited(module)]
UNSUITED = [module for module in geometries() if not is_suited(module)]


def outputs_of(module, x):
    """What a module gives in float64 by our own function, and what it gives by torch's."""
    module = module.double()
    own = (module.stride, module.padding, module.transposed, module.output_padding)
    return Convolution.apply(x, module.weight, module.bias, *own), module(x)


def images(num=NUM):
    torch.manual_seed(0)
    return torch.randn(num, 2, SIDE, SIDE, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("module", SUITED, ids=text)
def test_gradients_are_those_of_torch(module):
    x = images()
    own, plain = outputs_of(module, x)
    torch.testing.assert_close(own, plain, rtol=0, atol=0)
    grad, given = torch.randn_like(own), (x, module.weight, module.bias)
    torch.testing.assert_close(torch.autograd.grad(own, given, grad), torch.autograd.grad(plain, given, grad))


@pytest.mark.parametrize("module", SUITED, ids=text)
def test_gradients_of_gradients_are_those_of_torch(module):
    x = images()
    given = (x, module.weight)

    def gradient_of_penalty(output):
        of_x, of_weight = torch.autograd.grad((output**2).sum(), given, create_graph=True)
        return torch.autograd.grad((of_x**2).sum() + (of_weight**3).sum(), given)

    own, plain = map(gradient_of_penalty, outputs_of(module, x))
    torch.testing.assert_close(own, plain)


def test_the_convolutions_of_the_suite_are_suited_and_others_where_windows_reach_a_neighbour_are_not():
    own = {
        nn.Conv2d: [(1, 1, 0), (1, 2, 0), (3, 1, 1), (3, 2, 1), (4, 2, 1)],
        nn.ConvTranspose2d: [(4, 2, 1), (5, 2, 2, 1)],
    }
    assert all(is_suited(kind(2, 3, *numbers)) for kind, shapes in own.items() for numbers in shapes)
    for module in UNSUITED:
        x = images()
        own, plain = outputs_of(module, x)
        grad = torch.randn_like(plain)
        try:
            ours = torch.autograd.grad(own, module.weight, grad)
        except RuntimeError:  # shapes that do not go together
            continue
        theirs = torch.autograd.grad(plain, module.weight, grad)
        with pytest.raises(AssertionError):
            torch.testing.assert_close(ours, theirs)
    others = [dict(groups=2), dict(dilation=2), dict(padding_mode="circular"), dict(padding="same")]
    assert not any(is_suited(nn.Conv2d(2, 2, **{"kernel_size": 3, "padding": 1, **other})) for other in others)


INFO = DatasetInfo("synthetic", 16, ("a", "b"), (0.5,) * 3, (0.5,) * 3, {}, "")
MODELS_OF_CONVOLUTIONS = {
    "resnet18": {"width": 4},
    "vae": {"width": 4, "depth": 2, "latent_size": 4},
    "dc_gan": {"width": 4, "discriminator_width": 4, "r1": 1.0},
}


@pytest.fixture
def calls(monkeypatch):
    """The shapes of what is convolved by our own function, on a CPU that has matrix tiles, however few weights."""
    monkeypatch.setattr(convolution, "FEWEST_WEIGHTS", 1)
    monkeypatch.setattr(convolution, "has_matrix_tiles", lambda: True)
    apply, shapes = Convolution.apply, []
    monkeypatch.setattr(Convolution, "apply", lambda x, *rest: shapes.append(tuple(x.shape)) or apply(x, *rest))
    return shapes


def build(model, quick):
    torch.manual_seed(0)
    settings = MODELS[model].settings_class(model=model, **MODELS_OF_CONVOLUTIONS[model])
    objective = build_objective(settings, INFO).to(memory_format=torch.channels_last).train()
    if quick:
        use_matrix_tiles(objective)
    return objective


def gradients(objective, num=32, dtype=torch.bfloat16):
    """All gradients of the first step of the last phase, by the name of the weights."""
    phase = objective.phases()[-1].name
    torch.manual_seed(1)
    batch = Batch(torch.randn(num, 3, 16, 16).contiguous(memory_format=torch.channels_last), torch.arange(num) % 2)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss = objective(batch, phase)["loss"]
    loss.backward()
    return {name: weight.grad for name, weight in objective.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("model", MODELS_OF_CONVOLUTIONS)
def test_a_step_of_a_model_has_the_gradients_that_it_has_without(model, calls):
    expected = gradients(build(model, quick=False))
    assert not calls
    own = gradients(build(model, quick=True))
    assert calls
    assert own.keys() == expected.keys()
    whole, rest = (torch.cat([g.flatten() for g in some.values()]) for some in (expected, own))
    assert (whole - rest).norm() < 0.01 * whole.norm()


def test_a_copy_of_a_network_keeps_its_names_and_learns_by_its_own_weights(calls):
    plain, quick = build("resnet18", quick=False), build("resnet18", quick=True)
    copied = copy.deepcopy(quick)
    assert list(quick.state_dict()) == list(plain.state_dict())
    assert gradients(copied)
    assert all(weight.grad is None for weight in quick.parameters())


@pytest.mark.parametrize(
    "plainly",
    [
        lambda objective: gradients(objective, dtype=torch.float32),
        lambda objective: gradients(objective, num=31),  # no two images can share a row
        lambda objective: gradients(objective.eval()),
    ],
)
def test_where_nothing_is_gained_torch_computes_all(plainly, calls):
    plainly(build("resnet18", quick=True))
    assert not calls


@pytest.mark.parametrize(("side", "is_ours"), [(4, True), (5, False), (16, True), (18, False)])
def test_widths_that_the_stride_does_not_divide_and_large_maps_are_torchs(side, is_ours, calls):
    halve = build("resnet18", quick=True).net.layer2[0].conv1
    with torch.autocast("cpu", torch.bfloat16):
        halve(torch.randn(2, 4, side, side))
    assert bool(calls) == is_ours


def test_a_cpu_without_matrix_tiles_is_left_alone_and_so_are_small_foreign_and_unpadded_convolutions(monkeypatch):
    class Padded(nn.Conv2d):
        pass

    net = nn.Sequential(
        nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(2, 3, 3, padding=1), Padded(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3)
    )
    monkeypatch.setattr(convolution, "FEWEST_WEIGHTS", 81)
    for has_tiles, expected in ((False, nn.Conv2d), (True, convolution.Conv2d)):
        monkeypatch.setattr(convolution, "has_matrix_tiles", lambda has_tiles=has_tiles: has_tiles)
        use_matrix_tiles(net)
        assert [type(module) for module in net] == [expected, nn.Conv2d, Padded, nn.Conv2d]
