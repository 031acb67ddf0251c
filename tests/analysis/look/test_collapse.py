"""Collapse and saturation are noticed where they are, and not where they are not."""

import pytest
import torch

from analysis.look.collapse import are_equal, signs_of_collapse, variety


def images(num, seed=0):
    """Random images that are alike in nothing."""
    return (
        torch.rand(num, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        .repeat_interleave(4, 2)
        .repeat_interleave(4, 3)
    )


def test_other_real_images_vary_as_much_as_real_images():
    assert variety(images(128, seed=1), images(128, seed=2)) == pytest.approx(1, abs=0.05)


def test_one_image_has_no_variety():
    assert variety(images(1).expand(64, -1, -1, -1), images(64)) == 0


@pytest.mark.parametrize("num_modes", [1, 4, 32])
def test_a_few_modes_with_noise_have_next_to_none(num_modes):
    torch.manual_seed(0)
    modes = images(num_modes).repeat(256 // num_modes, 1, 1, 1)
    noisy = modes + 0.1 * torch.randn_like(modes)  # of pixels, which is gone at 16x16
    assert variety(noisy.clamp(0, 1), images(256, seed=1)) < 0.2


def test_variety_falls_with_the_share_that_collapsed():
    diverse, one = images(64, seed=1), images(1).expand(64, -1, -1, -1)
    assert variety(torch.cat([diverse[:32], one[:32]]), images(64)) == pytest.approx(0.5, abs=0.1)
    grey = 0.5 + 0.3 * (diverse - 0.5)  # as a generator that knows little more than the mean
    assert variety(grey, images(64)) == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("num_times", [2, 16])
def test_doubles_among_real_images_hide_no_collapse(num_times):
    real, other = images(64 // num_times), images(64, seed=1)
    doubled = real.repeat(num_times, 1, 1, 1)
    assert variety(other, doubled) == pytest.approx(variety(other, real))
    one = images(1, seed=1) + 0.1 * torch.rand(other.shape, generator=torch.Generator().manual_seed(0))
    assert variety(one, doubled) < 0.2


def test_equal_real_images_have_no_distance_to_compare_with():
    equal = images(1).expand(31, -1, -1, -1)
    assert variety(images(31), equal) is None
    assert variety(images(1), images(1)) is None
    assert are_equal(equal)
    assert not are_equal(torch.cat([equal, images(1, seed=1)]))


def rows(told_apart, varieties):
    return [
        {"epoch": i, "lr": 0.1, "train/discriminate/told_apart": share, "val/sample_variety": value}
        for i, (share, value) in enumerate(zip(told_apart, varieties, strict=True), start=1)
    ] + [{"epoch": len(varieties), "test/ece": 0.1, "test/sample_variety": 0.0}]


def test_a_healthy_run_has_no_warning():
    signs = signs_of_collapse(rows([0.999, 0.9, 0.8], [0.1, 0.6, 0.9]))
    assert signs == {"discriminator_saturated": False, "sample_variety": 0.9, "mode_collapse": False}


def test_a_run_that_collapsed_late_says_since_when():
    signs = signs_of_collapse(rows([0.8, 0.9, 0.995, 0.998], [0.3, 0.9, 0.9, 0.12]))
    assert (signs["discriminator_saturated"], signs["mode_collapse"], signs["sample_variety"]) == (True, True, 0.12)
    assert signs["warning"] == (
        "discriminator saturated since epoch 3: it tells 99.8 % of real and generated images apart; "
        "mode collapse since epoch 4: samples vary 0.12 times as much as real images"
    )


def test_too_little_variety_from_the_start_may_be_too_little_training():
    signs = signs_of_collapse(rows([0.8, 0.9], [0.1, 0.2]))
    assert signs["mode_collapse"]
    assert signs["warning"].startswith("mode collapse, or an untrained generator since epoch 1: samples vary 0.20")


def test_a_recovered_run_has_no_warning_and_other_models_no_signs():
    assert "warning" not in signs_of_collapse(rows([1.0, 0.8], [0.0, 0.8]))
    assert signs_of_collapse([{"epoch": 1, "lr": 0.1, "train/classify/loss": 1.0}]) == {}


def test_a_model_that_samples_and_is_no_gan_has_the_signs_of_its_samples_alone():
    epochs = [{"epoch": i, "lr": 0.1, "train/autoencode/loss": 1.0, "val/sample_variety": 0.8} for i in (1, 2)]
    assert signs_of_collapse(epochs) == {"sample_variety": 0.8, "mode_collapse": False}


def test_a_gan_without_samples_that_were_measured_has_the_sign_of_its_discriminator_alone():
    epochs = [{"epoch": i, "lr": 0.1, "train/discriminate/told_apart": 1.0} for i in (1, 2)]
    signs = signs_of_collapse(epochs)
    assert signs.pop("warning").startswith("discriminator saturated since epoch 1")
    assert signs == {"discriminator_saturated": True}


def vae_rows(active, varieties, at_the_end=None):
    epochs = [
        {"epoch": i, "lr": 0.1, "train/autoencode/active_units": num, "val/sample_variety": value}
        for i, (num, value) in enumerate(zip(active, varieties, strict=True), start=1)
    ]
    closing = {"epoch": len(epochs), "val/active_units": 0.0, "val/posterior_collapse": at_the_end}
    return epochs if at_the_end is None else [*epochs, closing]


@pytest.mark.parametrize("at_the_end", [None, 1.0])
def test_a_posterior_that_collapsed_is_told_with_its_remedy_and_without_a_gans_words(at_the_end):
    signs = signs_of_collapse(vae_rows([3.0, 0.1, 0.0], [0.03, 0.9, 0.04], at_the_end))
    assert signs == {
        "posterior_collapse": True,
        "sample_variety": 0.04,
        "mode_collapse": True,
        "warning": "posterior collapse since epoch 2: no latent unit is active, so that the latents hold nothing of "
        "the images (try a smaller --beta, or --kl_warmup_epochs); "
        "too little variety since epoch 3: samples vary 0.04 times as much as real images",
    }


def test_what_the_kept_weights_do_with_a_whole_split_is_believed_before_training_batches():
    of_one_image = signs_of_collapse(vae_rows([0.0, 0.0], [0.9, 0.9], at_the_end=0.0))  # whose units cannot vary
    assert of_one_image == {"posterior_collapse": False, "sample_variety": 0.9, "mode_collapse": False}
    kept_early = signs_of_collapse(vae_rows([0.0, 4.0], [0.9, 0.9], at_the_end=1.0))
    assert kept_early["posterior_collapse"] is True
    assert kept_early["warning"] == (
        "posterior collapse of the kept weights: no latent unit is active, so that the latents hold nothing of the "
        "images (some are in training: try more epochs)"
    )


def test_an_autoencoder_whose_samples_are_alike_is_no_generator():
    signs = signs_of_collapse(vae_rows([4.0, 4.0], [0.1, 0.2], at_the_end=0.0))
    assert signs["mode_collapse"]
    assert signs["warning"] == (
        "too little variety, perhaps for want of training, since epoch 1: "
        "samples vary 0.20 times as much as real images"
    )
