"""A sweep's database with many trials, made up: `python -m tests.large_study FOLDER 10000`, FOLDER a runs folder."""

import argparse
import json
import random
import sqlite3
from contextlib import closing
from pathlib import Path

from analysis.record import run_folder
from tests.run_folders import SWEEP, write_study

MOMENT = "2026-11-01 12:00:00.000000"


def write_large_study(folder: Path, num_trials: int, num_values: int = 10) -> None:
    """Write a sweep's file and database, as the agent leaves them: each trial with its notes and logged values."""
    folder.mkdir(parents=True)
    (folder / run_folder.SWEEP_FILE).write_text(SWEEP)
    write_study(folder)  # makes the tables
    draw = random.Random(0)
    with closing(sqlite3.connect(folder / run_folder.STUDY)) as database, database:
        [(study,)] = database.execute("SELECT study_id FROM studies").fetchall()
        database.executemany(
            "INSERT INTO trials (number, study_id, state, datetime_start, datetime_complete) VALUES (?, ?, ?, ?, ?)",
            ((number, study, "COMPLETE", MOMENT, MOMENT) for number in range(4, num_trials)),
        )
        ids = database.execute("SELECT trial_id, number FROM trials WHERE number >= 4").fetchall()
        for own_id, number in ids:
            settings = {"lr": 10 ** draw.uniform(-5, -1), "dropout": draw.uniform(0, 0.5), "batch_size": 64}
            best = draw.random()
            notes = {"run_id": f"{number:03d}-run", "settings": settings, "best": best, "best_epoch": 3, "seconds": 9.0}
            database.executemany(
                "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (?, ?, ?)",
                [(own_id, key, json.dumps(value)) for key, value in notes.items()],
            )
            database.executemany(
                "INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type) "
                "VALUES (?, ?, ?, 'FINITE')",
                [(own_id, step, best + 1 / step) for step in range(1, num_values + 1)],
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.large_study", description=__doc__)
    parser.add_argument("runs_dir", type=Path, help="in which the sweep `large` is made")
    parser.add_argument("num_trials", type=int)
    options = parser.parse_args()
    write_large_study(options.runs_dir / run_folder.SWEEPS / "large", options.num_trials)
