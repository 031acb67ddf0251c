import pytest

from analysis.record import run_folder


@pytest.mark.parametrize("rest", ["", '{"epoch": 3, "los', '{"epoch": 3\n{"epoch": 4}\n'])
def test_metrics_end_before_a_line_that_was_cut(rest, tmp_path):
    (tmp_path / run_folder.METRICS).write_text('{"epoch": 1}\n{"epoch": 2}\n' + rest)
    assert run_folder.read_metrics(tmp_path) == [{"epoch": 1}, {"epoch": 2}]


def test_a_run_without_metrics_has_none(tmp_path):
    assert run_folder.read_metrics(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("text", "state"),
    [
        (None, "unfinished"),
        ("", "unfinished"),
        ('{"state": "fini', "unfinished"),
        ('{"state": "finished"}', "finished"),
        ('{"state": "stopped"}', "stopped"),
        ('{"state": "failed"}', "failed"),
    ],
)
def test_the_state_of_a_run_is_what_its_summary_says(text, state, tmp_path):
    if text is not None:
        (tmp_path / run_folder.SUMMARY).write_text(text)
    assert run_folder.state(tmp_path) == state


def test_a_file_in_place_of_the_runs_folder_holds_no_run(tmp_path):
    (tmp_path / "runs").write_text("")
    assert run_folder.state(tmp_path / "runs" / "a") == "unfinished"
    assert run_folder.latest_unfinished(tmp_path / "runs") is None
