"""The index of run folders: it spares reading, survives whatever happens to it, and is quick."""

import json
import os
import sqlite3
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from analysis.read import index as run_index
from analysis.read.records import Filter
from analysis.read.runs import curves, names_of_metrics, read_runs
from analysis.record import run_folder
from data.files import write_json
from tests.run_folders import rows_of, write_many, write_run


def forbid_reading(monkeypatch):
    monkeypatch.setattr(run_index, "read_json", None)
    monkeypatch.setattr(run_folder, "parse_rows", None)


def test_what_has_not_changed_is_not_read_again(runs_dir, monkeypatch):
    first = read_runs(runs_dir)
    drawn = curves(first.records, "val/loss")
    with monkeypatch.context() as patch:
        forbid_reading(patch)
        assert read_runs(runs_dir) == first
        assert curves(first.records, "val/loss") == drawn
    write_run(runs_dir / "new", [1.0], days=9)
    with (runs_dir / "a" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "lr": 0.1, "val/loss": 0.25}\n')
    write_json(runs_dir / "c" / "summary.json", {"state": "finished"})
    records = {record.run_id: record for record in read_runs(runs_dir).records}
    assert len(records) == 8
    assert records["c"].state == "finished"
    assert curves([records["a"], records["new"]], "val/loss") == [[*drawn[-1], (4, 0.25)], [(1, 1.0)]]


def test_a_log_that_has_gone_back_or_changed_in_place_is_read_anew(tmp_path):
    path = write_run(tmp_path / "a", [3.0, 2.0, 1.0]) / "metrics.jsonl"
    assert run_index.read_curves([path.parent], "val/loss") == [[(1, 3.0), (2, 2.0), (3, 1.0)]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_of([5.0, 4.0])))
    assert run_index.read_curves([path.parent], "val/loss") == [[(1, 5.0), (2, 4.0)]]
    path.write_text(path.read_text().replace("4.0", "6.0"))
    os.utime(path, ns=(0, 0))
    assert run_index.read_curves([path.parent], "val/loss") == [[(1, 5.0), (2, 6.0)]]


def test_a_log_of_many_rows_takes_little_time_and_memory_and_is_read_once(tmp_path, monkeypatch):
    write_run(tmp_path / "a", [1.0], state=None)
    lines = [f'{{"epoch": {epoch}, "lr": 0.1, "val/loss": {1 + epoch % 977 / 977}}}\n' for epoch in range(2, 50_000)]
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
        file.writelines([*lines, '{"epoch": 50000, "lr": 0.1, "val/loss": 0.5}\n', *lines])
    records = read_runs(tmp_path).records
    tracemalloc.start()
    [curve] = curves(records, "val/loss")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6  # its rows as dicts take 40 MB
    assert len(curve) < 11_000
    assert ((50_000, 0.5) in curve, curve[-1][0]) == (True, 49_999)
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 50001, "lr": 0.1, "val/loss": 0.25}\n')
    read = []
    parse = run_folder.parse_rows
    monkeypatch.setattr(run_folder, "parse_rows", lambda lines: read.extend(lines) or parse(lines))
    assert curves(records, "val/loss")[0][-1] == (50_001, 0.25)
    assert len(read) == 1
    assert names_of_metrics(records) == [{"epoch", "lr", "val/loss", "val/accuracy", *rows_of([1.0])[0]}]


def test_runs_that_are_gone_leave_the_index(runs_dir, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write_run(other / "kept", [1.0])
    read_runs(other)
    curves(read_runs(runs_dir).records, "val/loss")
    for name in ("a", "b"):
        (runs_dir / name).rename(tmp_path_factory.mktemp("gone") / name)
    assert len(read_runs(runs_dir).records) == 5
    with closing(run_index.connect(run_index.cache_dir() / run_index.INDEX)) as index:
        names = {os.path.basename(path) for (path,) in index.execute("SELECT path FROM runs")}
    assert names == {b"000-run", b"001-run", b"002-run", b"final-000-run-seed1", b"c", b"kept"}


def test_a_broken_index_is_made_anew_and_one_that_cannot_be_is_done_without(runs_dir, monkeypatch, tmp_path):
    first = read_runs(runs_dir)
    path = run_index.cache_dir() / run_index.INDEX
    path.write_bytes(b"SQLite format 3\x00" + b"\xab" * 5000)
    assert read_runs(runs_dir) == first
    assert read_runs(runs_dir) == first
    with monkeypatch.context() as patch:
        forbid_reading(patch)
        assert read_runs(runs_dir) == first
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert read_runs(runs_dir) == first


@pytest.mark.parametrize("is_open", [False, True])
def test_an_index_that_is_locked_for_too_long_is_done_without(is_open, runs_dir, monkeypatch):
    first, connect = read_runs(runs_dir), run_index.connect
    monkeypatch.setattr(run_index, "SECONDS_TO_WAIT", 0.05)
    with closing(sqlite3.connect(run_index.cache_dir() / run_index.INDEX)) as other:

        def connect_and_lock(path):
            connection = connect(path)
            other.execute("BEGIN EXCLUSIVE")
            return connection

        if is_open:
            monkeypatch.setattr(run_index, "connect", connect_and_lock)
        else:
            other.execute("BEGIN EXCLUSIVE")
        assert read_runs(runs_dir) == first
        assert other.in_transaction


def test_several_readers_of_a_fresh_index_and_a_writer_do_not_disturb_each_other(tmp_path):
    write_many(tmp_path / "runs", 60, num_epochs=3)

    def read(_):
        records = read_runs(tmp_path / "runs").records
        return len(records), [len(curve) for curve in curves(records, "val/loss")][-60:]

    with ThreadPoolExecutor() as pool:
        writing = pool.submit(write_many, tmp_path / "runs" / "more", 40, 3)
        found = list(pool.map(read, range(6)))
        writing.result()
    assert all(60 <= num <= 100 for num, _ in found)
    assert read(None) == (100, [3] * 60)


@pytest.mark.slow
def test_hundreds_of_runs_are_listed_and_filtered_in_a_fraction_of_a_second(tmp_path, record_property):
    write_many(tmp_path, 400, num_epochs=100)
    seconds = {}
    for name in ("cold", "warm"):
        start = time.process_time()
        records = read_runs(tmp_path).records
        some = Filter(model="c*", state="finished").apply(records)
        seconds[name] = time.process_time() - start
    record_property("seconds", seconds)
    written = [json.loads((path / "settings.json").read_text())["model"] for path in tmp_path.rglob("*-run")]
    assert len(records) == len(written) == 400
    assert len(Filter(model="cnn").apply(records)) == written.count("cnn")
    assert {(record.model, record.state) for record in some} == {("cnn", "finished")}
    assert seconds["cold"] < 0.8  # 10 s for 5,000
    assert seconds["warm"] < 0.4
