"""Metrics of a split where two processes share its images."""

import os

import pytest
import torch
from accelerate import Accelerator

from analysis.record.evaluation import evaluate
from data.dataset import Split
from data.loader import Loader, Shard
from tests.models.test_objectives import INFO, build
from tests.two_processes import in_two_processes, ranks_of_two

NUM_IMAGES = 7


def cnn_of(rank):
    """A network whose weights are those of all processes, and its running statistics its own."""
    objective = build("cnn")
    for name, buffer in objective.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(rank * torch.linspace(-2, 2, len(buffer)))
    return objective


def loader_of(shard):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (NUM_IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Loader(Split(images, torch.arange(NUM_IMAGES)), INFO, torch.device("cpu"), shard=shard)


def evaluate_as_rank(rank):
    os.environ.update(ranks_of_two()[rank])  # by which accelerate knows that there is a group
    accelerator, loader = Accelerator(cpu=True), loader_of(Shard(rank, 2))
    return tuple(evaluate(accelerator, cnn_of(rank), loader, batch_size=2, keep_logits=True))


def test_a_log_is_told_how_far_a_long_evaluation_is(monkeypatch, capsys):
    monkeypatch.setattr("data.progress.SECONDS_BETWEEN_LINES", 0.0)
    evaluate(Accelerator(cpu=True), cnn_of(0), loader_of(Shard()), batch_size=2)
    assert "evaluating:  57%" in capsys.readouterr().err  # 4 of 7 images


def test_logits_are_kept_only_where_they_are_asked_for():
    assert evaluate(Accelerator(cpu=True), cnn_of(0), loader_of(Shard()), batch_size=2).logits is None


@pytest.mark.slow
def test_two_processes_evaluate_the_network_of_the_first_on_all_images(tmp_path):
    (first, logits), (second, other_logits) = in_two_processes(evaluate_as_rank, tmp_path)
    whole = loader_of(Shard()).batch(torch.arange(NUM_IMAGES))
    with torch.no_grad():
        alone, other = (cnn_of(rank).eval().evaluate(whole)["loss"].mean().item() for rank in (0, 1))
        expected = cnn_of(0).eval().predict(whole.images)
    assert first == second
    assert first["loss"] == pytest.approx(alone, rel=1e-5)
    torch.testing.assert_close(logits, expected)
    assert torch.equal(logits, other_logits)
    assert abs(alone - other) > 1e-2 * alone
