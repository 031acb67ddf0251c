"""Trials that `final.py --pick` names, of a sweep with two metrics and of one with one."""

import pytest

from analysis.read.best_recipe import best_recipe
from analysis.read.sweeps import SweepRecord
from analysis.read.trials import Trial
from data.errors import UserError
from data.metrics import Metric
from sweeps.local.picking import picked, trials_in_words

TWO = {"metrics": [{"name": "val/loss"}, {"name": "val/accuracy", "goal": "maximize"}]}
VALUES = [(0.5, 0.7), (0.4, 0.6), (0.6, 0.65), (0.7, 0.9), (0.3, None)]  # the second is beaten by the first by both


def sweep_with(content):
    trials = [
        Trial(
            i,
            f"{i:03d}-a",
            "COMPLETE",
            loss,
            3,
            {"model": "mlp", "lr": i},
            None,
            None,
            objectives={"val/accuracy": accuracy},
        )
        for i, (loss, accuracy) in enumerate(VALUES)
    ]
    return SweepRecord("s", "", Metric("val/loss"), "bayes", ("lr",), tuple(trials), {}, content)


def test_a_pick_is_a_trials_number_or_the_metric_that_it_is_the_best_by():
    sweep = sweep_with(TWO)
    assert [trial.number for trial in sweep.front] == [1, 0, 3]  # the best by the first metric first
    assert picked(sweep, "2").number == 2
    assert picked(sweep, "val/accuracy").number == 3
    assert picked(sweep, "val/loss").number == 1
    assert "trials of s: 003-a" in best_recipe(sweep, picked(sweep, "3")).splitlines()[0]


@pytest.mark.parametrize("pick", ["9", "val/ece", "-1", ""])
def test_another_pick_is_refused_with_the_trials_that_there_are(pick):
    with pytest.raises(UserError) as refused:
        picked(sweep_with(TWO), pick)
    known = [f"{i} (val/loss {VALUES[i][0]:.4f}, val/accuracy {VALUES[i][1]:.2%})" for i in (1, 0, 3, 2)]
    known.insert(3, "4 (val/loss 0.3000)")  # after the front, as its loss is less than that of 2
    told = "; ".join(known).replace("%", " %")
    assert str(refused.value) == (
        f"--pick={pick} is no trial with a value, nor a metric of the sweep: there are {told}"
    )


def test_without_several_metrics_the_front_is_the_best_trial():
    sweep = sweep_with({"metric": {"name": "val/loss"}})
    assert trials_in_words(sweep, sweep.front) == "4 (val/loss 0.3000)"
    assert picked(sweep, "0").number == 0
