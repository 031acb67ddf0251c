import json

import pytest
from PIL import Image

from analysis.beta import main
from analysis.compare.beta_figure import UNBROKEN, draw, result_text, runs_by_beta
from analysis.read.pictures import newest_pictures
from analysis.read.runs import read_runs
from analysis.record import run_folder
from data.files import write_json


def make_run(folder, value, *, loss=1.0, state="finished", colour="red", bits=None, **others):
    (folder / "panels").mkdir(parents=True)
    settings = {"model": "vae", "dataset": "digits"} | ({} if value is None else {"beta": value}) | others
    write_json(folder / run_folder.SETTINGS, settings)
    summary = {"state": state, "val/loss": loss, "test/latent/kmeans_accuracy": 0.2464, "test/nmi": 0.1, "epochs": 2}
    summary |= {} if bits is None else {"val/bits_per_dimension": bits}
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
    assert {value: column.record.source for value, column in runs_by_beta(tmp_path).items()} == {1.0: str(best)}


def test_final_runs_which_train_on_more_images_are_left_out_where_there_are_others(tmp_path):
    sweep = tmp_path / "sweeps" / "s"
    make_run(sweep / "final-000-a-seed1", 1.0, loss=1)
    assert runs_by_beta(sweep)[1.0].record.run_id == "final-000-a-seed1"
    make_run(sweep / "000-a", 1.0, loss=2)
    assert runs_by_beta(sweep)[1.0].record.run_id == "000-a"


@pytest.mark.parametrize(
    ("metric", "goal", "chosen"),
    [("bits_per_dimension", "minimize", "b"), ("bits_per_dimension", "maximize", "c"), ("fid", "minimize", "a")],
)
def test_the_run_of_a_beta_is_the_best_by_its_sweeps_metric_or_where_none_has_it_by_the_loss(
    tmp_path, metric, goal, chosen
):
    sweep = tmp_path / "sweeps" / "s"
    for name, loss, bits in (("a", 1, 8), ("b", 2, 7), ("c", 3, 9)):
        make_run(sweep / name, 1.0, loss=loss, bits=bits)
    told = {"metric": {"name": f"val/{metric}", "goal": goal}, "parameters": {"beta": {"value": 1}}}
    write_json(sweep / run_folder.SWEEP_FILE, told)  # which is YAML, too
    assert runs_by_beta(sweep)[1.0].record.run_id == chosen


def test_columns_are_headed_by_beta_and_run_and_the_settings_that_differ(tmp_path):
    make_run(tmp_path / "000-first", 0.1, lr=1e-3, width=8, latent_size=32)
    make_run(tmp_path / "001-second", 10.0, lr=3e-3, width=8)
    figure = draw(runs_by_beta(tmp_path))
    first, second, *others = [axis.get_title().replace(UNBROKEN, " ") for axis in figure.axes]
    assert first.splitlines() == ["beta 0.1", "000-first", "lr 0.001", "samples"]
    assert second.splitlines() == ["beta 10", "001-second", "lr 0.003", "samples"]
    assert not any("lr" in title for title in others)


def test_a_name_with_dollars_is_drawn_as_it_is(tmp_path):
    make_run(tmp_path / "$\\nothing$", 1.0)
    assert main([str(tmp_path)]) == 0


def test_reconstructions_are_called_nats_where_the_likelihood_gives_nats(tmp_path):
    for beta, likelihood in ((0.1, "squared_error"), (1.0, "gaussian"), (10.0, "bernoulli")):
        make_run(tmp_path / f"run{beta}", beta, likelihood=likelihood)
    titles = [axis.get_title() for axis in draw(runs_by_beta(tmp_path)).axes]
    assert [title for title in titles if "reconstruction" in title] == [
        "reconstruction, squared error",
        "reconstruction, nats",
        "reconstruction, nats",
    ]
    assert titles.count("KL, nats") == 3


@pytest.mark.parametrize(("rates", "said"), [((1e-3, 3e-3), "lr"), ((1e-3, 1e-3), "no other setting differs")])
def test_the_runs_and_the_settings_that_differ_are_printed(tmp_path, capsys, rates, said):
    for beta, lr in zip((0.1, 10.0), rates, strict=True):
        make_run(tmp_path / f"run{beta:g}", beta, loss=7 * beta, lr=lr)
    assert main([str(tmp_path)]) == 0
    *table, path = filter(str.strip, capsys.readouterr().out.splitlines())
    assert path == str(tmp_path / "beta.png")
    assert said in "\n".join(table)
    assert [line.split()[:3] for line in table[-2:]] == [["run0.1", "0.1", "0.7000"], ["run10", "10", "70.00"]]


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
    assert capsys.readouterr().out.splitlines()[-1] == str(sweep / "beta.png")
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
