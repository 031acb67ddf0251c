"""A run as a process of the system: it stops when asked to, and ends if the program that launched it dies."""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from data.errors import UserError, in_one_line
from data.internals import run_exit_handlers
from data.signals import LAUNCHER_IS_GONE, STOP_SIGNALS, release_signals
from data.visible import warn

LAUNCHED_BY_US = "VISION_SWEEPS_LAUNCHED"  # set by our own programs for the train.py that they start
# Accelerate, torchrun and sweep agents set these for the processes that they launch. Users set none of them in a shell,
# as they may set ACCELERATE_MIXED_PRECISION: so `nohup python train.py &` does not count as launched, and outlives
# the shell.
LAUNCHER_VARIABLES = (
    "ACCELERATE_DYNAMO_MODE",
    "TORCHELASTIC_RUN_ID",
    "WANDB_SWEEP_ID",
    "WANDB_SWEEP_PARAM_PATH",
    LAUNCHED_BY_US,
)
# By these, accelerate divides a model among devices, or has another library train it; here each device has all of it.
DIVIDING = tuple(f"ACCELERATE_USE_{name}" for name in ("DEEPSPEED", "FSDP", "MEGATRON_LM", "PARALLELISM_CONFIG"))
ACCELERATE_LAUNCH = ("launch", "accelerate-launch", "launch.py", "accelerate.commands.launch")
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_OF_ONE_REQUEST = 1.0  # within which the same signal may arrive twice, from the launcher and from elsewhere


class StopRequested(BaseException):
    """The run was asked to stop, and what it was doing can be done again from the start."""


class StopRequest:
    """A flag that is set when the process is asked to stop, by SIGTERM, by Ctrl-C or by the death of its launcher.

    The run then stops after the current step. If the same signal comes again after a second or more, the process ends
    at once. Before that it is the same request once more: Ctrl-C, or SIGTERM to a whole process group, also reaches
    the launcher, which passes the signal on or dies of it. Our own programs may take longer to pass SIGTERM on, and end
    a run by SIGKILL: from them it is always the same request.
    """

    def __init__(self) -> None:
        self.received: dict[int, float] = {}  # time of each signal's first arrival
        self.is_interrupting = False
        self.is_planned = False  # by the settings: nobody had to ask
        for number in STOP_SIGNALS:
            signal.signal(number, self.receive)
        release_signals()

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: set the flag, or end the process if the same signal came a second ago or more."""
        now = time.monotonic()
        is_another = now - self.received.setdefault(number, now) >= SECONDS_OF_ONE_REQUEST
        if is_another and not (number == signal.SIGTERM and LAUNCHED_BY_US in os.environ):
            os._exit(128 + number)
        if self.is_interrupting:
            self.is_interrupting = False  # the same request may come once more
            raise StopRequested

    def __bool__(self) -> bool:
        return bool(self.received)

    @property
    def exit_code(self) -> int:
        """The exit code of a process that this request has ended; that of SIGTERM where another rank was asked."""
        if self.is_planned and not self.received:
            return 0
        return 128 + next(iter(self.received), signal.SIGTERM)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Return a context that a request ends at once, instead of after the current step.

        Raises:
            StopRequested: the request came while it was done, or before.
        """
        self.is_interrupting = True
        try:
            if self.received:
                raise StopRequested
            with self.excusing():
                yield
        finally:
            self.is_interrupting = False

    @contextmanager
    def excusing(self) -> Iterator[None]:
        """Return a context in which an error after a request counts as the stop: the signal may have caused the error.

        Raises:
            StopRequested: there was an error after a request.
        """
        try:
            yield
        except Exception:
            if self.received:
                raise StopRequested from None
            raise


def die_with_launcher() -> None:
    """Make this process stop when any launcher above it dies, even if it is killed with SIGKILL; works on Linux alone.

    A launcher may itself have been launched; all of them are watched, by a thread that looks twice a second. (prctl's
    PR_SET_PDEATHSIG would report the death of the direct parent alone, and pidfd_open needs Linux 5.3.) If this process
    replaces itself by `exec`, the thread ends, and the new program must call this function again.

    Raises:
        StopRequested: a launcher has died already.
    """
    if sys.platform != "linux":
        return
    parents = launched_processes()
    if any(is_orphan(pid, parent) for pid, parent in parents.items()):  # it died while we were importing
        warn("the launcher is gone")
        raise StopRequested
    if parents:
        threading.Thread(target=watch, args=(parents, threading.get_ident()), daemon=True).start()


def launched_processes() -> dict[int, int]:
    """Return process id -> parent's id for this process and its launchers.

    It starts with this process and goes up from parent to parent, as long as a process has been launched.
    """
    parents: dict[int, int] = {}
    pid = os.getpid()
    while is_launched(pid):
        pid = parents.setdefault(pid, parent_of(pid))
    return parents


def watch(parents: Mapping[int, int], thread: int) -> None:
    """Wait until one of the processes in `parents` has another parent, because its own died; then signal `thread`."""
    while all(parent_of(pid) == parent for pid, parent in parents.items()):
        time.sleep(SECONDS_BETWEEN_LOOKS)
    signal.pthread_kill(thread, LAUNCHER_IS_GONE)  # os.kill may choose a thread that is not the main one


def is_launched(pid: int) -> bool:
    """Return whether a launcher started a process, which its environment variables tell.

    False if they cannot be read, because the process belongs to another user, for example.
    """
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(word.partition(b"=")[0].decode(errors="replace") in LAUNCHER_VARIABLES for word in words)


def parent_of(pid: int) -> int:
    """Return the id of a process's parent, or 0 if the process is dead."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def is_orphan(pid: int, parent: int) -> bool:
    """Return whether `parent` did not start `pid`, but adopted it when its real parent died.

    A process inherits the session of the parent that starts it unless it begins a session; so it is an orphan if its
    session is neither its own nor that of `parent`.
    """
    try:
        return os.getsid(pid) not in (pid, os.getsid(parent))
    except ProcessLookupError:
        return True


def check_launch() -> None:
    """Refuse environment variables of a launcher that are malformed, or ask for what train.py cannot do.

    Raises:
        UserError: one of them is of another form, the launcher would divide the model, or its device is not there.
    """
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        if not re.fullmatch("-?[0-9]{1,6}", value := os.environ.get(name, "0")):
            raise UserError(f"{name}={value} is no number, as a launcher sets it: unset {name}")
    value = os.environ.get("ACCELERATE_USE_CPU", "no")
    if not re.fullmatch("(?i)y|yes|t|true|on|1|n|no|f|false|off|0", value):
        raise UserError(f"ACCELERATE_USE_CPU={value} is neither yes nor no: unset it")
    for name in DIVIDING:
        if os.environ.get(name, "").lower() == "true":
            raise UserError(f"{name}=true would divide the model, of which each device has all: leave it out")
    if (device := os.environ.get("ACCELERATE_TORCH_DEVICE")) is not None:
        check_device(device)


def check_device(name: str) -> None:
    """Refuse a device that torch does not know, or that is not there.

    Raises:
        UserError: it is such a one.
    """
    import torch  # imported late: it takes seconds

    try:
        torch.zeros(1, device=name).cpu()
    except (AssertionError, RuntimeError) as error:  # which of them, depends on the device
        raise UserError(
            f"ACCELERATE_TORCH_DEVICE={name} cannot be used here ({in_one_line(error)}): unset it"
        ) from None


def start_all_processes(arguments: Sequence[str]) -> None:
    """Replace this process by torchrun if `accelerate launch --cpu --num_processes N` should start several processes.

    On a CPU, accelerate starts a single process whatever N is, and does not say so
    (https://github.com/huggingface/accelerate/issues/2741). This can be told by its setting MASTER_ADDR, but not
    WORLD_SIZE.

    Raises:
        UserError: the launcher's command line does not give the number of processes, or as `check_launch`.
    """
    check_launch()
    if "MASTER_ADDR" not in os.environ or "WORLD_SIZE" in os.environ or os.environ.get("ACCELERATE_USE_CPU") != "True":
        return
    import psutil
    from accelerate.commands.launch import launch_command_parser

    words = psutil.Process(os.getppid()).cmdline()
    launchers = [i for i, word in enumerate(words) if Path(word).name in ACCELERATE_LAUNCH]
    if not launchers:  # for example mpirun, which starts all processes itself
        return
    asked = launch_command_parser().parse_args(words[launchers[0] + 1 :])
    if not asked.num_processes or asked.num_machines not in (None, 1):
        raise UserError(
            "accelerate launch --cpu would start one process: give --num_processes on its command line, or use torchrun"
        )
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={asked.num_processes}"]
    os.execv(sys.executable, [sys.executable, *torchrun, sys.argv[0], *arguments])


def leave(code: int) -> NoReturn:
    """End this process at once; Python's normal exit would take a second to unload torch."""
    run_exit_handlers()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # the program that read the stream is gone
            stream.flush()
    os._exit(code)
