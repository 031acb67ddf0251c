"""A machine that only trains need not have what searches, tracks and reports."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = """
import sys
from importlib import metadata
from runpy import run_path

ABSENT = ("wandb", "optuna", "sqlalchemy", "plotly", "pydantic_core", "openTSNE")
for name in ABSENT:
    sys.modules[name] = None
find = metadata.version

def version(name):
    if name in ABSENT:
        raise metadata.PackageNotFoundError(name)
    return find(name)

metadata.version = version
sys.argv = sys.argv[1:]
run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_train_py_does_without_wandb_optuna_and_plotly(tmp_path):
    small = ["--model=mlp", "--width=8", "--dataset=digits", "--epochs=1", f"--runs_dir={tmp_path}"]
    done = subprocess.run([sys.executable, "-c", CODE, "train.py", *small], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "val" in done.stdout
    assert "W&B: off (wandb is not installed)" in done.stdout
