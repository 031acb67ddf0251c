"""The whole table of results, row after row: python sweeps/study.py --hours 8 (see --help).

Trains every row of sweeps/local/rows.yaml, with its own settings or from the sweep that tunes them to the final runs,
and takes each into analysis/results.json and RESULTS.md as soon as it is there. Before that, it says what each row will
take on this machine. It can be ended at any time, and goes on where it was.

Further words are settings of train.py for all rows but sweeps, such as --compile=True. Runs are in bf16 where
the device computes in it, unless $ACCELERATE_MIXED_PRECISION says otherwise.
"""

import os
import shlex
import sys
import time
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.signals import hold_signals

if __name__ == "__main__":
    hold_signals()  # the imports take seconds

import torch

from analysis.command_line import Parser, amount, run_program, whole_number
from analysis.compare import results
from analysis.compare.results_table import read_results
from analysis.read.figures import figures_of
from analysis.read.storage import this_command
from analysis.record import run_folder
from analysis.record.environment import device_name
from analysis.terminal import clock
from data.errors import UserError
from data.files import check_can_be_made, locked, read_json, refusing_damage, write_json
from data.metrics import shown
from data.paths import ANOTHER_RUNS_DIR, default_runs_dir
from data.visible import counted, say, visible, warn
from models.core.precision import has_fast_bf16
from models.core.settings import INVOCATION
from models.resolve import VARIABLES, parse_arguments
from sweeps.local.launch import NUM_SHOWN_LINES, OUTPUT, Run, unless_set
from sweeps.local.pool import Pool
from sweeps.local.row_cost import Cost, find_costs, seconds_of
from sweeps.local.row_plan import is_costly, plan
from sweeps.local.rows import Row, Step, chosen, command_of, read_rows, steps_of
from sweeps.local.workers import assign_devices, num_gpus

PLACE = "study"  # in the runs folder
DONE = "done.json"
PRECISION = VARIABLES["mixed_precision"]
SHARED = "{} runs at a time shared the device, so neither time nor images/s is its own"


class Study:
    """The steps that are left, as many at a time as there are workers.

    Args:
        rows: by name, those that are trained.
        steps: of all rows, in order.
        folder: where the output of each step and what is done are kept.
        devices: for each worker, the environment variables of its runs.
        environment: of all runs.
        deadline: by the monotonic clock.
        seconds: of each step, by its name, as far as is known.
    """

    def __init__(
        self,
        rows: Mapping[str, Row],
        steps: Sequence[Step],
        folder: Path,
        devices: Sequence[Mapping[str, str]],
        environment: Mapping[str, str],
        deadline: float,
        seconds: Mapping[str, float],
    ) -> None:
        self.rows, self.steps, self.folder = rows, {step.name: step for step in steps}, folder
        self.environment, self.deadline, self.seconds = environment, deadline, seconds
        self.pool: Pool[Run] = Pool(devices)
        self.done = read_done(folder)
        self.waiting = [step for step in steps if not is_done(step, self.done)]
        self.failed: set[str] = set()
        self.fault = ""

    def run(self) -> int:
        """Take all steps; return the exit code."""
        self.pool.work(self.fill_slots, self.note, lambda: bool(self.waiting), self.is_over)
        return self.pool.exit_code or int(bool(self.failed))

    def is_over(self) -> bool:
        """Return whether no further step is to be taken."""
        return bool(self.pool.signals or self.fault) or time.monotonic() > self.deadline

    def fill_slots(self) -> None:
        """Start the first steps that are ready in the free slots; one that takes all of them waits for the others."""
        for slot in self.pool.free_slots():
            if any(self.steps[run.run_id].takes_all for run in self.pool.runs):
                return
            self.drop_hopeless()
            step = next((step for step in self.waiting if all(map(self.has_ended, step.after))), None)
            if step is None or (step.takes_all and self.pool.runs):
                return
            self.waiting.remove(step)
            own = {**self.environment, **({} if step.takes_all else self.pool.devices[slot])}
            self.pool.add(Run(command_of(step), step.name, self.folder, {}, own), slot)
            say(f"{step.name} starts")

    def drop_hopeless(self) -> None:
        """Take out trainings for which the time is too short, and steps that need what has failed or will not come."""
        left = self.deadline - time.monotonic()
        for step in list(self.waiting):
            broken = [name for name in step.after if any(one.name in self.failed for one in self.named(name))]
            if broken:
                warn(f"{step.name}: left out, since {broken[0]} failed")
                self.failed.add(step.name)
            elif missing := next(filter(self.will_not_come, step.after), ""):
                say(f"{step.name}: left out, since it needs {missing}")
            elif step.trains and self.seconds.get(step.name, 0.0) > left:
                say(f"{step.name}: left out, it takes {clock(self.seconds[step.name])}, of {clock(left)} that are left")
            else:
                continue
            self.waiting.remove(step)

    def named(self, name: str) -> list[Step]:
        """Return the step of a name or, where it is a row's, all steps of the row."""
        return [step for step in self.steps.values() if name in (step.name, step.row)]

    def will_not_come(self, name: str) -> bool:
        """Return whether a step, or a step of a row, is neither done, waiting nor under way."""
        coming = {step.name for step in self.waiting} | {run.run_id for run in self.pool.runs}
        return not all(is_done(step, self.done) for step in self.named(name) if step.name not in coming)

    def has_ended(self, name: str) -> bool:
        """Return whether a step, or every step of a row, is done."""
        return all(is_done(step, self.done) for step in self.named(name))

    def note(self, run: Run) -> None:
        """Keep and print how a step has ended; take its row into the results, unless a step has to follow on it."""
        step = self.steps[run.run_id]
        if run.process.returncode:
            if not run.reason:
                fault = run.fault()
                self.fault = self.fault or (fault.reason if fault else "")
                self.failed.add(step.name)
                warn(f"{step.name}: {run.exit()}; {run.folder / OUTPUT} ends with\n{run.last_lines(NUM_SHOWN_LINES)}")
            return
        trained = self.folder.parent / step.name
        if step.trains and run_folder.state(trained) != "finished":  # somebody has stopped it on W&B, for example
            say(f"{step.name}: {run_folder.state(trained)}; the same command goes on with it")
            return
        self.done[step.name] = {"words": list(step.words), "seconds": round(run.seconds(), 1)}
        figures = figures_of(read_json(trained / run_folder.SUMMARY)) if step.trains else {}
        told = ", ".join(f"{key} {shown(key, it)}" for key, it in figures.items() if key.count("/") == 1)
        say(f"{step.name}: done in {clock(run.seconds())}{f', {told}' if told else ''}")
        if not any(step.name in other.after for other in self.waiting):
            self.take_in(self.rows[step.row])
        write_json(self.folder / DONE, self.done)  # last: where results cannot be written, the step is taken once more

    def take_in(self, row: Row) -> None:
        """Take what there is of a row into the file of results."""
        done = [step.name for step in self.steps.values() if step.row == row.name and is_done(step, self.done)]
        names = [row.name] if row.sweep else [name for name in done if self.steps[name].trains]
        shared = SHARED.format(len(self.pool.devices)) if len(self.pool.devices) > 1 else ""
        note = "; ".join(filter(None, (row.note, shared)))
        try:
            results.update(self.folder.parent, names, {row.name: note})
        except UserError as error:
            later = f"then python -m analysis.results --update {shlex.join(names)}"
            warn(f"{row.name} is not taken into the results: {visible(error)}; {later}")


def read_done(folder: Path) -> dict[str, Any]:
    """Return what has been done, by the name of the step.

    Raises:
        UserError: the file is damaged.
    """
    with refusing_damage(folder / DONE, "remove it; runs that have finished are not trained again"):
        content = read_json(folder / DONE)
        return {
            name: {"words": list(map(str, step["words"])), "seconds": step["seconds"]} for name, step in content.items()
        }


def is_done(step: Step, done: Mapping[str, Any]) -> bool:
    """Return whether a step has been taken, with the same command as now, whatever workers it had."""
    words = done.get(step.name, {}).get("words", [])
    return without_workers(words) == without_workers(step.words)


def without_workers(words: Sequence[str]) -> list[str]:
    """Return the words of a command that say what it does, not by how many workers and on which devices."""
    return [word for word in words if not word.startswith(("--workers=", "--devices="))]


def main_device() -> torch.device:
    """Return the first GPU, or the CPU."""
    return torch.device("cuda" if num_gpus() else "cpu")


def machine_name(devices: Sequence[Mapping[str, str]], environment: Mapping[str, str]) -> str:
    """Return what the speed of runs depends on beside their settings: the device, who shares it, the precision."""
    workers = f"{counted(len(devices), 'worker')} on {counted(len({*map(str, devices)}), 'device')}"
    return f"{device_name(main_device())}, {workers}, {environment[PRECISION]}"


def parse(arguments: Sequence[str]) -> tuple[Namespace, list[str]]:
    """Return the options of the command line, and the words that are settings."""
    layout = RawDescriptionHelpFormatter
    parser = Parser("python sweeps/study.py", description=__doc__, formatter_class=layout, allow_abbrev=False)
    parser.add_argument("--rows", default="*", help="names or patterns, such as 'mlp,*_recipe'; default: all")
    parser.add_argument("--hours", type=amount, default=24.0, help="that it may take; default: 24")
    parser.add_argument("--seeds", type=whole_number, default=3, help="runs of each row; default: 3")
    parser.add_argument("--workers", type=whole_number, help="runs at a time; default: one for each device, else 1")
    parser.add_argument("--devices", help="GPUs for the workers in turn: 0,1")
    parser.add_argument("--plan", action="store_true", help="say what each row takes, and train nothing")
    return parser.parse_known_args(arguments)


def study(arguments: Sequence[str]) -> int:
    """Train the table's rows; return the exit code."""
    options, words = parse(arguments)
    runs_dir = default_runs_dir().absolute()
    settings = parse_arguments(words)
    if own := [f"--{name}={value}" for name, value in settings.items() if name in {"seed", *INVOCATION}]:
        raise UserError(f"{own[0]}: the study tells each run this itself; --seeds says how many runs a row has")
    rows = chosen(read_rows(runs_dir, settings), options.rows)
    devices = assign_devices(options.workers, options.devices)
    precision = {PRECISION: "bf16" if has_fast_bf16(main_device()) else "no"}
    environment = {**unless_set(precision), "VISION_SWEEPS_RUNS": str(runs_dir)}
    folder = runs_dir / PLACE
    check_can_be_made(folder, ANOTHER_RUNS_DIR)
    folder.mkdir(parents=True, exist_ok=True)
    read_results(results.RESULTS)  # before hours are spent on what could not be added to it
    told = [f"--workers={len(devices)}", *([f"--devices={options.devices}"] if options.devices else [])]
    wait = locked(folder / "lock", f"another study is at work in {runs_dir}: waiting for its end")
    with nullcontext() if options.plan else wait:  # two that measure at once would measure each other
        deadline = time.monotonic() + options.hours * 3600
        steps, done = steps_of(rows, options.seeds, told), read_done(folder)
        left = [step for step in steps if not is_done(step, done)]
        costly = {step.row for step in left if is_costly(step)}
        machine = machine_name(devices, os.environ | environment)
        costly_rows = [row for row in rows if row.name in costly]
        costs = find_costs(costly_rows, folder, machine, devices, environment)
        rows = plan(rows, costs, left, options.hours, len(devices))
        if options.plan:
            return 0
        by_name = {row.name: row for row in rows}
        steps = [step for step in steps if step.row in by_name]
        seconds = {step.name: seconds_of(step, by_name[step.row], costs.get(step.row, Cost())) for step in steps}
        all_steps = Study(by_name, steps, folder, devices, environment, deadline, seconds)
        code = all_steps.run()
    if all_steps.waiting or all_steps.pool.signals or all_steps.fault:
        reason = f", {all_steps.fault}" if all_steps.fault else ""
        say(f"stopped{reason}; to go on: {this_command('study.py')}")
    return code or int(any(cost.fault for cost in costs.values()))


def main(arguments: Sequence[str]) -> int:
    """Train the table's rows, or say in one line what keeps us from it; return the exit code."""
    return run_program("study.py", lambda: study(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
