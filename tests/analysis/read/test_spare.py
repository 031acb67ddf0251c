"""What can be deleted of runs, and what must not be."""

import fcntl
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from analysis import runs
from analysis.compare.pruning import size
from analysis.read.runs import read_runs
from analysis.read.spare import find_spare, free, free_weights
from analysis.read.sweeps import SweepRecord
from analysis.read.trials import Trial
from analysis.record import run_folder
from data.files import write_json
from data.metrics import Best, Metric

FILES = ("best.pt", "checkpoint.pt", "final.pt")
ENDED = datetime(2026, 11, 1, tzinfo=UTC)


def make_run(folder, state):
    folder.mkdir(parents=True)
    write_json(folder / "settings.json", {"model": "mlp", "dataset": "digits", "run_id": folder.name})
    if state != "unfinished":
        write_json(folder / "summary.json", {"state": state})
    for name in FILES:
        (folder / name).write_text("x" * 1000)
    return folder


def trial(number, state, value, ended=ENDED):
    return Trial(number, f"00{number}", state, value, 1, {}, ENDED, ended)


def sweep_of(folder, *trials):
    return SweepRecord("lr", str(folder), Metric("val/loss"), "random", ("lr",), trials, {})


def test_trials_that_no_other_beats_by_every_metric_keep_their_weights(place):
    metrics = {"metrics": [{"name": "val/loss", "goal": "minimize"}, {"name": "speed", "goal": "maximize"}]}
    trials = []
    for number, (loss, speed) in enumerate([(0.1, 1.0), (0.2, 0.5), (0.3, 9.0)]):
        make_run(place / "sweeps" / "lr" / f"00{number}", "finished")
        trials.append(replace(trial(number, "COMPLETE", loss), objectives={"speed": speed}))
    sweep = replace(sweep_of(place / "sweeps" / "lr", *trials), content=metrics)
    assert {name for name in spare_of(place, sweep, num_kept=2) if "best.pt" in name} == {"sweeps/lr/001/best.pt"}


def spare_of(runs_dir, *sweeps, num_kept=1):
    found = find_spare(runs_dir, read_runs(runs_dir).records, sweeps, num_kept)
    return {str(file.path.relative_to(runs_dir)) for file in found}


@pytest.fixture
def place(tmp_path):
    for state in ("finished", "stopped", "failed", "unfinished"):
        make_run(tmp_path / "runs" / state, state)
    return tmp_path / "runs"


def test_of_runs_by_themselves_the_checkpoints_of_finished_ones_are_spare(place):
    assert spare_of(place) == {"finished/checkpoint.pt"}


def test_of_a_sweep_the_weights_beyond_the_best_are_spare_if_their_trials_have_ended(place):
    states = {0: "finished", 1: "finished", 2: "stopped", 3: "stopped", 4: "failed", 5: "stopped"}
    for number, state in states.items():
        make_run(place / "sweeps" / "lr" / f"00{number}", state)
    make_run(place / "sweeps" / "lr" / "final-000-seed1", "finished")
    trials = [trial(0, "COMPLETE", 0.3), trial(1, "COMPLETE", 0.1), trial(2, "PRUNED", 0.5)]
    trials += [trial(3, "RUNNING", 0.9, None), trial(4, "FAIL", 0.8), trial(5, "PRUNED", 0.9, None)]
    of_sweep = {
        *(f"sweeps/lr/{run}/{name}" for run in ("000", "002") for name in FILES),
        "sweeps/lr/001/checkpoint.pt",
        "sweeps/lr/final-000-seed1/checkpoint.pt",
    }
    sweep = sweep_of(place / "sweeps" / "lr", *trials)
    assert spare_of(place, sweep) == of_sweep | {"finished/checkpoint.pt"}
    assert f"sweeps/lr/001/{FILES[0]}" in spare_of(place, sweep, num_kept=0)


def test_of_a_trial_that_ended_in_its_second_seed_the_weights_of_both_runs_are_spare(place):
    for name in ("000", "000-s2"):
        make_run(place / "sweeps" / "lr" / name, "stopped")
    ended = replace(trial(0, "PRUNED", 0.3), seeds=(Best(0.3, 1),))
    of_sweep = {f"sweeps/lr/{run}/{name}" for run in ("000", "000-s2") for name in FILES}
    assert of_sweep <= spare_of(place, sweep_of(place / "sweeps" / "lr", ended), num_kept=0)


def test_neither_what_is_in_progress_nor_what_a_link_leads_to_is_spare(place, tmp_path):
    elsewhere = make_run(tmp_path / "elsewhere" / "other", "finished")
    (place / "linked").symlink_to(elsewhere)
    checkpoint = place / "finished" / "checkpoint.pt"
    checkpoint.rename(tmp_path / "kept.pt")
    checkpoint.symlink_to(tmp_path / "kept.pt")
    busy = make_run(place / "busy", "finished")
    lock = run_folder.take(busy)
    assert spare_of(place) == set()
    lock.release()
    assert spare_of(place) == {"busy/checkpoint.pt"}


def test_what_a_killed_process_left_is_spare_but_not_what_another_writes(place):
    left = place / "stopped" / ".best.pt.abc-1.unfinished"
    left.write_text("half")
    records = read_runs(place).records
    [file] = [file for file in find_spare(place, records, [], 1) if file.path == left]
    with left.open() as written:
        fcntl.flock(written, fcntl.LOCK_EX)
        assert free([file]) == (0, [left])
    assert free([file]) == (4, [])
    assert not left.exists()


def test_files_are_gone_through_once_however_many_runs_have_some(place):
    class Counted(list):
        num = 0

        def __iter__(self):
            self.num += 1
            return super().__iter__()

    for number in range(5):
        make_run(place / "more" / str(number), "finished")
    files = Counted(find_spare(place, read_runs(place).records, [], 1))
    assert free(files) == (6000, [])
    assert files.num == 1


def test_a_run_that_has_been_taken_up_since_keeps_its_files(place):
    files = find_spare(place, read_runs(place).records, [], 1)
    lock = run_folder.take(place / "finished")
    assert free(files) == (0, [place / "finished" / "checkpoint.pt"])
    free_weights(place / "finished")
    lock.release()
    assert all((place / "finished" / name).exists() for name in FILES)
    free_weights(place / "finished")
    assert not any((place / "finished" / name).exists() for name in FILES)


def test_the_command_lists_and_deletes_with_yes_alone(place, capsys):
    options = ["--runs_dir", str(place), "--prune"]
    assert runs.main(options) == 0
    shown = capsys.readouterr().out
    assert "1 file, 1 kB" in shown
    assert "finished/checkpoint.pt" in shown
    assert "nothing was deleted; to free 1 kB: the same command with --yes" in shown
    assert (place / "finished" / "checkpoint.pt").exists()
    assert runs.main([*options, "--yes"]) == 0
    assert "1 kB freed" in capsys.readouterr().out
    assert not (place / "finished" / "checkpoint.pt").exists()
    assert runs.main([*options, "--yes"]) == 0
    assert capsys.readouterr().out == "there is nothing to delete\n"


def test_the_largest_files_are_listed_and_all_of_them_deleted(place, capsys):
    for name, num_bytes in (("small", 10), ("large", 5000)):
        (make_run(place / name, "finished") / "checkpoint.pt").write_text("x" * num_bytes)
    assert runs.main(["--runs_dir", str(place), "--prune", "--limit=1", "--yes"]) == 0
    output = capsys.readouterr().out
    assert "3 files, 6.01 kB, the largest 1" in output
    assert [name in output for name in ("large/", "finished/", "small/")] == [True, False, False]
    assert "6.01 kB freed" in output
    assert not any((place / name / "checkpoint.pt").exists() for name in ("large", "finished", "small"))


@pytest.mark.parametrize(
    "options",
    [
        ["--yes"],
        ["--prune", "--project=a/b"],
        ["--prune", "--keep_weights=-1"],
        ["--sweeps", "--prune", "--yes"],
        ["--sweeps", "--state=failed"],
        ["--sweeps", "--sort=best"],
        ["--sweeps", "--limit=3"],
        ["--keep_weights=2"],
        ["--keep_weights=0"],
        ["--prune", "--metric=val/loss"],
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(options, place, monkeypatch, capsys):
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(place))
    assert runs.main(options) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_sizes_are_told_as_people_read_them():
    assert [size(n) for n in (0, 999, 1234, 12_345_678, 345e6, 12.34e9)] == [
        *("0 B", "999 B", "1.23 kB", "12.3 MB", "345 MB", "12.3 GB"),
    ]
