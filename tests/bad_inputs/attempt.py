"""One input, tried in a process of its own and judged by what the process did.

The process is forked from one that has imported everything, so that an attempt costs little more than its work.
"""

import errno
import faulthandler
import importlib
import os
import re
import resource
import select
import shutil
import signal
import stat
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from sweeps.local.faults import PATTERNS

CPU_SECONDS = 10  # after which a program hangs
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS = 60.0  # the same for one that waits: others' work on a busy machine does not count
MEBIBYTES = 1024
LONGEST_LINE = 2000  # characters of an error
SPECIAL = ("/dev/null", "/dev/full", "/dev/zero", "/dev/tty", "/dev/shm")  # that may be written to, never replaced
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# Events of Python's audit hooks, and how many of their first arguments are paths that change.
CHANGES = {
    "os.mkdir": 1,
    "os.remove": 1,
    "os.rmdir": 1,
    "os.rename": 2,
    "os.truncate": 1,
    "os.chmod": 1,
    "os.utime": 1,
    "shutil.rmtree": 1,
}
NOTICES = re.compile(
    r"^left out: |Warning: |^  |is skipped: |are left out|are reduced to|\d%\|.*\[.*images"
)  # of what a program goes on without
MACHINE = re.compile("|".join([*PATTERNS.values(), "no memory", r"no space left"]), re.IGNORECASE)


class Attempt(NamedTuple):
    """What is tried.

    Attributes:
        module: of the program; its `main` gets the words.
        words: of the command line.
        world: folder that the program may see and write to; it starts in `here`.
        writes: patterns of the files in it that may change if the program works.
        verdict: what a line says with which the program may end by exit code 1, having done its work.
        asked_to_end: seconds of processor time after which the program is asked to save its state and end.
        begun: what it prints before work that may take any time; it is then not said to hang.
        prepare: what is done in the process before the program starts.
        names_outside: whether the words name a place outside of the world, at which it may try to write.
    """

    module: str
    words: Sequence[str]
    world: Path
    writes: Sequence[str]
    verdict: str = ""
    asked_to_end: float = 0.0
    begun: str | None = None
    variables: dict[str, str] = {}
    prepare: Callable[[Path], object] | None = None
    names_outside: bool = False


class Ended(NamedTuple):
    """How a process ended."""

    code: int  # minus a signal's number; 124 for a hang
    out: str
    err: str
    mebibytes: float  # more than before it began
    outside: list[str]  # deeds outside of its world, which were refused


def environment(world: Path) -> dict[str, str]:
    """Return a program's environment variables."""
    own = {
        "VISION_SWEEPS_RUNS": world / "runs",
        "VISION_SWEEPS_DATA": world / "data",
        "XDG_CACHE_HOME": world / "cache",
        "HF_HOME": world / "cache",
        "HOME": world / "home",
        "TMPDIR": world / "tmp",
        "SWEEP_JOURNAL": world / "journal",
        "PATH": os.environ["PATH"],
        "OMP_NUM_THREADS": 1,
        "CUDA_VISIBLE_DEVICES": "",
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "PYTHONDONTWRITEBYTECODE": 1,
        "NO_PROXY": "*",
        "COLUMNS": 200,
        "LANG": "C.UTF-8",
    }
    return {key: str(value) for key, value in own.items()}


def attempt(this: Attempt) -> list[str]:
    """Try an input; return what is wrong with what the program did, nothing if all is well."""
    before = snapshot(this.world)
    ended = run(this)
    return [*judge(this, ended), *judge_files(this, ended, before)]


def run(this: Attempt) -> Ended:
    """Run a program in a process of its own, and wait until it and those that it has started have ended."""
    record = this.world.with_name(f"{this.world.name}-record")
    shutil.rmtree(record, ignore_errors=True)
    record.mkdir()
    for name in ("out", "err", "outside"):
        (record / name).touch()
    virtual = psutil.Process().memory_info().vms
    pid = os.fork()
    if pid == 0:
        try:
            be_the_program(this, record, virtual)
        finally:
            os._exit(99)
    code, memory = wait(pid, this.asked_to_end)
    out, err, outside = ((record / name).read_bytes().decode(errors="replace") for name in ("out", "err", "outside"))
    return Ended(code, out, err, (memory - memory_at_start()) / 2**20, outside.splitlines())


@cache
def memory_at_start() -> int:
    """Return the memory that a process has which has just been forked from this one, in bytes."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return os.wait4(pid, 0)[2].ru_maxrss * 1024


def be_the_program(this: Attempt, record: Path, virtual: int) -> None:
    """Do what a fresh process would do with these words; never return."""
    code: Any = 70
    try:
        os.setsid()
        faulthandler.disable()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.chdir(this.world / "here")
        variables = environment(this.world) | this.variables
        os.environ.clear()
        os.environ.update(variables)
        for descriptor, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(record / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
        sys.stdout, sys.stderr = (os.fdopen(i, "w", encoding="utf-8", errors="surrogateescape") for i in (1, 2))
        sys.argv, sys.dont_write_bytecode, tempfile.tempdir = [this.module, *this.words], True, None
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 2))
        resource.setrlimit(resource.RLIMIT_AS, (virtual + 3 * 2**30,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if this.prepare:
            this.prepare(this.world)
        stay_within(this.world, os.open(record / "outside", os.O_WRONLY | os.O_CREAT | os.O_APPEND))
        code = importlib.import_module(this.module).main(list(this.words))
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else bool(error.code)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
        with suppress(BaseException):
            sys.stderr.flush()
        os._exit(code or 0)


def stay_within(world: Path, record: int) -> None:
    """Refuse from now on whatever this process would change outside of a folder, and note it down."""

    def refuse_outside(event: str, arguments: tuple[Any, ...]) -> None:
        paths: Sequence[Any] = arguments[: CHANGES.get(event, 0)]
        if event == "open" and isinstance(arguments[0], str | bytes) and (arguments[2] or 0) & WRITING:
            paths = arguments[:1]
        elif event == "sqlite3.connect" and arguments[0] not in (":memory:", b":memory:", ""):
            paths = [re.sub(r"^file:|\?.*$", "", os.fsdecode(arguments[0]))]
        if event in ("os.remove", "os.rmdir", "os.mkdir") and arguments[-1] not in (-1, None):
            paths = []  # within a folder that is open, as shutil.rmtree does, whose own event comes first
        for path in paths:
            if isinstance(path, int):
                continue
            real = os.path.realpath(os.fsdecode(path))
            is_special = event == "open" and real.startswith((*SPECIAL, "/proc/self/", "/proc/thread-self/"))
            if not is_special and not f"{real}/".startswith(f"{world}/"):
                os.write(record, f"{event} {real[:200]!r}\n".encode())
                raise PermissionError(errno.EACCES, f"{event} outside of the world", real[:200])

    sys.addaudithook(refuse_outside)


def wait(pid: int, asked_to_end: float) -> tuple[int, int]:
    """Wait until a process has ended; return its code and the most memory it had, in bytes."""
    started, idle, is_asked = time.monotonic(), 0.0, False
    descriptor = os.pidfd_open(pid)  # readable once the process has ended
    while not select.select([descriptor], [], [], SECONDS_BETWEEN_LOOKS)[0]:
        idle += 0.0 if wants_to_run(pid) else SECONDS_BETWEEN_LOOKS
        seconds = time.monotonic() - started
        if asked_to_end and not is_asked and (cpu_seconds(pid) > asked_to_end or seconds > SECONDS / 2):
            is_asked = True
            os.kill(pid, signal.SIGTERM)
        if idle > SECONDS:
            os.kill(pid, signal.SIGKILL)
    os.close(descriptor)
    _, status, usage = os.wait4(pid, 0)
    end_others(pid)
    code = os.waitstatus_to_exitcode(status)
    return (124 if code in (-signal.SIGKILL, -signal.SIGXCPU) else code), usage.ru_maxrss * 1024


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has taken."""
    with suppress(psutil.Error):
        return sum(psutil.Process(pid).cpu_times()[:2])
    return 0.0


def wants_to_run(session: int) -> bool:
    """Return whether a thread of a session runs, or would if the machine were less busy."""
    for pid in pids_of(session):
        for path in Path(f"/proc/{pid}/task").glob("*/stat"):
            with suppress(OSError):
                if path.read_text().rpartition(") ")[2].startswith("R"):
                    return True
    return False


def end_others(session: int) -> None:
    """End what a process has left running: whatever is of its session."""
    for pid in pids_of(session):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def pids_of(session: int) -> list[int]:
    """Return the processes of a session."""
    found = []
    for pid in psutil.pids():
        with suppress(ProcessLookupError):
            if os.getsid(pid) == session:
                found.append(pid)
    return found


def judge(this: Attempt, ended: Ended) -> list[str]:
    """Return what is wrong with how a program ended."""
    lines = [line.rpartition("\r")[2] for line in ended.err.replace("\x1b[A", "").split("\n") if line.strip()]
    faults = [] if this.names_outside else [f"outside: {deed}" for deed in ended.outside]
    is_at_work = this.begun is not None and re.search(this.begun, ended.out, re.MULTILINE)
    if ended.code == 124 and (is_at_work or this.names_outside):  # as where all of the disk is to be listed
        return faults
    if ended.code == 124:
        return [*faults, f"hang: {lines[-1:]}"]
    # Of a trial that has failed, the last lines are shown.
    is_verdict = ended.code == 1 and bool(this.verdict) and re.search(this.verdict, ended.err + ended.out)
    if not is_verdict and "Traceback (most recent call last)" in ended.err + ended.out:
        return [*faults, f"traceback: {lines[-1][:300] if lines else ''}"]
    has_begun = bool(this.begun and re.search(this.begun, ended.out, re.MULTILINE))
    if ended.mebibytes > MEBIBYTES and not has_begun:  # of large networks training takes as much as it takes
        faults.append(f"memory: {ended.mebibytes:.0f} MiB")
    is_own_end = bool(this.asked_to_end) and ended.code in (128 + signal.SIGTERM, 0)
    is_of_machine = ended.code == 1 and len(lines) == 1 and MACHINE.search(ended.err)
    if ended.code not in (0, 2) and not (is_own_end or is_verdict or is_of_machine):
        faults.append(f"exit code {ended.code}: {lines[-1:]}")
    told = [line for line in lines if not NOTICES.search(line)]
    if ended.code == 2 and len(told) != 1:
        faults.append(f"{len(told)} lines: {[line[:200] for line in told[:3]]}")
    if any(len(line) > LONGEST_LINE for line in lines):
        faults.append(f"a line of {max(map(len, lines)):,} characters: {ended.err[:100]!r}")
    shown = ended.out + ended.err
    odd = {letter for letter in shown if not (letter.isprintable() or letter in "\n\t\r")}  # the last one of a bar
    if odd:
        faults.append(f"control characters: {sorted(odd)} in {[x[:200] for x in lines if odd & set(x)][:2]}")
    return faults


def snapshot(world: Path) -> dict[str, tuple[Any, ...]]:
    """Return for each file in a folder what changes if somebody changes the file, and its content if it is one."""
    found: dict[str, tuple[Any, ...]] = {}
    for folder, folders, files in os.walk(world):
        for name in files:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            content = hash(Path(path).read_bytes()) if stat.S_ISREG(status.st_mode) else 0
            found[os.path.relpath(path, world)] = (status.st_mode, status.st_size, content)
        for name in folders:
            found[os.path.relpath(os.path.join(folder, name), world)] = (0,)
    return found


def judge_files(this: Attempt, ended: Ended, before: dict[str, tuple[Any, ...]]) -> list[str]:
    """Return which files a program changed, deleted or made that it should not have."""
    after, faults = snapshot(this.world), []
    has_begun = bool(this.begun and re.search(this.begun, ended.out, re.MULTILINE))
    allowed = [re.compile(pattern, re.DOTALL) for pattern in this.writes]
    for path in sorted(before.keys() | after.keys()):
        # A refused input leaves what was there as it was, but for caches and databases, and a run that had begun.
        is_kept = ended.code != 2 or has_begun or path not in before or path.startswith("cache") or ".db" in path
        if before.get(path) == after.get(path) or (is_kept and any(rule.fullmatch(path) for rule in allowed)):
            continue
        deed = "deleted" if path not in after else "made" if path not in before else "changed"
        faults.append(f"{deed} {path[:200]!r}")
    is_of_old_files = [fault for fault in faults if not fault.startswith("made")]
    return is_of_old_files + [fault for fault in faults if fault.startswith("made")][:3]
