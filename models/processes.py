"""A run among other processes: stopping when asked to, and dying with whoever launched it."""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from data.errors import UserError

# Set by accelerate, torchrun and the sweep agents for what they launch. A shell sets none of them, so that
# `nohup python train.py &` outlives it.
LAUNCHER_VARIABLES = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")
ACCELERATE_LAUNCH = ("launch", "accelerate-launch", "launch.py", "accelerate.commands.launch")
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class StopRequest:
    """SIGTERM or Ctrl-C asks for a stop after the step under way; the same signal again ends the process at once.

    The two signals count apart, since Ctrl-C reaches a launcher too, whose death then sends SIGTERM.
    """

    def __init__(self) -> None:
        self.received: set[int] = set()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.receive)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if number in self.received:
            os._exit(128 + number)
        self.received.add(number)

    def __bool__(self) -> bool:
        return bool(self.received)


def die_with_launcher() -> None:
    """Ask Linux to send SIGTERM when the launcher dies, even of SIGKILL; does nothing elsewhere."""
    if sys.platform != "linux" or not any(name in os.environ for name in LAUNCHER_VARIABLES):
        return
    launcher = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != launcher:  # it died in between
        sys.exit("the launcher is gone")


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
