"""Where runs are found: links, and runs with unlucky names, take no trial out of its sweep."""

import os
import subprocess

import pytest
import yaml

from analysis.read.runs import read_runs
from analysis.read.sweeps import read_sweeps
from tests.run_folders import write_run


def write_sweep(folder):
    write_run(folder / "000-run", [1.0], lr=0.1)
    content = {"method": "bayes", "metric": {"name": "val/loss"}, "parameters": {"lr": {"min": 0.01, "max": 1.0}}}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(content))


def found(runs_dir):
    records, skipped = read_runs(runs_dir)
    sweeps = read_sweeps(runs_dir, records).sweeps
    trials = {(sweep.name, trial.run_id) for sweep in sweeps for trial in sweep.trials}
    return {(record.sweep, record.run_id) for record in records}, trials, skipped


@pytest.mark.parametrize(
    ("link", "target"), [("a", "sweeps/s/000-run"), ("a", "sweeps/s"), ("a", "sweeps"), ("a", ".")]
)
def test_a_link_takes_no_trial_out_of_its_sweep(tmp_path, link, target):
    write_sweep(tmp_path / "sweeps" / "s")
    (tmp_path / link).symlink_to(tmp_path / target)
    assert found(tmp_path) == ({("s", "000-run")}, {("s", "000-run")}, [])


def test_of_a_sweep_elsewhere_the_link_among_the_sweeps_is_the_one(tmp_path):
    write_sweep(tmp_path / "disk" / "s")
    (tmp_path / "runs" / "sweeps").mkdir(parents=True)
    for link in ("a", "sweeps/s", "z"):
        (tmp_path / "runs" / link).symlink_to(tmp_path / "disk" / "s")
    assert found(tmp_path / "runs") == ({("s", "000-run")}, {("s", "000-run")}, [])


def test_a_run_called_sweeps_hides_no_sweep(tmp_path):
    write_sweep(tmp_path / "sweeps" / "s")
    write_run(tmp_path / "sweeps-too", [2.0])
    for path in (tmp_path / "sweeps-too").iterdir():
        path.rename(tmp_path / "sweeps" / path.name)
    (tmp_path / "sweeps-too").rmdir()
    (tmp_path / "sweeps" / "panels").mkdir()
    assert found(tmp_path) == ({("s", "000-run"), ("", "sweeps")}, {("s", "000-run")}, [])


def test_folders_in_folders_without_end_are_walked(tmp_path):
    place = os.getcwd()
    os.chdir(tmp_path)
    for _ in range(1200):  # so deep that no path leads there at once
        os.mkdir("d")
        os.chdir("d")
    os.chdir(place)
    try:
        write_run(tmp_path / "run", [1.0])
        assert found(tmp_path) == ({("", "run")}, set(), ["d"])
    finally:
        subprocess.run(["rm", "-r", str(tmp_path / "d")], check=True)  # too deep for pytest
