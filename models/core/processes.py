"""A run among other processes: stopping when asked to, and dying with whoever launched it."""

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from data.errors import UserError
from data.internals import run_exit_handlers

LAUNCHED_BY_US = "VISION_SWEEPS_LAUNCHED"  # set by our own programs for the train.py that they start
# Set by accelerate, torchrun and the sweep agents for what they launch. A user sets none of them in a shell, as
# ACCELERATE_MIXED_PRECISION, so that `nohup python train.py &` outlives it.
LAUNCHER_VARIABLES = (
    "ACCELERATE_DYNAMO_MODE",
    "TORCHELASTIC_RUN_ID",
    "WANDB_SWEEP_ID",
    "WANDB_SWEEP_PARAM_PATH",
    LAUNCHED_BY_US,
)
ACCELERATE_LAUNCH = ("launch", "accelerate-launch", "launch.py", "accelerate.commands.launch")
LAUNCHER_IS_GONE = getattr(signal, "SIGUSR1", signal.SIGTERM)  # Windows has no SIGUSR1
SECONDS_BETWEEN_LOOKS = 0.5


class StopRequest:
    """SIGTERM or Ctrl-C asks for a stop after the step under way; the same signal again ends the process at once.

    So does the launcher's death, by a signal of its own. Signals count apart, since Ctrl-C, or SIGTERM to a whole
    group, reaches a launcher too: it hands the signal on, or dies of it.
    """

    def __init__(self) -> None:
        self.received: set[int] = set()
        for number in (signal.SIGTERM, signal.SIGINT, LAUNCHER_IS_GONE):
            signal.signal(number, self.receive)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if number in self.received:
            os._exit(128 + number)
        self.received.add(number)

    def __bool__(self) -> bool:
        return bool(self.received)


def die_with_launcher() -> None:
    """Ask for a stop when a launcher dies, even of SIGKILL, however far up it is; Linux only, elsewhere nobody looks.

    A thread looks from time to time: prctl's PR_SET_PDEATHSIG would tell of the parent alone, and pidfd_open needs
    Linux 5.3. The thread ends with `exec`; the processes that come of it call this anew.
    """
    if sys.platform != "linux":
        return
    parents = launched_processes()
    if any(is_orphan(pid, parent) for pid, parent in parents.items()):  # it died while we were importing
        sys.exit("the launcher is gone")
    if parents:
        threading.Thread(target=watch, args=(parents, threading.get_ident()), daemon=True).start()


def launched_processes() -> dict[int, int]:
    """Parent of this process, if something launched it, and so on up to the first process that nothing launched."""
    parents: dict[int, int] = {}
    pid = os.getpid()
    while is_launched(pid):
        pid = parents.setdefault(pid, parent_of(pid))
    return parents


def watch(parents: Mapping[int, int], thread: int) -> None:
    """Wait until one of `parents` is dead, whose child then has another parent, and tell `thread`, once."""
    while all(parent_of(pid) == parent for pid, parent in parents.items()):
        time.sleep(SECONDS_BETWEEN_LOOKS)
    signal.pthread_kill(thread, LAUNCHER_IS_GONE)  # os.kill may choose a thread that is not the main one


def is_launched(pid: int) -> bool:
    """Whether a process began with a launcher's variables; what cannot be read, as of another user, has none."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(word.partition(b"=")[0].decode(errors="replace") in LAUNCHER_VARIABLES for word in words)


def parent_of(pid: int) -> int:
    """The parent of a process; 0 where the process is dead."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def is_orphan(pid: int, parent: int) -> bool:
    """Whether `parent` only adopted `pid`: a session is inherited, save by the process that begins it."""
    try:
        return os.getsid(pid) not in (pid, os.getsid(parent))
    except ProcessLookupError:
        return True


def start_all_processes(arguments: Sequence[str]) -> None:
    """Become torchrun where `accelerate launch --cpu --num_processes N` was asked for several processes.

    On a CPU accelerate starts one process whatever N is, without a word
    (https://github.com/huggingface/accelerate/issues/2741); it leaves MASTER_ADDR, but no WORLD_SIZE, behind.

    Raises:
        UserError: the number of processes does not stand on the launcher's command line.
    """
    if "MASTER_ADDR" not in os.environ or "WORLD_SIZE" in os.environ or os.environ.get("ACCELERATE_USE_CPU") != "True":
        return
    import psutil
    from accelerate.commands.launch import launch_command_parser

    words = psutil.Process(os.getppid()).cmdline()
    launchers = [i for i, word in enumerate(words) if Path(word).name in ACCELERATE_LAUNCH]
    if not launchers:  # started by mpirun, say, which has started them all
        return
    asked = launch_command_parser().parse_args(words[launchers[0] + 1 :])
    if not asked.num_processes or asked.num_machines not in (None, 1):
        raise UserError(
            "accelerate launch --cpu would start one process: give --num_processes on its command line, or use torchrun"
        )
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={asked.num_processes}"]
    os.execv(sys.executable, [sys.executable, *torchrun, sys.argv[0], *arguments])


def leave(code: int) -> NoReturn:
    """End this process, without the second that Python takes to pull torch apart."""
    run_exit_handlers()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # whoever read it has gone
            stream.flush()
    os._exit(code)
