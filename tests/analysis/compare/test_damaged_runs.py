"""Whatever stands in the files of a run, it is listed, reported and drawn, or left out: never a traceback."""

import json
import os
import re
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from analysis.beta import main as draw_beta
from analysis.compare.beta_figure import runs_by_beta
from analysis.report import main as report
from analysis.runs import main as runs
from data.files import read_json
from tests.run_folders import write_run

NAN, INF = float("nan"), float("inf")
VALUES = {
    "null": None,
    "nan": NAN,
    "infinite": INF,
    "minus-infinite": -INF,
    "huge": 10**400,
    "large": 1e308,
    "negative": -(10**30),
    "true": True,
    "text": "some text",
    "empty": "",
    "surrogate": "\ud800\x1b[2J",
    "list": [1, [2]],
    "object": {"a": {"b": NAN}},
    "long": "x" * 3_000_000,
}
KEYS = {
    "settings.json": ("lr", "seed", "tags", "epochs", "val_fraction", "model", "dataset", "beta", "setting_3", "new"),
    "summary.json": (
        "state",
        "val/loss",
        "val/accuracy",
        "epochs",
        "best_epoch",
        "train_seconds",
        "error",
        "test/loss",
    ),
    "environment.json": ("started", "commit", "changes", "data", "packages", "device", "wandb", "num_processes"),
    "metrics.jsonl": ("epoch", "val/loss", "lr", "epoch_seconds", "train/classify/loss", "new"),
}
CONTENTS = {
    "empty": b"",
    "null": b"null",
    "list": b"[]",
    "number": b"1" * 5000,
    "deep": b"[" * 100_000,
    "deep-object": b'{"a":' * 100_000,
    "bytes": b"\xff\xfe\x00",
    "cut": b'{"model": "cnn", "dataset": "dig',
    "latin": '{"model": "é"}'.encode("latin-1"),
    "marked": b'\xef\xbb\xbf{"model": "cnn"}',
}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A runs folder with one sweep for each of KEYS' files, in which a run has one odd value or file."""
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path))
    for name, keys in KEYS.items():
        for i in range(len(keys)):
            folder = tmp_path / "sweeps" / name.partition(".")[0] / f"{name[:1]}{i}"
            write_run(folder, [2.0, 1.0 + i / 9], lr=10.0**-i, width=i % 3)
    return tmp_path


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def read_data(path):
    text = re.search(r'<script id="data"[^>]*>(.*?)</script>', path.read_text("utf-8"), re.DOTALL)[1]
    return json.loads(text, parse_constant=refuse)


def all_runs_are_told(place, capsys, num_runs):
    """List and report the runs; all of them are there, and nothing is printed that a terminal obeys."""
    out = place / "out.html"
    for main, words in (
        (runs, ["--sort=best", "--limit=99"]),
        (runs, ["--sweep=s*", "--metric=val/accuracy"]),
        (runs, ["--sweeps"]),
        (report, ["--out", str(out)]),
    ):
        assert main(words) == 0, words
        done = capsys.readouterr()
        assert all(letter.isprintable() or letter == "\n" for letter in done.out), words
    assert len(read_data(out)["runs"]) == num_runs


@pytest.mark.slow
@pytest.mark.parametrize("value", VALUES)
def test_a_value_of_any_kind_in_any_file_is_no_traceback(place, capsys, value):
    num_runs = 0
    for name, keys in KEYS.items():
        for i, key in enumerate(keys):
            path = place / "sweeps" / name.partition(".")[0] / f"{name[:1]}{i}" / name
            rows = [json.loads(line) for line in path.read_text().splitlines()] if name == "metrics.jsonl" else []
            changed = [{**row, key: VALUES[value]} for row in rows or [read_json(path)]]
            path.write_text("".join(json.dumps(row) + "\n" for row in changed))
            num_runs += key not in ("model", "dataset") or isinstance(VALUES[value], str)
    all_runs_are_told(place, capsys, num_runs)


@pytest.mark.parametrize("content", CONTENTS)
def test_a_file_with_any_content_is_no_traceback(place, capsys, content):
    for name in KEYS:
        (place / "sweeps" / name.partition(".")[0] / f"{name[:1]}1" / name).write_bytes(CONTENTS[content])
    all_runs_are_told(place, capsys, sum(map(len, KEYS.values())) - 1)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_file_where_a_file_should_be_is_no_traceback_and_no_hang(place, capsys, make):
    for name in KEYS:
        path = place / "sweeps" / name.partition(".")[0] / f"{name[:1]}1" / name
        path.unlink()
        make(path)
    all_runs_are_told(place, capsys, sum(map(len, KEYS.values())) - 1)


def test_pictures_of_any_content_and_size_cost_themselves_alone(place, capsys):
    panels = place / "sweeps" / "settings" / "s0" / "panels"
    panels.mkdir()
    Image.new("RGB", (8, 8)).save(panels / "good.png")
    whole = (panels / "good.png").read_bytes()
    size = struct.pack(">II", 30_000, 30_000)
    head = whole[12:16] + size + whole[24:29]
    (panels / "vast.png").write_bytes(whole[:12] + head + struct.pack(">I", zlib.crc32(head)) + whole[33:])
    for i, content in enumerate((b"", b"GIF89a", whole[:40], whole[:20] + b"\xff" * 99, b"\x00" * 999)):
        (panels / f"odd{i}.png").write_bytes(content)
    assert report(["--out", str(place / "out.html")]) == 0
    assert set(read_data(place / "out.html")["pictures"]) == {"good"}
    write_run(place / "sweeps" / "beta" / "000", [1.0], beta=1.0)
    panels.rename(place / "sweeps" / "beta" / "000" / "panels")
    for path in (place / "sweeps" / "beta" / "000" / "panels").glob("*.png"):
        path.rename(
            path.with_stem({"odd0": "samples", "good": "tsne", "vast": "reconstructions"}.get(path.stem, path.stem))
        )
    assert draw_beta(["beta"]) == 0
    assert capsys.readouterr().err == ""


def test_ten_runs_of_equal_values_have_no_importance_and_a_remark(place):
    for i in range(10):
        write_run(place / "equal" / f"{i}", [1.0], lr=10.0**-i, width=i % 3, model="mlp")
    assert report(["--model=mlp", "--out", str(place / "out.html")]) == 0
    assert "the same val/accuracy" in read_data(place / "out.html")["importance"]["remark"]


def test_a_beta_that_is_no_number_is_left_out(place):
    for i, beta in enumerate((0.1, "odd", None, 1.0, [2], float("nan"))):
        write_run(place / "sweeps" / "beta" / f"{i:03d}", [1.0], beta=beta)
    assert list(runs_by_beta(place / "sweeps" / "beta")) == [0.1, 1.0]
