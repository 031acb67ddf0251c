"""How a run was made, what has changed since, and whether it comes out the same."""

from dataclasses import asdict

import pytest

from analysis import reproduce
from analysis.look import reproduction
from analysis.look.reproduction import compare, differences, launcher, read_run, run_again, without_earlier_ends
from analysis.record import environment, run_folder
from analysis.record.resume import resolve
from data.errors import UserError
from data.files import read_json, write_json
from models.registry import MODELS
from tests.forks import fork_train_py
from tests.run_folders import write_run

ROWS = [{"epoch": epoch, "val/loss": 1 / epoch, "lr": 0.1, "images_per_second": 7.0 + epoch} for epoch in (1, 2, 3)]


def changed(row, **changes):
    return [{**one, **changes} if i == row else one for i, one in enumerate(ROWS)]


@pytest.mark.parametrize(
    ("now", "code", "verdict"),
    [
        (ROWS, 0, "3 rows are equal bit for bit"),
        (changed(1, **{"images_per_second": 1.0, "step/images_per_second": 1.0}), 0, "3 rows are equal bit for bit"),
        ([*ROWS, {"epoch": 4}], 0, "3 rows are equal bit for bit"),
        (
            changed(1, **{"val/loss": 0.501}),
            0,
            "3 rows agree within 0.01, 2 of them bit for bit; the worst is val/loss",
        ),
        (changed(1, **{"val/loss": 0.51}), 1, "different from epoch 2 on, by more than 0.01: val/loss in epoch 2, 0.5"),
        (changed(2, **{"val/loss": float("nan")}), 1, "different from epoch 3 on"),
        (changed(0, other=1.0), 1, "different from epoch 1 on, by more than 0.01: other in epoch 1, None then"),
        (ROWS[:2], 1, "shorter: 2 rows of 3, and those agree within 0.01"),
    ],
)
def test_runs_are_compared_row_by_row_but_for_the_clock(now, code, verdict):
    found = compare(ROWS, now, tolerance=0.01)
    assert found[0] == code
    assert found[1].startswith(verdict)


def test_a_closing_evaluation_that_more_epochs_followed_is_not_expected_again():
    step, closing = {"epoch": 2.5, "step": 5, "step/lr": 0.1}, {"epoch": 2, "test/loss": 1.0}
    rows = [*ROWS[:2], closing, step, ROWS[2], {**closing, "epoch": 3}]
    assert without_earlier_ends(rows) == [*ROWS[:2], step, ROWS[2], {**closing, "epoch": 3}]
    assert without_earlier_ends([]) == []


def test_what_was_no_number_both_times_is_equal():
    rows = changed(1, **{"val/loss": float("nan")})
    assert compare(rows, changed(1, **{"val/loss": float("nan")}), 0.01) == (0, "3 rows are equal bit for bit")


def test_several_processes_are_launched_as_they_were():
    assert launcher({"num_processes": 1, "device": "a CPU, 2 threads"}) == ["python"]
    assert launcher({"num_processes": 2, "device": "a CPU, 1 thread"})[:3] == ["accelerate", "launch", "--cpu"]
    assert launcher({"num_processes": 4, "device": "a GPU"})[2:] == ["--multi_gpu", "--num_processes", "4"]


def test_what_differs_is_told_and_what_was_not_noted_down_is_not():
    then = {"commit": "a", "data": "x", "packages": {"torch": "1", "gone": "2"}, "device": "a GPU", "host": "there"}
    now = {"commit": "b", "data": "x", "packages": {"torch": "3", "new": "4"}, "device": "a GPU", "python": "3.11"}
    assert differences(then, now) == [("commit", "a", "b"), ("torch", "1", "3"), ("gone", "2", "none")]


@pytest.mark.parametrize(
    ("then", "now", "line"),
    [("", "66c67b3bd3a9", "none then, 66c67b3bd3a9 now"), ("66c67b3bd3a9", "", "66c67b3bd3a9 then, none now")],
)
def test_a_clean_tree_is_told_as_none_on_either_side(then, now, line, monkeypatch, tmp_path):
    monkeypatch.setattr(reproduction, "environment_now", lambda *arguments: {"changes": now, "packages": {}})
    settings = MODELS["mlp"].settings_class(model="mlp", dataset="digits")
    run = reproduction.RecordedRun(tmp_path, asdict(settings), settings, {"changes": then})
    assert f"  changes       {line}" in reproduction.describe(run).splitlines()


def test_changes_that_no_commit_has_are_told_apart_by_their_hash(monkeypatch):
    diffs = iter(["", "-old\n+new", "-old\n+newer", "-old\n+new"])
    monkeypatch.setattr(environment, "git", lambda what, *rest: next(diffs) if what == "diff" else "")
    none, first, second, again = (environment.uncommitted_changes() for _ in range(4))
    assert none == ""
    assert len({first, second}) == 2
    assert again == first


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of two epochs, a fork; a later one will be a program of its own."""
    runs_dir = tmp_path_factory.mktemp("runs")
    told = ["--model=mlp", "--dataset=digits", "--width=16", "--epochs=2", "--lr=0.01", "--train_fraction=0.5"]
    settings = resolve(told, {})
    return fork_train_py(asdict(settings), runs_dir)


@pytest.mark.slow
def test_a_run_comes_out_bit_for_bit_the_same_and_one_that_was_tampered_with_does_not(trained, lean, tmp_path, capsys):
    assert reproduce.main([str(trained), "--check", "--into", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "command   python train.py --model=mlp --dataset=digits --epochs=2 --lr=0.01 --seed=3407" in told
    assert "nothing of this differs now" in told
    assert f"run again: 3 rows are equal bit for bit; {tmp_path}" in told
    [again] = tmp_path.glob("*/metrics.jsonl")
    rows, others = run_folder.read_metrics(trained), run_folder.read_metrics(again.parent)
    assert [row["val/loss"] for row in rows[:2]] == [row["val/loss"] for row in others[:2]]
    rows[1]["val/loss"] *= 1.1
    assert compare(rows, others, 0.01)[0] == 1


@pytest.mark.slow
def test_a_changed_environment_is_told(trained, capsys):
    path = trained / run_folder.ENVIRONMENT
    before = read_json(path)
    write_json(path, {**before, "data": "other images", "packages": {"torch": "0.1"}})
    assert reproduce.main([str(trained)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["data", "other", "images", "then,", "digits-scikit-learn", "now"] in lines
    assert ["torch", "0.1", "then,", before["packages"]["torch"], "now"] in lines
    write_json(path, before)


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys):
    write_run(tmp_path / "old", [1.0])  # with settings that are no more
    write_run(tmp_path / "gone", [1.0], model="perceptron")
    for name, line in {"nosuch": "is no run", "old": "is not a setting", "gone": "--model=perceptron is not"}.items():
        assert reproduce.main([str(tmp_path / name), "--check"]) == 2
        error = capsys.readouterr().err
        assert line in error
        assert error.count("\n") == 1


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "x", ""])
def test_a_tolerance_is_a_number_that_is_not_below_0(text):
    assert [reproduce.parse(["a", f"--tolerance={told}"]).tolerance for told in ("0", "1e-3")] == [0.0, 1e-3]
    with pytest.raises(UserError, match=f"--tolerance: {text} is not a number"):
        reproduce.parse(["a", f"--tolerance={text}"])


@pytest.mark.parametrize(
    ("environment", "variables"),
    [
        ({"threads": 3, "device": "Abacus 9, 3 threads"}, {"OMP_NUM_THREADS": "3"}),
        ({"device": "Abacus 9, 12 threads"}, {"OMP_NUM_THREADS": "12"}),  # of an older run
        ({"device": "Abacus 9, 1 thread"}, {"OMP_NUM_THREADS": "1"}),
        ({"threads": 2, "device": "a GPU"}, {"OMP_NUM_THREADS": "2"}),
        ({"device": "a GPU"}, {}),
    ],
)
def test_a_run_is_repeated_with_as_many_threads_as_it_had(environment, variables, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr("analysis.look.reproduction.run_train_py", lambda *arguments: seen.append(arguments[-1]))
    run_again(MODELS["mlp"].settings_class(model="mlp"), environment, tmp_path, num_rows=1, to_the_end=True)
    assert seen == [variables]


@pytest.mark.parametrize("content", [None, "{"])
def test_a_run_without_a_record_of_its_environment_is_told_as_such(content, tmp_path):
    settings = MODELS["mlp"].settings_class(model="mlp", dataset="digits", run_id="a")
    (tmp_path / "a").mkdir()
    write_json(tmp_path / "a" / run_folder.SETTINGS, asdict(settings))
    if content:
        (tmp_path / "a" / run_folder.ENVIRONMENT).write_text(content)
    with pytest.raises(UserError, match="environment.json is missing or damaged"):
        read_run(tmp_path / "a")
