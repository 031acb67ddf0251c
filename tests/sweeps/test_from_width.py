"""The best trial of a narrow network, taken to the wide one."""

from dataclasses import replace

import pytest

from analysis.read.sweeps import SweepRecord
from analysis.read.trials import Trial
from data.errors import UserError
from data.files import write_json
from data.metrics import Best, Metric
from sweeps.local.from_width import transfer_of
from tests.sweep_agents import Stage


def sweep_of(folder, *trials):
    """A sweep with trials of these settings, that trained as many seconds as their width; the first one is the best."""
    made = []
    for number, settings in enumerate(trials):
        run_id = f"{number:03d}-run"
        made.append(Trial(number, run_id, "COMPLETE", float(number), 3, {"model": "mlp", **settings}, None, None))
        write_json(folder / run_id / "summary.json", {"train_seconds": settings.get("width", 512)})
    return SweepRecord("lr", str(folder), Metric("val/loss"), "grid", ("lr",), tuple(made), {})


def mup(width, lr=0.1):
    return {"parametrization": "mup", "width": width, "lr": lr}


def make_folders(folder, num):
    for number in range(num):
        (folder / f"{number:03d}-run").mkdir()
    return folder


def test_the_best_narrow_trial_gets_the_greatest_width_and_is_compared_with_the_best_that_was_as_wide(tmp_path):
    trials = [mup(64) | {"parametrization": "standard"}, mup(600, 0.2), mup(64, 0.3), mup(600, 0.4), mup(64, 0.5)]
    found = transfer_of(sweep_of(make_folders(tmp_path, 5), *trials), 64)
    assert [trial.settings["lr"] for trial in found.trials] == [0.3, 0.2]
    assert [trial.settings["width"] for trial in found.trials] == [600, 600]
    assert [trial.run_id for trial in found.trials] == ["002-run-width600", "001-run"]
    assert found.words == (
        "width 600 by the best rate of width 64, 0.3: the search took 2m08s of training in 2 trials; "
        "that of width 600 itself 20m00s of training in 2 trials, 9.4 times as much"
    )


def test_what_a_search_took_holds_the_runs_of_all_seeds(tmp_path):
    sweep = sweep_of(make_folders(tmp_path, 1), mup(64))
    trial = replace(sweep.trials[0], seeds=(Best(0.1, 3), Best(0.2, 3)))
    (tmp_path / "000-run-s2").mkdir()
    write_json(tmp_path / "000-run-s2" / "summary.json", {"train_seconds": 100})
    found = transfer_of(replace(sweep, trials=(trial,)), 64)
    assert found.words.endswith("the search took 2m44s of training in 1 trial")


def test_settings_that_both_searches_choose_are_trained_once(tmp_path):
    trials = [mup(64, 0.3) | {"seed": 1}, mup(512, 0.3) | {"seed": 2}]
    found = transfer_of(sweep_of(make_folders(tmp_path, 2), *trials), 64)
    assert [trial.run_id for trial in found.trials] == ["000-run-width512"]
    assert found.words.endswith("8.0 times as much; both chose the same settings, so that nothing is lost")


def test_without_wide_trials_the_wide_model_is_the_default_one(tmp_path):
    found = transfer_of(sweep_of(make_folders(tmp_path, 1), mup(64)), 64)
    assert [trial.settings["width"] for trial in found.trials] == [512]
    assert found.words.endswith("the search took 1m04s of training in 1 trial")


def test_a_rate_of_the_standard_parametrization_is_taken_with_a_warning(tmp_path, capsys):
    transfer_of(sweep_of(make_folders(tmp_path, 1), {"width": 64, "lr": 0.1}), 64)
    assert "rates do not transfer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "width", "message"),
    [
        (mup(64), 32, "^--from-width=32: no trial with a value has that width, they have 64"),
        (mup(512), 512, "^--from-width=512 is the width of the wide model, too"),
        ({"model": "patch_lstm", "width": 8}, 9, "no trial with a value has that width, they have 8"),
        ({"model": "timm"}, 9, "^--from-width: timm has no width: name a sweep of mlp"),
    ],
)
def test_what_cannot_be_taken_is_refused_in_one_line(tmp_path, settings, width, message):
    with pytest.raises(UserError, match=message):
        transfer_of(sweep_of(make_folders(tmp_path, 1), settings), width)


@pytest.mark.slow
def test_final_trains_the_wide_model_by_both_and_tells_what_they_cost(tmp_path):
    stage = Stage(tmp_path)
    parameters = {"lr": {"values": [0.01, 0.001]}, "width": {"values": [8, 512]}, "model": "mlp", "seconds": 0.01}
    parameters |= {"parametrization": "mup", "base_width": 8, "epochs": 2}
    stage.run(stage.write(method="grid", parameters=parameters), "--workers=2")
    # Of the narrow trials and of the wide ones the same rate is the best: trained once.
    done = stage.run("sweep", "--from-width=8", "--seeds=2", program="final")
    ran = [row["run"] for row in stage.journal("start") if row["run"].startswith("final-")]
    assert sorted(run.rpartition("-")[2] for run in ran) == ["seed1", "seed2"]
    assert all("-width512-" in run for run in ran)
    assert "width 512 by the best rate of width 8, 0.001" in done.output
    assert "both chose the same settings" in done.output
    stage.close()
