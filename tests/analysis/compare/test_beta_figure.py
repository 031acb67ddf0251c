import json

import pytest
from PIL import Image

from analysis.compare import beta_figure as beta
from analysis.compare.beta_figure import figures_of, latest_picture, runs_by_beta
from analysis.record import run_folder


def make_run(folder, value, *, loss=1.0, state="finished", colour="red"):
    (folder / "panels").mkdir(parents=True)
    settings = {"model": "vae"} | ({} if value is None else {"beta": value})
    run_folder.write_json(folder / run_folder.SETTINGS, settings)
    summary = {"state": state, "val/loss": loss, "test/latent/kmeans_accuracy": 0.2464, "test/nmi": 0.1, "epochs": 2}
    run_folder.write_json(folder / run_folder.SUMMARY, summary)
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
    assert runs_by_beta(tmp_path) == {1.0: best}


def test_the_latest_panel_is_shown(tmp_path):
    run = make_run(tmp_path / "a", 1.0)
    assert latest_picture(run, "samples") == run / "panels" / "samples-0002.png"
    assert latest_picture(run, "tsne") == run / "panels" / "tsne.png"
    assert latest_picture(run, "reconstructions") is None


def test_accuracies_are_shares_and_only_figures_of_a_split_are_shown():
    text = figures_of({"val/loss": 12.3456, "test/kmeans_accuracy": 0.2464, "epochs": 3, "state": "finished"})
    assert text.splitlines() == ["val/loss 12.35", "test/kmeans_accuracy 24.64%"]


def test_a_sweep_is_drawn_by_its_name_with_every_columns_own_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path))
    sweep = tmp_path / "sweeps" / "vae_beta_cifar10"
    colours = {0.1: (255, 0, 0), 1.0: (0, 255, 0), 10.0: (0, 0, 255)}
    for value, colour in colours.items():
        make_run(sweep / f"run{value}", value, colour=colour)
    assert beta.main(["vae_beta_cifar10"]) == 0
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
    assert beta.main([argument.format(tmp_path) for argument in arguments]) == 2
    message = capsys.readouterr().err
    assert line in message
    assert message.count("\n") == 1
