"""From a sweep to its result: what is trained, what is computed of it, and how it goes on after signals and faults."""

import datetime
import json
import math
import signal
import sqlite3
from types import SimpleNamespace

import optuna
import pytest

from analysis.read.records import RunRecord
from analysis.read.storage import url_of_file
from analysis.read.sweeps import SweepRecord, read_sweep
from analysis.read.trials import Trial, trials_of
from analysis.record import run_folder
from data.errors import UserError
from data.files import read_json
from data.metrics import Curve, Metric, is_epoch
from sweeps import final as program
from sweeps.final import against_the_first, show, warn_of_a_search
from sweeps.local.final_runs import place_of_finals
from sweeps.local.trials import Trials
from tests.sweep_agents import ROOT, wait_until
from tests.sweep_helpers import LR, sweep_of

GRID = {"values": [0.01, 0.001, 0.1]}  # by value: 1, 0, 2


def final(stage, *arguments, **options):
    return stage.run("sweep", *arguments, program="final", **options)


def sweep(stage, **parameters):
    """A sweep whose trials have ended, best in their third epoch."""
    parameters = {"lr": GRID, "epochs": 4, "seconds": 0.01, **parameters}
    stage.run(stage.write(method="grid", parameters=parameters), "--workers=2")
    return [trial.user_attrs["run_id"] for trial in stage.trials()]


def starts(stage):
    return [start for start in stage.journal("start") if start["run"].startswith("final-")]


def test_final_runs_go_to_the_project_of_their_sweep_on_wandb(tmp_path):
    of_team = {"WANDB_ENTITY": "team", "WANDB_PROJECT": "vision"}
    nowhere = SweepRecord("lr", str(tmp_path), Metric("val/loss"), "grid", (), (), {}, {})
    assert place_of_finals("team/vision/abc", nowhere) == of_team
    assert place_of_finals("lr", nowhere) == {}
    (tmp_path / "sweep.yaml").write_text("project: digits\n")  # of 0.1.0, whose databases do not have it
    assert place_of_finals("lr", nowhere) == {"WANDB_PROJECT": "digits"}
    (tmp_path / "sweep.yaml").write_text("project: vision\nentity: team\n")
    assert place_of_finals("lr", nowhere) == of_team


def test_final_runs_go_to_the_project_of_their_sweep_where_its_folder_is_on_another_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("VISION_SWEEPS_RUNS", str(tmp_path / "here"))
    url = url_of_file(tmp_path / "study.db")
    for place in ({"project": "digits"}, {"project": "vision", "entity": "team"}):  # by the file as it is now
        trials = Trials(url, sweep_of({"lr": LR}, **place), "lr", 1)
    assert trials.changes == []
    assert not Trials(url, sweep_of({"lr": LR}), "lr", 1).changes
    Trials(url, sweep_of({"lr": LR}, project="vision", entity="team"), "lr", 1)
    assert place_of_finals("lr", read_sweep("lr", url)) == {"WANDB_ENTITY": "team", "WANDB_PROJECT": "vision"}


@pytest.mark.parametrize(("states", "told"), [("CC", ""), ("CRR", "sweep is not searched to its end, 2 of 3 trials")])
def test_trials_that_have_not_ended_are_told(states, told, capsys):
    names = {"C": "COMPLETE", "R": "RUNNING"}
    trials = tuple(Trial(i, f"00{i}", names[state], 0.5, 1, {}, None, None) for i, state in enumerate(states))
    warn_of_a_search(SweepRecord("sweep", "", Metric("val/loss", "minimize"), "grid", (), trials, {}))
    assert told in capsys.readouterr().err if told else capsys.readouterr().err == ""


@pytest.mark.slow
def test_the_best_settings_are_trained_on_all_images_for_the_best_epoch_with_fresh_seeds(stage):
    runs = sweep(stage, tags="a b")
    done = final(stage, "--seeds=3")
    assert [start["run"] for start in starts(stage)] == [f"final-{runs[1]}-seed{seed}" for seed in (1, 2, 3)]
    for start, seed in zip(starts(stage), "123", strict=True):
        told = {"lr": "0.001", "epochs": "3", "seconds": "0.01", "seed": seed}
        protocol = {"train_fraction": "1.0", "val_fraction": "0.0", "patience": "0", "test": "True"}
        assert start["told"] == {**told, **protocol}  # tags are the trial's own
        assert start["environment"]["WANDB_JOB_TYPE"] == "final"
        assert start["environment"]["WANDB_RUN_GROUP"] == "sweep"
    result = read_json(stage.sweep() / "final.json")
    assert (result["sweep"], result["metric"]) == ("sweep", "val/loss")
    [trial] = result["trials"]
    assert (trial["trial"], trial["seeds"], trial["device"]) == (runs[1], [1, 2, 3], "none")
    assert trial["value"] == pytest.approx(1 / 3)
    assert trial["command"].startswith("python train.py --model=mlp")
    # Seed s has a test loss of 0.5 + s * s: 1.5, 4.5 and 9.5.
    summaries = [read_json(stage.sweep() / start["run"] / "summary.json") for start in starts(stage)]
    assert [summary["test/loss"] for summary in summaries] == [1.5, 4.5, 9.5]
    std = math.sqrt(((1.5 - 31 / 6) ** 2 + (4.5 - 31 / 6) ** 2 + (9.5 - 31 / 6) ** 2) / 2)
    assert trial["test/loss"] == {"mean": pytest.approx(31 / 6), "std": pytest.approx(std), "values": [1.5, 4.5, 9.5]}
    assert trial["train_seconds"]["mean"] == pytest.approx(3.0)
    assert f"{31 / 6:.4f} ± {std:.4f}" in done.output


@pytest.mark.slow
def test_without_test_images_the_held_out_ones_stay_so_and_give_the_figures(stage):
    (stage.folder / "faces").mkdir()
    sweep(stage, dataset="faces", data_dir=str(stage.folder), val_fraction=0.2)
    done = final(stage, "--seeds=1")
    [start] = starts(stage)
    assert start["told"]["data_dir"] == str(stage.folder)  # where the sweep file says that the images lie
    assert start["told"]["val_fraction"] == "0.2"
    assert start["told"]["train_fraction"] == "1.0"
    assert "test" not in start["told"]
    [trial] = read_json(stage.sweep() / "final.json")["trials"]
    assert trial["val/loss"]["values"] == [1.5]
    assert "1.5000" in done.output


@pytest.mark.parametrize(("figure", "is_told"), [("accuracy", True), ("loss", False)])
def test_the_images_tell_of_a_difference_in_accuracy_alone(tmp_path, monkeypatch, figure, is_told):
    monkeypatch.setattr(program, "right_by_image", lambda folders, split: {"a": 0.5, "b": float(len(folders) > 2)})
    values, key = {"000-a": [0.5, 0.6], "001-b": [0.4, 0.45, 0.5]}, f"test/{figure}"
    results = [{"trial": trial, "seeds": [*range(len(own))], key: {"values": own}} for trial, own in values.items()]
    finals = [[SimpleNamespace(run_id=f"{trial}{i}", seed=i) for i in range(3)] for trial in values]
    [found] = against_the_first(tmp_path, finals, results, key)
    assert ("over the images" in found["verdict"]) == is_told == (found["over_images"] is not None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("split", "told"), [("test", "images trial"), ("val", "images but those held out, whose figures")]
)
def test_the_table_says_which_images_were_trained_on(capsys, split, told):
    figure = {"mean": 0.5, "std": None, "values": [0.5]}
    result = {"trial": "000-a", "value": 0.6, "settings": {"epochs": 2}, "seeds": [1], f"{split}/accuracy": figure}
    show([result], "val/accuracy")
    assert f"on all training {told}" in " ".join(capsys.readouterr().out.split())


def test_the_same_command_trains_nothing_twice_and_more_seeds_add_to_it(stage):
    sweep(stage)
    final(stage, "--seeds=1")
    assert read_json(stage.sweep() / "final.json")["trials"][0]["test/loss"]["std"] is None
    final(stage, "--seeds=2")
    epochs = [row["run"] for row in stage.journal("epoch") if row["run"].startswith("final-")]
    assert [epochs.count(run) for run in sorted(set(epochs))] == [3, 3]
    assert read_json(stage.sweep() / "final.json")["trials"][0]["seeds"] == [1, 2]


@pytest.mark.slow
def test_the_top_trials_are_trained_the_best_first(stage):
    runs = sweep(stage, final_company=2)
    final(stage, "--seeds=2", "--top=2", "--workers=2")
    result = read_json(stage.sweep() / "final.json")["trials"]
    assert [trial["trial"] for trial in result] == [runs[1], runs[0]]
    assert [trial["settings"]["lr"] for trial in result] == [0.001, 0.01]
    assert len(starts(stage)) == 4
    events = [row for row in stage.journal() if row["run"].startswith("final-") and row["event"] != "epoch"]
    at_once = [sum(1 if row["event"] == "start" else -1 for row in events[:i]) for i in range(1, len(events) + 1)]
    assert max(at_once) == 2


@pytest.mark.slow
def test_the_result_notes_that_its_trial_was_picked_and_the_next_one_that_it_was_not(stage):
    runs = sweep(stage)
    for arguments, trial, pick in ((["--pick=2"], runs[2], "2"), ([], runs[1], None)):
        final(stage, "--seeds=1", *arguments)
        result = read_json(stage.sweep() / "final.json")
        assert (result["trials"][0]["trial"], result["picked"], result["from_width"]) == (trial, pick, None)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_with_the_state_saved_and_the_same_command_goes_on(stage, number):
    sweep(stage, final_seconds=0.5)
    running = stage.start("sweep", "--seeds=3", "--workers=2", program="final")
    wait_until(lambda: len(starts(stage)) == 2, "two runs are under way")
    stage.wait_for("epoch", 1, run=starts(stage)[1]["run"], epoch=2)
    running.signal(number)
    assert running.wait(5) == 128 + number
    assert stage.processes() == []
    assert "stopped; to go on: python sweeps/final.py sweep --seeds=3 --workers=2" in running.output
    assert not (stage.sweep() / "final.json").exists()
    final(stage, "--seeds=3", "--workers=2")
    assert read_json(stage.sweep() / "final.json")["trials"][0]["seeds"] == [1, 2, 3]
    assert len(starts(stage)) == 5
    assert stage.disorder() == []


@pytest.mark.slow
def test_no_run_outlives_a_kill_and_the_next_command_waits_for_what_still_saves_its_state(stage):
    sweep(stage, final_seconds=0.3, saving_seconds=1.0)
    running = stage.start("sweep", "--seeds=1", program="final")
    wait_until(lambda: starts(stage), "a run is under way")
    stage.wait_for("epoch", 1, run=starts(stage)[0]["run"], epoch=2)
    running.signal(signal.SIGKILL)
    final(stage, "--seeds=1")
    assert len(starts(stage)) == 2
    assert stage.disorder() == []
    assert stage.processes() == []


@pytest.mark.slow
def test_a_run_that_fails_is_told_and_leaves_the_others_result(stage):
    sweep(stage, crashing_seed=2)
    done = final(stage, "--seeds=3", code=1)
    assert "seed2: failed, exit code 1" in done.errors
    assert "CUDA out of luck" in done.errors
    assert read_json(stage.sweep() / "final.json")["trials"][0]["seeds"] == [1, 3]


@pytest.mark.slow
def test_a_run_without_figures_has_failed_and_counts_as_no_seed(stage):
    sweep(stage, figureless_seed=1)
    done = final(stage, "--seeds=2", code=1)
    assert "seed1: finished without figures" in done.errors
    [trial] = read_json(stage.sweep() / "final.json")["trials"]
    assert (trial["seeds"], trial["test/loss"]["values"]) == ([2], [4.5])


@pytest.mark.slow
def test_where_no_run_finishes_there_is_no_result(stage):
    sweep(stage, crashing_seed=1)
    done = final(stage, "--seeds=1", code=1)
    assert done.errors.endswith("final.py: no run has finished: the reasons are above\n")
    assert not (stage.sweep() / "final.json").exists()
    assert "seeds" not in done.output


@pytest.mark.slow
def test_a_fault_of_the_machine_stops_the_runs_and_the_same_command_goes_on(stage):
    broken = stage.folder / "broken"
    sweep(stage, broken=str(broken))
    broken.write_text("train.py: [Errno 28] No space left on device")
    done = final(stage, "--seeds=3", code=1)
    assert len(starts(stage)) == 1
    assert "stopped, its disk is full; to go on: python sweeps/final.py sweep --seeds=3" in done.output
    assert not (stage.sweep() / "final.json").exists()
    broken.unlink()
    final(stage, "--seeds=3")
    assert read_json(stage.sweep() / "final.json")["trials"][0]["seeds"] == [1, 2, 3]


@pytest.mark.slow
def test_the_settings_reach_a_program_whose_command_leaves_them_out(stage):
    parameters = {"lr": GRID, "epochs": 4, "seconds": 0.01}
    stage.run(stage.write(method="grid", parameters=parameters, command=["${interpreter}", "${program}"]))
    final(stage, "--seeds=1")
    [start] = starts(stage)
    assert start["told"] == {}
    assert (start["sweep"]["lr"], start["sweep"]["seed"]) == ("0.001", "1")


@pytest.mark.slow
def test_a_command_that_is_in_no_sweep_file_here_is_run_only_if_it_is_trusted(stage):
    sweep(stage)
    study = optuna.load_study(study_name="sweep", storage=stage.url())
    evil = ["touch", str(stage.folder / "evil"), "\x1b[2J"]
    study.set_user_attr("sweep", {**study.user_attrs["sweep"], "command": evil})
    told = refused(stage, "sweep", "--seeds=1")
    assert f"touch {stage.folder}/evil" in told
    assert told.endswith("if you trust it, give --trust\n")
    assert "\x1b" not in told
    assert not (stage.folder / "evil").exists()
    final(stage, "--seeds=1", "--trust", code=1)
    assert (stage.folder / "evil").exists()


@pytest.mark.slow
@pytest.mark.parametrize("run_id", ["../../../evil", "/tmp/evil", ".evil", "a\x1b[2J", "", 3])
def test_a_run_id_that_leads_elsewhere_is_refused(stage, run_id):
    sweep(stage)
    with sqlite3.connect(stage.sweep() / "study.db") as database:
        change = "UPDATE trial_user_attributes SET value_json = ? WHERE key = 'run_id'"
        database.execute(change, [json.dumps(run_id)])
    assert "which is no plain name: do not trust that sweep" in refused(stage, "sweep")
    assert starts(stage) == []
    record = RunRecord(run_id, "https://wandb.ai/e/p/runs/x", "s", "finished", utcnow(), "", "", (), {}, {}, {})
    with pytest.raises(UserError, match="no plain name"):
        trials_of([record], [(Curve(),)], [Metric("val/loss")])


def utcnow():
    return datetime.datetime.now(datetime.UTC)


def refused(stage, *arguments):
    done = stage.run(*arguments, program="final", code=2)
    assert len(done.errors.splitlines()) == 1, done.errors
    assert done.errors.startswith("final.py: ")
    assert "secret" not in done.errors
    assert done.output == ""
    return done.errors


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nosuch"], "there is no sweep nosuch"),
        (["a/b"], "a/b"),
        (["sweep", "--seeds=0"], "--seeds"),
        (["sweep", "--seeds=100000000"], "--seeds=100000000 are more runs"),
        (["sweep", "--top=x"], "--top"),
        (
            ["sweep", "--top=2", "--from-width=64"],
            "--from-width=64 says itself which trials are trained: leave out --top",
        ),
        (["sweep", "--devices=7"], "--devices=7"),
        (["sweep", "--storage=postgresql+psycopg://me:secret@127.0.0.1:9/x"], "cannot be reached"),
        (["sweep", "--storage=postgresql+psycopg//me:secret@host/x"], "no address"),
    ],
)
def test_what_is_refused(stage, arguments, named):
    assert named in refused(stage, *arguments)
    assert not stage.runs_dir.exists()


@pytest.mark.slow
def test_a_sweep_without_a_value_yet_is_refused(stage):
    agent = stage.start(stage.write(parameters={"seconds": 30}))
    stage.wait_for("epoch", 1)
    assert "has no trial with a val/loss yet" in refused(stage, "sweep")
    assert "there is no sweep other" in refused(stage, "other", f"--storage={stage.url()}")
    agent.signal(signal.SIGINT)
    assert agent.wait() == 130


@pytest.mark.slow
def test_a_paused_trial_counts_with_its_best_value_so_far(stage):
    agent = stage.start(stage.write(parameters={"epochs": 50, "seconds": 0.1}), "--count=1")
    stage.wait_for("epoch", 1, epoch=4)
    agent.signal(signal.SIGINT)
    assert agent.wait() == 130
    [paused] = stage.trials()
    final(stage, "--seeds=1")
    [trial] = read_json(stage.sweep() / "final.json")["trials"]
    assert trial["trial"] == paused.user_attrs["run_id"]
    assert trial["settings"]["epochs"] == paused.user_attrs["best_epoch"]


@pytest.mark.slow
def test_final_runs_of_a_trial_that_has_gone_on_since_are_new_ones_of_its_new_best_epoch(stage):
    file = stage.write(parameters={"epochs": 50, "seconds": 0.05})
    agent = stage.start(file, "--count=1")
    stage.wait_for("epoch", 1, epoch=8)
    agent.signal(signal.SIGINT)
    assert agent.wait() == 130
    final(stage, "--seeds=1")
    [before] = read_json(stage.sweep() / "final.json")["trials"]
    stage.run(file, "--count=1")
    final(stage, "--seeds=2")
    [trial] = read_json(stage.sweep() / "final.json")["trials"]
    assert before["settings"]["epochs"] < trial["settings"]["epochs"] == 50
    name = f"final-{trial['trial']}"
    new = [f"{name}-epochs50-seed{seed}" for seed in (1, 2)]
    assert [start["run"] for start in starts(stage)] == [f"{name}-seed1", *new]
    assert trial["seeds"] == [1, 2]
    final(stage, "--seeds=2")
    assert len({start["run"] for start in starts(stage)}) == 3  # the same command trains nothing twice


@pytest.mark.slow
def test_train_py_reads_the_test_images_in_its_final_runs(lean, stage):
    parameters = {"lr": {"values": [0.002]}, "model": "mlp", "dataset": "digits", "width": 32, "val_fraction": 0.2}
    parameters |= {"tracking": "off", "epochs": 2, "train_fraction": 0.5}
    metric = {"name": "val/accuracy", "goal": "maximize"}
    stage.run(stage.write(program=str(ROOT / "train.py"), method="grid", metric=metric, parameters=parameters))
    [chosen] = stage.trials()
    summary = read_json(stage.sweep() / chosen.user_attrs["run_id"] / "summary.json")
    kept = (summary["best_by"], summary["val/accuracy"], summary["best_epoch"])
    assert kept == ("val/accuracy", chosen.user_attrs["best"], chosen.user_attrs["best_epoch"])
    final(stage, "--seeds=2", "--workers=2", environment={"WANDB_MODE": "disabled"})
    [trial] = read_json(stage.sweep() / "final.json")["trials"]
    folders = sorted(stage.sweep().glob("final-*"))
    assert len(folders) == 2
    values = []
    for folder in folders:
        settings = read_json(folder / "settings.json")
        assert (settings["train_fraction"], settings["val_fraction"], settings["test"]) == (1.0, 0.0, True)
        num_epochs = chosen.user_attrs["best_epoch"]
        assert (settings["lr"], settings["width"], settings["epochs"]) == (0.002, 32, num_epochs)
        assert settings["best_by"] == ""  # nothing is held out to choose by
        assert len([row for row in run_folder.read_metrics(folder) if is_epoch(row)]) == num_epochs
        values.append(read_json(folder / "summary.json")["test/accuracy"])
    assert trial["test/accuracy"]["values"] == values
    assert trial["test/accuracy"]["mean"] == pytest.approx(sum(values) / 2)
    assert trial["test/accuracy"]["std"] == pytest.approx(abs(values[0] - values[1]) / math.sqrt(2))
    assert trial["seeds"] == [1, 2]
