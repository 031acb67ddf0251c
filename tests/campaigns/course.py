"""The course of a campaign: what is prepared, which program suffers what how often, and the table of the outcomes."""

import random
import shutil
import signal
import sys
import tempfile
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

import sweeps.agent
import sweeps.final  # noqa: F401  # for the programs that are forked
from tests.campaigns.faults import SIGNALS, Episode, seconds_of
from tests.campaigns.other_faults import AgentOnServer, Clock, Disk, LockedStorage, StorageAway, small_disk
from tests.campaigns.processes import MODULES, SHARED
from tests.campaigns.programs import RECIPES, Program
from tests.campaigns.sweep_programs import PROGRAMS
from tests.sweeps.test_storage import Server, programs_of_the_server

KINDS = ("lost", "duplicated", "orphans", "wrong", "left over")
KILLS_OF_AN_EPISODE = 8
WEIGHTS = {"agent.py": 3, "train.py": 2, "final.py": 2}  # of the programs, by the kills that they get; 1 for others
OTHERS: Mapping[str, tuple[type[Episode], tuple[str, ...]]] = {
    "clock set": (Clock, tuple(PROGRAMS)),
    "disk full": (Disk, tuple(PROGRAMS)),
    "SQLite locked": (LockedStorage, ("agent.py",)),
}
ON_SERVER = "agents, PostgreSQL"
REAL = "any signal, started as a user does"
SECONDS_TO_IMPORT = 4.0


class Task(NamedTuple):
    """So many faults of one kind for one program.

    Attributes:
        name: of the program.
        fault: name of the fault.
        kind: of the episodes.
        num: of the faults.
        strikes: of which the signals of each episode are drawn.
    """

    name: str
    fault: str
    kind: type[Episode]
    num: int
    strikes: Sequence[Sequence[int]]


class Campaign:
    """All episodes, and the counts of what went wrong by program and fault."""

    def __init__(self, options: Namespace) -> None:
        self.options = options
        self.folder = options.folder.resolve()
        self.folder.mkdir(parents=True)
        self.draws = random.Random(options.seed)
        self.peaceful: dict[str, Program] = {}
        self.seconds: dict[str, float] = {}
        self.counts: dict[tuple[str, str], Counter[str]] = {}
        self.num_episodes = 0

    def run(self) -> int:
        """Carry out the campaign; return 1 if anything went wrong."""
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # with a table of what there is
        try:
            self.prepare()
            waiting = [task for task in self.plan() if self.is_wanted(task.name, task.fault)]
            while waiting := [task for task in waiting if self.count(task)["tried"] < task.num]:
                for task in waiting:
                    self.carry_out(task)
            if self.is_wanted(ON_SERVER, "restarted"):
                self.strike_the_server()
        finally:
            self.show()
        return int(any(counts[kind] for counts in self.counts.values() for kind in KINDS))

    def plan(self) -> list[Task]:
        """Return all that is to be done."""
        options = self.options
        tasks = [
            Task(name, fault, kind, options.others, [SIGNALS["SIGKILL"]])
            for fault, (kind, names) in OTHERS.items()
            for name in names
        ]
        for name in PROGRAMS:
            share = WEIGHTS.get(name, 1) / sum(WEIGHTS.get(name, 1) for name in PROGRAMS)
            num = round(share * options.kills / len(SIGNALS))
            tasks += [Task(name, fault, Episode, num, [signals]) for fault, signals in SIGNALS.items()]
            tasks.append(Task(name, REAL, Episode, round(share * options.real), [*SIGNALS.values()]))
        return tasks

    def count(self, task: Task) -> Counter[str]:
        return self.counts.setdefault((task.name, task.fault), Counter())

    def is_wanted(self, name: str, fault: str) -> bool:
        return not self.options.only or any(word in f"{name}: {fault}" for word in self.options.only)

    def prepare(self) -> None:
        """Let every program do its work in peace: first to import what it imports, then to be compared with."""
        first = {f"train {i}": PROGRAMS["train.py"] for i in range(len(RECIPES))}
        named = {"agent": "agent.py", "final": "final.py", "decoding": "decoding", "features": "features"}
        names = {**named, **{name: name for name in ("reproduce --check", "report", "runs")}}
        kinds = {**first, **{key: PROGRAMS[name] for key, name in names.items()}}
        for turn in ("first", "peaceful"):
            peaceful: dict[str, Program] = {}
            for i, (key, kind) in enumerate(kinds.items()):
                folder = self.folder / turn / key.replace(" ", "-")
                program = kind(folder, i if key in first else 0, peaceful)
                modules = folder / "modules"
                program.environment[MODULES] = str(modules)
                self.seconds[key], code = seconds_of(program)
                assert code == 0, program.log.read_text(encoding="utf-8")
                peaceful[key] = program
                for name in modules.read_text(encoding="utf-8").split():
                    with suppress(Exception):
                        import_module(name)
                print(f"{key}: {self.seconds[key]:.1f} s in peace", flush=True)
        self.peaceful = peaceful
        # Of half of the time, on average, a run would be struck once or twice before it is done.
        for name in ("train.py", "train.py --resume"):
            self.seconds[name] = self.seconds["train 0"] / 2.5
        for key, name in named.items():
            self.seconds[name] = self.seconds[key] / {"agent": 6, "final": 4}.get(key, 2)

    def carry_out(self, task: Task) -> None:
        """Let a program suffer until it is done, and count."""
        self.num_episodes += 1
        number, counts = self.num_episodes, self.count(task)
        try:
            disk = small_disk(self.folder / f"disk-{number}") if task.kind is Disk else nullcontext(self.folder)
            with disk as place:
                program = PROGRAMS[task.name](place / f"{number:04d}", number, self.peaceful)
                program.log = self.folder / f"{number:04d}.log"  # never on a full disk
                for_real = task.fault == REAL
                seconds = self.seconds[task.name] + (SECONDS_TO_IMPORT if for_real else 0.0)
                episode = task.kind(program, self.draws.choice(task.strikes), seconds, self.draws, for_real)
                counts["tried"] += episode.run(min(task.num - counts["tried"], KILLS_OF_AN_EPISODE))
                self.settle(f"{task.name}, {task.fault}", episode, counts)
        except PermissionError as error:
            print(f"{task.name}, {task.fault}: not tried: {error}", flush=True)
            counts["tried"], counts["not tried"] = task.num, task.num

    def settle(self, what: str, episode: Episode, counts: Counter[str]) -> None:
        """Count and print what went wrong in an episode; keep its folder if anything did."""
        SHARED.seconds_off = 0.0
        folder = episode.program.folder
        problems = dict.fromkeys(episode.problems)  # what stays wrong is seen more than once
        counts.update(problem.kind for problem in problems)
        for problem in problems:
            print(f"{what} ({folder.name}): {problem.kind}: {problem.text}", flush=True)
        if not episode.problems:
            shutil.rmtree(folder, ignore_errors=True)
            episode.program.log.unlink(missing_ok=True)
        elif folder.parent != self.folder:
            shutil.copytree(folder, self.folder / f"{folder.name}-kept")
        print(f"{time.strftime('%H:%M:%S')} {what} ({folder.name}): {counts['tried']} tried", flush=True)

    def strike_the_server(self) -> None:
        """Restart the PostgreSQL server of two agents."""
        programs = programs_of_the_server()
        if None in programs.values():
            print(f"{ON_SERVER}: not tried: PostgreSQL is not installed", flush=True)
            return
        counts = self.counts.setdefault((ON_SERVER, "restarted"), Counter())
        with tempfile.TemporaryDirectory() as folder:
            server = Server(programs, Path(folder))
            try:
                while counts["tried"] < self.options.others:
                    self.num_episodes += 1
                    own = self.folder / f"{self.num_episodes:04d}"
                    program = AgentOnServer(own, self.num_episodes, self.peaceful)
                    program.url = server.new_database()
                    program.storage = [f"--storage={program.url}"]
                    episode = StorageAway(
                        program, SIGNALS["SIGKILL"], self.seconds["agent.py"], self.draws, server=server.pid
                    )
                    episode.postgresql = server
                    counts["tried"] += episode.run(3)
                    self.settle(f"{ON_SERVER}, restarted", episode, counts)
            finally:
                server.stop()

    def show(self) -> None:
        """Print the table."""
        table = Table("program", "fault", "tried", *KINDS)
        together: Counter[str] = Counter()
        for (name, fault), counts in self.counts.items():
            together.update(counts)
            table.add_row(name, fault, *(str(counts[kind]) for kind in ("tried", *KINDS)))
        table.add_row("all", "", *(str(together[kind]) for kind in ("tried", *KINDS)))
        Console(width=110).print(table)
