"""Trials of several seeds: a run for each, the mean for the search, and an early end for those that are bad."""

import signal
import statistics
from dataclasses import replace

import pytest
import yaml
from optuna.trial import TrialState
from scipy import stats

from analysis.compare.comparability import warning_of
from analysis.read.best_recipe import best_recipe
from analysis.read.runs import curves_of_metrics, read_runs
from analysis.read.storage import url_of_file
from analysis.read.sweeps import read_sweep
from analysis.read.trials import check_seeds, deviation_of, seeds_done, trials_of
from analysis.record.run_folder import run_of_seed
from data.errors import UserError
from data.files import read_json
from data.metrics import Best, Metric
from sweeps import agent
from sweeps.local.contract import checked
from sweeps.local.limits import check_repeats
from sweeps.local.remarks import lines_of_folds
from sweeps.local.repeats import best_trial, is_worse, notes_of, settings_of_next, value_of
from sweeps.local.sweep_file import parse_sweep
from sweeps.local.trials import Trials
from tests.run_folders import write_run
from tests.sweep_agents import loss
from tests.sweep_helpers import LEFT_OUT, LR, content, sweep_of
from tests.sweeps.test_promotion import stored

METRIC = Metric("val/loss")


def trial_of(number, values, state=TrialState.COMPLETE):
    return stored(number, [values[0]], state, **notes_of(bests(*values), METRIC))


def bests(*values):
    return [Best(value, 3) for value in values]


def test_the_first_run_is_the_trials_own_and_each_further_one_has_the_next_seed_and_a_name_of_its_own():
    assert (run_of_seed("007-x", 0), run_of_seed("007-x", 2)) == ("007-x", "007-x-s3")
    assert settings_of_next({"seed": 5}, 0) == {}
    assert settings_of_next({"seed": 5}, 2) == {"seed": 7}
    assert settings_of_next({}, 1) == {"seed": 3408}
    assert settings_of_next({"seed": 2**32 - 1}, 1) == {"seed": 0}
    assert [settings_of_next({"seed": 5}, place, folds=2) for place in (0, 1)] == [{"fold": "1/2"}, {"fold": "2/2"}]


def test_a_trial_counts_with_its_mean_and_its_final_runs_with_its_mean_best_epoch():
    trial = trial_of(0, [1.0, 2.0, 6.0])
    assert value_of(METRIC, trial) == 3.0
    assert deviation_of(seeds_done(trial.user_attrs)) == pytest.approx(stats.tstd([1, 2, 6]))
    assert value_of(METRIC, stored(0, [4.0, 2.0, 3.0])) == 2.0
    assert deviation_of(seeds_done(trial_of(0, [1.0]).user_attrs)) is None
    notes = notes_of([Best(1.0, 3), Best(2.0, 6)], METRIC)
    assert (notes["best"], notes["best_epoch"], notes["repeats"]) == (1.5, 4, [[1.0, 3], [2.0, 6]])


def test_interruptions_and_failures_of_one_seed_do_not_count_against_the_next():
    before = {"tries": 3, "tried_at": 2, "failures": 1}
    assert {**before, **notes_of(bests(1.0), METRIC)}.items() >= {"tries": 0, "tried_at": 0, "failures": 0}.items()


def test_a_trial_that_ends_as_worse_than_another_counts_as_no_better_be_its_first_seeds_easy_or_not():
    best = trial_of(0, [1.0, 2.0, 6.0])
    assert notes_of(bests(1.5, 2.5), METRIC)["best"] == 2.0  # less than the mean of the best, though worse by pairs
    assert notes_of(bests(1.5, 2.5), METRIC, best)["best"] == 3.5
    assert notes_of(bests(9.0), METRIC, trial_of(0, [8.0, 1.0]))["best"] == 9.0  # a hard seed
    accuracy = Metric("val/accuracy", "maximize")
    assert notes_of(bests(5.0, 6.0), accuracy, trial_of(0, [6.0, 7.0, 2.0]))["best"] == 4.0


def test_seeds_are_compared_pair_by_pair_and_a_single_one_as_if_it_would_vary_as_the_best_does():
    best = trial_of(0, [1.0, 1.2, 0.9])
    assert is_worse(bests(5.0), best, METRIC) == pytest.approx(stats.ttest_ind([5.0], [1.0, 1.2, 0.9]).pvalue / 2)
    assert is_worse(bests(1.1), best, METRIC) is None
    assert is_worse(bests(0.2), best, METRIC) is None  # better
    # Both vary far more than they differ, but in the same way: by pairs, the difference is plain.
    noisy = trial_of(0, [1.0, 5.0, 9.0])
    assert is_worse(bests(1.1, 5.12, 9.11), noisy, METRIC) < 0.01
    assert is_worse(bests(2.0, 4.0), noisy, METRIC) is None
    maximized = Metric("val/accuracy", "maximize")
    assert is_worse(bests(5.0), best, maximized) is None
    assert is_worse(bests(0.1), best, maximized) < 0.05


def test_figures_that_do_not_vary_say_nothing_of_how_much_others_would():
    assert is_worse(bests(0.6), trial_of(0, [0.5, 0.5, 0.5]), METRIC) is None
    by_rounding_alone = trial_of(0, [0.1 + 0.2, 0.3])
    assert is_worse(bests(0.6), by_rounding_alone, METRIC) is None
    assert is_worse(bests(0.6, 0.7), trial_of(0, [0.5, 0.6, 0.9]), METRIC) is None
    assert is_worse(bests(0.6, 0.7, 1.0), trial_of(0, [0.5, 0.6, 0.91]), METRIC) < 0.05


def test_a_target_is_reached_by_the_mean_of_all_seeds(tmp_path):
    metric = {"name": "val/loss", "goal": "minimize", "target": 0.1}
    for repeats, is_reached in ((1, [True, True, True]), (3, [False, False, True])):
        sweep = replace(sweep_of({"lr": LR}, metric=metric), repeats=repeats)
        trials, found = Trials(f"sqlite:///{tmp_path}/{repeats}.db", sweep, "s", seed=0), []
        for values in (None, (0.05, 0.2, 0.2), (0.05, 0.1, 0.1)):
            claim = trials.take(None)
            claim.trial.report(0.05, 1)
            if values:
                trials.end(claim, TrialState.COMPLETE, notes_of(bests(*values), METRIC))
            found.append(trials.have_reached_target())
        assert found == is_reached


@pytest.mark.parametrize("num_notes", range(1, 8))
def test_an_agent_that_is_killed_before_it_could_end_a_trial_leaves_no_seed_too_many(tmp_path, num_notes):
    sweep, url = sweep_of({"lr": LR}, repeats=2), f"sqlite:///{tmp_path}/study.db"
    trials = Trials(url, sweep, "s", 1)
    first = trials.take(1)
    first.trial.report(0.5, 1)
    trials.leave(first, notes_of(bests(0.5), sweep.metric))
    second = trials.take(1)
    assert second.run_id == f"{first.run_id}-s2"
    notes = {"seconds": 9.0, **notes_of(bests(0.5, 0.3), sweep.metric)}
    trials.note(second, dict(list(notes.items())[:num_notes]))
    trials.claims.release(second.trial_id)
    trials = Trials(url, sweep, "s", 1)
    again = trials.take(1)
    [trial] = trials.all()
    if num_notes == 1:  # its seed is not noted: its run, which has finished, tells it
        assert again.run_id == second.run_id
        return
    assert again is None
    assert (trial.state, trial.value) == (TrialState.COMPLETE, pytest.approx(0.4))
    assert (trial.user_attrs["best"], trial.user_attrs["best_epoch"]) == (pytest.approx(0.4), 3)
    assert trial.user_attrs["ended"] > 0


def test_seeds_go_on_from_that_of_the_sweeps_command(tmp_path):
    command = ["python", "${program}", "--model=mlp", "--dataset=digits", "--seed=7", "${args}"]
    sweep = checked(parse_sweep(content(repeats=2, command=command)))
    trials = Trials(url_of_file(tmp_path / "study.db"), sweep, "s", 1)
    first = trials.take(1)
    assert "seed" not in first.settings
    trials.note(first, {"repeats": [[0.5, 3]], "best": 0.5, "best_epoch": 3})
    trials.claims.release(first.trial_id)
    assert Trials(url_of_file(tmp_path / "study.db"), sweep, "s", 1).take(1).settings["seed"] == 8


def test_trials_are_compared_with_the_best_mean_of_those_that_have_finished_with_two_seeds():
    unfinished, single = trial_of(2, [0.1, 0.1], TrialState.RUNNING), trial_of(3, [0.1])
    trials = [trial_of(0, [1.0, 3.0]), trial_of(1, [0.5, 9.0]), unfinished, single]
    assert best_trial(trials, 7, METRIC).number == 0
    assert best_trial(trials, 0, METRIC).number == 1
    assert best_trial(trials, 7, Metric("val/accuracy", "maximize")).number == 1
    assert best_trial([unfinished, single], 7, METRIC) is None


@pytest.mark.parametrize("pairs", [[], [1.0], [[1.0]], [["a", 1]], [[float("nan"), 1]], [[1.0, 2], None]])
def test_damaged_notes_on_seeds_are_refused(pairs):
    check_seeds(3, {"repeats": [[1.0, 2]], "best": 1.0})
    check_seeds(3, {})
    with pytest.raises(TypeError, match="^trial 3 has the repeats"):
        check_seeds(3, {"repeats": pairs, "best": 1.0})


def test_what_cannot_have_several_seeds_is_refused():
    with pytest.raises(UserError, match="the sweep searches the seed itself"):
        check_repeats(sweep_of({"lr": LR, "seed": {"values": [1, 2]}}, repeats=2))
    metrics = [{"name": "val/loss", "goal": "minimize"}, {"name": "val/accuracy", "goal": "maximize"}]
    with pytest.raises(UserError, match="2 repeats are for a single metric"):
        check_repeats(sweep_of({"lr": LR}, metric=LEFT_OUT, metrics=metrics, repeats=2))
    with pytest.raises(UserError, match="are more runs than a trial will have"):
        check_repeats(sweep_of({"lr": LR}, repeats=10**6))
    check_repeats(sweep_of({"lr": LR, "seed": {"value": 1}}, repeats=2))


def test_a_sweep_that_searches_folds_is_told_that_the_easiest_will_win():
    folds = {"values": ["1/2", "2/2"]}
    assert lines_of_folds(checked(sweep_of({"lr": LR, "fold": folds}))) == [
        "fold is searched, so the easiest one wins: for a cross-validation leave it out, and give --folds"
    ]
    assert lines_of_folds(checked(sweep_of({"lr": LR}, folds=2))) == []


def test_what_cannot_be_cross_validated_is_refused():
    check_repeats(sweep_of({"lr": LR, "seed": {"values": [1, 2]}}, folds=2))
    command = ["python", "${program}", "--fold=1/5", "${args}"]
    for sweep in (
        sweep_of({"fold": {"value": "1/2"}, "lr": LR}, folds=2),
        sweep_of({"lr": LR}, folds=2, command=command),
    ):
        with pytest.raises(UserError, match="2 folds: the sweep tells its runs a fold itself"):
            check_repeats(sweep)
    with pytest.raises(UserError, match="folds: 1 is no cross-validation"):
        check_repeats(sweep_of({"lr": LR}, folds=1))
    with pytest.raises(UserError, match="3 folds: other.py may not know what a fold is"):
        check_repeats(replace(sweep_of({"lr": LR}), folds=3, repeats=3, program="other.py"))


@pytest.mark.parametrize(
    ("keys", "words", "told"),
    [
        ({"repeats": 4}, [], "4 runs, 0 folds"),
        ({"repeats": 4}, ["--repeats=2"], "2 runs, 0 folds"),
        ({"repeats": 4}, ["--repeats=1"], "1 runs, 0 folds"),
        ({"repeats": 4}, ["--folds=3"], "3 runs, 3 folds"),
        ({"folds": 5}, [], "5 runs, 5 folds"),
        ({"folds": 5}, ["--folds=2"], "2 runs, 2 folds"),
        ({"folds": 5}, ["--repeats=2"], "2 runs, 0 folds"),
    ],
    ids=str,
)
def test_the_file_says_how_many_seeds_or_folds_unless_an_option_does(keys, words, told, tmp_path, monkeypatch, capsys):
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(content(**keys)))
    monkeypatch.setattr(agent, "estimate", lambda sweep, *_: [f"{sweep.repeats} runs, {sweep.folds} folds"])
    assert agent.main([str(path), "--estimate", *words]) == 0
    assert capsys.readouterr().out == f"{told}\n"


def test_trials_of_another_number_of_folds_are_not_gone_on_with(tmp_path):
    url = url_of_file(tmp_path / "study.db")
    first = Trials(url, sweep_of({"lr": LR}, folds=3), "s", 1).take(1)
    assert first.settings["fold"] == "1/3"
    for keys, told in (({"folds": 2}, "not 2 folds"), ({}, "not no folds")):
        with pytest.raises(UserError, match=f"the trials of s have 3 folds, {told}"):
            Trials(url, sweep_of({"lr": LR}, **keys), "s", 1)
    Trials(url, sweep_of({"lr": LR}, folds=3), "s", 1)


def test_an_agent_with_other_folds_takes_no_more_trials_once_another_has_begun_some(tmp_path):
    url = url_of_file(tmp_path / "study.db")
    one, other = (Trials(url, sweep_of({"lr": LR}, **keys), "s", 1) for keys in ({"folds": 3}, {}))
    assert not other.is_superseded()
    one.take(2)
    assert (one.is_superseded(), other.is_superseded()) == (False, True)


def test_folds_and_seeds_of_a_trial_are_not_asked_for_together(tmp_path, capsys):
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(content()))
    assert agent.main([str(path), "--folds=3", "--repeats=3"]) == 2
    assert "not allowed with argument" in capsys.readouterr().err
    with pytest.raises(UserError, match="repeats and folds each say what a trial's runs are: leave one of them out"):
        parse_sweep(content(folds=3, repeats=3))


def test_without_its_database_a_sweep_shows_its_folds_by_the_runs_themselves(tmp_path):
    for number, values in enumerate([(1.0, 2.0), (3.0, 4.0)]):
        for place, value in enumerate(values):
            name = run_of_seed(f"00{number}-x", place)
            write_run(tmp_path / "sweeps" / "s" / name, [value], fold=f"{place + 1}/2", lr=0.1 * number)
    records = read_runs(tmp_path).records
    trials = trials_of(records, curves_of_metrics(records, ["val/loss"]), [METRIC])
    assert [(trial.value, trial.folds, len(trial.seeds)) for trial in trials] == [(1.5, 2, 2), (3.5, 2, 2)]
    assert all("fold" not in trial.settings for trial in trials)
    assert warning_of(records) == ""
    alone = [record for record in records if record.run_id in ("000-x", "001-x-s2")]
    assert "they differ in fold: " in warning_of(alone)


@pytest.mark.slow
def test_a_cross_validated_trial_trains_on_all_folds_and_counts_with_their_mean(tmp_path, monkeypatch, lean):
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path / "runs"))
    own = {"dataset": "digits", "model": "mlp", "width": 16, "epochs": 2, "preview": 0, "tracking": "off"}
    parameters = {"lr": {"values": [1e-3, 3e-3]}, **{name: {"value": value} for name, value in own.items()}}
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(content(method="grid", parameters=parameters, folds=3)))
    assert agent.main([str(path), "--workers=1"]) == 0
    sweep, place_of = read_sweep("a"), tmp_path / "runs" / "sweeps" / "a"
    assert [trial.state for trial in sweep.trials] == ["COMPLETE"] * 2
    for trial in sweep.trials:
        folders = [place_of / run_of_seed(trial.run_id, place) for place in range(3)]
        told = [read_json(folder / "settings.json") for folder in folders]
        assert [settings["fold"] for settings in told] == ["1/3", "2/3", "3/3"]
        assert len({settings["seed"] for settings in told}) == 1
        values = [read_json(folder / "summary.json")["val/loss"] for folder in folders]
        assert trial.value == pytest.approx(statistics.fmean(values))
        assert trial.deviation == pytest.approx(statistics.stdev(values))
        assert (trial.what_over, "fold" in trial.settings) == ("fold", False)
    assert "\nfold" not in best_recipe(sweep)


def write(stage, **parameters):
    told = {"lr": {"values": [0.001, 0.1, 0.0011]}, "epochs": 2, "seconds": 0.01, "seed": 1, "noise": 0.1}
    return stage.write(method="grid", repeats=3, parameters={**told, **parameters})


@pytest.mark.slow
def test_each_trial_has_a_run_for_each_seed_and_a_bad_one_ends_after_its_first(stage, monkeypatch):
    done = stage.run(write(stage))
    # By hand: seeds 1, 2 and 3 add 0.1, 0.2 and 0.3. The grid is in the order of the file; its second rate is bad.
    best, bad, near = stage.trials()
    assert [each[0] for each in best.user_attrs["repeats"]] == pytest.approx(
        [loss(0.001, 2) + x for x in (0.1, 0.2, 0.3)]
    )
    assert best.value == pytest.approx(loss(0.001, 2) + 0.2) == best.user_attrs["best"]
    assert [stage.states(), len(bad.user_attrs["repeats"])] == [["COMPLETE", "PRUNED", "COMPLETE"], 1]
    assert bad.user_attrs["ending"].startswith("worse than trial 0 after 1 of 3 seeds (p ")
    assert len(near.user_attrs["repeats"]) == 3  # worse by the same in each seed: who knows how much that varies?
    assert list(best.intermediate_values) == [1, 2]  # of the first seed
    told = {start["run"]: start["told"]["seed"] for start in stage.journal("start")}
    name = best.user_attrs["run_id"]
    assert [told[name], told[f"{name}-s2"], told[f"{name}-s3"]] == ["1", "2", "3"]
    assert len(told) == 7
    assert "0.7000 ± 0.1000 (3 seeds)" in done.output
    assert "trial 0 goes on" not in done.output
    assert "trial 0 starts with seed 2" in done.output
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(stage.runs_dir))
    [leader, *_] = read_sweep("sweep").leaders
    assert (leader.number, leader.value, leader.best_epoch) == (0, pytest.approx(0.7), 2)


@pytest.mark.slow
def test_a_kill_in_the_midst_of_a_seed_loses_no_seed_and_runs_none_twice(stage):
    file = write(stage, epochs=4, seconds=0.1, noise=0)
    for seed in (1, 2, 3):
        agent = stage.start(file, "--repeats=3", "--count=1")
        [run] = [start["run"] for start in stage.wait_for("start", 2 * seed - 1)][-1:]
        stage.wait_for("epoch", 1, run=run, epoch=2)
        agent.signal(signal.SIGKILL if seed != 2 else signal.SIGINT)
        agent.wait()
        agent = stage.start(file, "--repeats=3", "--count=1")
        stage.wait_for("end", 1, run=run, state="finished")
        if seed < 3:
            stage.wait_for("start", 2 * seed + 1)
            agent.signal(signal.SIGINT)
        agent.wait()
    assert stage.disorder() == []
    [trial] = stage.trials()
    assert trial.state == TrialState.COMPLETE
    assert len(trial.user_attrs["repeats"]) == 3
    assert read_json(stage.sweep() / f"{trial.user_attrs['run_id']}-s3" / "summary.json")["state"] == "finished"


@pytest.mark.slow
def test_a_single_seed_is_not_noted(stage):
    stage.run(write(stage), "--count=1", "--repeats=1")
    assert "repeats" not in stage.trials()[0].user_attrs


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_trial_under_way_has_as_many_seeds_as_the_agent_that_begins_meanwhile_asks_for(before, after, stage):
    file = write(stage, epochs=20, seconds=0.1)
    old = stage.start(file, f"--repeats={before}", "--count=2")
    stage.wait_for("epoch", 1)
    new = stage.start(file, f"--repeats={after}", "--count=2")
    assert [old.wait(), new.wait()] == [0, 0], old.errors + new.errors
    assert "another agent goes on with a changed sweep: this one ends after the trials it runs" in old.output
    assert f"the sweep has changed: repeats: {before} is now {after}" in new.output
    assert [len(trial.user_attrs.get("repeats", [0])) for trial in stage.trials()][0] == after
    assert stage.disorder() == []
    assert stage.run(file, f"--repeats={after}", "--count=2").output  # which it would refuse of trials with other seeds
