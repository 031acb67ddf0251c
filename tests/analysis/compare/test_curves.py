import json
import math

from analysis.compare.curves import MOST_POINTS, curves_of
from analysis.read.runs import read_runs
from analysis.record import run_folder
from tests.run_folders import write_run


def test_curves_are_the_epochs_alone_with_gaps_where_a_value_is_not_finite(tmp_path):
    folder = write_run(tmp_path / "a", [1.0, math.nan, 0.5])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "val/ece": 0.1}\n')
    curves = curves_of(read_runs(tmp_path).records[0])
    assert curves["epoch"] == [1, 2, 3]
    assert curves["seconds"] == [0.5, 1.0, 1.5]
    assert curves["val/loss"] == [1.0, None, 0.5]
    assert "val/ece" not in curves


def test_long_curves_are_thinned_out_and_keep_their_end(tmp_path):
    num_epochs = 2 * MOST_POINTS + 1
    write_run(tmp_path / "a", [1.0] * num_epochs)
    epochs = curves_of(read_runs(tmp_path).records[0])["epoch"]
    assert len(epochs) <= MOST_POINTS
    assert epochs[-1] == num_epochs
    assert 9 not in epochs
    assert 9 in curves_of(read_runs(tmp_path).records[0], best_epoch=9)["epoch"]


def test_long_curves_keep_what_is_measured_now_and_then(tmp_path):
    folder = write_run(tmp_path / "gan", [1.0] * (MOST_POINTS + 100))
    rows = [row | ({"val/fid": 1.0} if row["epoch"] % 10 == 0 else {}) for row in run_folder.read_metrics(folder)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    curves = curves_of(read_runs(tmp_path).records[0])
    assert len(curves["epoch"]) <= MOST_POINTS
    assert len(curves["val/fid"]) - curves["val/fid"].count(None) == len(rows) // 10
