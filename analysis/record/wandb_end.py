"""Tell W&B how a run ended: python -m analysis.record.wandb_end STOP_CODE [FOLDER].

What a run asks for whose own client of W&B has died, and a user whose run has been online and offline by turns: the
figures that W&B lacks, the result, and the checkpoint of a preempted run of a sweep, are sent from its folder. A run
without a folder was stopped before it began; the environment says which it is, and W&B gives it to another agent.
"""

import os
import sys
from pathlib import Path

from analysis.record import run_folder
from analysis.record.wandb_run import WandbRun
from analysis.record.wandb_start import UNLABELLED, RunFacts, init_wandb
from data.files import read_json
from models.resolve import sweep_values


def end_from_folder(folder: Path, stop_code: int) -> None:
    """End a run whose folder has all that there is to say."""
    settings, environment = (read_json(folder / name) for name in (run_folder.SETTINGS, run_folder.ENVIRONMENT))
    summary = read_json(folder / run_folder.SUMMARY)
    facts = RunFacts(folder, settings, environment, sweep_values(os.environ), earlier=environment)
    run = WandbRun(init_wandb(facts, "online"), facts, run_folder.read_metrics(folder))
    run.upload(summary.pop("state", "failed"), summary, stop_code)  # without one it was killed
    if not run.is_alive:
        sys.exit(1)


def end_before_it_began(stop_code: int) -> None:
    """Mark a run of a sweep as preempted, and end it."""
    import wandb

    run = wandb.init(resume="allow", settings=wandb.Settings(silent=True), **UNLABELLED)
    run.mark_preempting()
    run.finish(exit_code=stop_code)


def main(stop_code: str, folder: str = "") -> None:
    """End a run on W&B."""
    if folder:
        end_from_folder(Path(folder), int(stop_code))
    else:
        end_before_it_began(int(stop_code))


if __name__ == "__main__":
    main(*sys.argv[1:])
