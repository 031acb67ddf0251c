"""One message when an agent ends: to a command that the user names, and as an alert where the trials are on W&B."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError

from analysis.record import run_folder
from data.files import read_json
from data.metrics import shown
from data.paths import CHECKOUT
from sweeps.local.agent import Agent
from sweeps.local.display import Display, Running
from sweeps.local.repeats import value_of

ALERT = [sys.executable, "-m", "analysis.record.wandb_alert"]
SECONDS_TO_TELL = 60.0  # after which a command that was told is killed


class Ending(NamedTuple):
    """How an agent has ended.

    Attributes:
        state: "finished", "paused" or "failed".
        reason: for people; "" where nothing went wrong.
        next: the command that comes next.
    """

    state: str
    reason: str
    next: str


def message_of(ending: Ending, display: Display, trials: Sequence[FrozenTrial], running: Running) -> dict[str, Any]:
    """Return what there is to tell of a sweep, as JSON takes it.

    Args:
        ending: how the agent has ended.
        display: of the sweep.
        trials: that have been started.
        running: those that other agents run.
    """
    metric, best = display.sweep.metric, None
    counts = display.counts(trials, running)
    hours = sum(trial.user_attrs.get("seconds", 0.0) for trial in trials) / 3600
    parts = [f"sweep {display.name} {ending.state}", *([ending.reason] if ending.reason else [])]
    if leaders := display.leaders(trials):
        value, notes = value_of(metric, leaders[0]), leaders[0].user_attrs
        best = {"trial": leaders[0].number, "run_id": notes["run_id"], "value": value}
        best |= {"epoch": notes.get("best_epoch"), "settings": notes["settings"]}
        by = f"trial {leaders[0].number} ({display.varied(notes['settings'])})"
        parts.append(f"best {metric.name} {shown(metric.name, value)} by {by}")
    parts += [f"{number} {state}" for state, number in counts.items() if number]
    return {
        "sweep": display.name,
        **ending._asdict(),
        "metric": metric.name,
        "best": best,
        "trials": counts,
        "trial_hours": hours,
        "text": "; ".join([*parts, f"{hours:.2f} trial-hours"]),
    }


def tell(ending: Ending, agent: Agent, command: str | None) -> None:
    """Tell people how a sweep stands; of agents that see the same sweep end, the first does.

    Args:
        ending: how the agent has ended.
        agent: whose sweep it is.
        command: for a shell; it gets the message as JSON on its standard input. None for none.
    """
    trials, running = [], dict[int, tuple[int, float]]()
    with suppress(StorageInternalError, SQLAlchemyError):  # the storage may be what has ended it
        if ending.state == "finished" and not agent.trials.is_first_to_end():
            return
        trials, running = agent.trials.started(), agent.progress()
    message, say = message_of(ending, agent.display, trials, running), agent.display.say
    if command:
        deliver("--on_end", ["/bin/sh", "-c", command], message, say)
    if address := address_on_wandb(agent.runs_dir):
        deliver("the alert on W&B", [*ALERT, address], message, say, cwd=CHECKOUT, stderr=subprocess.PIPE)


def address_on_wandb(folder: Path) -> str:
    """Return the address of one of a sweep's runs that are on W&B; "" where there is none."""
    for path in folder.glob(f"*/{run_folder.ENVIRONMENT}"):
        if address := read_json(path).get("wandb"):
            return str(address)
    return ""


def deliver(
    what: str, words: Sequence[str], message: Mapping[str, Any], say: Callable[[str], None], **options: Any
) -> None:
    """Run a command with a message on its standard input; kill it with all that it has started if it takes too long."""
    try:
        process = subprocess.Popen(words, stdin=subprocess.PIPE, text=True, process_group=0, **options)
        try:
            _, errors = process.communicate(json.dumps(message), timeout=SECONDS_TO_TELL)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            say(f"{what} had not ended after {SECONDS_TO_TELL:g} seconds, and was killed")
            return
    except OSError as error:
        say(f"{what} could not be run: {error}")
        return
    if process.returncode:
        reason = (errors or "").strip().rpartition("\n")[2]
        say(f"{what} failed, exit code {process.returncode}{': ' if reason else ''}{reason}")
