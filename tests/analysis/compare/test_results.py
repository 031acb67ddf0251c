"""The results table: what results.json and RESULTS.md say, and how results get there."""

import json
import os
import statistics
from dataclasses import replace

import pytest

from analysis.compare import results
from analysis.compare.references import recipes, references
from analysis.compare.results_table import read_results, render
from analysis.read.figures import plus_minus
from analysis.read.sweeps import read_sweeps
from analysis.read.trials import Trial
from analysis.results import main
from data.errors import UserError
from data.files import read_json, write_json
from tests.run_folders import write_run


@pytest.fixture
def place(tmp_path, monkeypatch):
    """No known results, and a runs folder with a sweep's result."""
    monkeypatch.setattr(results, "PAGE", tmp_path / "RESULTS.md")
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results.json")
    (tmp_path / "results.json").write_text("[]")
    write_sweep(tmp_path, "heads", {"model": "nano_vit", "num_heads": 3, "lr": 0.01, "epochs": 7})
    return tmp_path


def write_sweep(place, name, settings, **changes):
    folder = place / "runs" / "sweeps" / name
    folder.mkdir(parents=True)
    (folder / "sweep.yaml").write_text("metric: {name: val/loss}\nparameters: {lr: {min: 0.1, max: 1.0}}\n")
    trial = {
        "settings": {**settings, "test": True, "seed": 1},
        "command": f"python train.py --model={settings['model']} --seed=1",
        "seeds": [1, 2, 3],
        "num_parameters": 1234567,
        "device": "a GPU",
        "test/accuracy": {"mean": 0.71234, "std": 0.0123, "values": [0.7]},
        "test/loss": {"mean": 0.9, "std": 0.02, "values": [0.9]},
        "train_seconds": {"mean": 61.0, "std": 1.0, "values": [61.0]},
        "images_per_second": {"mean": 23456.7, "std": 1.0, "values": [1.0]},
        **changes,
    }
    write_json(folder / "final.json", {"trials": [trial, {"test/accuracy": "another, better by test"}]})


def update(place, *names):
    return main(["--update", *names, "--runs_dir", str(place / "runs")])


def rows_of(place):
    lines = (place / "RESULTS.md").read_text().splitlines()
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    return [dict(zip(table[0], row, strict=True)) for row in table[2:]]


def test_the_page_shows_the_committed_results(capsys):
    assert main(["--check"]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out == "RESULTS.md shows what results.json says\n"


def test_a_page_that_disagrees_fails_the_check(place, capsys):
    assert main(["--check"]) == 1
    assert "python -m analysis.results --update" in capsys.readouterr().err
    assert update(place) == 0
    assert main(["--check"]) == 0
    path = place / "RESULTS.md"
    path.write_text(path.read_text().replace("71.23", "72.23"))
    assert main(["--check"]) == 1


def test_a_sweeps_result_stands_in_the_row_it_belongs_to(place):
    assert update(place) == 0
    text = (place / "RESULTS.md").read_text()
    assert text.startswith("# Results\n")
    assert text.endswith("`\n")
    [row] = [row for row in rows_of(place) if row["network"] == "nanoViT, 3 heads"]
    obtained = {"obtained": "71.23 ± 1.23 %", "test loss": "0.9000 ± 0.0200", "seeds": "3", "training": "1m01s"}
    obtained |= {
        "images/s": "23,457",
        "on": "a GPU",
        "learning rate": "1.00e-2",
        "epochs": "7",
        "parameters": "1,234,567",
    }
    assert row == {**row, **obtained, "the notebook": "69.17 %"}
    assert "for seed in 1 2 3; do python train.py --model=nano_vit --seed=$seed; done" in text


def test_rows_without_a_run_show_the_notebook_and_public_figures_alone(place):
    update(place)
    rows = {row["network"]: row for row in rows_of(place)}
    assert rows.keys() == {reference.title for reference in references()}
    row = rows["nanoViT"]
    assert (row["obtained"], row["seeds"], row["the notebook"]) == ("not run", "", "73.24 % in 19m55s")
    assert (
        "- nanoViT, not run:<br>`python train.py --model=nano_vit --dataset=cifar10 --val_fraction=0 --test=True"
        in (place / "RESULTS.md").read_text(encoding="utf-8")
    )
    assert "[91.45 %](https://github.com/SHI-Labs/Compact-Transformers) CCT-4/3x2" in row["public figures"]


def test_runs_that_differ_in_their_seed_alone_are_one_row_with_mean_and_deviation(place):
    figures = {"one": (1, 0.5), "two": (2, 0.6), "three": (5, 0.8)}
    for name, (seed, accuracy) in figures.items():
        settings = {"model": "mlp", "dataset": "cifar10", "epochs": 2, "seed": seed, "test": True, "tracking": "off"}
        settings |= {"cutout": 0} if seed == 5 else {}  # the others are older than this setting
        folder = write_run(place / "runs" / name, [1.0, 0.9], **{f"setting_{i}": None for i in range(40)}, **settings)
        summary = read_json(folder / "summary.json") | {"test/accuracy": accuracy, "num_parameters": 9}
        write_json(folder / "summary.json", {**summary, "images_per_second": 100.0 * seed})
    assert update(place, *figures) == 0
    [result] = [result for result in read_results(place / "results.json") if result.model == "mlp"]
    values = [accuracy for _, accuracy in figures.values()]
    mean, std = statistics.mean(values), statistics.stdev(values)
    assert result.metrics["test/accuracy"] == {
        "mean": pytest.approx(mean, abs=1e-5),
        "std": pytest.approx(std, abs=1e-5),
    }
    assert (result.num_seeds, result.epochs, result.images_per_second) == (3, 2, pytest.approx(800 / 3))
    assert "for seed in 1 2 5; do python train.py --model=mlp" in result.command


def test_what_differs_between_the_seeds_of_a_row_is_told(place):
    write_seeds(place, one=1, two=2, three=3)
    for name, epochs in (("one", 11), ("two", 13)):
        summary = place / "runs" / name / "summary.json"
        write_json(summary, {**read_json(summary), "epochs": epochs})
    environment = place / "runs" / "two" / "environment.json"
    write_json(environment, {**read_json(environment), "device": "another device"})
    assert update(place, "one", "two", "three") == 0
    [result] = [result for result in read_results(place / "results.json") if result.model == "mlp"]
    assert (result.epochs, result.note) == (13, "epochs of its seeds: 11, 13, 1")
    assert result.device == "a device; another device"


def write_seeds(place, **seeds):
    for name, seed in seeds.items():
        settings = {"model": "mlp", "dataset": "cifar10", "epochs": 2, "seed": seed, "test": True}
        folder = write_run(place / "runs" / name, [1.0], **{f"setting_{i}": None for i in range(40)}, **settings)
        summary = read_json(folder / "summary.json") | {"test/accuracy": 0.5, "num_parameters": 9}
        write_json(folder / "summary.json", {**summary, "images_per_second": 1.0})


def test_a_run_that_is_named_twice_counts_once_and_two_of_one_seed_are_refused(place, capsys):
    write_seeds(place, one=1, two=2, again=2)
    assert update(place, "one", "two", "two", "one") == 0
    [result] = [result for result in read_results(place / "results.json") if result.model == "mlp"]
    assert result.num_seeds == 2
    assert update(place, "one", "two", "again") == 2
    assert "one, two, again: runs of one recipe, of which some have the same seed" in capsys.readouterr().err


def test_a_name_of_two_runs_is_refused(place, capsys):
    write_seeds(place, **{"one": 1, "old/one": 2})
    assert update(place, "one") == 2
    error = capsys.readouterr().err
    assert "one is the name of 2 runs" in error
    assert f"{place / 'runs' / 'old' / 'one'} and {place / 'runs' / 'one'}: rename one" in error


def test_a_figure_that_some_seeds_lack_is_none_of_all(place):
    write_seeds(place, one=1, two=2)
    write_json(place / "runs" / "one" / "generation.json", {"test/fid_inception_500": 70.0})
    assert update(place, "one", "two") == 0
    [result] = [result for result in read_results(place / "results.json") if result.model == "mlp"]
    assert (result.num_seeds, set(result.metrics)) == (2, {"test/accuracy"})


def test_runs_on_other_images_are_no_seeds_of_one_result(place, capsys):
    write_seeds(place, one=1, two=2, **{"mine-seed1": 1, "mine-seed2": 2})
    for name, images in {"one": "a", "two": "b", "mine-seed1": "a", "mine-seed2": "b"}.items():
        write_json(place / "runs" / name / "environment.json", {"data": images})
    assert update(place, "one", "two") == 0
    known = {result.name: result.num_seeds for result in read_results(place / "results.json")}
    assert (known["one"], known["two"]) == (1, 1)
    assert update(place, "mine-seed1", "mine-seed2") == 2
    assert "several results would be called mine" in capsys.readouterr().err


def test_a_run_on_images_without_a_test_split_has_the_figures_of_those_held_out(place):
    (place / "faces").mkdir()
    settings = {"model": "dc_gan", "dataset": "faces", "data_dir": str(place), "seed": 1, "test": False}
    folder = write_run(place / "runs" / "gan", [1.0], **{f"setting_{i}": None for i in range(40)}, **settings)
    summary = read_json(folder / "summary.json")
    write_json(folder / "summary.json", {**summary, "num_parameters": 9, "images_per_second": 1.0})
    write_json(folder / "generation.json", {"val/fid_inception_500": 70.0, "val/fid_inception_2000": 50.0})
    assert update(place, "gan") == 0
    [row] = [row for row in rows_of(place) if row["network"].startswith("DC-GAN on faces, FID")]
    assert row["obtained"] == "50.00 of 2,000"
    settings["dataset"] = "cifar10"
    write_run(place / "runs" / "other", [1.0], **settings)
    assert update(place, "other") == 2


def test_results_of_other_machines_stay_and_those_of_the_same_name_are_replaced(place):
    update(place)
    write_sweep(place, "later", {"model": "cnn", "lr": 0.5, "epochs": 3})
    path = place / "runs" / "sweeps" / "heads" / "final.json"
    path.unlink()
    update(place)
    assert [result.name for result in read_results(place / "results.json")] == ["heads", "later"]
    content = json.loads((place / "runs" / "sweeps" / "later" / "final.json").read_text())
    content["trials"][0]["test/accuracy"] = {"mean": 0.4, "std": None, "values": [0.4]}
    write_json(place / "runs" / "sweeps" / "later" / "final.json", content)
    update(place)
    assert [row["obtained"] for row in rows_of(place) if row["seeds"]] == ["40.00 %", "71.23 ± 1.23 %"]


@pytest.mark.parametrize(
    ("trial", "noted", "is_taken"),
    [
        ("000-best", {}, True),
        ("000-best", {"picked": None, "from_width": None}, True),
        ("001-worse", {}, False),  # it was the best until others came
        ("000-best", {"picked": "0"}, False),
        ("000-best-width512", {"from_width": 64}, False),
    ],
)
def test_final_runs_of_another_trial_than_the_best_are_taken_only_where_they_are_named(
    place, capsys, trial, noted, is_taken
):
    path = place / "runs" / "sweeps" / "heads" / "final.json"
    content = read_json(path)
    content["trials"][0]["trial"] = trial
    write_json(path, {**content, **noted})
    [sweep] = read_sweeps(place / "runs").sweeps
    names = enumerate(("001-worse", "000-best"))
    trials = [Trial(i, name, "COMPLETE", 0.2 - 0.1 * i, 3, {}, None, None) for i, name in names]
    found = results.results_of_table([replace(sweep, trials=tuple(trials))])
    assert [result.name for result in found] == (["heads"] if is_taken else [])
    line = f"final.json is of {trial}, not of the sweep's best trial: python sweeps/final.py heads trains that one"
    assert (line in capsys.readouterr().err) != is_taken
    assert update(place, "heads") == 0
    assert [result.name for result in read_results(place / "results.json")] == ["heads"]


def test_a_remark_stays_as_long_as_the_figures_do(place):
    results.update(place / "runs", ["heads"], {"heads": "a remark"})
    write_sweep(place, "later", {"model": "cnn", "lr": 0.5, "epochs": 3})
    update(place, "later")
    assert {it.name: it.note for it in read_results(place / "results.json")} == {"heads": "a remark", "later": ""}
    results.update(place / "runs", ["heads"], {"heads": "another"})
    assert {it.name: it.note for it in read_results(place / "results.json")} == {"heads": "another", "later": ""}
    path = place / "runs" / "sweeps" / "heads" / "final.json"
    path.write_text(path.read_text().replace("0.71234", "0.8"))
    update(place)
    assert [it.note for it in read_results(place / "results.json")] == ["", ""]


def test_a_sweep_of_no_row_is_in_the_table_where_it_is_named(place):
    write_sweep(place, "quick", {"model": "cnn", "dataset": "digits", "lr": 0.5, "epochs": 3})
    update(place)
    assert "digits" not in (place / "results.json").read_text()
    update(place, "quick")
    assert rows_of(place)[-1]["network"] == "cnn on digits"


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["nosuch"], "nosuch is no sweep and no finished run with --test=True"),
        (["unread"], "unread is no sweep and no finished run with --test=True"),
        (["begun"], "final.json has no finished final run: python sweeps/final.py begun makes them"),
    ],
)
def test_what_has_no_test_figures_is_refused_and_nothing_is_written(place, capsys, names, line):
    write_run(place / "runs" / "unread", [1.0], test=False)
    write_sweep(place, "begun", {"model": "cnn", "dataset": "digits"})
    assert update(place) == 0
    before = [(place / name).read_text() for name in ("RESULTS.md", "results.json")]
    assert update(place, *names) == 2
    assert line in capsys.readouterr().err
    assert [(place / name).read_text() for name in ("RESULTS.md", "results.json")] == before


def test_every_public_figure_has_its_source():
    figures = [public for reference in references() for public in reference.public]
    assert figures
    assert all(public.figure and public.source.startswith("https://") for public in figures)


def test_figures_are_told_in_their_own_units():
    assert plus_minus({"mean": 0.5, "std": 0.01}, "test/accuracy") == "50.00 ± 1.00 %"
    assert plus_minus({"mean": 0.5, "std": None}, "test/loss") == "0.5000"


def test_a_row_is_rendered_without_any_result():
    assert render([]).count("\n| ") == 2 + len(references())  # the headings, and the line below them


@pytest.mark.parametrize("key", ["metrics", "settings", "num_seeds", "epochs", "train_seconds", "device", "command"])
@pytest.mark.parametrize("value", [True, [1], "\ud800", {"a": 1}])
def test_a_result_of_another_type_is_refused_in_one_line_or_shown(tmp_path, key, value):
    entries = json.loads((results.RESULTS).read_text())[:1]
    (tmp_path / "results.json").write_text(json.dumps([{**entries[0], key: value}]))
    try:
        text = render(read_results(tmp_path / "results.json"))
    except UserError as error:
        text = str(error)
    assert text.encode()
    assert text.startswith("# Results") or ("results.json is damaged" in text and "\n" not in text)


@pytest.mark.parametrize("content", ["", "[", "- 1", "- {nmae: 1}", "- {title: x, model: {}}", "3", "a: &a [*a]"])
def test_rows_that_are_none_are_refused_in_one_line(tmp_path, monkeypatch, content):
    references.cache_clear()
    monkeypatch.setattr("analysis.compare.references.FILE", tmp_path / "references.yaml")
    (tmp_path / "references.yaml").write_text(content)
    with pytest.raises(UserError, match="references.yaml"):
        references()
    references.cache_clear()


def test_a_pipe_in_place_of_the_results_is_told(tmp_path):
    os.mkfifo(tmp_path / "results.json")
    with pytest.raises(UserError, match="results.json is no file"):
        read_results(tmp_path / "results.json")


def test_runs_of_a_study_are_one_result_under_the_name_of_their_row(place):
    for seed in (1, 2):
        settings = {**recipes()["mlp.yaml"], "dataset": "cifar10", "seed": seed, "test": True, "val_fraction": 0.0}
        folder = write_run(
            place / "runs" / f"mine-seed{seed}", [1.0], **{f"setting_{i}": None for i in range(40)}, **settings
        )
        summary = read_json(folder / "summary.json") | {"test/accuracy": 0.5, "num_parameters": 9}
        write_json(folder / "summary.json", {**summary, "images_per_second": 1.0})
    results.update(place / "runs", ["mine-seed1", "mine-seed2"], {"mine": "a remark"})
    [result] = [result for result in read_results(place / "results.json") if result.name == "mine"]
    assert (result.num_seeds, result.note) == (2, "a remark")
    assert "python train.py --config=sweeps/best/mlp.yaml --seed=$seed --test=True" in result.command


def test_a_result_of_a_recipe_is_called_by_its_file(place):
    recipe = dict(recipes()["mlp.yaml"])
    write_sweep(place, "recipe", {**recipe, "val_fraction": 0.0, "channels_last": "on", "compile": True})
    write_sweep(place, "other", {**recipe, "width": 510})
    assert update(place) == 0
    titles = [row["network"] for row in rows_of(place) if row["network"].startswith("MLP")]
    assert "MLP, [recipe](../sweeps/best/mlp.yaml)" in titles
    assert [title for title in titles if "width=510" in title]
