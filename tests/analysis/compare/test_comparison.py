import json
import math
import random
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from analysis.compare import importance as importances
from analysis.compare.comparison import compare
from analysis.compare.fronts import front_of
from analysis.compare.importance import importance
from analysis.compare.isolation import MOST_NAMES, isolation
from analysis.compare.ranking import common_metric
from analysis.read.runs import read_runs
from analysis.read.sweeps import SweepRecord
from analysis.read.trials import Trial
from analysis.record import run_folder
from data.errors import UserError
from data.metrics import Best, Metric, metric_named
from tests.run_folders import START, write_run

LOSS = Metric("val/loss", "minimize")


def comparison_of(runs_dir, metric=LOSS, **more):
    return compare("runs", read_runs(runs_dir).records, metric, **more)


def names(entries):
    return [entry.record.run_id for entry in entries]


def test_the_best_is_first_and_who_failed_or_has_no_value_is_last(tmp_path):
    write_run(tmp_path / "middle", [2.0, 1.0])
    write_run(tmp_path / "best", [2.0, 0.5])
    write_run(tmp_path / "crashed", [0.1], state="failed")
    write_run(tmp_path / "empty", [], state=None)
    comparison = comparison_of(tmp_path)
    assert names(comparison.ranked) == ["best", "middle"]
    assert set(names(comparison.entries)[2:]) == {"crashed", "empty"}
    assert names(comparison_of(tmp_path, metric_named("val/accuracy")).ranked) == ["best", "middle"]  # more is better


def test_a_run_under_way_counts_with_the_best_it_has_logged(tmp_path):
    write_run(tmp_path / "running", [2.0, 0.75, 1.5], state=None)
    [entry] = comparison_of(tmp_path).entries
    assert (entry.state, entry.value, entry.best_epoch) == ("not ended", 0.75, 2)


def test_what_the_kept_weights_have_is_told_only_where_it_is_not_the_best_value(tmp_path):
    write_run(tmp_path / "a", [2.0, 0.75, 1.5])
    for kept, told in ((0.75, None), (1.5, 1.5)):
        path = tmp_path / "a" / "summary.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "val/loss": kept, "best_epoch": 2}))
        [entry] = comparison_of(tmp_path).entries
        assert (entry.value, entry.kept and entry.kept.value) == (0.75, told)


def test_a_sweep_tells_a_paused_trial_from_one_that_was_stopped_early(tmp_path):
    for name in ("000-a", "001-b"):
        write_run(tmp_path / "sweeps" / "s" / name, [1.0], state="stopped")
    assert {entry.state for entry in comparison_of(tmp_path).entries} == {"stopped early"}  # all that folders know
    trials = [
        Trial(i, name, state, 1.0 - i / 4, 1, {}, START, START)
        for i, (name, state) in enumerate((("000-a", "RUNNING"), ("001-b", "PRUNED")))
    ]
    sweep = SweepRecord("s", "", metric_named("val/loss"), "bayes", ("lr",), tuple(trials), {})
    entries = comparison_of(tmp_path, sweeps=[sweep]).entries
    assert [(entry.record.run_id, entry.state, entry.value) for entry in entries] == [
        ("001-b", "stopped early", 0.75),
        ("000-a", "not ended", 1.0),
    ]
    of_another_metric = comparison_of(tmp_path, metric_named("val/accuracy"), sweeps=[sweep])
    assert [entry.value for entry in of_another_metric.entries] == pytest.approx([2 / 3, 2 / 3])
    assert {entry.state for entry in of_another_metric.entries} == {"stopped early", "not ended"}


def test_the_settings_that_vary_are_found_the_most_varied_first_and_where_a_run_was_is_none(tmp_path):
    for i in range(4):
        changes = {
            "optimizer": "sgd" if i else "adam",
            "lr": 10.0**-i,
            "tags": str(i),
            "only_once": 1,
            "runs_dir": str(i),
        }
        some = {2: {"cutout": 8}, 3: {"cutout": 4, "later": 1}}  # `later` came with a later version
        write_run(tmp_path / str(i), [1.0], **{**changes, **some.get(i, {})})
    varied = comparison_of(tmp_path).varied
    assert [setting.name for setting in varied] == ["lr", "optimizer", "cutout"]
    assert [(setting.is_number, setting.is_log) for setting in varied] == [(True, True), (False, False), (True, False)]


def test_final_runs_are_no_part_of_the_search(tmp_path):
    write_run(tmp_path / "sweeps" / "s" / "000-a", [1.0], epochs=3)
    write_run(tmp_path / "sweeps" / "s" / "final-000-a-seed1", [0.5], epochs=7)
    comparison = comparison_of(tmp_path)
    assert comparison.varied == []
    assert [entry.state for entry in comparison.entries] == ["finished", "final"]
    assert names(comparison.ranked) == ["000-a"]  # though the other's validation images name it the better one


def test_a_setting_of_which_final_runs_have_0_has_no_logarithmic_axis(tmp_path):
    for i, share in enumerate((0.01, 0.02, 0.05, 0.1, 0.3)):
        write_run(tmp_path / "sweeps" / "s" / f"00{i}-a", [1.0], val_fraction=share)
    assert [setting.is_log for setting in comparison_of(tmp_path).varied] == [True]
    write_run(tmp_path / "sweeps" / "s" / "final-000-a-seed1", [0.5], val_fraction=0.0)
    assert [setting.is_log for setting in comparison_of(tmp_path).varied] == [False]


def test_a_final_run_that_has_failed_is_told_as_such(tmp_path):
    write_run(tmp_path / "sweeps" / "s" / "final-000-a-seed1", [0.5], state="failed")
    [entry] = comparison_of(tmp_path).entries
    assert (entry.state, entry.is_ranked) == ("failed", False)


def test_a_run_ended_when_its_summary_says_so_however_often_it_was_resumed(tmp_path):
    run = write_run(tmp_path / "resumed", [1.0])
    ended = START + timedelta(minutes=1)
    summary = json.loads((run / "summary.json").read_text()) | {"train_seconds": 7200.0}
    for told, expected in ((ended.isoformat(), ended), ("soon", START + timedelta(hours=2))):
        (run / "summary.json").write_text(json.dumps({**summary, "ended": told}))
        [entry] = comparison_of(tmp_path).entries
        assert entry.ended == expected


def test_a_front_leaves_out_what_is_not_finite():
    metrics = {"metrics": [{"name": "val/loss", "goal": "minimize"}, {"name": "val/mAP", "goal": "maximize"}]}
    trials = [Trial(i, f"00{i}", "COMPLETE", 1.0, 1, {}, START, START) for i in range(2)]
    trials = [replace(each, objectives={"val/mAP": value}) for each, value in zip(trials, (0.5, math.nan), strict=True)]
    sweep = SweepRecord("s", "s", LOSS, "random", ("lr",), tuple(trials), {}, metrics)
    assert list(front_of([sweep]).values) == ["000"]


def test_runs_of_no_sweep_are_ranked_by_accuracy_where_most_have_one(tmp_path):
    write_run(tmp_path / "a", [1.0])
    records = read_runs(tmp_path).records
    assert common_metric(records) == Metric("val/accuracy", "maximize")
    half = [*records, replace(records[0], summary={"val/loss": 1.0})]
    assert common_metric(half) == LOSS  # half are not most
    assert common_metric([]) == LOSS
    failed = [replace(records[0], state="failed", summary={"num_parameters": 9})] * 2
    assert common_metric([*records, *failed]) == Metric("val/accuracy", "maximize")


def test_nothing_to_compare_is_the_users_error():
    with pytest.raises(UserError, match="there are no runs to compare"):
        compare("nothing", [], LOSS)


def searched(tmp_path, value_of, num_runs):
    draw = random.Random(0)
    for i in range(num_runs):
        settings = {
            "lr": math.exp(draw.uniform(-10, -4)),
            "dropout": draw.uniform(0, 0.7),
            "optimizer": draw.choice("ab"),
        }
        write_run(tmp_path / f"{i:03d}", [value_of(draw, **settings)], **settings)
    return comparison_of(tmp_path)


@pytest.mark.slow
def test_the_setting_that_makes_the_value_is_the_important_one(tmp_path):
    comparison = searched(tmp_path, lambda draw, lr, **_: (math.log(lr) + 7) ** 2, 60)
    found = importance(comparison)
    assert found.names[0] == "lr"
    assert found.means[0] > 0.5
    assert all(abs(mean) < 0.1 for mean in found.means[1:])
    assert all(deviation > 0 for deviation in found.deviations[:1])
    assert found.explained > 0.7
    assert found.remark == ""
    assert importance(comparison) == found


@pytest.mark.slow
def test_shares_of_independent_settings_are_those_of_the_variance():
    generator = np.random.default_rng(0)
    features = generator.uniform(size=(500, 3))
    targets = features @ np.array([2.0, 1.0, 0.0])  # variances 4, 1 and 0, of 5 in all
    with threadpool_limits(1):
        means, _, explained = importances.total_shares(features, np.arange(3), targets)
    assert explained == pytest.approx(1, abs=0.05)
    assert means == pytest.approx([0.8, 0.2, 0.0], abs=0.1)


@pytest.mark.slow
def test_noise_is_said_to_say_nothing(tmp_path):
    found = importance(searched(tmp_path, lambda draw, **_: draw.uniform(1, 2), 40))
    assert "do not predict" in found.remark
    assert found.explained <= 0


@pytest.mark.slow
def test_runs_of_further_seeds_do_not_make_noise_predictable(tmp_path):
    draw = random.Random(1)
    for trial in range(20):
        settings, value = {"lr": 10 ** draw.uniform(-5, -1), "dropout": draw.random()}, draw.uniform(1, 2)
        for seed in range(3):
            write_run(tmp_path / f"{trial}-{seed}", [value + draw.uniform(0, 0.02)], seed=seed, **settings)
    found = importance(comparison_of(tmp_path))
    assert "do not predict" in found.remark
    assert found.explained <= 0


def test_runs_of_few_recipes_are_too_few_however_many_seeds_they_have(tmp_path):
    for i in range(12):
        write_run(tmp_path / f"{i}", [1.0 + i], lr=0.1 * (1 + i % 4), width=8 * (1 + i % 4), seed=i // 4)
    assert (
        importance(comparison_of(tmp_path)).remark == "Too few trials: 4 recipes with a val/loss, and 10 are the least."
    )


def test_what_only_runs_without_a_value_have_otherwise_is_not_weighed_up(tmp_path):
    write_run(tmp_path / "failed", [1.0], state="failed", lr=1.0, width=4096, depth=9)
    for i in range(12):
        write_run(tmp_path / f"{i}", [1.0 + i], lr=10.0**-i, width=64, dropout=i / 12)
    assert set(importance(comparison_of(tmp_path)).names) == {"lr", "dropout"}


def test_what_changes_no_figure_of_validation_is_not_weighed_up(tmp_path):
    for i in range(12):
        kept = ("val/loss", "val/accuracy")[i > 5]
        write_run(tmp_path / f"{i}", [1.0 + i], lr=10.0**-i, dropout=i / 12, test=i > 5, best_by=kept)
    assert set(importance(comparison_of(tmp_path)).names) == {"lr", "dropout"}


def test_of_many_names_that_of_the_best_run_is_shown_however_few_runs_have_it(tmp_path):
    for i in range(2 * MOST_NAMES):
        write_run(tmp_path / f"run{i}", [1.0 + i], arch=f"net{i % MOST_NAMES}")
    write_run(tmp_path / "best", [0.5], arch="xl")
    bins = isolation(comparison_of(tmp_path))["arch"]
    assert len(bins) == MOST_NAMES
    assert {"xl": 0.5}.items() <= {one.low: one.best for one in bins}.items()


def test_too_few_trials_and_a_lone_setting_have_no_importance(tmp_path):
    found = importance(searched(tmp_path / "few", lambda draw, lr, **_: lr, 9))
    assert found.names == ()
    assert found.remark == "Too few trials: 9 runs with a val/loss, and 10 are the least."
    for i in range(12):
        write_run(tmp_path / "lone" / f"{i}", [1.0], lr=10.0**-i)
    assert importance(comparison_of(tmp_path / "lone")).remark.startswith("Only lr differs between the runs")


def test_final_runs_are_none_of_those_whose_settings_are_weighed(tmp_path):
    folder = tmp_path / "sweeps" / "s"
    searched(folder, lambda draw, lr, **_: lr, 9)
    for i in range(3):
        write_run(folder / f"final-00{i}-seed1", [1.0], lr=10.0**-i)
    comparison = comparison_of(folder)
    by_test_images = replace(comparison, entries=[replace(entry, is_ranked=True) for entry in comparison.entries])
    assert len(by_test_images.ranked) == 12
    assert importance(by_test_images).remark.startswith("Too few trials: 9 runs")


def test_a_run_of_one_seed_has_its_own_value_and_not_the_mean_of_its_trial(tmp_path):
    write_run(tmp_path / "sweeps" / "s" / "000-a", [2.0, 0.75])
    seeds = (Best(0.75, 2), Best(1.25, 1))
    trial = Trial(0, "000-a", "COMPLETE", 1.0, 1, {}, START, START, seeds=seeds)
    sweep = SweepRecord("s", "", LOSS, "bayes", ("lr",), (trial,), {})
    [entry] = comparison_of(tmp_path, sweeps=[sweep]).entries
    assert (entry.value, entry.best_epoch) == (0.75, 2)


@pytest.mark.parametrize("state", ["PRUNED", "FAIL", "RUNNING"])
def test_a_run_that_has_finished_is_told_so_whatever_became_of_the_further_seeds_of_its_trial(tmp_path, state):
    write_run(tmp_path / "sweeps" / "s" / "000-a", [2.0, 0.75])
    later = START + timedelta(hours=9)  # the end of the last seed
    trial = Trial(0, "000-a", state, 1.0, 1, {}, START, later, seeds=(Best(0.75, 2),))
    [entry] = comparison_of(tmp_path, sweeps=[SweepRecord("s", "", LOSS, "bayes", ("lr",), (trial,), {})]).entries
    assert (entry.state, entry.is_ranked) == ("finished", True)
    assert entry.ended == START + timedelta(seconds=1)


def test_trials_of_several_seeds_are_in_the_order_of_their_means(tmp_path):
    seeds = {"000-steady": (0.5, 0.5), "001-lucky": (0.3, 0.9), "002-poor": (0.8, 0.8)}
    trials = []
    for number, (name, losses) in enumerate(seeds.items()):
        for place, loss in enumerate(losses, 1):
            write_run(tmp_path / "sweeps" / "s" / (f"{name}-s{place}" if place > 1 else name), [loss])
        told = {"value": sum(losses) / 2, "seeds": tuple(Best(loss, 1) for loss in losses)}
        trials.append(replace(Trial(number, name, "COMPLETE", None, 1, {}, START, START), **told))
    comparison = comparison_of(tmp_path, sweeps=[SweepRecord("s", "", LOSS, "bayes", ("lr",), tuple(trials), {})])
    assert names(comparison.ranked)[0] == "001-lucky"
    assert names(comparison.trials) == list(seeds)


def test_by_another_metric_than_that_of_their_sweep_trials_of_several_seeds_have_their_means_too(tmp_path):
    accuracies = {"000-a": (0.9, 0.5, 0.6), "001-b": (0.8, 0.7, 0.7), "002-c": (0.85, 0.4)}
    trials = []
    for number, (name, values) in enumerate(accuracies.items()):
        for place, value in enumerate(values):
            write_run(tmp_path / "sweeps" / "s" / run_folder.run_of_seed(name, place), [1.0], [value])
        told = Trial(number, name, "COMPLETE", 1.0, 1, {}, START, START, seeds=(Best(1.0, 1),) * len(values))
        trials.append(told)
    sweep = SweepRecord("s", "", LOSS, "bayes", ("lr",), tuple(trials), {})
    comparison = comparison_of(tmp_path, metric_named("val/accuracy"), sweeps=[sweep])
    assert names(comparison.trials) == ["001-b", "000-a", "002-c"]
    found = [entry.trial.value for entry in comparison.trials]
    assert found == pytest.approx(
        [2.2 / 3, 2.0 / 3, 2.2 / 3 - 0.125]
    )  # the last was ended early: 0.05 and -0.3 beside b
    assert comparison.trials[1].trial.seeds == tuple(Best(value, 1) for value in accuracies["000-a"])


def test_of_equal_values_of_the_first_metric_those_that_no_other_beats_come_first(tmp_path):
    trials = []
    for number, size in enumerate((3.0, 1.0)):
        write_run(tmp_path / "sweeps" / "s" / f"00{number}", [0.5], lr=0.1 * number, days=number)
        told = Trial(number, f"00{number}", "COMPLETE", 0.5, 1, {}, START, START, objectives={"size": size})
        trials.append(told)
    content = {"metrics": [{"name": "val/loss"}, {"name": "size"}], "parameters": {}}
    sweep = SweepRecord("s", "", LOSS, "bayes", ("lr",), tuple(trials), {}, content)
    assert [trial.run_id for trial in sweep.leaders] == ["001", "000"]
    assert names(comparison_of(tmp_path, sweeps=[sweep]).ranked) == ["001", "000"]


def test_seeds_and_folds_are_the_last_of_the_settings_that_differ(tmp_path):
    for number in range(6):
        write_run(tmp_path / f"{number}", [1.0], fold=f"{number}/6", seed=number, lr=0.1 * (number % 2), model="cnn")
    assert [setting.name for setting in comparison_of(tmp_path).varied] == ["lr", "fold", "seed"]
