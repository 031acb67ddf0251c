"""The precisions that devices compute in."""

import pytest
import torch
from accelerate.state import AcceleratorState

from models import loading
from models.core import precision
from models.core.precision import autocast_on, precision_on
from models.core.settings import Settings

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("has_bf16", "device", "trained_in", "evaluated_in"),
    [
        (True, CPU, "bf16", "bf16"),
        (False, CPU, "bf16", "no"),
        (False, CPU, "no", "no"),
        (True, CPU, "fp16", "no"),
        (True, GPU, "fp16", "fp16"),
    ],
)
def test_networks_are_evaluated_in_their_own_precision_unless_a_device_would_emulate_it(
    has_bf16, device, trained_in, evaluated_in, monkeypatch
):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: has_bf16)
    assert precision_on(device, trained_in) == evaluated_in
    if device is CPU:
        with autocast_on(device, trained_in):
            assert torch.is_autocast_enabled("cpu") == (evaluated_in == "bf16")
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == precision.DTYPES.get(evaluated_in, torch.float32)


@pytest.mark.parametrize(
    ("has_bf16", "asked", "is_told"), [(True, "bf16", False), (False, "bf16", True), (False, "no", False)]
)
def test_a_device_that_emulates_bf16_is_told_before_training(has_bf16, asked, is_told, monkeypatch, capsys):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: has_bf16)
    AcceleratorState._reset_state(True)
    loading.make_accelerator(Settings(mixed_precision=asked), on_cpu=True)
    AcceleratorState._reset_state(True)
    told = capsys.readouterr().err
    assert ("--mixed_precision=bf16: this device emulates it" in told) == is_told
