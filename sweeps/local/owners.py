"""Which process holds a trial: a name that no other process on any machine ever has, and whether it still runs."""

import json
import os
import socket
from pathlib import Path

import psutil

from data.files import boot_id

OWNER_VARIABLE = "VISION_SWEEPS_AGENT"  # names to a run's processes the agent that has started them
ENDED = ("Z", "X")  # states of processes that do nothing any more


def owner_name() -> str:
    """Return a name of this process that no other process on any machine has."""
    return json.dumps([socket.gethostname(), place(), os.getpid(), start_of(os.getpid())])


def place() -> str:
    """Return what differs between machines of one name, and containers that do not see each other's processes."""
    return f"{boot} {os.readlink('/proc/self/ns/pid')}" if (boot := boot_id()) else ""


def start_of(pid: int) -> float | None:
    """Return what tells a process from a later one of the same id; None if it has ended.

    On Linux it is the time since the system's start, which does not change as the clock is set; elsewhere, that of day.

    Raises:
        PermissionError: it lives, and the system hides it from this user, as /proc does that is mounted with hidepid.
    """
    if Path("/proc/self/stat").exists():
        try:
            text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            if has_ended(pid):
                return None
            raise PermissionError(f"process {pid} is hidden") from None
        state, *numbers = text.rpartition(")")[2].split()  # the name before it may hold blanks
        return None if state in ENDED else int(numbers[18])
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


def has_ended(pid: int) -> bool:
    """Return whether there is no process of an id, hidden ones included."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it is another user's
        pass
    return False


def is_alive_here(owner: str) -> bool | None:
    """Return whether a process still runs, by its name; None for one of another machine, or hidden from this user."""
    host, boot, pid, start = json.loads(owner)
    if (host, boot) != (socket.gethostname(), place()):
        return None
    try:
        return start_of(pid) == start
    except PermissionError:
        return None


def has_another_agent(process: psutil.Process) -> bool:
    """Return whether an agent other than this one runs, and has started this process."""
    try:
        agent = process.environ().get(OWNER_VARIABLE, owner_name())
    except psutil.Error:  # it has ended
        return False
    return agent != owner_name() and is_alive_here(agent) is True
