"""Runs as CSV files: each row is what the run's own files say."""

import csv
import json

import pytest

from analysis import runs
from analysis.record import run_folder
from data.files import read_json
from tests.run_folders import write_run


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path / "runs"))
    for place, losses in (("a", [2.0, 1.0]), ("sweeps/s/b", [3.0]), ("sweeps/t/b", [4.0])):
        write_run(tmp_path / "runs" / place, losses, lr=0.1, tags="two, words\nand lines", mine=len(losses))
    return tmp_path / "runs.csv", tmp_path / "rows.csv"


def test_rows_hold_all_settings_figures_and_logged_rows_of_the_runs(files, capsys):
    of_runs, of_rows = files
    assert runs.main(["--csv", str(of_runs), "--history", str(of_rows)]) == 0
    assert f"{of_runs}: 3 runs, " in capsys.readouterr().out
    found = {(row["sweep"], row["run"]): row for row in table(of_runs)}
    assert found.keys() == {("", "a"), ("s", "b"), ("t", "b")}
    for row in found.values():
        folder = of_runs.parent / "runs" / row["source"]
        for name in (run_folder.SETTINGS, run_folder.SUMMARY):
            group = name.removesuffix(".json")
            told = read_json(folder / name)
            assert told
            assert {key: row[f"{group}.{key}"] for key in told} == {key: str(value) for key, value in told.items()}
    logged = table(of_rows)
    assert [(row["sweep"], row["run"], row["epoch"], row["val/loss"]) for row in logged] == [
        (row["sweep"], row["run"], str(one["epoch"]), str(one["val/loss"]))
        for row in table(of_runs)
        for one in map(json.loads, (of_runs.parent / "runs" / row["source"] / run_folder.METRICS).open())
    ]


def test_the_runs_that_are_asked_for_are_written_and_what_does_not_go_together_is_refused(files, capsys):
    of_runs, _ = files
    assert runs.main(["--sweep=s", "--csv", str(of_runs)]) == 0
    assert [row["sweep"] for row in table(of_runs)] == ["s"]
    assert runs.main(["--sweeps", "--csv", str(of_runs)]) == 2
    assert "--csv has no effect on --sweeps" in capsys.readouterr().err
    assert runs.main(["--csv", str(of_runs.parent / "gone" / "runs.csv")]) == 2


@pytest.mark.parametrize(
    "more", [["--prune", "--yes"], ["--metric=val/loss"], ["--sort=age"], ["--limit=3"], []], ids=str
)
def test_what_has_no_effect_on_files_and_one_file_for_both_are_refused(more, files, capsys):
    of_runs, _ = files
    assert runs.main(["--csv", str(of_runs), *(more or ["--history", str(of_runs)])]) == 2
    told = f"{more[0].partition('=')[0]} has no effect on --csv" if more else "--csv and --history are both"
    assert told in capsys.readouterr().err
    assert not of_runs.exists()


def test_names_that_are_not_utf_8_are_written(files):
    of_runs, _ = files
    write_run(of_runs.parent / "runs" / "c", [1.0], data_dir="caf\udce9")
    assert runs.main(["--csv", str(of_runs)]) == 0
    assert b"caf\xe9" in of_runs.read_bytes()
