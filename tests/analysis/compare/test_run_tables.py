"""Runs and sweeps in a terminal, by `python -m analysis.runs`."""

import re
from datetime import UTC, datetime, timedelta

import pytest

from analysis.read.sweeps import read_sweeps
from analysis.runs import main, moment
from data.files import write_json
from tests.run_folders import write_gans, write_run, write_study


def show(capsys, *arguments):
    assert main(arguments) == 0
    return capsys.readouterr().out


def shown_ids(output):
    return re.findall(r"^ *(?:lr +)?(\w[\w-]*) +(?:cnn|mlp) ", output, re.MULTILINE)


def test_runs_are_shown_newest_first_with_best_value_course_and_how_many_were_skipped(runs_dir, capsys):
    (runs_dir / "notes").mkdir()
    output = show(capsys, "--runs_dir", str(runs_dir))
    assert shown_ids(output) == ["final-000-run-seed1", "002-run", "001-run", "000-run", "c", "b", "a"]
    [line] = [line for line in output.splitlines() if line.split()[:1] == ["a"]]
    assert line.split()[:7] == ["a", "cnn", "digits", "finished", "3", "1.0000", "█▁▅"]
    counts = "7 runs: 3 finished, 1 stopped, 1 failed, 2 unfinished"
    last = f"{counts}; 1 skipped: folders that are no run, a broken one or a copy (notes)"
    assert output.splitlines()[-1] == last


def test_a_name_that_no_run_has_is_told_with_those_that_there_are(runs_dir, capsys):
    assert main(["--runs_dir", str(runs_dir), "--model=cnnn", "--sweep=l*"]) == 0
    told = capsys.readouterr()
    assert told.err == "no run has --model=cnnn, did you mean cnn?; there are: cnn, mlp\n"
    assert told.out.startswith("0 runs")
    assert main(["--runs_dir", str(runs_dir), "--model=cnn", "--state=failed", "--since=2999-01-01"]) == 0
    assert capsys.readouterr().err == ""


def test_a_sweeps_runs_are_shown_the_best_first_with_the_settings_that_differ(runs_dir, capsys):
    output = show(capsys, "--runs_dir", str(runs_dir), "--sweep", "lr")
    assert shown_ids(output) == ["000-run", "002-run", "001-run", "final-000-run-seed1"]
    assert re.search(r"age +duration +lr *$", output, re.MULTILINE)


def test_of_equal_runs_the_first_one_is_the_best_as_for_the_other_programs(tmp_path, capsys):
    for number in range(3):
        write_run(tmp_path / "sweeps" / "s" / f"00{number}-run", [0.5 if number else 0.9], days=number)
    output = show(capsys, "--runs_dir", str(tmp_path), "--sweep", "s")
    assert shown_ids(output) == ["001-run", "002-run", "000-run"]


def test_the_mean_of_final_runs_is_over_all_of_them_however_few_rows_are_shown(tmp_path, capsys):
    for number in range(3):
        write_run(tmp_path / "sweeps" / "s" / f"00{number}", [1.0 + number])
    for seed, accuracy in enumerate((0.9, 0.95, 0.8, 0.7, 0.6), 1):
        run = write_run(tmp_path / "sweeps" / "s" / f"final-000-seed{seed}", [0.5])
        write_json(run / "summary.json", {"state": "finished", "test/accuracy": accuracy})
    output = show(capsys, "--runs_dir", str(tmp_path), "--sweep", "s", "--limit", "2")
    assert "mean of final-000: test/accuracy 79.00 ± 14.32 % (5 runs)" in output
    assert {"000", "001"} < set(output.split())


def test_trials_of_several_seeds_or_folds_have_their_means_told_the_best_first(tmp_path, capsys):
    for trial, accuracies in (("000-steady", (0.90, 0.92)), ("001-lucky", (0.95, 0.70)), ("002-single", (0.1,))):
        for place, accuracy in enumerate(accuracies, 1):
            write_run(tmp_path / "sweeps" / "s" / (f"{trial}-s{place}" if place > 1 else trial), [0.5], [accuracy])
    told = "--runs_dir", str(tmp_path), "--sweep", "s", "--metric", "val/accuracy", "--limit", "1"
    lines = [line for line in show(capsys, *told).splitlines() if line.startswith("mean of")]
    assert lines == [
        "mean of 000-steady: val/accuracy 91.00 ± 1.41 % (2 runs)",
        "mean of 001-lucky: val/accuracy 82.50 ± 17.68 % (2 runs)",
    ]


def test_a_trial_that_was_ended_early_is_not_told_before_one_that_its_easy_seeds_were_worse_than(tmp_path, capsys):
    for trial, losses in (("000-a", (0.5, 0.6, 1.3)), ("001-b", (0.6, 0.7)), ("002-c", (0.6, 0.6, 1.4))):
        for place, loss in enumerate(losses, 1):
            write_run(tmp_path / "sweeps" / "s" / (f"{trial}-s{place}" if place > 1 else trial), [loss])
    told = "--runs_dir", str(tmp_path), "--sweep", "s", "--metric", "val/loss", "--sort", "best"
    lines = [line for line in show(capsys, *told).splitlines() if line.startswith("mean of")]
    assert [line.split()[2] for line in lines] == ["000-a:", "002-c:", "001-b:"]
    assert lines[-1] == "mean of 001-b: val/loss 0.6500 ± 0.0707 (2 runs)"


def test_a_mean_is_told_with_the_number_of_runs_that_have_the_figure(tmp_path, capsys):
    summaries = [{"test/accuracy": 0.9, "test/loss": 0.5}, {"test/accuracy": 0.8, "test/loss": float("nan")}, {}]
    for seed, figures in enumerate(summaries, 1):
        run = write_run(tmp_path / "sweeps" / "s" / f"final-000-seed{seed}", [0.5])
        write_json(run / "summary.json", {"state": "finished" if figures else "failed", **figures})
    output = show(capsys, "--runs_dir", str(tmp_path), "--sweep", "s")
    assert "mean of final-000: test/accuracy 85.00 ± 7.07 % (2 runs), test/loss 0.5000 (1 run)" in output


def test_final_runs_are_told_by_what_their_sweep_is_after(tmp_path, capsys):
    write_gans(tmp_path / "sweeps" / "s")
    output = show(capsys, "--runs_dir", str(tmp_path), "--sweep", "s", "--metric", "val/fid_x_60")
    assert "mean of final-001: test/fid_x_60 22.00 ± 1.41, test/loss 0.1000 ± 0.0000 (2 runs)" in output


def test_final_runs_on_images_without_a_test_split_are_told_by_the_held_out_ones(tmp_path, capsys):
    for seed, accuracy in enumerate((0.9, 0.8), 1):
        write_run(tmp_path / "sweeps" / "s" / f"final-000-seed{seed}", [0.5], [accuracy])
    output = show(capsys, "--runs_dir", str(tmp_path), "--sweep", "s", "--metric", "val/accuracy")
    assert "mean of final-000: val/accuracy 85.00 ± 7.07 % (2 runs)" in output


def test_of_a_metric_that_grows_the_most_is_best(runs_dir, capsys):
    arguments = ("--runs_dir", str(runs_dir), "--metric", "val/accuracy", "--sort", "best", "--limit", "2")
    output = show(capsys, *arguments)
    assert shown_ids(output) == ["000-run", "002-run", "final-000-run-seed1"]
    assert f"{100 * (1 - 0.5 / 3):.2f} %" in output
    assert "3 of 7 runs" in output


@pytest.mark.slow
def test_a_sweep_by_another_metric_shows_that_of_its_final_runs(runs_dir, capsys):
    write_study(runs_dir / "sweeps" / "lr")
    file = runs_dir / "sweeps" / "lr" / "sweep.yaml"
    file.write_text(file.read_text().replace("val/loss", "val/fid_x_60"))
    [leader, *_] = read_sweeps(runs_dir).sweeps[0].leaders
    figure = {"mean": 22.0, "std": 1.5}
    final = {"trial": leader.run_id, "test/fid_x_60": figure, "test/loss": figure}
    write_json(runs_dir / "sweeps" / "lr" / "final.json", {"trials": [final]})
    output = show(capsys, "--runs_dir", str(runs_dir), "--sweeps")
    assert "final by its metric" in output
    assert output.count("22.00 ± 1.50") == 1


@pytest.mark.parametrize("figure", ["test/accuracy", "test/mAP"])
@pytest.mark.parametrize(("trained", "told"), [("the best", ["50.00", "±", "1.00", "%"]), ("another", [])])
def test_sweeps_are_shown_with_the_ends_of_their_trials(trained, told, figure, runs_dir, capsys):
    write_study(runs_dir / "sweeps" / "lr")
    [sweep] = read_sweeps(runs_dir).sweeps
    trial = {"the best": sweep.leaders[0].run_id}.get(trained, trained)
    final = {"trial": trial, figure: {"mean": 0.5, "std": 0.01}}
    write_json(runs_dir / "sweeps" / "lr" / "final.json", {"trials": [final]})
    output = show(capsys, "--runs_dir", str(runs_dir), "--sweeps")
    [line] = [line for line in output.splitlines() if line.startswith(" lr ")]
    assert line.split()[1:] == [
        "bayes",
        "val/loss",
        "3",
        "1",
        "1",
        "1",
        "0.5000",
        "▁█",
        "lr=1",
        *told,
    ]
    assert re.findall("final test [a-zA-Z]+", output) == ["final test " + figure.split("/")[1][:3]] * bool(told)


def test_test_figures_have_a_column_each_where_a_run_has_them(tmp_path, capsys):
    for name, figures in (("a", {}), ("b", {"test/mAP": 0.75}), ("c", {"test/mAP": 0.5, "test/accuracy": 0.25})):
        write_json(write_run(tmp_path / name, [0.5]) / "summary.json", {"state": "finished", **figures})
        output = show(capsys, "--runs_dir", str(tmp_path))
        assert ["test acc." in output, "test mAP" in output] == [f"test/{it}" in figures for it in ("accuracy", "mAP")]
    assert re.search(r"25\.00 % +50\.00 %", output)


def test_nothing_is_shown_as_nothing(tmp_path, capsys):
    told = "0 runs; 1 skipped: folders that are no run, a broken one or a copy (.)\n"
    assert show(capsys, "--runs_dir", str(tmp_path)) == told


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--runs_dir", "nowhere"], "no runs folder nowhere"),
        (["--limit", "0"], "0 is not a whole number"),
        (["--since", "yesterday"], "yesterday is no time: write 2026-11-25"),
        (["--state", "running"], "invalid choice: 'running'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, arguments, line):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


def test_moments_are_dates_or_so_long_ago():
    assert moment("2026-11-25T12:00+02:00") == datetime(2026, 11, 25, 10, tzinfo=UTC)
    assert abs(moment("3d") - (datetime.now(UTC) - timedelta(days=3))) < timedelta(minutes=1)
