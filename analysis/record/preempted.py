"""Tell W&B that a run of its sweep was preempted: python -m analysis.record.preempted EXIT_CODE PROJECT [FOLDER].

The environment says which run. W&B gives it to another agent, which goes on from the checkpoint in FOLDER, if that is
named.
"""

import sys
from pathlib import Path

from analysis.record.wandb_artifacts import log_checkpoint


def main(exit_code: str, project: str, folder: str = "") -> None:
    """Mark the run as preempted, upload its checkpoint, and end it with an exit code."""
    import wandb

    run = wandb.init(project=project or None, resume="allow", settings=wandb.Settings(silent=True))
    run.mark_preempting()
    if folder:
        log_checkpoint(run, Path(folder))
    run.finish(exit_code=int(exit_code))


if __name__ == "__main__":
    main(*sys.argv[1:])
