"""Strike all programs at random moments, and count what is lost: python -m tests.campaign --kills 1000 (see --help).

Each episode strikes one program by one kind of fault, lets it end by the same command, and compares its files with
those of the same program in peace. The programs are forked from this one, which has imported them, but for a sample
that is started as a user does. A folder whose episode went wrong is kept.
"""

import argparse
import sys
from pathlib import Path

from tests.campaigns.processes import prepare_to_fork


def options_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="over all programs and signals; default: 1000")
    parser.add_argument("--others", type=int, default=10, help="faults of each other kind, each program; default: 10")
    parser.add_argument("--real", type=int, default=0, help="kills of programs that are started as a user does")
    parser.add_argument("--seed", type=int, default=0, help="of the moments; default: 0")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="programs or faults whose name holds it")
    parser.add_argument("--folder", type=Path, required=True, help="for all files; it is made")
    return parser.parse_args()


if __name__ == "__main__":
    options = options_of()
    prepare_to_fork()
    from tests.campaigns.course import Campaign  # imported late: this process starts itself anew first

    sys.exit(Campaign(options).run())
