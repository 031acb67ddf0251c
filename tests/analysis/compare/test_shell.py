"""What the programs that read runs do in a terminal, in a pipe, and with odd values of options and environment."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import beta, report, results, runs
from analysis.read.runs import read_runs
from data.files import read_json, write_json
from tests.run_folders import write_run

ROOT = Path(__file__).parents[3]
LONG = "final-012-y307rceu-seed1234567890"


def write_sweep(runs_dir):
    """Write a sweep of three trials and two final runs, one of the trials failed."""
    sweep = runs_dir / "sweeps" / "a_sweep_of_cnns"
    for i in range(3):
        write_run(
            sweep / f"{i:03d}-y307rceu", [2.0, 1.0 + i], lr=10.0**-i, width=i, state="failed" if i else "finished"
        )
    write_json(sweep / "001-y307rceu" / "summary.json", {"state": "failed", "error": "CUDA out of memory: lower it"})
    for seed, accuracy in ((1, 0.9), (2, 0.92)):
        folder = write_run(sweep / f"final-000-y307rceu-seed{seed}", [0.5], lr=1.0)
        summary = read_json(folder / "summary.json")
        write_json(folder / "summary.json", {**summary, "test/accuracy": accuracy, "test/loss": 0.25})
    return sweep


def environment(**changes):
    return {**{name: value for name, value in os.environ.items() if name != "VISION_SWEEPS_RUNS"}, **changes}


def in_terminal(columns, *words):
    """The lines that `analysis.runs` prints to a terminal so many columns wide."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "analysis.runs", *map(str, words)]
    changes = {"COLUMNS": str(columns), "TERM": "xterm-256color"}
    process = subprocess.Popen(command, cwd=ROOT, stdout=theirs, env=environment(**changes))
    os.close(theirs)
    output = b""
    try:
        while chunk := os.read(ours, 65536):
            output += chunk
    except OSError:  # so a terminal ends
        pass
    os.close(ours)
    assert process.wait(60) == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", output.decode()).splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["--sweep=a*"]])
def test_a_terminal_of_80_columns_shows_whole_ids_one_run_a_line(tmp_path, words):
    write_sweep(tmp_path)
    lines = in_terminal(80, f"--runs_dir={tmp_path}", *words)
    table = [line for line in lines if "y307rceu" in line and " cnn " in line or re.match(r" \S*-y307\S* +f", line)]
    shown = {record.run_id for record in read_runs(tmp_path).records}
    assert {word for line in lines for word in line.split()} >= shown
    assert len(table) >= len(shown)
    assert max(len(line) for line in lines if "mean of" not in line) <= 80
    assert any(line.startswith("too narrow for course") for line in lines)


def test_final_runs_stand_apart_from_the_ranking_with_their_mean_and_failed_ones_with_their_reason(tmp_path, capsys):
    write_sweep(tmp_path)
    assert runs.main(["--runs_dir", str(tmp_path), "--sweep=a*"]) == 0
    searched, finals = capsys.readouterr().out.split("final runs, with the settings of the best trials")
    assert re.findall(r"\d{3}-y307rceu", searched) == ["000-y307rceu", "001-y307rceu", "002-y307rceu"]
    assert "seed" not in searched
    lines = finals.splitlines()
    assert "mean of final-000-y307rceu: test/accuracy 91.00 ± 1.41 %, test/loss 0.2500 ± 0.0000 (2 runs)" in lines
    assert "001-y307rceu failed: CUDA out of memory: lower it" in lines


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_the_listing_without_a_word(tmp_path):
    for i in range(60):
        write_run(tmp_path / f"{i:03d}-{'x' * 240}", [1.0])
    command = f"{sys.executable} -m analysis.runs --limit 300 --runs_dir {tmp_path} | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, env=environment())
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"FORCE_COLOR": "1"},
        {"TERM": "dumb"},
        {"TERM": "dumb", "FORCE_COLOR": "1"},
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_a_file_gets_every_column_whatever_the_environment_says(tmp_path, changes):
    write_sweep(tmp_path)
    command = [sys.executable, "-m", "analysis.runs", "--runs_dir", str(tmp_path), "--sweep=a*"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, env=environment(**changes))
    assert (done.returncode, done.stderr) == (0, b"")
    text = re.sub(rb"\x1b\[[0-9;]*m", b"", done.stdout)
    for heading in (b"course", b"duration", b"lr", b"width", b"final-000-y307rceu-seed2"):
        assert heading in text


def test_a_file_gets_every_column_however_long_a_name_is(tmp_path, capsys):
    for i in range(12):
        write_run(tmp_path / f"{i:03d}-{'x' * 200}", [1.0 + i], lr=10.0**-i, width=i % 3)
    assert runs.main(["--runs_dir", str(tmp_path), "--sort=best"]) == 0
    assert report.main(["--runs_dir", str(tmp_path), "--text", "--metric=val/loss"]) == 0
    output = capsys.readouterr().out
    assert "too narrow" not in output
    assert all(heading in output for heading in ("course", "duration", "runs", "best val/loss", "expected"))


def test_a_home_that_is_not_there_costs_the_index_alone(tmp_path, monkeypatch, capsys):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    write_sweep(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert runs.main(["--runs_dir", str(tmp_path)]) == 0
    assert "5 runs" in capsys.readouterr().out


@pytest.mark.parametrize("value", ["", None, "~"])
def test_an_empty_runs_folder_in_the_environment_is_none_and_a_tilde_is_home(tmp_path, monkeypatch, capsys, value):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "runs"))
    monkeypatch.setenv("VISION_SWEEPS_RUNS", value) if value is not None else monkeypatch.delenv(
        "VISION_SWEEPS_RUNS", False
    )
    write_run(tmp_path / "runs" / "inside", [1.0])
    write_run(tmp_path / "outside", [1.0])
    for words in ([], ["--runs_dir=~"]):
        assert runs.main(words) == 0
        output = capsys.readouterr().out
        assert "inside" in output
        assert "outside" not in output


@pytest.mark.parametrize(
    ("main", "words", "line"),
    [
        (runs.main, ["--since", "999999d"], "999999d is before all calendars"),
        (runs.main, ["--since", "9" * 5000 + "w"], "--since"),
        (runs.main, ["--until", "0001-01-01T00:00+14:00"], "is before all calendars"),
        (runs.main, ["--limit", "²"], "--limit"),
        (runs.main, ["--runs_dir", "~nobody-of-this-name/runs"], "names no home: write the whole path"),
        (runs.main, ["--runs_dir", "x" * 5000], "xxxxxx"),
        (runs.main, ["--runs_dir", "a\x1b[2Jb"], r"a\x1b[2Jb"),
        (runs.main, ["--metric", "\udcff"], r"\udcff: none of the runs has a value of it"),
        (report.main, ["--out", "full"], "--out full cannot be written (No space left on device)"),
        (report.main, ["--out", "."], "cannot be written (Is a directory)"),
        (report.main, ["--sweep", "\x1b[2J"], r"sweep \x1b[2J has no runs"),
        (beta.main, ["b", "--out", "full"], "full cannot be written (No space left on device)"),
        (beta.main, ["b", "--out", "picture.xyz"], "Format 'xyz' is not supported"),
        (beta.main, ["\x1b[2J"], r"\x1b[2J is no sweep"),
        (results.main, ["--update", "a\nb"], r"a\nb is no sweep"),
    ],
)
def test_odd_options_are_one_line_and_change_nothing(tmp_path, monkeypatch, capsys, main, words, line):
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "sweeps" / "b" / "000", [1.0], beta=1.0)
    (tmp_path / "full").symlink_to("/dev/full")  # a link: if devices were replaced again, it would be the link alone
    before = sorted(tmp_path.rglob("*"))
    assert main(words) in (1, 2)
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "full").is_char_device()


def test_a_device_is_written_to_and_stays_one(tmp_path, monkeypatch):
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path))
    write_run(tmp_path / "sweeps" / "b" / "000", [1.0], beta=1.0)
    (tmp_path / "null").symlink_to("/dev/null")
    assert report.main(["--out", str(tmp_path / "null")]) == 0
    assert beta.main(["b", "--out", str(tmp_path / "null")]) == 0
    assert (tmp_path / "null").is_char_device()


def test_control_characters_are_shown_escaped(tmp_path, capsys):
    name = "run\x1b]0;title\x07\u202e\n\udcff"
    write_run(tmp_path / "sweeps" / name / name, [1.0], **{"optimizer\x1b": "a\x1b[2J", "model": "\x9b2J"})
    write_run(tmp_path / "sweeps" / name / "other", [1.0], **{"optimizer\x1b": "b"})
    for words in ([], ["--sweep=run*"], ["--sweeps"]):
        assert runs.main(["--runs_dir", str(tmp_path), *words]) == 0
        output = capsys.readouterr().out
        assert all(letter.isprintable() or letter == "\n" for letter in output)
    assert report.main(["--runs_dir", str(tmp_path), "--sweep=run*"]) == 0
    assert all(letter.isprintable() or letter == "\n" for letter in capsys.readouterr().out)


@pytest.mark.parametrize("key", ["seed", "lr"])
@pytest.mark.parametrize("value", [None, "x", [1]])
def test_a_run_that_lacks_what_a_result_has_is_refused_in_one_line(tmp_path, monkeypatch, capsys, key, value):
    monkeypatch.setattr(results.results, "PAGE", tmp_path / "RESULTS.md")
    monkeypatch.setattr(results.results, "RESULTS", tmp_path / "results.json")
    (tmp_path / "results.json").write_text("[]")
    folder = write_run(tmp_path / "runs" / "a", [1.0], test=True, model="mlp", **{key: value})
    if value is None:
        (folder / "summary.json").write_text('{"state": "finished", "epochs": 3}')
    assert results.main(["--update", "a", "--runs_dir", str(tmp_path / "runs")]) in (0, 2)
    assert capsys.readouterr().err.count("\n") <= 1


@pytest.mark.parametrize("content", ["", "[", "{}x", '[{"nmae": 1}]', "[1]", "3", "[" * 100_000])
def test_a_file_of_results_that_is_none_is_told_in_one_line(tmp_path, monkeypatch, capsys, content):
    monkeypatch.setattr(results.results, "RESULTS", tmp_path / "results.json")
    (tmp_path / "results.json").write_text(content)
    assert results.main(["--check"]) == 2
    assert "results.json is damaged" in capsys.readouterr().err
