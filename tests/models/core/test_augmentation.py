"""Images that grow while a network trains."""

from types import SimpleNamespace

import pytest
import torch

import train
from analysis.record import run_folder
from data.augmentation import Augmentation
from data.dataset import DatasetInfo
from models.core.augmentation import augmentation_of, check_start_size, side_in
from models.core.settings import Settings
from models.loading import build_objective
from models.registry import MODELS
from tests.data.test_photographs import smooth_images


def test_images_grow_to_their_own_size_at_two_thirds_of_the_epochs():
    settings = Settings(start_size=16, epochs=9)
    assert [side_in(epoch, settings, 32) for epoch in range(9)] == [16, 20, 20, 24, 28, 28, 0, 0, 0]
    assert side_in(0, Settings(), 32) == 0


def test_every_setting_of_augmentation_reaches_the_images():
    asked = {"crop_scale": 0.5, "crop_ratio": 1.5, "rotation": 7, "colour_jitter": 0.25, "cutout": 8, "erasing": 0.125}
    settings = Settings(augmentation="crop_flip", **asked)
    assert augmentation_of(settings, 0, 32) == Augmentation("crop_flip", **asked, side=0)


@pytest.mark.parametrize("crop_scale", [0.0, 0.5])
def test_changed_images_have_the_side_that_is_asked_for(crop_scale):
    changed = Augmentation("crop_flip", crop_scale=crop_scale, side=20).of_pixels(smooth_images(3), 40)
    assert changed.shape == (3, 3, 20, 20)
    assert changed.float().std() > 10


def run(tmp_path, *arguments):
    own = ["--dataset=digits", "--tracking=off", f"--runs_dir={tmp_path}", "--epochs=2", "--limit_batches=2"]
    return train.main([*own, "--run_id=a", *arguments])


TIMM = ["--model=timm", "--pretrained=False"]


@pytest.mark.parametrize(
    "arguments", [["--model=cnn", "--pooling=mean", "--width=8"], [*TIMM, "--arch=test_efficientnet"]]
)
def test_a_network_for_any_size_trains_on_growing_images(arguments, tmp_path):
    assert run(tmp_path, *arguments, "--start_size=16") == 0
    assert run_folder.state(tmp_path / "a") == "finished"


def test_a_network_of_timm_gets_the_reduced_images():
    settings = MODELS["timm"].settings_class(model="timm", arch="test_efficientnet", pretrained=False)
    objective = build_objective(settings, DatasetInfo("x", 32, ("a", "b"), (0.0,) * 3, (1.0,) * 3, {}, ""))
    assert objective.net.prepare(torch.rand(1, 3, 16, 16)).shape == (1, 3, 16, 16)


@pytest.mark.parametrize(("start_size", "expected"), [(1, [4, 16, 0]), (16, [16, 24, 0])])
def test_sides_are_multiples_of_four_and_cutout_is_as_large_a_share(start_size, expected):
    settings = Settings(start_size=start_size, epochs=6, cutout=8)
    changes = [augmentation_of(settings, epoch, 32) for epoch in (0, 2, 4)]
    assert [each.side for each in changes] == expected
    assert [each.cutout for each in changes] == [round((side or 32) / 4) for side in expected]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model=mlp", "--width=8"], "mlp takes no images of 16 pixels"),
        (["--model=vae", "--width=8"], "vae takes no images of 16 pixels"),
        (["--model=nano_vit", "--width=16", "--num_heads=2"], "nano_vit takes no images of 16 pixels"),
        (["--model=cnn", "--width=8", "--start_size=32"], "is not below the 32 pixels"),
        (["--model=cnn", "--width=8", "--start_size=30"], "is not below the 32 pixels"),
        ([*TIMM, "--arch=test_vit"], "timm takes no images of 28 pixels"),
        ([*TIMM, "--arch=test_efficientnet", "--input_size=64"], "--input_size=64 would enlarge the images again"),
    ],
)
def test_other_networks_and_sizes_are_refused(arguments, told, tmp_path, capsys):
    assert run(tmp_path, "--start_size=16", *arguments) == 2
    assert told in capsys.readouterr().err


def test_a_lack_of_memory_is_not_taken_for_a_size_that_the_network_refuses():
    class Starved:
        info = SimpleNamespace(image_size=32, blank_labels=torch.zeros)

        def eval(self):
            pass

        def evaluate(self, batch):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        check_start_size(Settings(start_size=16, epochs=9), Starved(), torch.device("cpu"))
