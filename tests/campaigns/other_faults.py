"""Episodes whose faults are no signals: clocks that are set, disks that are full, storages that are away or locked."""

import json
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psycopg

from analysis.record import run_folder
from tests.campaigns.faults import Episode
from tests.campaigns.processes import SHARED, start
from tests.campaigns.sweep_programs import Agent
from tests.sweeps.test_storage import Server

STEPS = (-1e8, -86400.0, -3600.0, -31.0, 31.0, 3600.0, 86400.0, 1e8)  # seconds
DISK_BYTES = 24 * 2**20


class Clock(Episode):
    """The clock is set; now and then the program is killed, too."""

    def strike(self) -> int:
        SHARED.seconds_off = self.draws.choice(STEPS)
        if self.draws.random() < 0.5:
            time.sleep(self.draws.random() / 4)
            super().strike()
        return 1


class Disk(Episode):
    """The disk is full for some seconds."""

    def strike(self) -> int:
        ballast = self.program.folder / "ballast"
        free = shutil.disk_usage(self.program.folder).free
        room = self.draws.choice((0, 0, 5_000, 50_000, 200_000))
        with suppress(OSError), ballast.open("wb") as file:  # the program has taken some of it meanwhile
            file.write(bytes(max(0, free - room)))
        end = time.monotonic() + self.draws.uniform(1, 5)
        while time.monotonic() < end and self.process.poll() is None:
            time.sleep(0.05)
        ballast.unlink()
        return 1

    def fitting_codes(self) -> set[int]:
        return super().fitting_codes() | {1, 2}


class LockedStorage(Episode):
    """Somebody else holds the lock on the SQLite file."""

    def strike(self) -> int:
        path = self.program.runs_dir / "sweeps" / "campaign" / run_folder.STUDY
        if not path.exists():
            return 0
        with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            time.sleep(self.draws.uniform(0.1, 3))
            connection.execute("ROLLBACK")
        return 1


class StorageAway(Episode):
    """The PostgreSQL server of two agents is restarted."""

    postgresql: Server
    companion = None

    def begin(self, may_strike_itself: bool = False) -> None:
        super().begin(False)
        if self.companion is None or self.companion.poll() is not None:
            self.companion = start(self.program.start())

    def strike(self) -> int:
        self.postgresql.stop()
        time.sleep(self.draws.uniform(0, 3))
        self.postgresql.start()
        self.server = self.postgresql.pid
        return 1

    def count_orphans(self) -> None:
        if self.companion is not None:
            self.companion.wait(120)
        super().count_orphans()

    def fitting_codes(self) -> set[int]:
        return super().fitting_codes() | {1, 2}  # it starts while the server is away, or just as it goes


class AgentOnServer(Agent):
    """sweeps/agent.py whose trials are in PostgreSQL."""

    url = ""

    def trials(self) -> list[tuple[int, str, str]]:
        if not self.url:
            return super().trials()
        with psycopg.connect(self.url.replace("+psycopg", "")) as connection:
            if connection.execute("SELECT to_regclass('trials')").fetchone() == (None,):
                return []
            rows = connection.execute(
                "SELECT number, state, value_json FROM trials JOIN trial_user_attributes USING (trial_id) "
                "WHERE key = 'run_id' ORDER BY number"
            ).fetchall()
            return [(number, str(state), json.loads(text)) for number, state, text in rows]


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk with little room.

    Raises:
        PermissionError: there can be none here: it takes root and Linux.
    """
    folder.mkdir(parents=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        raise PermissionError(f"a small disk needs root: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)
