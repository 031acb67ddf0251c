"""A run's summary says what was best in its training, by figures that tell how good a model is."""

import json
from types import SimpleNamespace

import pytest

from analysis.look.training_summary import result_so_far
from analysis.record import run_folder


@pytest.mark.parametrize(("judge", "best"), [("loss", {"val/loss": {"value": 0.1, "epoch": 1}}), ("", {})])
def test_the_least_loss_is_noted_where_the_loss_judges_a_model_as_it_does_no_gan(judge, best, tmp_path):
    rows = [{"epoch": epoch, "lr": 0.1, "val/loss": loss} for epoch, loss in ((1, 0.1), (2, 0.7))]
    (tmp_path / run_folder.METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    progress = SimpleNamespace(epoch=2, images_seen=20, train_seconds=1.0, epoch_seconds=0.0)
    trainer = SimpleNamespace(
        progress=progress, objective=SimpleNamespace(best_metric=judge), kept=lambda: {"val/loss": 0.7, "best_epoch": 2}
    )
    assert result_so_far(trainer, tmp_path)["best"] == best
