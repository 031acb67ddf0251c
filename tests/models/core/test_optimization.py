import math

import pytest
import torch
from torch import nn

from data.errors import UserError
from models.core.optimization import (
    SCHEDULES,
    FreshLBFGS,
    Scale,
    build_optimizer,
    lr_factor,
    lr_of,
    parameter_groups,
    set_lr,
)
from models.core.settings import Settings
from models.registry import MODELS
from tests.models.test_objectives import build


def make_net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2), nn.LayerNorm(2))


def optimizer_of(net, settings):
    return build_optimizer(parameter_groups(net, settings.weight_decay), settings)


def decaying(module, groups):
    names = {id(p): name for name, p in module.named_parameters()}
    return {names[id(p)] for group in groups if group.get("weight_decay") for p in group["params"]}


def test_weight_decay_skips_norms_and_biases():
    net = make_net()
    assert decaying(net, parameter_groups(net, 0.1)) == {"0.weight", "3.weight"}


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"logistic_probe"}))  # whose penalty is part of its loss
def test_in_no_model_do_norms_or_biases_decay(name):
    objective = build(name, weight_decay=0.1)
    names = set()
    for phase in objective.phases():
        names |= decaying(objective, phase.optimizer.param_groups)
    modules = dict(objective.named_modules())
    norms = (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
    assert names
    for owner, _, own_name in (key.rpartition(".") for key in names):
        assert "bias" not in own_name
        assert not isinstance(modules[owner], norms)


@pytest.mark.parametrize("name", ["nano_vit", "patch_lstm", "vq_vae"])
def test_class_tokens_and_positions_do_not_decay(name):
    objective, names = build(name, weight_decay=0.1), set()
    for phase in objective.phases():
        names |= decaying(objective, phase.optimizer.param_groups)
    assert names
    assert not [key for key in names if key.endswith(("class_token", "positions"))]


def test_the_codes_of_a_code_book_do_not_decay():
    objective = build("vq_vae", codebook_update="gradient", weight_decay=0.1)
    autoencode, _ = objective.phases()
    names = decaying(objective, autoencode.optimizer.param_groups)
    assert names
    assert objective.code_book.codes.requires_grad
    assert "code_book.codes" not in names


@pytest.mark.parametrize("name", ["nano_vit", "patch_lstm", "vq_vae"])
def test_without_weight_decay_the_groups_are_those_of_checkpoints_of_all_versions(name):
    objective = build(name)
    for phase in objective.phases():
        matrices, vectors = ([p.ndim for p in group["params"]] for group in phase.optimizer.param_groups)
        assert min(matrices) > 1 >= max(vectors)


def test_groups_hold_every_trainable_parameter_once():
    net = make_net()
    net[0].requires_grad_(False)
    held = [id(p) for group in parameter_groups(net, 0.1) for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in net.parameters() if p.requires_grad)


def test_weight_decay_shrinks_weights_by_lr_times_decay():
    net = make_net()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = optimizer_of(net, Settings(optimizer="sgd", lr=0.1, weight_decay=0.5, momentum=0.0))
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in net.named_parameters():
        factor = 1 - 0.1 * 0.5 if name in ("0.weight", "3.weight") else 1.0
        torch.testing.assert_close(parameter, before[name] * factor)


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_the_common_optimizers_are_torchs(name, kind):
    settings = Settings(optimizer=name, lr=0.25, weight_decay=0.5, beta1=0.75, beta2=0.875)
    optimizer = optimizer_of(make_net(), settings)
    assert type(optimizer) is kind
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.25, 0.5), (0.25, 0.0)]
    assert {group.get("betas") for group in optimizer.param_groups} == {None if name == "sgd" else (0.75, 0.875)}


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, True), (0.5, True), (0.0, False)])
def test_sgd_is_nesterovs_where_it_has_momentum(momentum, nesterov):
    [group, _] = optimizer_of(make_net(), Settings(optimizer="sgd", momentum=momentum)).param_groups
    assert (group["momentum"], group["nesterov"]) == (momentum, nesterov)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_first_step_that_overflows_in_fp16_leaves_nothing_behind(name, monkeypatch):
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)  # memory that is only allocated then is NaN
    try:
        net = nn.Linear(50, 20, bias=False)
        optimizer, scaler = optimizer_of(net, Settings(optimizer=name, lr=0.1)), torch.amp.GradScaler("cpu")
        for factor in (math.inf, 1.0):
            optimizer.zero_grad()
            scaler.scale((net.weight * factor).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
    finally:
        torch.use_deterministic_algorithms(False)
    assert net.weight.isfinite().all()


def test_momentum_that_begins_at_0_changes_no_step():
    nets = [nn.Linear(5, 4) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    settings = Settings(optimizer="sgd", lr=0.1)
    optimizers = optimizer_of(nets[0], settings), torch.optim.SGD(nets[1].parameters(), 0.1, 0.9, nesterov=True)
    for _ in range(3):
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad()
            net(torch.ones(1, 5)).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(nets[0].state_dict(), nets[1].state_dict())


def test_timms_lion_steps_by_its_learning_rate():
    net = make_net()
    optimizer = optimizer_of(net, Settings(optimizer="lion", lr=0.25, weight_decay=0.0))
    before = [p.detach().clone() for p in net.parameters()]
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    for parameter, old in zip(net.parameters(), before, strict=True):
        torch.testing.assert_close(parameter, old - 0.25 * parameter.grad.sign())  # arXiv 2302.06675, algorithm 2


def test_timms_optimizers_get_momentum_and_decay():
    groups = optimizer_of(make_net(), Settings(optimizer="sgdp", momentum=0.5, weight_decay=0.125)).param_groups
    assert [(group["momentum"], group["weight_decay"]) for group in groups] == [(0.5, 0.125), (0.5, 0.0)]


@pytest.mark.parametrize(("name", "meant"), [("sdg", "sgd"), ("adamww", "adamw"), ("lionn", "lion")])
def test_an_unknown_optimizer_is_refused_with_what_was_meant(name, meant):
    with pytest.raises(UserError, match=rf"optimizer={name} is not known, did you mean {meant}\?"):
        optimizer_of(make_net(), Settings(optimizer=name))


def test_an_optimizer_like_no_other_is_refused_in_one_line():
    with pytest.raises(
        UserError, match=r"^--optimizer=foo is not known: give sgd, adam, adamw or one of timm's \d+, see"
    ):
        optimizer_of(make_net(), Settings(optimizer="foo"))


@pytest.mark.parametrize(
    ("schedule", "progress", "factor"),
    [
        ("constant", 0, 1),
        ("constant", 0.3, 1),
        ("constant", 1, 1),
        ("cosine", 0, 1),
        ("cosine", 0.3, 0.793893),
        ("cosine", 0.5, 0.5),
        ("cosine", 1, 0),
        ("one_cycle", 0, 0.04),
        ("one_cycle", 0.15, 0.52),
        ("one_cycle", 0.3, 1),
        ("one_cycle", 0.65, 0.5),
        ("one_cycle", 1, 0),
    ],
)
def test_schedules_by_hand(schedule, progress, factor):
    assert SCHEDULES[schedule](progress) == pytest.approx(factor, abs=1e-6)


@pytest.mark.parametrize(
    ("schedule", "after"),
    [
        ("constant", [1, 1, 1, 1]),
        ("cosine", [1, 0.853553, 0.5, 0.146447]),
        ("one_cycle", [1, 0.853553, 0.5, 0.146447]),  # the warm-up is its rise
    ],
)
def test_warmup_climbs_in_a_straight_line_before_the_schedule(schedule, after):
    settings = Settings(schedule=schedule, epochs=4, warmup_epochs=2.0)
    factors = [lr_factor(settings, step, steps_per_epoch=2) for step in range(8)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, *after], abs=1e-6)


def test_a_warmup_longer_than_the_run_only_climbs():
    settings = Settings(schedule="cosine", epochs=1, warmup_epochs=2.0)
    assert [lr_factor(settings, step, 2) for step in range(2)] == pytest.approx([0.2, 0.4])


def test_cosine_is_torchs_cosine_annealing():
    settings = Settings(schedule="cosine", epochs=3, optimizer="sgd", lr=0.2)
    ours, theirs = (optimizer_of(make_net(), settings) for _ in range(2))
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T_max=3 * 7)
    for step in range(3 * 7):
        set_lr(ours, lr_factor(settings, step, steps_per_epoch=7))
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], abs=1e-12)
        theirs.step()
        annealing.step()


def test_set_lr_multiplies_the_peak_of_each_group_whatever_was_set_before():
    optimizer = optimizer_of(make_net(), Settings(lr=0.4))
    optimizer.param_groups[1]["initial_lr"] = 0.8
    for factor in (0.5, 0.25):
        set_lr(optimizer, factor)
        assert [group["lr"] for group in optimizer.param_groups] == [0.4 * factor, 0.8 * factor]


def test_the_rate_that_is_told_is_the_first_ones_where_no_parameter_has_the_whole_of_it():
    rates = {"0.weight": Scale(lr=0.5), "3.weight": Scale(lr=0.25)}
    net = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.ReLU(), nn.Linear(3, 1, bias=False))
    settings = Settings(lr=0.4)
    optimizer = build_optimizer(parameter_groups(net, 0.0, rates), settings)
    set_lr(optimizer, 0.5)
    assert lr_of(optimizer, settings) == 0.4 * 0.5 * 0.5


def test_the_peak_is_reached_and_never_exceeded():
    for schedule in SCHEDULES:
        settings = Settings(schedule=schedule, epochs=10, warmup_epochs=1.0)
        factors = [lr_factor(settings, step, steps_per_epoch=10) for step in range(100)]
        assert max(factors) == pytest.approx(1, abs=1e-2)
        assert all(0 < factor <= 1 and math.isfinite(factor) for factor in factors)


def minimise(optimizer, loss_of):
    """One step; returns how often it asked for the loss."""
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        calls.append(loss.item())
        return loss

    optimizer.step(closure)
    return len(calls)


def test_lbfgs_solves_a_quadratic_to_the_end_in_one_step():
    spread, target = torch.logspace(-1, 2, 12), torch.arange(12.0)
    x = nn.Parameter(torch.zeros(12))
    optimizer = FreshLBFGS([x], lr=1.0, max_iterations=200)
    calls = minimise(optimizer, lambda: (spread * (x - target) ** 2).sum() / 2)
    assert 2 < calls < 250
    torch.testing.assert_close(x.detach(), target, rtol=1e-3, atol=1e-3)


def test_lbfgs_takes_another_loss_up_as_a_fresh_optimizer_would():
    first, second = (lambda x: (x**4).sum() + x.sum()), (lambda x: 50 * ((x - 3) ** 2).sum() + x.prod())
    used, fresh = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
    optimizer = FreshLBFGS([used], 1.0, 30)
    minimise(optimizer, lambda: first(used))
    fresh.data.copy_(used.data)
    calls = minimise(optimizer, lambda: second(used))
    assert calls == minimise(FreshLBFGS([fresh], 1.0, 30), lambda: second(fresh))
    assert torch.equal(used, fresh)


def test_lbfgs_keeps_to_its_number_of_iterations_and_follows_the_schedule():
    x = nn.Parameter(torch.full((2,), -1.0))
    optimizer = FreshLBFGS([x], lr=0.5, max_iterations=3)
    assert minimise(optimizer, lambda: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2) < 12
    assert ((1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2) > 1e-3  # Rosenbrock's valley takes more
    set_lr(optimizer, 0.5)
    assert optimizer.param_groups[0]["lr"] == 0.25
