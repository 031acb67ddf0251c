"""How a run was made, what has changed since, and whether it comes out the same.

    python -m analysis.reproduce RUN              command, commit, data and versions, and what differs now
    python -m analysis.reproduce RUN --check      runs it again, untracked, and compares what it logs, row by row

It looks at the data as a run does, which downloads what can be downloaded and is not there.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

from analysis.command_line import parser_of_a_look, path, positive_number, run_program
from analysis.look.reproduction import TOLERANCE, check_run, describe, read_run
from analysis.read.runs import find_run
from data.files import refusing_damage
from data.visible import say


def parse(arguments: Sequence[str]) -> Namespace:
    """Return what the command line says."""
    parser = parser_of_a_look("reproduce", __doc__)
    parser.add_argument("--check", action="store_true", help="run it again, and compare; exit code 1 where they differ")
    parser.add_argument("--into", type=path, metavar="DIR", help="keep the new run in this folder")
    parser.add_argument(
        "--tolerance",
        type=tolerance,
        default=TOLERANCE,
        help=f"relative deviation that counts as none; default: {TOLERANCE}",
    )
    return parser.parse_args(arguments)


def tolerance(text: str) -> float:
    """Return the deviation that `text` spells, which may be none."""
    return 0.0 if text == "0" else positive_number(text)


def reproduce(options: Namespace) -> int:
    """Print how a run was made and, with --check, whether it comes out the same; return the exit code."""
    folder = find_run(options.run)
    with refusing_damage(folder, "restore its files"):
        run = read_run(folder, options.data_dir)
        say(describe(run))
        if not options.check:
            return 0
        code, verdict = check_run(run, options.into, options.tolerance)
    say(verdict)
    return code


def main(arguments: Sequence[str]) -> int:
    """Reproduce a run, or say in one line what keeps it from being reproduced; return the exit code."""
    return run_program("reproduce", lambda: reproduce(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
