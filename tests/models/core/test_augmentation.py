"""Images that grow while a network trains."""

import pytest

import train
from analysis.record import run_folder
from data.augmentation import Augmentation
from models.core.augmentation import side_in
from models.core.settings import Settings
from tests.data.test_photographs import smooth_images


def test_images_grow_to_their_own_size_at_two_thirds_of_the_epochs():
    settings = Settings(start_size=16, epochs=9)
    assert [side_in(epoch, settings, 32) for epoch in range(9)] == [16, 20, 20, 24, 28, 28, 0, 0, 0]
    assert side_in(0, Settings(), 32) == 0


@pytest.mark.parametrize("crop_scale", [0.0, 0.5])
def test_changed_images_have_the_side_that_is_asked_for(crop_scale):
    changed = Augmentation("crop_flip", crop_scale=crop_scale, side=20).of_pixels(smooth_images(3), 40)
    assert changed.shape == (3, 3, 20, 20)
    assert changed.float().std() > 10


def run(tmp_path, *arguments):
    own = ["--dataset=digits", "--tracking=off", f"--runs_dir={tmp_path}", "--epochs=2", "--limit_batches=2"]
    return train.main([*own, "--run_id=a", *arguments])


def test_a_network_for_any_size_trains_on_growing_images(tmp_path):
    assert run(tmp_path, "--model=cnn", "--pooling=mean", "--width=8", "--start_size=16") == 0
    assert run_folder.state(tmp_path / "a") == "finished"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model=mlp", "--width=8"], "mlp takes images of 32 pixels alone"),
        (["--model=vae", "--width=8"], "vae takes images of 32 pixels alone"),
        (["--model=nano_vit", "--width=16", "--num_heads=2"], "nano_vit takes images of 32 pixels alone"),
        (["--model=cnn", "--width=8", "--start_size=32"], "is not below the 32 pixels"),
    ],
)
def test_other_networks_and_sizes_are_refused(arguments, told, tmp_path, capsys):
    assert run(tmp_path, "--start_size=16", *arguments) == 2
    assert told in capsys.readouterr().err
