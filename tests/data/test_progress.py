"""data/progress.py: what a terminal and a log see of something that takes a while."""

import io
import sys
import time

from data.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def work(num_things=3, **options):
    with progress_bar("decoding", num_things, "images", **options) as bar:
        for _ in range(num_things):
            bar.update()


def test_a_log_is_told_line_by_line_and_none_is_drawn_over(capsys, progress_told):
    work()
    told = capsys.readouterr().err
    assert "\r" not in told
    lines = told.splitlines()
    assert [f"{num}/3" in line for num, line in enumerate(lines)] == [True] * len(lines)
    assert len(lines) == 4
    assert all(line.startswith("decoding") for line in lines)


def test_a_log_is_told_nothing_of_what_takes_no_time(capsys):
    work()
    assert capsys.readouterr().err == ""


def test_a_terminal_sees_one_line_that_is_gone_in_the_end(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    work()
    drawn = sys.stderr.getvalue()
    assert "\n" not in drawn
    assert drawn.rsplit("\r", 2)[-2].strip() == ""


def test_the_other_processes_are_quiet(capsys, progress_told):
    work(quiet=True)
    assert capsys.readouterr().err == ""


def test_items_are_counted_as_they_are_gone_through(capsys, progress_told):
    assert list(progress_bar("decoding", 3, "images", items="abc")) == ["a", "b", "c"]
    assert "2/3" in capsys.readouterr().err


def test_a_line_is_not_said_twice_within_the_pause(capsys, monkeypatch):
    monkeypatch.setattr("data.progress.SECONDS_BETWEEN_LINES", 0.05)
    with progress_bar("decoding", None, "images") as bar:
        started = time.monotonic()
        while time.monotonic() < started + 0.3:
            bar.update()
    assert bar.miniters == 1  # else tqdm's own thread repeats a line after 10 seconds
    assert 3 <= len(capsys.readouterr().err.splitlines()) <= 6
