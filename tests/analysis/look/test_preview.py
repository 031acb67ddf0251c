"""The sheet of what training will see, drawn before the first step."""

import numpy as np
import torch
from PIL import Image

from analysis.look import preview
from analysis.look.preview import NAME, draw_preview
from tests.models.core.test_step_log import make_trainer

SMALL_BATCHES = "--batch_size=16"


def test_the_sheet_shows_the_batch_of_the_first_step_with_its_labels(tmp_path, monkeypatch):
    panels = {}
    monkeypatch.setattr(preview, "render", panels.update)
    trainer = make_trainer(SMALL_BATCHES, "--augmentation=crop_flip", "--cutout=8", "--crop_scale=0.5", "--preview=10")
    seen = []
    monkeypatch.setattr(trainer, "train_step", seen.append)
    draw_preview(trainer, tmp_path)
    trainer.train_epoch(None)
    panel = panels[tmp_path / NAME]
    assert torch.equal(panel.images, trainer.loader.info.to_unit_range(seen[0].images[:10]))
    assert panel.captions == tuple(str(label) for label in seen[0].labels[:10].tolist())


def test_the_sheet_changes_nothing_in_training(tmp_path):
    weights = []
    for num in (0, 16):
        small = (SMALL_BATCHES, "--train_fraction=0.1")
        trainer = make_trainer(*small, f"--preview={num}", "--augmentation=trivialaugment")
        draw_preview(trainer, tmp_path)
        trainer.train_epoch(None)
        weights.append(torch.cat([p.flatten() for p in trainer.objective.parameters()]))
    assert torch.equal(*weights)
    assert np.asarray(Image.open(tmp_path / NAME)).std() > 10


def test_a_sheet_that_is_there_is_kept(tmp_path):
    (tmp_path / NAME).write_bytes(b"as it was")
    assert draw_preview(make_trainer(SMALL_BATCHES), tmp_path) == {"training_images": tmp_path / NAME}
    assert (tmp_path / NAME).read_bytes() == b"as it was"
    assert draw_preview(make_trainer(SMALL_BATCHES, "--preview=0"), tmp_path) == {}
