import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from data.errors import UserError
from models.core.optimization import set_lr
from models.parts.layers import SelfAttention
from tests.models.test_objectives import build, make_batch, train_step

pytestmark = pytest.mark.usefixtures("one_thread")
# For each model a base width and one four times that.
WIDTHS = {"mlp": (16, 64), "cnn": (4, 16), "resnet18": (4, 16), "nano_vit": (16, 64)}
every_model = pytest.mark.parametrize("name", WIDTHS)


def mup(name, width, **settings):
    return build(name, parametrization="mup", base_width=WIDTHS[name][0], width=width, **settings)


def groups_by_name(objective):
    """For each parameter of the network its group of the optimizer."""
    [phase] = objective.phases()
    names = {id(p): name for name, p in objective.net.named_parameters()}
    return {names[id(p)]: group for group in phase.optimizer.param_groups for p in group["params"]}


def deviation(tensor):
    return tensor.detach().square().mean().sqrt().item()


@every_model
def test_at_the_base_width_mup_is_the_standard_parametrization_bit_by_bit(name):
    base = WIDTHS[name][0]
    ours, standard = mup(name, base), build(name, width=base)
    states = ours.state_dict(), standard.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    losses = []
    for each in (ours, standard):
        torch.manual_seed(0)
        losses += [train_step(each, each.phases(), make_batch(each, 4))]
    assert losses[0] == losses[1]


@every_model
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_initial_deviations_and_rates_are_those_of_table_8(name, optimizer):
    base, width = WIDTHS[name]
    wide, narrow = mup(name, width, optimizer=optimizer, lr=0.01), mup(name, base)
    old, found = dict(narrow.net.named_parameters()), set()
    for key, group in groups_by_name(wide).items():
        new = wide.net.get_parameter(key)
        grown = [a / b for a, b in zip(new.shape, old[key].shape, strict=True)]
        is_matrix = isinstance(wide.net.get_submodule(key.rpartition(".")[0]), nn.Linear | nn.Conv2d) and new.ndim > 1
        kind = {(4, 4): "hidden", (1, 4): "logits"}.get(tuple(grown[:2]), "vector") if is_matrix else "vector"
        found.add(kind)
        is_finite = max(grown) == 1
        in_sgd = 1 if is_finite else {"hidden": 1, "logits": 4, "vector": 4}[kind]
        rate = in_sgd if optimizer == "sgd" else {"hidden": 0.25, "logits": 1, "vector": 1}[kind]
        assert group["lr"] == pytest.approx(0.01 * rate), key
        assert deviation(new) == pytest.approx(deviation(old[key]) * (0.5 if kind == "hidden" else 1), rel=1e-4), key
    assert found == {"hidden", "logits", "vector"}


@every_model
def test_the_logits_are_those_of_a_quarter_of_the_input_at_four_times_the_width(name):
    objective = mup(name, WIDTHS[name][1])
    inputs, outputs = [], []
    [last] = [m for m in objective.net.modules() if isinstance(m, nn.Linear) and m.out_features == 10]
    last.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))  # after the factor
    last.register_forward_hook(lambda module, args, output: outputs.append(output))
    before = []
    handles = last._forward_pre_hooks
    handles.move_to_end(last.register_forward_pre_hook(lambda module, args: before.append(args[0])).id, last=False)
    objective(make_batch(objective, 4), "classify")
    torch.testing.assert_close(inputs[0], before[0] / 4)
    torch.testing.assert_close(outputs[0], F.linear(before[0] / 4, last.weight, last.bias))


def test_a_run_logs_the_rate_that_it_is_given():
    for optimizer in ("sgd", "adam"):
        [phase] = mup("mlp", 64, optimizer=optimizer, lr=0.01).phases()
        assert phase.optimizer.param_groups[0]["lr"] == 0.01


def test_schedules_keep_the_ratios_of_the_rates():
    [phase] = mup("mlp", 64, lr=0.01).phases()
    before = [group["lr"] for group in phase.optimizer.param_groups]
    set_lr(phase.optimizer, 0.3)
    assert [group["lr"] for group in phase.optimizer.param_groups] == pytest.approx([0.3 * lr for lr in before])
    assert len(set(before)) > 1


@pytest.mark.parametrize(("scaling", "share"), [("independent", 1.0), ("coupled", 0.25)])
def test_independent_weight_decay_shrinks_all_weights_alike_and_coupled_by_their_rate(scaling, share):
    objective = mup("mlp", 64, optimizer="adamw", lr=0.01, weight_decay=0.5, decay_scaling=scaling)
    groups = groups_by_name(objective)
    for key, expected in (("hidden.1.weight", 1.0), ("hidden.4.weight", share), ("head.weight", 1.0)):
        assert groups[key]["lr"] * groups[key]["weight_decay"] == pytest.approx(0.01 * 0.5 * expected)
    assert groups["hidden.1.bias"]["weight_decay"] == 0


def test_other_sizes_grow_from_the_base_width_on_in_both_parametrizations():
    for parametrization in ("standard", "mup"):
        told = {"base_width": 8, "width": 24, "parametrization": parametrization}
        assert build("cnn", head_width=32, **told).net.head[1].out_features == 96
        vit = build("nano_vit", ffn_width=20, num_heads=4, **told)
        assert vit.net.layers[0].ffn[0].out_features == 60


def test_scores_of_attention_are_divided_by_the_width_of_a_head():
    def scale(**settings):
        net = build("nano_vit", num_heads=4, width=64, **settings).net
        return next(m for m in net.modules() if isinstance(m, SelfAttention)).scale

    assert scale() is None
    assert scale(parametrization="mup", base_width=16) == pytest.approx(2 / 16)  # sqrt(4) at the base
    assert scale(parametrization="mup", base_width=64) == pytest.approx(16**-0.5)


@torch.no_grad()
def test_fused_attention_has_the_scale_of_its_weights():
    attention, x = SelfAttention(dim=24, num_heads=3, dropout=0.0, scale=0.7).eval(), torch.randn(2, 7, 24)
    q, k, v = attention.split_heads(x)
    torch.testing.assert_close(attention.weights(x), torch.softmax(0.7 * q @ k.transpose(-2, -1), dim=-1))
    torch.testing.assert_close(attention(x), attention.out((attention.weights(x) @ v).transpose(1, 2).flatten(2)))


@every_model
def test_copies_and_checkpoints_go_on_as_the_original_does(name):
    objective = mup(name, WIDTHS[name][1], optimizer="adamw", weight_decay=0.1)
    phases = objective.phases()
    train_step(objective, phases, make_batch(objective, 4))
    twin = copy.deepcopy(objective)  # as the moving average of the weights is made
    restored = mup(name, WIDTHS[name][1], optimizer="adamw", weight_decay=0.1, seed=9)
    restored.load_state_dict(objective.state_dict())
    batch = make_batch(objective, 4, seed=1)
    with torch.no_grad():
        logits = [each.eval().predict(batch.images) for each in (objective, twin, restored)]
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])
    others = restored.phases()
    others[0].optimizer.load_state_dict(copy.deepcopy(phases[0].optimizer.state_dict()))
    losses = []
    for each, own in ((objective, phases), (restored, others)):
        torch.manual_seed(0)
        each.train()
        losses += [[train_step(each, own, batch) for _ in range(2)]]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parametrization": "mup"}, "^--parametrization=mup needs --base_width"),
        ({"parametrization": "mup", "base_width": 8, "optimizer": "lion"}, "^--optimizer=lion has no muP here: give"),
    ],
)
def test_mup_is_refused_in_one_line_where_it_is_not_defined(settings, message):
    with pytest.raises(UserError, match=message):
        build("mlp", **settings)


def test_heads_that_do_not_divide_the_base_width_are_told_with_its_name():
    message = "^--num_heads=8 does not divide --base_width=12: give 6 or 12, or another --base_width$"
    with pytest.raises(UserError, match=message):
        build("nano_vit", num_heads=8, width=192, base_width=12, parametrization="mup")
    assert build("nano_vit", num_heads=8, width=192, base_width=12)  # whose network is never made


def test_a_network_without_shortcuts_has_no_weights_for_them():
    plain, residual = (build("resnet18", residual=residual) for residual in (False, True))
    names = [{key for key in each.state_dict()} for each in (plain, residual)]
    assert names[1] - names[0] == {key for key in names[1] if "downsample" in key}
    assert names[0] < names[1]
    block = plain.net.layer1[0].eval()
    torch.nn.init.zeros_(block.bn2.weight)
    assert not block(torch.randn(1, 8, 4, 4)).any()
