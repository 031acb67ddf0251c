"""Which earlier runs count as observations of a sweep, and what is said of those that do not."""

from types import SimpleNamespace

import pytest
from optuna.trial import TrialState

from analysis.read.trials import Trial
from analysis.record import run_folder
from data.errors import UserError
from data.files import read_json, write_json
from data.metrics import Metric
from data.paths import cache_dir
from sweeps.local.observations import PRIOR, observations
from sweeps.local.prior import (
    Earlier,
    Images,
    enough_for_a_model,
    learn_from,
    name_of_sweep,
    reason_against,
    take_prior,
    with_folder,
)
from sweeps.local.trials import Trials
from tests.run_folders import SWEEP, write_run
from tests.sweep_helpers import LEFT_OUT, LR, content, study_of, sweep_of
from tests.trained_runs import save_pictures
from tests.wandb_site import add_run, server, site  # noqa: F401

PARAMETERS = {
    "model": {"value": "mlp"},
    "dataset": {"value": "digits"},
    "lr": LR,
    "width": {"values": [32, 64]},
    "epochs": {"value": 2},
}
OWN = {"model": "mlp", "dataset": "digits", "lr": 0.01, "width": 32, "epochs": 2}
REFUSED = {
    "other epochs": ({"epochs": 3}, "1 with another epochs"),
    "several others": ({"epochs": 3, "batch_size": 32}, "1 with another batch_size, epochs"),
    "another model": ({"model": "cnn"}, "1 with another model"),
    "another dataset": ({"dataset": "cifar10"}, "1 with another dataset"),
    "a width that is not listed": ({"width": 128}, "1 with a width that the search has no place for"),
    "a setting that is no more allowed": ({"lr": -1.0}, "1 with settings that no trial has (--lr=-1.0 is out of"),
    "a run under way": ({"state": None}, "1 not ended"),
    "a run without the metric": ({"losses": [float("nan")]}, "1 without a val/loss"),
}
ALIKE = {
    "another seed": {"seed": 5},
    "other circumstances": {"tags": "a", "tracking": "off", "data_dir": "elsewhere", "panels_every": 9},
    "weights of another best": {"best_by": "val/accuracy", "test": True},
    "a default told": {"batch_size": 128},
    "micro-batches": {"accumulation_steps": 2},
}


@pytest.fixture
def runs_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path))
    return tmp_path


def write(folder, **changes):
    losses, state = changes.pop("losses", [0.6, 0.5]), changes.pop("state", "finished")
    return write_run(folder, losses, state=state, **{**OWN, **changes})


def test_runs_of_the_same_recipe_count_with_their_best_values(runs_dir):
    write(runs_dir / "one", lr=0.02)
    taken = take_prior("one", sweep_of(PARAMETERS))
    assert taken.line == "prior one: 1 of 1 run taken as observations"
    [trial] = observations(sweep_of(PARAMETERS), {PRIOR: {"one": taken.entries}}, [])
    assert trial.params == {"lr": 0.02, "width": 32}
    assert trial.value == 0.5


@pytest.mark.parametrize("case", ALIKE)
def test_settings_that_change_no_value_are_not_compared(runs_dir, case):
    write(runs_dir / "one", **ALIKE[case])
    assert len(take_prior("one", sweep_of(PARAMETERS)).entries) == 1


@pytest.mark.parametrize("case", REFUSED)
def test_other_runs_are_refused_with_the_reason(runs_dir, case):
    changes, reason = REFUSED[case]
    write(runs_dir / "one", **changes)
    with pytest.raises(UserError, match="none of its 1 run counts") as caught:
        take_prior("one", sweep_of(PARAMETERS))
    assert f"({reason}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sweep_s_runs_are_counted_by_what_becomes_of_them(runs_dir):
    folder = runs_dir / "sweeps" / "earlier"
    for number, changes in enumerate(({}, {"lr": 0.9}, {"epochs": 9}, {"state": "failed", "lr": 0.05}, {"epochs": 9})):
        write(folder / f"{number:03d}-x", days=number, **changes)
    (folder / run_folder.SWEEP_FILE).write_text(SWEEP)
    taken = take_prior("earlier", sweep_of(PARAMETERS))
    assert taken.line == (
        "prior earlier: 3 of 5 runs taken as observations "
        "(1 outside the ranges, for when these are widened); not taken: 2 with another epochs"
    )
    assert [entry["value"] for entry in taken.entries] == [0.5, 0.5, None]


def test_runs_of_other_folds_are_left_out_with_the_reason(runs_dir):
    for name, folds in (("plain", 0), ("twofold", 2)):
        folder = runs_dir / "sweeps" / name
        for place in range(max(1, folds)):
            write(folder / run_folder.run_of_seed("000-x", place), **({"fold": f"{place + 1}/2"} if folds else {}))
        (folder / run_folder.SWEEP_FILE).write_text(SWEEP)
    for keys in ({}, {"folds": 3}):
        with pytest.raises(UserError, match=r"none of its 1 run counts \(1 with 2 folds\)"):
            take_prior("twofold", sweep_of(PARAMETERS, **keys))
    with pytest.raises(UserError, match=r"none of its 1 run counts \(1 without folds\)"):
        take_prior("plain", sweep_of(PARAMETERS, folds=2))
    assert len(take_prior("plain", sweep_of(PARAMETERS)).entries) == 1
    assert len(take_prior("twofold", sweep_of(PARAMETERS, folds=2)).entries) == 1


def test_a_database_knows_the_folds_of_a_trial_though_its_folder_shows_but_one():
    trial = Trial(0, "000-x", "COMPLETE", 0.3, 1, {}, None, None, folds=2)
    assert with_folder(trial, Earlier("000-x", OWN, "COMPLETE", 0.9, "images"), is_same=True).folds == 2


def test_runs_of_other_images_are_refused(runs_dir):
    for name in ("one", "two"):
        write(runs_dir / name)
    environment = read_json(runs_dir / "one" / run_folder.ENVIRONMENT)
    write_json(runs_dir / "one" / run_folder.ENVIRONMENT, {**environment, "data": "another"})
    with pytest.raises(UserError, match=r"\(1 with other images\)"):
        take_prior("one", sweep_of(PARAMETERS))
    assert take_prior("two", sweep_of(PARAMETERS)).entries  # nothing is known of its images


def test_images_that_are_decoded_each_time_are_not_kept_to_be_compared(tmp_path):
    save_pictures(tmp_path / "pictures")
    values = {"dataset": "folder", "data_dir": str(tmp_path / "pictures"), "decode": "each", "image_size": 8}
    sweep = sweep_of({**PARAMETERS, **{name: {"value": value} for name, value in values.items()}})
    assert Images().fingerprint(sweep, {**OWN, **values})
    assert not list(cache_dir().rglob("images.npy"))


def test_what_was_taken_stays_with_the_study(runs_dir):
    sweep = sweep_of(PARAMETERS)
    study, folder = study_of(sweep, 0), write(runs_dir / "one")
    learn_from("one", study, sweep)
    (folder / run_folder.METRICS).unlink()
    assert learn_from("one", study, sweep) == "prior one: 1 observation, as taken when it was first named"
    assert len(observations(sweep, study.user_attrs, [])) == 1


def test_a_sweep_may_be_named_by_its_folder(runs_dir):
    folder = runs_dir / "sweeps" / "earlier"
    write(folder / "000-x")
    (folder / run_folder.SWEEP_FILE).write_text(SWEEP)
    assert len(take_prior(f"{folder}/", sweep_of(PARAMETERS)).entries) == 1


def test_a_sweep_counts_once_by_its_name_or_its_folder_and_its_own_trials_not_at_all(runs_dir, monkeypatch):
    sweep = sweep_of(PARAMETERS)
    study = study_of(sweep, 0)
    for name in ("earlier", study.study_name):
        write(runs_dir / "sweeps" / name / "000-x")
        (runs_dir / "sweeps" / name / run_folder.SWEEP_FILE).write_text(SWEEP)
    learn_from("earlier", study, sweep)
    monkeypatch.chdir(runs_dir / "sweeps")
    for place in (f"{runs_dir}/sweeps/earlier/", "./earlier", "../sweeps/earlier/."):
        assert learn_from(place, study, sweep) == "prior earlier: 1 observation, as taken when it was first named"
    assert len(observations(sweep, study.user_attrs, [])) == 1
    with pytest.raises(UserError, match="is this sweep itself"):
        learn_from(f"{runs_dir}/sweeps/{study.study_name}", study, sweep)


def test_a_sweep_with_several_metrics_takes_no_earlier_runs(runs_dir):
    write(runs_dir / "one")
    metrics = [{"name": "val/loss", "goal": "minimize"}, {"name": "val/accuracy", "goal": "maximize"}]
    with pytest.raises(UserError, match="runs are taken by one metric"):
        take_prior("one", sweep_of(PARAMETERS, metric=LEFT_OUT, metrics=metrics))


@pytest.mark.slow
@pytest.mark.waits
def test_the_runs_of_a_sweep_on_w_and_b_count_likewise(site, server):
    aim = {"metric": {"name": "val/accuracy", "goal": "maximize"}, "program": "train.py"}
    path = server.add_sweep(content(parameters=PARAMETERS, **aim), [])
    for name, changes in (("a", {}), ("b", {"lr": 0.5}), ("c", {"epochs": 3})):
        add_run(server, name, [0.5, 0.7], **{**OWN, **changes})
    code = (
        "import sys; from sweeps.local.prior import take_prior; from sweeps.local.sweep_file import parse_sweep\n"
        f"taken = take_prior(sys.argv[1], parse_sweep({content(parameters=PARAMETERS, **aim)!r}))\n"
        "print(taken.line, [entry['value'] for entry in taken.entries])"
    )
    assert site.finish(site.start("python", "-c", code, path)).splitlines()[-1] == (
        f"prior {path}: 2 of 3 runs taken as observations "
        "(1 outside the ranges, for when these are widened); not taken: 1 with another epochs "
        "[0.7, 0.7]"
    )


@pytest.mark.parametrize("place", ["nothing", "", "../x", "sweeps"])
def test_a_place_without_runs_is_refused_in_one_line(runs_dir, place):
    with pytest.raises(UserError) as caught:
        take_prior(place, sweep_of(PARAMETERS))
    assert "\n" not in str(caught.value)


def test_methods_that_learn_from_nothing_and_the_sweep_itself_are_refused(runs_dir):
    random = sweep_of(PARAMETERS, method="random")
    with pytest.raises(UserError, match="method random learns from no runs"):
        take_prior("one", random)
    study = study_of(random, 0)
    with pytest.raises(UserError, match="is this sweep itself"):
        learn_from(study.study_name, study, random)


def test_a_place_is_called_by_its_sweeps_name_only_in_the_runs_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path / "runs"))
    own, other = tmp_path / "runs" / "sweeps" / "lr", tmp_path / "backup" / "lr"
    for folder in (own, other):
        folder.mkdir(parents=True)
        (folder / "sweep.yaml").write_text("")
    assert name_of_sweep(str(own)) == "lr"
    assert name_of_sweep(str(other)) == str(other)
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path / "link"))
    assert name_of_sweep(str(own)) == "lr"
    own.rename(tmp_path / "elsewhere")
    assert name_of_sweep(str(other)) == str(other)


def test_what_is_kept_of_a_run_are_its_settings_of_the_file_and_those_that_are_no_defaults(runs_dir):
    told = {"batch_size": 128, "momentum": 0.5, "seed": 5}  # a default, another value than the default, not compared
    parameters = {**PARAMETERS, "momentum": {"value": 0.5}, "val_fraction": {"value": 0.1}}
    write(runs_dir / "one", state="failed", val_fraction=0.1, **told)
    [entry] = take_prior("one", sweep_of(parameters)).entries
    assert entry == {"run": "one", "settings": {**OWN, "momentum": 0.5, "val_fraction": 0.1}, "value": None}


def test_places_are_added_to_those_that_were_taken_before(runs_dir):
    sweep = sweep_of(PARAMETERS)
    study = study_of(sweep, 0)
    for name, rate in (("one", 0.01), ("two", 0.02)):
        write(runs_dir / name, lr=rate)
        learn_from(name, study, sweep)
    assert [trial.params["lr"] for trial in observations(sweep, study.user_attrs, [])] == [0.01, 0.02]


def test_final_runs_of_a_sweep_do_not_count(runs_dir):
    folder = runs_dir / "sweeps" / "earlier"
    for name in ("000-x", "final-000-x-seed1"):
        write(folder / name)
    (folder / run_folder.SWEEP_FILE).write_text(SWEEP)
    assert take_prior("earlier", sweep_of(PARAMETERS)).line == "prior earlier: 1 of 1 run taken as observations"


def test_a_run_is_found_by_its_name_though_sweeps_are_in_a_database_and_by_a_path_that_looks_like_one_of_w_and_b(
    runs_dir, monkeypatch
):
    monkeypatch.chdir(runs_dir)
    write(runs_dir / "one")
    write(runs_dir / "a" / "b" / "two")
    assert len(take_prior("one", sweep_of(PARAMETERS), f"sqlite:///{runs_dir}/sweeps.db").entries) == 1
    assert len(take_prior("a/b/two", sweep_of(PARAMETERS)).entries) == 1


@pytest.mark.parametrize(("is_same", "value"), [(True, 0.3), (False, 0.9)])
def test_a_database_knows_the_state_of_a_trial_and_its_value_of_its_own_metric_alone(is_same, value):
    trial = Trial(0, "000-x", "PRUNED", 0.3, 1, {}, None, None)
    run = Earlier("000-x", OWN, "RUNNING", 0.9, "images")
    assert with_folder(trial, run, is_same) == Earlier("000-x", OWN, "PRUNED", value, "images")


def search_once(url, value, **changes):
    """A sweep called earlier in a database, with one trial of OWN that has finished; return the trial's run."""
    sweep = sweep_of({name: {"value": value} for name, value in OWN.items()} | {"lr": {"values": [0.01]}}, **changes)
    trials = Trials(url, sweep, "earlier", seed=0)
    claim = trials.take(1)
    claim.trial.report(value, 1)
    trials.end(claim, TrialState.COMPLETE, {"best": value, "best_epoch": 1})
    return claim.run_id


def test_a_sweeps_own_database_wins_over_the_one_that_is_named_which_also_has_sweeps_without_a_folder_here(runs_dir):
    url, folder = f"sqlite:///{runs_dir}/all.db", runs_dir / "sweeps" / "earlier"
    search_once(url, 0.75)
    assert [entry["value"] for entry in take_prior("earlier", sweep_of(PARAMETERS), url).entries] == [0.75]
    folder.mkdir(parents=True)
    (folder / run_folder.SWEEP_FILE).write_text(SWEEP)
    write(folder / search_once(f"sqlite:///{folder}/{run_folder.STUDY}", 0.25))
    assert [entry["value"] for entry in take_prior("earlier", sweep_of(PARAMETERS), url).entries] == [0.25]


def test_the_best_value_of_a_metric_with_another_goal_is_that_of_the_log(runs_dir):
    folder = runs_dir / "sweeps" / "earlier"
    folder.mkdir(parents=True)
    (folder / run_folder.SWEEP_FILE).write_text(SWEEP)
    write(folder / search_once(f"sqlite:///{folder}/{run_folder.STUDY}", 0.5), losses=[0.6, 0.5])
    rising = sweep_of(PARAMETERS, metric={"name": "val/loss", "goal": "maximize"})
    assert [take_prior("earlier", each).entries[0]["value"] for each in (sweep_of(PARAMETERS), rising)] == [0.5, 0.6]


@pytest.mark.parametrize(("goal", "kept"), [("minimize", [1, 3, 4, 5]), ("maximize", [2, 3, 4, 5])])
def test_of_many_runs_the_better_half_of_what_a_model_is_told_and_the_newest_are_kept(monkeypatch, goal, kept):
    monkeypatch.setattr("sweeps.local.search.MOST_SEEN", 4)
    entries = [{"run": str(number), "value": value} for number, value in enumerate([5, 1, 9, 2, 8, None])]
    found = enough_for_a_model(entries, Metric("val/score", goal))
    assert [int(entry["run"]) for entry in found] == kept


def test_images_are_told_apart_by_their_size_before_the_crop(monkeypatch):
    sides = []

    def load(name, folder, side, *others):
        sides.append(side)
        return SimpleNamespace(fingerprint=str(side))

    monkeypatch.setattr("sweeps.local.prior.load_dataset", load)
    images = Images()
    for crop, fingerprint in ((1.0, "8"), (0.5, "16"), (1.0, "8")):
        values = {"image_size": 8, "eval_crop": crop}
        sweep = sweep_of({**PARAMETERS, **{name: {"value": value} for name, value in values.items()}})
        assert images.fingerprint(sweep, OWN) == fingerprint
    assert sides == [8, 16]  # each is read once


def test_images_are_told_apart_by_the_column_of_their_labels(monkeypatch):
    load = lambda *told: SimpleNamespace(fingerprint=told[-1])  # noqa: E731
    monkeypatch.setattr("sweeps.local.prior.load_dataset", load)
    images = Images()
    for column in ("fine_label", "coarse_label"):
        sweep = sweep_of({**PARAMETERS, "label_column": {"value": column}})
        assert images.fingerprint(sweep, OWN) == column


def test_images_of_another_programs_runs_are_not_compared():
    run = Earlier("one", {"lr": 0.01}, "COMPLETE", 0.5, "images")
    assert reason_against(run, sweep_of({"lr": LR}, program=__file__), Images()) == ""
