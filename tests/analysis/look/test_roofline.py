"""The share of the matrix rate: operations that are known by hand, and the table of models that differ in kind."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from analysis import benchmark
from analysis.look import roofline
from analysis.look.roofline import count_flops, lstm_flops
from models.nano_vit import EncoderLayer
from models.parts import dropout

B, T = 2, 5
pytestmark = pytest.mark.usefixtures("one_thread")


def flops_of_step(net, *shape):
    """Operations of forward and backward, the gradient of the input among them."""
    inputs = torch.randn(shape, requires_grad=True)

    def step():
        outputs = net(inputs)
        (outputs[0] if isinstance(outputs, tuple) else outputs).sum().backward()

    return count_flops(step)


def test_a_linear_layer_has_three_products():
    assert flops_of_step(nn.Linear(7, 11), B, 7) == 3 * 2 * B * 7 * 11


@pytest.mark.parametrize("groups", [1, 4])
def test_a_convolution_counts_its_groups(groups):
    per_place = 3 * 3 * 8 * 12 // groups
    assert flops_of_step(nn.Conv2d(8, 12, 3, padding=1, groups=groups), B, 8, 6, 6) == 3 * 2 * B * 6 * 6 * per_place


def test_a_transposed_convolution_goes_over_its_inputs():
    assert flops_of_step(nn.ConvTranspose2d(8, 12, 4, stride=2, padding=1), B, 8, 3, 3) == 3 * 2 * B * 9 * 16 * 8 * 12


@pytest.mark.parametrize("directions", [1, 2])
def test_an_lstm_multiplies_every_weight_for_every_token(directions):
    lstm = nn.LSTM(3, 4, num_layers=2, batch_first=True, bidirectional=directions == 2)
    weights = directions * 4 * 4 * ((3 + 4) + (4 * directions + 4))  # gates x units x (inputs + units)
    assert flops_of_step(lstm, B, T, 3) == 3 * 2 * B * T * weights


def test_weights_of_an_lstm_may_come_as_a_list_as_cudnn_has_them():
    weights = [(16, 3), (16, 4), (16,), (16,)]
    assert lstm_flops((T, B, 3), weights, 4) == lstm_flops((T, B, 3), *weights) == 2 * T * B * 16 * (3 + 4)


def test_attention_has_two_products_forward_and_five_backward():
    layer = EncoderLayer(width=8, num_heads=2, ffn_width=16, dropout=0.0)
    linear = B * T * (8 * 24 + 8 * 8 + 2 * 8 * 16)
    assert flops_of_step(layer, B, T, 8) == 3 * 2 * linear + (2 + 5) * 2 * B * T * T * 8


def test_attention_counts_in_whatever_thread_it_is_done(monkeypatch):
    monkeypatch.setattr(dropout, "WEIGHTS_AT_ONCE", 2 * T * T)  # one image at a time
    layer = EncoderLayer(width=8, num_heads=2, ffn_width=16, dropout=0.1)
    torch.set_num_threads(2)
    linear = B * T * (8 * 24 + 8 * 8 + 2 * 8 * 16)
    assert flops_of_step(layer, B, T, 8) == 3 * 2 * linear + (2 + 4) * 2 * B * T * T * 8
    assert torch.get_num_threads() == 2


def test_the_table_has_classifiers_vaes_gans_and_frozen_networks(monkeypatch, capsys):
    monkeypatch.setattr(roofline, "SIDES", {"cpu": 64})
    monkeypatch.setattr(roofline, "LEAST_SECONDS", 1e-9)
    monkeypatch.setattr(roofline, "MOST_SECONDS", 1e-6)  # batches of two images
    monkeypatch.setattr(roofline, "MOST_STEPS", 1)
    monkeypatch.setattr(roofline, "NUM_IMAGES", 128)
    monkeypatch.setattr(roofline, "best_device", lambda: torch.device("cpu"))
    models = ["mlp", "vae", "dc_gan", "frozen"]
    words = ["--roofline", f"--models={','.join(models)}", "--mixed_precision=no"]
    assert benchmark.main(words) == 0
    rate, _, *rows = capsys.readouterr().out.splitlines()
    assert "float32" in rate
    assert [row.split()[0] for row in rows] == models
    mlp = rows[0].split()
    per_image = 2 * (2 * 3072 * 512 + 3 * (512 * 256 + 256 * 10))  # no gradient of the images
    assert float(mlp[2]) == pytest.approx(per_image / 1e9, rel=1e-3)
    speed, most, percent = (float(word.replace(",", "")) for word in mlp[3:6])
    assert percent == pytest.approx(100 * speed / most, rel=0.1)  # all three are rounded


@pytest.mark.parametrize("is_allowed", [True, False])
def test_matrices_are_rounded_as_convolutions_are(is_allowed, monkeypatch):
    seen = []
    monkeypatch.setattr(roofline, "SIDES", {"cpu": 4})
    monkeypatch.setattr(roofline, "seconds", lambda work: seen.append(torch.backends.cuda.matmul.allow_tf32) or 1.0)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=is_allowed):
        assert roofline.matrix_rate(torch.device("cpu"), torch.float32) == (2 * 4**3, 4)
    assert set(seen) == {is_allowed}
    assert not torch.backends.cuda.matmul.allow_tf32


def test_settings_without_the_roofline_end_in_one_line(capsys):
    assert benchmark.main(["--dropout=0"]) == 2
    assert "--roofline" in capsys.readouterr().err


def test_an_unknown_model_ends_in_one_line(capsys):
    assert benchmark.main(["--roofline", "--models=nil"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_operations_are_of_steps_with_all_phases_and_the_rate_is_of_all_epochs(monkeypatch):
    steps = []
    trainer = SimpleNamespace(batch_size=8, phases=[SimpleNamespace(every=1), SimpleNamespace(every=3)])
    trainer.train_epoch = lambda stop: steps.append(trainer.steps_per_epoch)
    monkeypatch.setattr(roofline, "make_trainer", lambda *told: (trainer, 64))
    monkeypatch.setattr(roofline, "count_flops", lambda work: work() or 10 * steps[-1] * trainer.batch_size)
    monkeypatch.setattr(roofline, "seconds", lambda work: work() or 0.2)
    found = roofline.measure_training(None, torch.device("cpu"), 1e9)
    assert steps == [3, 3, 8, 8, 8, 8]
    assert (found.batch_size, found.flops) == (8, 10)
    assert found.rate == pytest.approx(8 * 8 / 0.2)
