"""List what a project on W&B keeps that nobody needs, and delete it.

python -m analysis.artifacts --project ENTITY/PROJECT --prune          what would be deleted
python -m analysis.artifacts --project ENTITY/PROJECT --prune --yes    delete it

Nobody needs checkpoints of runs that are finished or gone, versions that a later one has replaced, and weights of
trials that are not among the best of their sweep. An artifact with an alias of your own stays.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

from analysis.command_line import parser_of, run_program, whole_number
from analysis.read.sweeps import read_sweeps
from analysis.read.wandb_artifacts import delete, find_needless
from analysis.read.wandb_runs import read_wandb_runs
from analysis.terminal import make_console, make_table
from data.visible import counted, say, visible


def parse(arguments: Sequence[str]) -> Namespace:
    """Return the options that a command line gives."""
    parser = parser_of("artifacts", __doc__)
    parser.add_argument("--project", required=True, help="entity/project on W&B")
    parser.add_argument("--prune", action="store_true", required=True, help="list what nobody needs")
    parser.add_argument("--yes", action="store_true", help="and delete it")
    parser.add_argument(
        "--keep_weights", type=whole_number, default=1, help="trials of each sweep whose weights stay; default: 1"
    )
    return parser.parse_args(arguments)


def prune(options: Namespace) -> None:
    """Print the artifacts that nobody needs and, if that is asked for, delete them."""
    project = options.project
    records, _ = read_wandb_runs(project)
    sweeps = read_sweeps(None, records, project).sweeps
    # Where the values of a sweep's trials are not known, all of them stay; so do those of sweeps that are not W&B's.
    losers = {
        trial.run_id
        for sweep in sweeps
        for trial in set(sweep.trials) - {*(sweep.leaders[: options.keep_weights] or sweep.trials)}
    }
    needless = find_needless(project, losers)
    table = make_table(("artifact", "MB", "why"))
    for each in needless:
        table.add_row(visible(each.name), f"{each.num_bytes / 1e6:,.1f}", visible(each.reason))
    if needless:
        make_console().print(table)
    if options.yes:
        delete(project, needless)
    megabytes = sum(each.num_bytes for each in needless) / 1e6
    done = "deleted" if options.yes else "can go: give --yes to delete them" if needless else "can go"
    say(f"{counted(len(needless), 'artifact')} of {megabytes:,.1f} MB {done}")


def main(arguments: Sequence[str]) -> int:
    """Prune the artifacts of a project, or say in one line why that cannot be done; return the exit code."""
    return run_program("artifacts", lambda: prune(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
