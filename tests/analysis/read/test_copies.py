"""Folders that were copied: a run and a sweep are read once, and what is a copy is said."""

import shutil

import pytest

from analysis import report, runs
from analysis.read.runs import read_runs
from analysis.read.sweeps import read_sweeps
from data.files import read_json, write_json
from tests.run_folders import write_run, write_study


def test_a_copied_run_is_read_once(tmp_path):
    original = write_run(tmp_path / "b" / "run", [1.0], runs_dir=str(tmp_path / "b"))
    shutil.copytree(original, tmp_path / "a" / "run")
    write_run(tmp_path / "c" / "run", [1.0], runs_dir=str(tmp_path / "c"))  # another one of that name
    records, skipped = read_runs(tmp_path)
    assert sorted(record.source for record in records) == [str(original), str(tmp_path / "c" / "run")]
    assert skipped == ["a/run (a copy of b/run)"]
    shutil.rmtree(original)
    assert sorted(record.source for record in read_runs(tmp_path).records)[0] == str(tmp_path / "a" / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["copy", "zcopy"])
def test_a_copied_sweep_is_listed_once_and_told(runs_dir, capsys, name):
    sweep = runs_dir / "sweeps" / "lr"
    for folder in sweep.glob("*-run*"):
        write_json(folder / "settings.json", {**read_json(folder / "settings.json"), "runs_dir": "runs/sweeps/lr"})
    write_study(sweep)
    before = read_runs(runs_dir)
    shutil.copytree(sweep, sweep.with_name(name))
    after = read_runs(runs_dir)
    assert [record.source for record in after.records] == [record.source for record in before.records]
    assert f"sweeps/{name}/000-run (a copy of sweeps/lr/000-run)" in after.skipped
    sweeps = read_sweeps(runs_dir, after.records)
    assert [len(one.trials) for one in sweeps.sweeps if one.trials] == [3]
    assert sweeps.skipped == [f"{name} (a copy of lr)"]
    assert runs.main(["--sweeps", "--runs_dir", str(runs_dir)]) == 0
    assert f"1 sweep; 1 skipped: no sweep that ranks its runs, a broken one or a copy ({name} (a copy of lr))" in (
        capsys.readouterr().out
    )
    assert report.main(["--runs_dir", str(runs_dir), "--sweep", "lr"]) == 0
