"""Programs as processes of their own, forked from one that has imported them: a start takes a fraction of a second.

A forked program has its own session, environment (as /proc shows it, too), files and signal handlers, and the runs that
it starts are forked from it in the same way. So signals, kills and orphans are real ones.
"""

import atexit
import ctypes
import gc
import mmap
import os
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import psutil
from matplotlib.figure import Figure
from PIL import Image

from data.internals import run_exit_handlers
from models.core.processes import leave

ROOT = Path(__file__).parents[2]
TRAIN = str(ROOT / "train.py")
PADDING = "CAMPAIGN_PADDING"  # room for the environments of forked programs
MODULES = "CAMPAIGN_MODULES"  # file to which a forked program writes what it has imported
NO_THREADS = {  # of libraries: only the thread that forks survives it
    **{f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")},
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # pyarrow, which pandas and so scikit-learn import
}
PR_SET_CHILD_SUBREAPER = 36
STRIKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "sqlite3.connect")  # beside opening
REAL_POPEN, REAL_TIME, REAL_SLEEP = subprocess.Popen, time.time, time.sleep


class Shared:
    """Memory shared with all programs: by how much their clocks are wrong, and how many have struck themselves."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 16)

    @property
    def seconds_off(self) -> float:
        return struct.unpack_from("d", self.memory, 0)[0]

    @seconds_off.setter
    def seconds_off(self, seconds: float) -> None:
        struct.pack_into("d", self.memory, 0, seconds)

    @property
    def num_struck(self) -> int:
        """Signals that programs have sent themselves."""
        return self.memory[8]

    @num_struck.setter
    def num_struck(self, number: int) -> None:
        self.memory[8] = number


SHARED = Shared()


class Start(NamedTuple):
    """How a program is started.

    Attributes:
        module: where its `main` is.
        arguments: of its command line.
        environment: beside the campaign's own.
        log: file of its output.
        patches: what is put in the place of module attributes.
        strike: signal that it sends itself, at which of the files that it changes; None for none.
    """

    module: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    patches: Mapping[str, Any] = {}
    strike: tuple[int, int] | None = None


class Child:
    """A process that has been forked, with what the product uses of subprocess.Popen."""

    def __init__(self, pid: int, words: Sequence[str] = ()) -> None:
        self.pid = pid
        self.args = words
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = time.monotonic() + (timeout or float("inf"))
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(list(self.args), timeout or 0.0)
            REAL_SLEEP(0.01)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def prepare_to_fork() -> None:
    """Make this process one that others can be forked from; it starts itself anew, if need be.

    Orphans become its children, so that none is overlooked.
    """
    if PADDING not in os.environ:
        environment = {**os.environ, **NO_THREADS, PADDING: "x" * 32768}
        os.execve(sys.executable, [sys.executable, "-m", "tests.campaign", *sys.argv[1:]], environment)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def base_environment() -> dict[str, str]:
    """The environment of all programs."""
    return {key: value for key, value in os.environ.items() if key != PADDING}


def start(program: Start) -> Child:
    """Fork a program in a session of its own."""
    assert len(os.listdir("/proc/self/task")) == 1, "threads do not survive a fork"
    descriptor = os.open(program.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    pid = fork()
    if pid == 0:
        os.setsid()
        carry_out(program, descriptor)
    os.close(descriptor)
    return Child(pid)


def start_for_real(program: Start) -> subprocess.Popen:
    """Start a program as a user does, which takes seconds; nothing is patched, and it does not strike itself."""
    name = program.module.replace(".", "/") + ".py"
    words = ["-m", program.module] if program.module.startswith("analysis.") else [str(ROOT / name)]
    environment = {**base_environment(), **program.environment}
    with program.log.open("ab") as log:
        return REAL_POPEN(
            [sys.executable, *words, *program.arguments],
            cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def fork() -> int:
    """Fork with signals held back, since what Python does after a fork would swallow the exceptions of handlers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STRIKING)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def carry_out(program: Start, output: int) -> NoReturn:
    """Be a program, and end."""
    try:
        be(program, output)
    finally:  # reached where Ctrl-C comes in the last moment
        os._exit(128 + signal.SIGINT)


def be(program: Start, output: int) -> None:
    """Be a program, and end, unless Ctrl-C comes in the last moment."""
    code = 1
    try:
        forget_the_parent(output)
        become({**base_environment(), **program.environment})
        install(program)
        sys.argv = [program.module, *program.arguments]
        code = import_module(program.module).main(program.arguments)
        if MODULES in program.environment:
            Path(program.environment[MODULES]).write_text("\n".join(sorted(sys.modules)), encoding="utf-8")
        if program.module == "train":
            leave(code)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:  # before the program itself heeds it
        code = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
    finally:
        run_exit_handlers()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def forget_the_parent(output: int) -> None:
    """Let go of the parent's signal handlers, files and exit handlers, as a program that is started does."""
    for number in (*STRIKING, signal.SIGUSR1):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STRIKING)
    atexit._clear()
    gc.freeze()  # nothing of the parent's is closed a second time
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.closerange(3, 4096)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))


def become(environment: Mapping[str, str]) -> None:
    """Take on an environment so that /proc/PID/environ shows it, too, by which the product tells processes apart."""
    os.environ.clear()
    os.environ.update(environment)
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    begin, end = int(fields[47]), int(fields[48])
    block = b"".join(f"{key}={value}".encode() + b"\0" for key, value in environment.items())
    assert len(block) < end - begin
    ctypes.memset(begin, 0, end - begin)
    ctypes.memmove(begin, block, len(block))


def install(program: Start) -> None:
    """Put in place what a program is to suffer, and let the runs that it starts be forked, too."""
    for name, value in program.patches.items():
        module, _, attribute = name.rpartition(".")
        setattr(import_module(module), attribute, value)
    time.time = lambda: REAL_TIME() + SHARED.seconds_off
    subprocess.Popen = popen  # type: ignore[misc, assignment]
    Figure.savefig = save_pixel  # type: ignore[method-assign, assignment]
    if program.strike is not None:
        sys.addaudithook(Striker(*program.strike))


def popen(words: Sequence[str], **options: Any) -> Any:
    """What takes the place of subprocess.Popen: a run is forked, all else is started as ever."""
    if TRAIN not in words:
        return REAL_POPEN(words, **options)
    arguments = list(words[list(words).index(TRAIN) + 1 :])
    descriptor = os.dup(options["stdout"].fileno())
    pid = fork()
    if pid == 0:
        if options.get("process_group") == 0:
            os.setpgid(0, 0)
        carry_out(Start("train", arguments, options["env"], Path()), descriptor)
    os.close(descriptor)
    return Child(pid, words)


def save_pixel(figure: Figure, path: Path, **options: Any) -> None:
    """What takes the place of matplotlib's drawing, which would take half of a run's time."""
    Image.new("1", (1, 1)).save(path, "png")


class Striker:
    """Sends its own process a signal as that changes its so many-th file."""

    def __init__(self, number: int, num_changes: int) -> None:
        self.number = number
        self.num_left = num_changes
        self.pid = os.getpid()

    def __call__(self, event: str, arguments: tuple) -> None:
        is_change = event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING)
        if not is_change or os.getpid() != self.pid:
            return
        self.num_left -= 1
        if self.num_left == 0:
            SHARED.num_struck += 1
            os.kill(self.pid, self.number)


def descendants(apart_from: int = 0) -> list[psutil.Process]:
    """The living processes below this one, orphans included, but for those below a server."""
    own = [process for process in psutil.Process().children() if process.pid != apart_from and is_living(process)]
    found = list(own)
    for process in own:
        with suppress(psutil.Error):
            found += filter(is_living, process.children(recursive=True))
    return found


def is_living(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE
    return False
