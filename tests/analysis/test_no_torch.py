"""Reading, listing, comparing and reporting runs loads no torch, which takes seconds and half a gigabyte."""

import subprocess
import sys
from pathlib import Path

import pytest

from analysis.record import run_folder
from tests.run_folders import SWEEP, write_run, write_study

ROOT = Path(__file__).parents[2]
CODE = """
import sys
from runpy import run_module
module, *sys.argv[1:] = sys.argv[1:]
try:
    run_module(module, run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print("loaded:", [name for name in ("torch", "wandb", "timm", "accelerate") if name in sys.modules])
"""


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory):
    """A few runs, and a sweep with its database and a final run."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "alone", [1.0, 0.5], model="mlp")
    sweep = folder / "sweeps" / "lr"
    for i in range(3):
        write_run(sweep / f"00{i}-run", [1.0, 0.5 + i], lr=10.0**-i)
    write_run(sweep / "final-000-run-seed1", [0.4], lr=1.0)
    (sweep / run_folder.SWEEP_FILE).write_text(SWEEP)
    write_study(sweep)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "analysis.runs",
        "analysis.runs --sweep lr --metric val/accuracy",
        "analysis.runs --sweeps",
        "analysis.report",
        "analysis.report --sweep lr",
    ],
)
def test_a_program_that_reads_runs_loads_no_torch(runs_dir, words):
    module, *arguments = words.split()
    command = [sys.executable, "-c", CODE, module, *arguments, "--runs_dir", str(runs_dir)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded: []"
