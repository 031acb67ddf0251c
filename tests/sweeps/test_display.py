import io

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from rich.console import Console

from analysis.terminal import clock
from sweeps.local.display import Display
from tests.sweep_helpers import LR, sweep_of

SPACE = {"lr": FloatDistribution(1e-5, 0.1, log=True)}


def trial(number, state, values=(), lr=0.01, seconds=None):
    """A trial as the storage tells of it."""
    attributes = {"settings": {"lr": lr, "model": "cnn"}, **({"seconds": seconds} if seconds is not None else {})}
    made = create_trial(
        state=state,
        value=min(values) if state == TrialState.COMPLETE else None,
        params={"lr": lr},
        distributions=SPACE,
        intermediate_values={step + 1: value for step, value in enumerate(values)},
        user_attrs=attributes,
    )
    made.number = number
    return made


TRIALS = [
    trial(0, TrialState.COMPLETE, (0.9, 0.51234, 0.6), lr=0.00123456, seconds=100.0),
    trial(1, TrialState.PRUNED, (0.8, 0.7), seconds=40.0),
    trial(2, TrialState.FAIL, (0.1,), seconds=10.0),
    trial(3, TrialState.RUNNING, (0.95,)),
    trial(4, TrialState.RUNNING),
    trial(5, TrialState.RUNNING),
]
RUNNING = {3: (1, 20.0), 4: (0, 90.0)}


@pytest.fixture
def display():
    """Makes a display of some width whose console writes to a buffer."""

    def make(count=10, num_workers=2, width=100, is_terminal=False, parameters=None, **changes):
        sweep = sweep_of(parameters or {"lr": LR, "model": {"value": "cnn"}}, **changes)
        made = Display(sweep, "quick", count, num_workers)
        output = io.StringIO()
        made.console = Console(file=output, width=width, force_terminal=is_terminal, soft_wrap=True, color_system=None)
        made.live.console = made.console
        return made

    return make


def printed(display):
    return display.console.file.getvalue()


def cells(display, trials, running):
    """The rows of the table, as text."""
    columns = [map(str, column.cells) for column in display.table(trials, running).columns]
    return list(zip(*columns, strict=True))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.4, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (61, "1m01s"),
        (3599.7, "1h00m"),
        (3725, "1h02m"),
        (90000, "25h00m"),
    ],
)
def test_durations_are_told_in_two_units_at_most(seconds, text):
    assert clock(seconds) == text


def test_a_row_tells_number_state_epoch_best_value_and_what_varies(display):
    table = display()
    headings = [str(column.header) for column in table.table([], {}).columns]
    assert headings == ["trial", "state", "epoch", "val/loss", "lr"]
    assert cells(table, TRIALS, RUNNING) == [
        ("0", "finished", "3", "0.5123", "0.001235"),
        ("1", "stopped early", "2", "0.7000", "0.01"),
        ("2", "failed", "1", "0.1000", "0.01"),
        ("3", "running", "1", "0.9500", "0.01"),
        ("4", "running", "0", "", "0.01"),
        ("5", "paused", "0", "", "0.01"),
    ]


def test_a_trial_whose_settings_are_not_yet_written_has_a_row(display):
    fresh = create_trial(state=TrialState.RUNNING, params={}, distributions={})
    fresh.number = 7
    assert cells(display(), [fresh], {}) == [("7", "paused", "0", "", "")]


def test_the_summary_tells_what_has_ended_the_best_and_the_time_left(display):
    """Ended ones took 50 s in the mean: 10 - 3 - 2 to come, and 30 s and nothing of those under way, by two workers."""
    told = "quick: 3 of 10 trials, best val/loss 0.5123 by trial 0, about 2m20s left"
    assert (5 * 50 + 30 + 0) / 2 == 140
    assert display().summary(TRIALS, RUNNING) == told


def test_without_an_ended_trial_or_an_end_there_is_no_time_left(display):
    assert display().summary(TRIALS[4:], RUNNING) == "quick: 0 of 10 trials"
    assert display(count=None).summary(TRIALS[:1], {}) == (
        "quick: 1 of any number of trials, best val/loss 0.5123 by trial 0"
    )


def test_the_time_left_is_never_below_nothing_and_no_time_is_not_told(display):
    assert display(count=2).seconds_left(TRIALS, RUNNING) == 0
    assert display(count=2).summary(TRIALS, RUNNING).endswith("3 of 2 trials, best val/loss 0.5123 by trial 0")
    assert display(count=1).summary(TRIALS[:1], {}) == "quick: 1 of 1 trial, best val/loss 0.5123 by trial 0"


def test_failed_trials_lead_nothing(display):
    assert [leader.number for leader in display().leaders(TRIALS)] == [0, 1, 3]


def test_where_more_is_better_the_highest_leads(display):
    made = display(metric={"name": "val/accuracy", "goal": "maximize"})
    assert [leader.number for leader in made.leaders(TRIALS)] == [3, 0, 1]
    assert "best val/accuracy 95.00 % by trial 3" in made.summary(TRIALS, RUNNING)


def test_the_leaderboard_counts_every_trial(display):
    made = display()
    made.leaderboard(TRIALS, RUNNING)
    text = printed(made)
    assert "quick: the best of 6 trials" in text
    assert "6 trials: 1 finished, 1 stopped early, 1 failed, 2 running, 1 paused; 0s" in text
    rows = [line for line in text.splitlines() if "0.01" in line or "0.001235" in line]
    assert ["finished" in rows[0], "stopped early" in rows[1], len(rows)] == [True, True, 3]


def test_a_log_is_for_where_there_is_no_terminal(display):
    plain, terminal = display(), display(is_terminal=True)
    for made in (plain, terminal):
        made.log("trial 0 starts: lr=[0.1]")
        made.say("[red]look[/red]")
    assert printed(plain).splitlines() == ["     0s  trial 0 starts: lr=[0.1]", "[red]look[/red]"]
    assert printed(terminal).splitlines() == ["[red]look[/red]"]
    assert not plain.is_due()
    assert terminal.is_due()


def test_a_long_line_is_not_broken(display):
    made = display(width=40)
    made.say("x" * 300)
    assert printed(made).splitlines() == ["x" * 300]


def test_the_live_table_shows_the_newest_and_every_running_trial(display):
    made = display(is_terminal=True, count=None)
    ended = [trial(number, TrialState.COMPLETE, (0.5,), seconds=1.0) for number in range(1, 40)]
    with made:
        made.show([trial(0, TrialState.RUNNING, (0.95,)), *ended], {0: (1, 3.0)})
    rows = [line.split()[0] for line in printed(made).splitlines() if "finished" in line or "running" in line]
    assert rows[:15] == ["0", *map(str, range(26, 40))]
    assert set(rows[15:]) <= set(rows[:15])  # drawn once more at the end, to be taken away
    assert not made.is_due()


@pytest.mark.parametrize(
    ("width", "num_settings"),
    [(60, 1), (80, 5)],
)
def test_a_narrow_terminal_still_shows_every_number(width, num_settings, display):
    names = ["lr", "num_layers", "weight_decay", "batch_size", "optimizer"][:num_settings]
    made = display(width=width, parameters={name: LR for name in names})
    made.leaderboard(TRIALS, RUNNING)
    for number in ("0.5123", "0.001235", "0.7000"):
        assert number in printed(made)


def test_varied_settings_are_told_on_one_line(display):
    made = display(parameters={"lr": LR, "model": {"value": "cnn"}, "width": {"values": [8, 16]}})
    assert made.varied({"lr": 0.000123456, "model": "cnn", "width": 8}) == "lr=0.0001235 width=8"


def test_brackets_in_a_setting_are_shown_as_they_are(display):
    made = display(parameters={"tags": {"values": ["[a]", "[/b]"]}, "lr": LR})
    odd = trial(0, TrialState.COMPLETE, (0.5,), seconds=1.0)
    odd.user_attrs["settings"]["tags"] = "[/b]"
    made.leaderboard([odd], {})
    assert "[/b]" in printed(made)
