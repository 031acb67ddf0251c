"""W&B's own engine, started by a Python that has `sweeps` of PyPI: it proposes, and is told what came of it.

A line {"config": a sweep's, "seed": a number} begins a search, and {"value": a number} tells of the last proposal.
Either is answered by one line, the next proposal.
"""

import contextlib
import json
import random
import sys

import numpy as np

from sweeps import RunState, SweepRun, next_run


def main():
    """Answer until the input ends."""
    config, runs, run = {}, [], None
    for line in sys.stdin:
        told = json.loads(line)
        if "config" in told:
            config, runs = told["config"], []
            random.seed(told["seed"])
            np.random.seed(told["seed"])
        else:
            seen = {"loss": told["value"]}
            state = RunState.finished
            runs.append(
                SweepRun(name=str(len(runs)), config=run.config, state=state, summary_metrics=seen, history=[seen])
            )
        with contextlib.redirect_stdout(sys.stderr):
            run = next_run(config, runs)
        proposal = {name: entry["value"] for name, entry in run.config.items()}
        print(json.dumps(proposal, default=lambda number: number.item()), flush=True)  # of numpy


if __name__ == "__main__":
    main()
