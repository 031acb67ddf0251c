"""Run a sweep without a server: python sweeps/agent.py sweeps/quickstart.yaml --workers 2 (see --help).

The sweep file is W&B's, and each trial is started with the command and the environment that `wandb agent` would give
it. Optuna does the search. Agents with one --storage share one sweep. More in sweeps/README.md.
"""

import math
import os
import shlex
import shutil
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.signals import hold_signals

if __name__ == "__main__":
    hold_signals()  # the imports take seconds

from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from analysis.command_line import Parser, amount, count, run_program, seed, whole_number
from analysis.compare.edges import ends_reached
from analysis.read.storage import reason_of, this_command, url_of_file
from analysis.read.sweep_content import entries_for
from analysis.read.sweeps import sweep_folder
from analysis.record import run_folder
from data.files import check_can_be_made, replace_file
from data.paths import ANOTHER_RUNS_DIR
from data.visible import counted, say, visible, warn
from sweeps.local.agent import Agent
from sweeps.local.contract import checked_sweep
from sweeps.local.device_memory import DeviceMemory
from sweeps.local.display import Display
from sweeps.local.enqueued import Choice, choice_of, enqueue
from sweeps.local.estimate import estimate
from sweeps.local.limits import Limits, check_repeats
from sweeps.local.notification import Ending, tell
from sweeps.local.observations import observations
from sweeps.local.prior import learn_from
from sweeps.local.remarks import remarks
from sweeps.local.search import left_of_grid
from sweeps.local.sweep import Sweep
from sweeps.local.sweep_file import name_of
from sweeps.local.trials import Trials
from sweeps.local.workers import assign_devices


class SweepError(RuntimeError):
    """All trials of a sweep fail, or something is wrong with the machine."""


def parse(arguments: Sequence[str]) -> Namespace:
    """Return the options of the command line."""
    parser = Parser(prog="python sweeps/agent.py", description=__doc__)
    parser.add_argument("file", type=Path, help="sweep file, as for `wandb sweep`")
    parser.add_argument(
        "--name", help="name of the sweep, its folder in runs/sweeps; default: its name: in the file, else the file's"
    )
    parser.add_argument("--count", type=whole_number, help="trials of the sweep in all; default: the file's run_cap")
    parser.add_argument("--workers", type=whole_number, help="trials at a time; default: one for each device, else 1")
    parser.add_argument("--devices", help="GPUs for the workers in turn: 0,1 or, two for each trial, 0+1,2+3")
    parser.add_argument("--memory", type=amount, metavar="GIB", help="memory of each device; default: what is free")
    parser.add_argument("--seed", type=seed, default=3407, help="seed of the search; default: 3407")
    parser.add_argument("--storage", help="database that agents share: postgresql+psycopg://USER@HOST/DATABASE")
    parser.add_argument(
        "--prior",
        nargs="+",
        action="extend",
        default=[],
        metavar="RUNS",
        help="earlier runs that the search learns from, for good: a sweep, entity/project/id of one on W&B, or a run",
    )
    parser.add_argument(
        "--enqueue",
        action="append",
        default=[],
        metavar="SETTINGS",
        help="settings to try first, such as best.yaml or 'lr=1e-3 width=64'; may be given several times",
    )
    runs = parser.add_mutually_exclusive_group()
    runs.add_argument(
        "--repeats", type=whole_number, metavar="N", help="seeds of each trial; default: the file's repeats:, or else 1"
    )
    runs.add_argument(
        "--folds", type=whole_number, metavar="K", help="folds of each trial; default: the file's folds:, or else none"
    )
    parser.add_argument("--retries", type=count, default=0, help="how often a trial that crashes is tried again")
    parser.add_argument("--trial_minutes", type=amount, default=math.inf, help="that a trial may take in all")
    parser.add_argument("--silent_minutes", type=amount, default=math.inf, help="that a trial may log nothing")
    parser.add_argument("--retry_failed", "--retry-failed", action="store_true", help="try failed trials again")
    parser.add_argument(
        "--keep_weights", type=count, metavar="K", help="best trials that keep their weights; default: all"
    )
    parser.add_argument("--estimate", action="store_true", help="tell what the sweep will take, and search nothing")
    parser.add_argument("--on_end", metavar="CMD", help="command that is told the end, as JSON on its standard input")
    return parser.parse_args(arguments)


def run_sweep(options: Namespace) -> int:
    """Run a sweep to its end; return the exit code."""
    sweep = checked_sweep(options.file)
    if options.folds or options.repeats:
        sweep = replace(sweep, repeats=options.folds or options.repeats, folds=options.folds or 0)
    check_repeats(sweep)
    devices = assign_devices(options.workers, options.devices)
    if options.estimate:
        say(*estimate(sweep, devices, num_trials(sweep, options), options.memory))
        return 0
    choices = [choice_of(text, sweep) for text in options.enqueue]
    name = name_of(sweep, options.file, options.name)
    folder = sweep_folder(name)
    trials = open_trials(sweep, name, folder, options)
    limits = limits_of(trials, options)
    display = Display(sweep, name, limits.count, len(devices))
    for line in [*remarks(sweep), *begin(trials, options, choices, limits.count)]:
        display.say(line)
    if options.retry_failed:
        display.say(f"{counted(trials.reopen_failed(), 'failed trial')} to be tried again")
    agent = Agent(trials, folder, limits, DeviceMemory(devices, options.memory), display)
    try:
        with display:
            code = agent.run()
        display.leaderboard(trials.started(), agent.progress())
    except Exception as error:
        tell(Ending("failed", reason_of(error), this_command("agent.py")), agent, options.on_end)
        raise
    if code or not agent.is_retired:  # else another agent goes on with the sweep, and concludes it
        conclude(agent, code, options.on_end)
    return code


def conclude(agent: Agent, code: int, on_end: str | None) -> None:
    """Tell how a sweep has ended, and which command comes next.

    Args:
        agent: that has run it.
        code: the agent's exit code.
        on_end: command that is told as well; None for none.

    Raises:
        SweepError: the sweep has failed, or a fault has paused it.
    """
    ending, display = ending_of(agent, code), agent.display
    tell(ending, agent, on_end)
    if ending.reason and ending.state == "paused":
        raise SweepError(f"paused, {ending.reason}: when that is mended, to go on: {ending.next}")
    if ending.reason:
        raise SweepError(ending.reason)
    if code:
        display.say(f"paused; to go on: {ending.next}")
        return
    leaders = display.leaders(agent.trials.started())
    best = leaders[0].user_attrs["settings"]
    for line in ends_reached(entries_for(agent.sweep.content, best), best, len(leaders)):
        display.say(f"searched enough? {line}")
    display.say(f"to train the best for good: {ending.next}")


def begin(trials: Trials, options: Namespace, choices: Sequence[Choice], num: int | None) -> list[str]:
    """Let the search learn from earlier runs, and queue the settings to try first; return lines that say so.

    The lines begin with what has changed since the sweep was last run.

    Args:
        trials: of the sweep.
        options: of the command line.
        choices: settings to try first.
        num: trials of the sweep in all; None for no end.
    """
    lines = [f"the sweep has changed: {line}" for line in trials.changes]
    lines += [learn_from(place, trials.study, trials.sweep, options.storage or "") for place in options.prior]
    for text, choice in zip(options.enqueue, choices, strict=True):
        lines += choice.lines
        trial = enqueue(choice.points, trials)
        if trial is None:
            lines.append(f"--enqueue={text}: another agent has it tried")
        elif trial.state != TrialState.WAITING:
            lines.append(f"--enqueue={text} is trial {trial.number}, which has begun")
        else:
            more = "" if num is None or trial.number < num else f", once --count is above {trial.number}"
            lines.append(f"--enqueue={text} will be trial {trial.number}{more}")
    return lines


def ending_of(agent: Agent, code: int) -> Ending:
    """Return how an agent has ended, by its exit code and by what it knows."""
    again = this_command("agent.py")
    if agent.fault and not agent.pool.signals:
        return Ending("paused", agent.fault, again)
    if agent.failure:
        return Ending("failed", f"{agent.failure}: the reasons are above", again)
    if code == 0 and not agent.display.leaders(agent.trials.started()):
        return Ending("failed", f"no trial logged a {agent.sweep.metric.name}", again)
    if code:
        return Ending("paused", "", again)
    return Ending("finished", "", f"python sweeps/final.py {shlex.quote(agent.display.name)}")


def limits_of(trials: Trials, options: Namespace) -> Limits:
    """Return the limits that the options and the sweep file set."""
    return Limits(
        count=num_trials(trials.sweep, options, trials),
        retries=options.retries,
        trial_minutes=options.trial_minutes,
        silent_minutes=options.silent_minutes,
        keep_weights=options.keep_weights,
    )


def num_trials(sweep: Sweep, options: Namespace, trials: Trials | None = None) -> int | None:
    """Return how many trials a sweep has in all, those started so far included; None for no end.

    Args:
        sweep: what is searched.
        options: of the command line.
        trials: of a sweep that has been opened.
    """
    num = options.count or sweep.run_cap
    if sweep.method != "grid":
        return num
    started = trials.started() if trials else []
    known = observations(sweep, trials.study.user_attrs if trials else {}, started)
    return min(num or sys.maxsize, len(started) + len(left_of_grid(sweep, known)))


def open_trials(sweep: Sweep, name: str, folder: Path, options: Namespace) -> Trials:
    """Open the sweep's storage; then make its folder, with a copy of the sweep file.

    Raises:
        UserError: the folder cannot be written, or as `Trials`.
    """
    check_can_be_made(folder, ANOTHER_RUNS_DIR)
    if options.storage is None:
        folder.mkdir(parents=True, exist_ok=True)
    trials = Trials(options.storage or url_of_file(folder / run_folder.STUDY), sweep, name, options.seed)
    folder.mkdir(parents=True, exist_ok=True)
    if os.path.realpath(options.file) != os.path.realpath(folder / run_folder.SWEEP_FILE):
        replace_file(folder / run_folder.SWEEP_FILE, partial(shutil.copyfile, options.file))
    return trials


def main(arguments: Sequence[str]) -> int:
    """Run a sweep, or say in one line what keeps it from running; return the exit code."""
    try:
        return run_program("agent.py", lambda: run_sweep(parse(arguments)))
    except SweepError as error:
        reason = str(error)
    except (StorageInternalError, SQLAlchemyError) as error:
        reason = f"the storage does not answer: {reason_of(error)}"
    warn(f"agent.py: {visible(reason)}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
