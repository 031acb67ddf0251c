"""Sweeps as a table in a terminal."""

from functools import partial

from analysis.compare.text_table import OWN_FINAL, TESTED, Column, print_table, skipped
from analysis.read.figures import plus_minus
from analysis.read.sweeps import SweepList, SweepRecord
from analysis.read.trials import value_text
from analysis.terminal import SPARKLINE_WIDTH, number, sparkline
from data.metrics import TEST_METRICS, is_finite, metrics_of_finals
from data.visible import counted, say


def print_sweeps(sweeps: SweepList) -> None:
    """Print a table of sweeps, and a line that counts them."""
    columns: list[Column] = [
        ("sweep", lambda sweep: sweep.name),
        ("method", lambda sweep: sweep.method),
        ("metric", lambda sweep: sweep.metric.name),
        ("trials", lambda sweep: str(len(sweep.trials))),
        ("done", lambda sweep: num_trials(sweep, "COMPLETE")),
        ("early", lambda sweep: num_trials(sweep, "PRUNED")),
        ("failed", lambda sweep: num_trials(sweep, "FAIL")),
        ("best", best_value),
        ("values in order", lambda sweep: sparkline(values_in_order(sweep), SPARKLINE_WIDTH)),
        ("best settings", best_settings),
        *((f"final {heading}", partial(final_figure, name)) for name, heading in TESTED.items()),
        (OWN_FINAL, own_final_figure),
    ]
    print_table(columns, sweeps.sweeps, "sweeps")
    say(f"{counted(len(sweeps.sweeps), 'sweep')}{skipped('no sweep that ranks its runs', sweeps.skipped)}")


def num_trials(sweep: SweepRecord, state: str) -> str:
    """Return how many of a sweep's trials are in a state; "" for none."""
    return number(sum(trial.state == state for trial in sweep.trials) or None)


def best_value(sweep: SweepRecord) -> str:
    """Return the value of a sweep's best trial, over several seeds with its deviation; "" where none has any yet."""
    if not sweep.leaders:
        return ""
    best = sweep.leaders[0]
    return value_text(sweep.metric, best.value, best.seeds, best.folds)


def values_in_order(sweep: SweepRecord) -> list[float]:
    """Return the finite values of a sweep's trials, in the order in which the trials were started."""
    return [trial.value for trial in sweep.trials if trial.value is not None and is_finite(trial.value)]


def best_settings(sweep: SweepRecord) -> str:
    """Return what a sweep's best trial has for the settings that are searched; "" where no trial has a value yet."""
    settings = sweep.leaders[0].settings if sweep.leaders else {}
    return " ".join(f"{name}={number(settings[name])}" for name in sweep.varied if name in settings)


def final_figure(name: str, sweep: SweepRecord) -> str:
    """Return a test figure of the final runs of a sweep's best trial; "" where there is none."""
    try:
        figure = sweep.final["trials"][0][name]
        return plus_minus(figure, name) if sweep.has_finals_of_its_best() else ""
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):  # no final runs yet, or a file not ours
        return ""


def own_final_figure(sweep: SweepRecord) -> str:
    """Return the test figure of a sweep's own metric in the final runs of its best trial; "" for a usual one."""
    name = metrics_of_finals(sweep.metric)[0].name
    return "" if name in TEST_METRICS else final_figure(name, sweep)
