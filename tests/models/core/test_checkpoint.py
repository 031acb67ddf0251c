import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.core import checkpoint

ROOT = Path(__file__).parents[3]
# Files of this process may grow to `limit` bytes, which ends a write as a full disk does.
FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from models.core import checkpoint

path, limit = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    checkpoint.save(path, {"weights": torch.ones(100_000)})
except OSError as error:
    print("OSError:", error)
"""


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path):
    content = {
        "weights": torch.randn(3, 4),
        "half": torch.randn(5).bfloat16(),
        "optimizers": [{"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}],
        "progress": {"epoch": 3, "best": {"val/loss": 0.5}, "name": "cnn", "none": None},
    }
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, content)
    loaded = checkpoint.load(path)
    assert loaded.keys() == content.keys()
    assert loaded["progress"] == content["progress"]
    assert loaded["optimizers"] == content["optimizers"]
    assert loaded["half"].dtype == torch.bfloat16
    for key in ("weights", "half"):
        assert torch.equal(loaded[key], content[key])
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_checkpoint_takes_the_place_of_the_one_before(tmp_path):
    for epoch in (1, 2):
        checkpoint.save(tmp_path / "checkpoint.pt", {"epoch": epoch})
    assert checkpoint.load(tmp_path / "checkpoint.pt") == {"epoch": 2}


@pytest.mark.slow
@pytest.mark.parametrize("missing_bytes", [400_000, 100], ids=["in the weights", "at the very end"])
def test_a_full_disk_keeps_the_checkpoint_before_and_says_so(missing_bytes, tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"weights": torch.ones(100_000)})
    limit = path.stat().st_size - missing_bytes
    checkpoint.save(path, {"weights": torch.zeros(100_000)})
    command = [sys.executable, "-c", FULL_DISK, str(path), str(limit)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("OSError:")
    assert str(path) in process.stdout
    assert torch.equal(checkpoint.load(path)["weights"], torch.zeros(100_000))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_loading_runs_no_code(tmp_path):
    torch.save({"code": Path}, tmp_path / "checkpoint.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        checkpoint.load(tmp_path / "checkpoint.pt")
