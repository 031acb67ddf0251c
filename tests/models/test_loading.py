"""What a model refuses is told before images are decoded; where the images of a run are kept."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import nn

from data import residence
from data.dataset import DatasetInfo, Split
from data.errors import UserError
from models import loading
from models.loading import build_objective, check_model, load_model, make_accelerator, put_on_device
from models.parts.backbone import BackboneSettings
from models.registry import MODELS, find_model
from models.timm_classifier import TimmSettings


def settings_of(model, **values):
    return find_model(model).settings_class(model=model, **values)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"model": "cnn", "optimizer": "adamm"}, "--optimizer=adamm is not known"),
        ({"model": "nano_vit", "num_heads": 7}, "--num_heads=7"),
        ({"model": "cnn", "depth": 7}, "--depth=7 halves 64-pixel images to nothing"),
        ({"model": "dc_gan", "image_size": 48}, "48-pixel images cannot be made"),
        ({"model": "timm", "arch": "resnett18", "weights": "weights.pt"}, "--arch=resnett18 is not known"),
    ],
)
def test_what_a_model_refuses_is_told_where_nothing_of_the_images_but_their_size_is_known(values, told):
    with pytest.raises(UserError, match=told):
        check_model(settings_of(dataset="folder", **values))


@pytest.mark.parametrize("model", MODELS)
def test_every_model_is_let_pass_as_it_is(model):
    settings = settings_of(model, dataset="folder", image_size=32)
    if isinstance(settings, BackboneSettings):  # in place of a large network
        settings = replace(settings, arch="test_efficientnet", input_size=32)
    if isinstance(settings, TimmSettings):
        settings = replace(settings, stem="own")
    check_model(settings)


def test_a_model_is_not_built_in_advance_for_images_that_are_not_decoded(monkeypatch):
    monkeypatch.setattr(loading, "build_objective", lambda *_: pytest.fail("built"))
    check_model(settings_of("cnn", dataset="digits", optimizer="adamm"))


@pytest.mark.parametrize(("name", "remedy"), [("digits", "leave it out"), ("csv", "call that column label")])
def test_a_column_of_labels_is_refused_of_images_that_let_choose_none(name, remedy):
    with pytest.raises(
        UserError, match=f"^--label_column=kind is for hf/NAME alone, and --dataset is {name}: {remedy}$"
    ):
        check_model(settings_of("cnn", dataset=name, label_column="kind"))
    check_model(settings_of("cnn", dataset="hf/insects", label_column="kind"))


FROZEN = {"arch": "test_efficientnet", "pretrained": False, "input_size": 32, "feature_precision": "fp32"}


@pytest.mark.parametrize(
    ("model", "values", "num_bytes"),
    [("mlp", {}, 3 * 8 * 8), ("frozen", FROZEN, 4 * 256)],  # of an image, of its features
)
def test_the_splits_of_a_run_take_half_of_the_free_memory_together(model, values, num_bytes, monkeypatch):
    splits = {
        name: Split(torch.randint(256, (num, 3, 8, 8), dtype=torch.uint8), torch.arange(num) % 2)
        for name, num in (("train", 4), ("val", 3), ("test", 2))
    }
    info = DatasetInfo("random", 8, ("a", "b"), (0.5,) * 3, (0.5,) * 3, {}, "")
    objective, halves = build_objective(settings_of(model, **values), info), []
    for free in (2 * 9 * num_bytes, 2 * 9 * num_bytes - 1):
        monkeypatch.setattr(residence, "free_memory", lambda free=free: free)
        loaders = put_on_device(objective, splits, Accelerator(cpu=True))
        halves.append([loader.residence.on_device for loader in loaders.values()])
    assert halves == [[True] * 3, [False] * 3]


@pytest.mark.parametrize(
    ("model", "values", "is_fast", "is_told"),
    [
        ("mlp", {}, True, True),
        ("mlp", {}, False, False),
        ("mlp", {"mixed_precision": "bf16"}, True, False),
        ("frozen", FROZEN, True, False),  # the head on its features takes no time
    ],
)
def test_a_training_in_fp32_says_that_the_cpu_is_faster_in_bf16(model, values, is_fast, is_told, monkeypatch, capsys):
    monkeypatch.setattr(loading, "has_fast_bf16", lambda device: is_fast)
    info = DatasetInfo("random", 8, ("a", "b"), (0.5,) * 3, (0.5,) * 3, {}, "")
    splits = {"train": Split(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4) % 2)}
    load_model(settings_of(model, **values), info, splits, Accelerator(cpu=True))
    assert ("faster in bf16 (--mixed_precision=bf16)" in capsys.readouterr().out) == is_told


@pytest.fixture
def _no_accelerator_before():
    def reset():
        AcceleratorState._reset_state(True)
        GradientState._reset_state()

    reset()
    yield
    reset()


@pytest.mark.parametrize("num_micro", [1, 2])
@pytest.mark.usefixtures("_no_accelerator_before")
def test_gradients_are_divided_by_the_micro_batches_of_the_settings_alone(num_micro, monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    accelerator = make_accelerator(settings_of("mlp", accumulation_steps=num_micro), on_cpu=True)
    weight = torch.ones((), requires_grad=True)
    accelerator.backward(3 * weight)
    assert weight.grad == 3 / num_micro


@pytest.mark.usefixtures("_no_accelerator_before")
def test_networks_are_compiled_by_the_setting_alone(monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "eager")
    network = nn.Linear(1, 1)
    assert make_accelerator(settings_of("mlp"), on_cpu=True).prepare(network) is network


def test_all_threads_of_a_run_take_numbers_below_the_smallest_normal_one_for_zero(lean):
    program = """
import torch
import train
train.make_accelerator(train.Settings(), True)
torch.set_num_threads(4)
tiny = torch.full((2**20,), 2.0**-126)  # the smallest normal number in fp32
print(torch.count_nonzero(tiny).item(), torch.count_nonzero(tiny / 2).item())
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert told.stdout.split() == [str(2**20), "0"]


@pytest.mark.usefixtures("_no_accelerator_before")
def test_fp16_is_refused_on_a_cpu_that_a_variable_chose(monkeypatch):
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "cpu")
    with pytest.raises(UserError, match="--mixed_precision=fp16 needs a GPU"):
        make_accelerator(settings_of("mlp", mixed_precision="fp16"), on_cpu=False)


@pytest.mark.parametrize(("name", "value"), [("USE_FSDP", "true"), ("TORCH_DEVICE", "blah")])
@pytest.mark.usefixtures("_no_accelerator_before")
def test_every_program_refuses_what_a_launcher_may_not_ask_for(name, value, monkeypatch):
    monkeypatch.setenv(f"ACCELERATE_{name}", value)
    with pytest.raises(UserError, match=f"^ACCELERATE_{name}={value} "):
        make_accelerator(settings_of("mlp"), on_cpu=True)
