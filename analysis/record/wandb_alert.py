"""An alert on W&B about a sweep: python -m analysis.record.wandb_alert ADDRESS, with the message as JSON on stdin.

W&B's alerts are sent by runs, and an agent has none. So it is sent by a short run of job type "sweep" in the group of
the sweep's trials, the same one each time. ADDRESS is that of a trial, which tells where on W&B that is.
"""

import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from analysis.record.wandb_start import LABELLED_BY, UNLABELLED
from data.signals import release_signals

LEVELS = {"finished": "INFO", "paused": "WARN", "failed": "ERROR"}
LONGEST_TITLE, LONGEST_NAME = 63, 100  # characters


def alert(address: str, message: Mapping[str, Any]) -> None:
    """Send an alert.

    Args:
        address: of one of the sweep's runs.
        message: with the sweep's name, its state, a text, the number of trials in each state, and their hours.
    """
    import wandb

    entity, project = unquote(urlsplit(address).path).split("/")[-4:-2]
    name = str(message["sweep"])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        run = wandb.init(
            entity=entity,
            project=project,
            id=re.sub(r"[^\w.-]", "-", f"sweep-{name}")[:LONGEST_NAME],
            group=os.environ.get(LABELLED_BY["group"]) or name,
            job_type="sweep",
            resume="allow",
            dir=folder,
            settings=wandb.Settings(silent=True, console="off"),
            **UNLABELLED,
        )
        if not run.resumed:  # else the user may have renamed it
            run.name = f"sweep {name}"[:LONGEST_NAME]
        run.alert(f"sweep {name} {message['state']}"[:LONGEST_TITLE], message["text"], LEVELS[message["state"]])
        run.summary.update({key: message[key] for key in ("state", "trials", "trial_hours")})
        run.finish()


if __name__ == "__main__":
    release_signals()
    os.environ.setdefault("WANDB_INIT_TIMEOUT", "30")  # seconds that a server has to answer
    alert(sys.argv[1], json.load(sys.stdin))
