import os
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.record import run_folder
from data.errors import UserError
from data.files import write_json

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("rest", ["", '{"epoch": 3, "los', '{"epoch": 3\n{"epoch": 4}\n'])
def test_metrics_end_before_a_line_that_was_cut(rest, tmp_path):
    (tmp_path / run_folder.METRICS).write_text('{"epoch": 1}\n{"epoch": 2}\n' + rest)
    assert run_folder.read_metrics(tmp_path) == [{"epoch": 1}, {"epoch": 2}]


def test_a_run_without_metrics_has_none(tmp_path):
    assert run_folder.read_metrics(tmp_path / "none") == []


def test_a_log_is_read_on_from_where_it_was_read_to_and_anew_where_it_has_gone_back(tmp_path):
    path, log = tmp_path / run_folder.METRICS, run_folder.LogReader(tmp_path)

    def epochs():
        return log.goes_on(), [row["epoch"] for rows in log for row in rows]

    assert epochs() == (False, [])
    path.write_text('{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3')
    assert epochs() == (True, [1, 2])
    with path.open("a") as file:
        file.write('0}\n{"epoch": 4}\n')
    assert epochs() == (True, [30, 4])
    assert epochs() == (True, [])
    assert [row["epoch"] for rows in run_folder.LogReader(tmp_path, log.size, log.last) for row in rows] == []
    path.write_text('{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3}\n{"epoch": 4}\n{"epoch": 5}\n')  # a resumed run's
    assert epochs() == (False, [1, 2, 3, 4, 5])
    path.unlink()
    assert epochs() == (False, [])


def test_a_row_that_lacks_its_line_end_alone_is_read_once_it_has_it(tmp_path):
    path, log = tmp_path / run_folder.METRICS, run_folder.LogReader(tmp_path)
    path.write_text('{"epoch": 1}\n{"epoch": 2}')
    assert list(log) == [[{"epoch": 1}]]
    with path.open("a") as file:
        file.write('\n{"epoch": 3}\n')
    assert list(log) == [[{"epoch": 2}, {"epoch": 3}]]


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


def test_a_run_has_one_owner_at_a_time(tmp_path):
    assert not run_folder.is_in_progress(tmp_path)
    lock = run_folder.take(tmp_path)
    assert run_folder.is_in_progress(tmp_path)
    with pytest.raises(UserError, match=f"^{tmp_path} is in progress in another process: .*--run_id$"):
        run_folder.take(tmp_path)
    lock.release()
    assert not run_folder.is_in_progress(tmp_path)
    run_folder.take(tmp_path).release()


def test_the_system_frees_a_run_whose_process_is_killed(tmp_path):
    code = "import sys, time; from pathlib import Path; from analysis.record import run_folder; "
    code += "lock = run_folder.take(Path(sys.argv[1])); print('taken', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"taken\n"
        assert run_folder.is_in_progress(tmp_path)
        process.kill()
    assert not run_folder.is_in_progress(tmp_path)


def test_resuming_passes_over_a_run_in_progress(tmp_path):
    for i, run_id in enumerate(("older", "newer")):
        (tmp_path / run_id).mkdir()
        write_json(tmp_path / run_id / run_folder.SETTINGS, {})
        os.utime(tmp_path / run_id / run_folder.SETTINGS, (i, i))
    assert run_folder.latest_unfinished(tmp_path) == "newer"
    lock = run_folder.take(tmp_path / "newer")
    assert run_folder.latest_unfinished(tmp_path) == "older"
    lock.release()
