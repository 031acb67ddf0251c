import json

import pytest
from PIL import Image

from analysis.beta import main
from analysis.compare.beta_figure import result_text, runs_by_beta
from analysis.read.pictures import newest_pictures
from analysis.read.runs import read_runs
from analysis.record import run_folder
from data.files import write_json


def make_run(folder, value, *, loss=1.0, state="finished", colour="red"):
    (folder / "panels").mkdir(parents=True)
    settings = {"model": "vae", "dataset": "digits"} | ({} if value is None else {"beta": value})
    write_json(folder / run_folder.SETTINGS, settings)
    summary = {"state": state, "val/loss": loss, "test/latent/kmeans_accuracy": 0.2464, "test/nmi": 0.1, "epochs": 2}
    write_json(folder / run_folder.SUMMARY, summary)
    rows = [
        {"epoch": epoch, "lr": 1e-3, "train/autoencode/kl": 5 * epoch, "val/kl": 6 * epoch, "val/reconstruction": 90}
        for epoch in (1, 2)
    ]
    (folder / run_folder.METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("samples-0001", "samples-0002", "tsne"):
        Image.new("RGB", (80, 60), colour if name == "samples-0002" else "white").save(
            folder / "panels" / f"{name}.png"
        )
    return folder


def test_a_beta_has_a_column_each_lowest_first(tmp_path):
    make_run(tmp_path / "000-a", 10.0)
    make_run(tmp_path / "001-b", 0.1)
    assert list(runs_by_beta(tmp_path)) == [0.1, 10.0]


def test_of_several_finished_runs_of_a_beta_the_best_is_taken(tmp_path):
    make_run(tmp_path / "a", 1.0, loss=3)
    best = make_run(tmp_path / "b", 1.0, loss=2)
    make_run(tmp_path / "c", 1.0, loss=1, state="failed")
    make_run(tmp_path / "d", None, loss=0)
    assert {value: record.source for value, record in runs_by_beta(tmp_path).items()} == {1.0: str(best)}


def test_the_latest_panel_is_shown(tmp_path):
    run = make_run(tmp_path / "a", 1.0)
    newest = newest_pictures(read_runs(tmp_path).records[0])
    assert newest["samples"].path == run / "panels" / "samples-0002.png"
    assert newest["tsne"].path == run / "panels" / "tsne.png"
    assert "reconstructions" not in newest


def test_accuracies_are_shares_and_only_figures_of_a_split_are_shown():
    text = result_text({"val/loss": 12.3456, "test/kmeans_accuracy": 0.2464, "epochs": 3, "state": "finished"})
    assert text.splitlines() == ["val/loss 12.35", "test/kmeans_accuracy 24.64 %"]


@pytest.mark.slow
def test_a_sweep_is_drawn_by_its_name_with_every_columns_own_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path))
    sweep = tmp_path / "sweeps" / "vae_beta_cifar10"
    colours = {0.1: (255, 0, 0), 1.0: (0, 255, 0), 10.0: (0, 0, 255)}
    for value, colour in colours.items():
        make_run(sweep / f"run{value}", value, colour=colour)
    assert main(["vae_beta_cifar10"]) == 0
    assert capsys.readouterr().out.strip() == str(sweep / "beta.png")
    with Image.open(sweep / "beta.png") as image:
        pixels = image.convert("RGB")
    third = pixels.width // 3
    for column, colour in enumerate(colours.values()):
        part = pixels.crop((column * third, 0, (column + 1) * third, pixels.height))
        shares = {other: sum(n for n, c in part.getcolors(10**6) if c == other) for other in colours.values()}
        assert shares[colour] > 1000
        assert sum(shares.values()) == shares[colour]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [(["nothing"], "beta: nothing is no sweep with runs"), (["{}"], "has no finished run with a beta")],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys, arguments, line):
    make_run(tmp_path / "a", None)
    assert main([argument.format(tmp_path) for argument in arguments]) == 2
    message = capsys.readouterr().err
    assert line in message
    assert message.count("\n") == 1
