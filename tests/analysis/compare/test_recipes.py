"""Runs that differ in seed or fold alone are one row of a comparison."""

import json
from dataclasses import replace

import pytest

from analysis.compare import recipes
from analysis.compare.comparison import compare
from analysis.compare.html_page import page_data
from analysis.compare.isolation import isolation
from analysis.compare.recipes import recipes_of
from analysis.read.runs import read_runs
from analysis.read.sweeps import read_sweeps
from analysis.record import run_folder
from data.files import read_json, write_json
from data.metrics import metric_named
from tests.run_folders import write_gans, write_run

ACCURACY = metric_named("val/accuracy")
# The luckiest run is one of the worse recipe.
VALUES = {"good": (0.966, 0.969, 0.972, 0.968, 0.970), "lucky": (0.900, 0.931, 0.985, 0.915, 0.928)}


def write_finals(folder, rate, values, trial=""):
    for seed, value in enumerate(values, 1):
        run = write_run(folder / f"final-{trial or rate}-seed{seed}", [0.5], lr=rate, seed=seed)
        write_json(
            run / run_folder.SUMMARY, {"state": "finished", "test/accuracy": value, "epochs": 1, "train_seconds": 1.0}
        )
        (run / run_folder.METRICS).write_text("")


def compare_sweep(sweep, metric, **values):
    """The comparison of a sweep's runs by a metric; its trials have these values where they are given by their ids."""
    told = {"name": "val/accuracy", "goal": "maximize"}
    write_json(sweep / "sweep.yaml", {"method": "random", "metric": told, "parameters": {"lr": {"value": 1}}})
    records = read_runs(sweep.parents[1]).records
    [found] = read_sweeps(sweep.parents[1], records).sweeps
    trials = tuple(replace(trial, value=values.get(trial.run_id, trial.value)) for trial in found.trials)
    return compare("runs", records, metric, [replace(found, trials=trials)])


@pytest.fixture
def comparison(tmp_path):
    for (name, values), rate in zip(VALUES.items(), (0.1, 0.2), strict=True):
        for seed, value in enumerate(values, 1):
            write_run(tmp_path / f"{name}{seed}", [1.0], [value], lr=rate, seed=seed)
    return compare("runs", read_runs(tmp_path).records, ACCURACY)


def test_final_runs_are_told_by_the_metric_of_their_sweep_where_it_is_no_usual_one(tmp_path):
    write_gans(tmp_path / "sweeps" / "s")
    comparison = compare("runs", read_runs(tmp_path).records, metric_named("val/fid_x_60"))
    [final] = [recipe for recipe in recipes_of(comparison).shown if recipe.is_final]
    assert (final.metric, final.mean.mean) == ("test/fid_x_60", 22.0)


def test_final_runs_on_images_without_a_test_split_are_a_row_by_the_mean_of_their_held_out_images(tmp_path):
    for seed, accuracy in ((1, 0.8), (2, 0.9)):
        write_run(tmp_path / "sweeps" / "s" / f"final-000-seed{seed}", [0.5], [accuracy], lr=0.1, seed=seed)
    comparison = compare("runs", read_runs(tmp_path).records, ACCURACY)
    [final] = recipes_of(comparison).shown
    assert (final.is_final, final.metric, len(final.entries)) == (True, "val/accuracy", 2)
    assert final.mean.mean == pytest.approx(0.85)


def test_recipes_are_ranked_by_their_means_not_by_the_luckiest_run(comparison):
    assert comparison.ranked[0].record.run_id == "lucky3"
    good, lucky = recipes_of(comparison).shown
    assert [len(good.entries), len(lucky.entries)] == [5, 5]
    assert good.mean.mean == pytest.approx(0.969)
    assert good.deviation == pytest.approx(0.002236, rel=1e-3)
    assert good.mean.low < 0.969 < good.mean.high
    assert good.against_first == ""
    assert lucky.against_first.startswith("-3.72 % [")


def test_final_runs_are_compared_by_their_test_images_and_come_first(comparison, tmp_path):
    write_finals(tmp_path / "sweeps" / "s", 0.1, (0.9, 0.91))
    write_finals(tmp_path / "sweeps" / "s", 0.2, (0.95, 0.94))
    found = recipes_of(compare("runs", read_runs(tmp_path).records, ACCURACY)).shown
    assert [(recipe.is_final, recipe.metric) for recipe in found] == [
        (True, "test/accuracy"),
        (True, "test/accuracy"),
        (False, "val/accuracy"),
        (False, "val/accuracy"),
    ]
    assert found[0].entries[0].record.settings["lr"] == 0.1  # of trials that are not known, the first that was trained


def test_final_runs_stand_in_the_order_of_their_trials_not_of_their_test_images(tmp_path):
    for name, accuracy, on_test in (("chosen", 0.9, 0.80), ("other", 0.8, 0.95)):
        write_run(tmp_path / name, [1.0], [accuracy], lr=accuracy, seed=1)
        write_finals(tmp_path / "sweeps" / "s", accuracy, (on_test, on_test + 0.01), trial=name)
    found = recipes_of(compare("runs", read_runs(tmp_path).records, ACCURACY)).shown
    assert [recipe.entries[0].record.settings["lr"] for recipe in found if recipe.is_final] == [0.9, 0.8]


def test_final_runs_stand_in_the_order_of_the_means_of_their_trials_where_these_have_several_seeds(tmp_path):
    sweep = tmp_path / "sweeps" / "s"
    for trial, rate, accuracies in (("000-steady", 0.1, (0.9, 0.9)), ("001-lucky", 0.2, (0.95, 0.8))):
        for seed, accuracy in enumerate(accuracies, 1):
            write_run(sweep / (f"{trial}-s{seed}" if seed > 1 else trial), [1.0], [accuracy], lr=rate, seed=seed)
        write_finals(sweep, rate, (1 - rate, 1 - rate), trial=trial)
    comparison = compare_sweep(sweep, ACCURACY)
    found = recipes_of(comparison).shown
    assert [recipe.entries[0].record.settings["lr"] for recipe in found if recipe.is_final] == [0.1, 0.2]
    data = page_data(comparison)
    best = data["runs"][data["trials"][0]]
    assert (best["name"], best["overSeeds"]) == (
        "000-steady",
        {"trial": "000-steady", "mean": 0.9, "deviation": 0.0, "num": 2, "over": "seed"},
    )


def test_by_a_metric_of_the_test_images_final_runs_still_stand_in_the_order_of_their_trials(tmp_path):
    sweep = tmp_path / "sweeps" / "s"
    for trial, rate, accuracy, tested in (("000-best", 0.1, 0.9, 0.8), ("001-lucky", 0.2, 0.8, 0.95)):
        write_run(sweep / trial, [1.0], [accuracy], lr=rate, seed=1)
        write_finals(sweep, rate, (tested, tested), trial=trial)
    comparison = compare_sweep(sweep, metric_named("test/accuracy"))
    found = recipes_of(comparison).shown
    assert [recipe.entries[0].record.settings["lr"] for recipe in found if recipe.is_final] == [0.1, 0.2]
    data = page_data(comparison)
    assert [data["runs"][i]["name"] for i in data["trials"]] == ["000-best", "001-lucky"]


def test_a_trial_that_was_ended_early_stands_where_its_sweep_counts_it_not_where_its_easy_first_seeds_do(tmp_path):
    sweep = tmp_path / "sweeps" / "s"
    accuracies = {"000-whole": (0.90, 0.88, 0.60), "001-easy": (0.87, 0.85)}
    for trial, values in accuracies.items():
        for seed, value in enumerate(values, 1):
            name = f"{trial}-s{seed}" if seed > 1 else trial
            write_run(sweep / name, [1.0], [value], lr=float(len(values)), seed=seed)
    comparison = compare_sweep(sweep, ACCURACY, **{"001-easy": 0.76})
    whole, easy = recipes_of(comparison).shown
    assert (whole.num_draws, easy.num_draws) == (3, 2)
    assert easy.mean.mean == pytest.approx(0.86)  # of the runs that there are
    bins = isolation(comparison)["lr"]
    assert [(one.low, one.best) for one in bins] == [(2.0, 0.76), (3.0, pytest.approx(0.7933, rel=1e-3))]


def test_a_cross_validation_is_one_row_over_its_folds_and_compared_fold_by_fold(tmp_path):
    for rate, values in ((0.1, (0.90, 0.80, 0.70)), (0.2, (0.88, 0.79))):
        for fold, value in enumerate(values, 1):
            write_run(tmp_path / f"{rate}-{fold}", [1.0], [value], lr=rate, seed=1, fold=f"{fold}/3")
    other, whole = recipes_of(compare("runs", read_runs(tmp_path).records, ACCURACY)).shown
    assert (whole.num_draws, whole.mean.mean, whole.deviation) == (3, pytest.approx(0.8), pytest.approx(0.1))
    assert (other.num_draws, other.mean.mean) == (2, pytest.approx(0.835))  # the hardest fold is not among them
    assert whole.against_first.startswith("+1.50 % [")
    assert "over seeds 1 (fold 1/3) and 1 (fold 2/3), which both have" in whole.against_first


def test_final_runs_are_compared_by_the_metric_of_the_test_images_that_is_asked_for(tmp_path):
    for rate, accuracies in ((0.1, (0.9, 0.94)), (0.2, (0.8, 0.96))):
        write_finals(tmp_path / "sweeps" / "s", rate, accuracies)
    for summary in (tmp_path / "sweeps" / "s").glob("*/summary.json"):
        known = read_json(summary)
        write_json(summary, {**known, "test/loss": known["test/accuracy"]})
    found = recipes_of(compare("runs", read_runs(tmp_path).records, metric_named("test/accuracy"))).shown
    assert [(recipe.metric, recipe.mean.mean) for recipe in found] == [
        ("test/accuracy", pytest.approx(0.92)),
        ("test/accuracy", pytest.approx(0.88)),
    ]


def test_final_runs_are_compared_by_the_first_metric_of_the_test_images_that_all_of_them_have(tmp_path):
    write_finals(tmp_path / "sweeps" / "s", 0.1, (0.9, 0.94))
    for seed, summary in enumerate(sorted((tmp_path / "sweeps" / "s").glob("*/summary.json")), 1):
        known = read_json(summary)
        if seed == 2:
            del known["test/accuracy"]
        write_json(summary, {**known, "test/loss": 0.1 * seed})
    [recipe] = recipes_of(compare("runs", read_runs(tmp_path).records, ACCURACY)).shown
    assert (recipe.metric, recipe.mean.mean) == ("test/loss", pytest.approx(0.15))


def test_of_a_search_in_which_one_seed_was_repeated_the_best_recipes_are_shown_and_the_rest_counted(tmp_path):
    for i in range(30):
        write_run(tmp_path / f"run{i}", [1.0], [0.5 + i / 100], lr=1.0 + i, seed=1)
    write_run(tmp_path / "again", [1.0], [0.5], lr=1.0, seed=2)
    comparison = compare("runs", read_runs(tmp_path).records, ACCURACY)
    shown, num_left_out = recipes_of(comparison)
    rates = [recipe.entries[0].record.settings["lr"] for recipe in shown]
    assert rates == [*range(30, 30 - recipes.MOST_SINGLE, -1), 1.0]
    assert num_left_out == page_data(comparison)["recipes"]["numLeftOut"] == 30 - len(shown)


def test_beside_final_runs_the_trials_of_one_seed_each_are_left_to_the_leaderboard(tmp_path):
    for i in range(3):
        write_run(tmp_path / f"run{i}", [1.0], [0.5 + i / 100], lr=1.0 + i, seed=1)
    write_finals(tmp_path / "sweeps" / "s", 3.0, (0.9, 0.91), trial="run2")
    shown, num_left_out = recipes_of(compare("runs", read_runs(tmp_path).records, ACCURACY))
    assert [recipe.is_final for recipe in shown] == [True]
    assert num_left_out == 3


def test_runs_on_other_images_are_another_recipe_where_their_images_are_known(tmp_path):
    for i, images in enumerate(("a", "a", "b", "b", "")):
        run = write_run(tmp_path / f"run{i}", [1.0], [0.5 + i / 10], lr=0.1, seed=i)
        environment = read_json(run / run_folder.ENVIRONMENT)
        write_json(run / run_folder.ENVIRONMENT, {**environment, **({"data": images} if images else {})})
    records = {record.run_id: record for record in read_runs(tmp_path).records}

    def groups(*names):
        found = recipes_of(compare("runs", [records[f"run{i}"] for i in names], ACCURACY)).shown
        return sorted(sorted(entry.record.run_id[-1] for entry in recipe.entries) for recipe in found)

    assert groups(0, 1, 2, 3, 4) == [["0", "1"], ["2", "3"], ["4"]]
    assert groups(0, 1, 4) == [["0", "1", "4"]]  # who does not know its images differs in nothing


def test_runs_of_one_seed_are_one_value_and_unfinished_ones_none(tmp_path):
    for name, seed, accuracy, state in (
        ("a", 1, 0.8, "finished"),
        ("again", 1, 0.9, "finished"),
        ("b", 2, 0.7, "finished"),
        ("c", 3, 0.1, "stopped"),
    ):
        write_run(tmp_path / name, [1.0], [accuracy], state=state, lr=0.1, seed=seed)
    [recipe] = recipes_of(compare("runs", read_runs(tmp_path).records, ACCURACY)).shown
    assert recipe.num_draws == 2
    assert recipe.mean.mean == pytest.approx((0.85 + 0.7) / 2)


def test_without_seeds_of_one_recipe_there_is_nothing_to_show(tmp_path):
    for i in range(3):
        write_run(tmp_path / f"run{i}", [1.0], [0.5 + i / 10], lr=10.0**-i, seed=1)
    assert recipes_of(compare("runs", read_runs(tmp_path).records, ACCURACY)) == ([], 0)


def test_predictions_are_read_only_where_recipes_are_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "MOST_COMPARED", 1)
    read = []
    monkeypatch.setattr(recipes, "right_by_image", lambda folders, split: read.extend(folders) or {})
    for i in range(4):
        write_run(tmp_path / f"run{i}", [1.0], [0.5 + i / 10], lr=10.0**-i, seed=1)
    recipes_of(compare("runs", read_runs(tmp_path).records, ACCURACY))
    assert read == []
    write_run(tmp_path / "again", [1.0], [0.79], lr=10.0**-3, seed=2)
    recipes_of(compare("runs", read_runs(tmp_path).records, ACCURACY))
    assert {path.name for path in read} == {"run3", "again", "run2"}


@pytest.mark.parametrize("is_kept", [True, False])
def test_where_values_are_not_those_of_the_kept_weights_what_the_images_tell_says_so(tmp_path, is_kept):
    for rate, accuracies in ((0.1, (0.7, 0.9)), (0.2, (0.6, 0.8))):
        for seed in (1, 2):
            losses = [0.9, 0.5] if is_kept else [0.5, 0.9]  # the least loss is kept
            run = write_run(tmp_path / f"{rate}-{seed}", losses, list(accuracies), lr=rate, seed=seed)
            rows = [f"{i}.png,val,a,{'a' if i < 10 * rate * (3 + seed) else 'b'},1,1" for i in range(10)]
            (run / run_folder.PREDICTIONS).write_text("\n".join(["file,split,true,predicted,probability,loss", *rows]))
    _, other = recipes_of(compare("runs", read_runs(tmp_path).records, ACCURACY)).shown
    assert "over the images" in other.against_first
    assert ("over the images by the kept weights, which are not the best logged" in other.against_first) != is_kept


@pytest.mark.parametrize(
    ("own", "split", "are_the_same"),
    [
        ({}, "val", True),
        ({"fold": None, "group_by": None}, "val", True),  # runs older than these settings
        ({"fold": "2/5"}, "val", False),
        ({"data_seed": 7}, "val", False),
        ({"dataset": "cifar10"}, "val", False),
        ({"val_fraction": 0.2}, "test", True),
        ({"limit_batches": 3}, "test", False),
        ({"batch_size": 7}, "val", True),
    ],
)
def test_recipes_are_compared_over_images_that_both_have_predicted_alone(tmp_path, own, split, are_the_same):
    for rate, settings in ((0.1, {}), (0.2, own)):
        for seed in (1, 2):
            run = write_run(tmp_path / f"{rate}-{seed}", [0.5], [rate], lr=rate, seed=seed, **settings)
            kept = read_json(run / run_folder.SETTINGS)
            write_json(run / run_folder.SETTINGS, {key: value for key, value in kept.items() if value is not None})
            rows = [f"{i},{split},a,{'a' if i < 10 * rate * (3 + seed) else 'b'},1,1" for i in range(10)]
            (run / run_folder.PREDICTIONS).write_text("\n".join(["file,split,true,predicted,probability,loss", *rows]))
            if split == "test":
                summary = read_json(run / run_folder.SUMMARY)
                write_json(run / run_folder.SUMMARY, {**summary, "test/accuracy": rate + seed / 100})
    metric = metric_named(f"{split}/accuracy")
    _, other = recipes_of(compare("runs", read_runs(tmp_path).records, metric)).shown
    assert ("over the images" in other.against_first) == are_the_same


def test_the_page_has_them(comparison):
    found = json.loads(json.dumps(page_data(comparison), allow_nan=False))["recipes"]["shown"]
    assert [recipe["kind"] for recipe in found] == ["run", "run"]
    assert len(found[0]["runs"]) == 5
    assert found[0]["mean"] == pytest.approx(0.969)
