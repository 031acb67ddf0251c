"""Measure what running trials side by side wins on a device of limited memory: python -m tests.packing.

Two small models, of 2 and 3 GiB, and a large one, of 8 GiB, share a device of 10 GiB. They only pretend to train.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.sweep_agents import Stage

DEVICE = {"device_gib": 10, "sizes": "small:2,other:3,large:8"}
MODELS = ["small", "other", "large"]


def write(stage: Stage, name: str, num_of_each: int, models: list[str] = MODELS, **parameters: Any) -> str:
    """Write a sweep with so many trials of each model."""
    lr = {"values": [10.0**-i for i in range(1, num_of_each + 1)]}
    varied = {"lr": lr, "model": {"values": models}}
    return stage.write(name, method="grid", parameters={**varied, **DEVICE, **parameters})


def measure(stage: Stage, name: str, *options: str, num_of_each: int, **parameters: Any) -> tuple[float, str]:
    """Return the seconds that a sweep takes, and what its agent said."""
    started = time.monotonic()
    done = stage.run(write(stage, name, num_of_each, **parameters), *options)
    return time.monotonic() - started, done.output


def main() -> int:
    """Print the times; the exit code is 1 if a trial was lost."""
    states = []
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(Path(folder))
        for name, options in {
            "one at a time": ["--workers=1"],
            "packed": ["--workers=3", "--memory=10"],
            "three at a time, whatever fits": ["--workers=3", "--memory=1000"],
        }.items():
            seconds, output = measure(stage, name.split()[0], *options, num_of_each=4, epochs=5, seconds=0.6)
            states += stage.states(name.split()[0])
            short = output.count("short of memory")
            print(
                f"{name}: {seconds:.0f} s, {short} times short of memory, {states[-12:].count('COMPLETE')} of 12 done"
            )
        stage.close()
    return int(set(states) != {"COMPLETE"})


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m tests.packing", description=__doc__).parse_args()
    sys.exit(main())
