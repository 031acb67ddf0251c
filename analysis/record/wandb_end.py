"""Tell W&B how a run ended: python -m analysis.record.wandb_end STOP_CODE [FOLDER].

What a run asks for whose own client of W&B has died, and a user whose run has been online and offline by turns: the
figures that W&B lacks, the result, and the checkpoint of a preempted run of a sweep, are sent from its folder. A run
without a folder was stopped before it began; the environment says which it is, and W&B gives it to another agent.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.record import run_folder
from analysis.record.wandb_login import choose_mode
from analysis.record.wandb_run import WandbRun
from analysis.record.wandb_start import UNLABELLED, RunFacts, init_wandb
from data.errors import InProgressError, UserError, exit_code, in_words
from data.files import read_json
from data.signals import release_signals
from data.visible import warn
from models.resolve import sweep_values


def end_from_folder(folder: Path, stop_code: int) -> int:
    """End a run whose folder has all that there is to say; return the exit code.

    Raises:
        UserError: the folder holds no run or one that is under way, or W&B does not take it.
    """
    settings, environment = (read_json(folder / name) for name in (run_folder.SETTINGS, run_folder.ENVIRONMENT))
    if not settings or not environment:
        raise UserError(f"{folder} holds no run, or a damaged one: name the folder of a run")
    if run_folder.is_in_progress(folder) and environment.get("pid") != os.getppid():  # else the run itself asks
        raise InProgressError(f"{folder} is in progress: upload it once it has ended")
    choose_mode("online")
    import wandb

    summary = read_json(folder / run_folder.SUMMARY)
    facts = RunFacts(folder, settings, environment, sweep_values(os.environ), earlier=environment)
    try:
        run = WandbRun(init_wandb(facts, "online"), facts, run_folder.read_metrics(folder))
        run.upload(summary.pop("state", "failed"), summary, stop_code)  # without one it was killed
    except (wandb.errors.Error, TimeoutError) as error:
        raise UserError(f"{folder} is not all on W&B ({str(error).splitlines()[0]}): try again later") from None
    if run.is_alive and not run.sends_all:
        raise UserError(f"{folder} is not all on W&B (it refuses rows of the run): try again later")
    return int(not run.is_alive)


def end_before_it_began(stop_code: int) -> int:
    """Mark a run of a sweep as preempted, and end it; return the exit code."""
    import wandb

    run = wandb.init(resume="allow", settings=wandb.Settings(silent=True), **UNLABELLED)
    run.mark_preempting()
    run.finish(exit_code=stop_code)
    return 0


def main(words: Sequence[str]) -> int:
    """End a run on W&B, or say in one line what keeps it from that; return the exit code."""
    try:
        if len(words) not in (1, 2) or not words[0].isdecimal():
            raise UserError("give the code 0 and the folder of a run")
        code = int(words[0])
        return end_from_folder(Path(words[1]), code) if words[1:] else end_before_it_began(code)
    except UserError as error:
        warn(f"analysis.record.wandb_end: {in_words(error)}")
        return exit_code(error)


if __name__ == "__main__":
    release_signals()
    sys.exit(main(sys.argv[1:]))
