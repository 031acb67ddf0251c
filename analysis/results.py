"""Write and check RESULTS.md, the table of results, and results.json, the committed file that it is made of.

python -m analysis.results --update              take in the final runs of the sweeps in the runs folder
python -m analysis.results --update RUN SWEEP    these, too: sweeps, and runs with --test=True, of any number of seeds
python -m analysis.results --check               exit with 1 where RESULTS.md is not what results.json makes of it

Results of other machines stay in the file until a sweep or a run of their name takes their place.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

from analysis.command_line import parser_of, path, run_program
from analysis.compare import results
from data.visible import counted, say, warn


def parse(arguments: Sequence[str]) -> Namespace:
    """Return the options that a command line gives."""
    parser = parser_of("results", __doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="runs and sweeps to take in, too")
    parser.add_argument("--runs_dir", type=path, help="folder of the runs; default: $VISION_SWEEPS_RUNS, else runs")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--update", action="store_true", help="write results.json and RESULTS.md")
    what.add_argument("--check", action="store_true", help="compare the two")
    return parser.parse_args(arguments)


def work(options: Namespace) -> int:
    """Write or check the results; return the exit code."""
    if options.update:
        num_all, num_fresh = results.update(options.runs_dir, options.names)
        count = f"{counted(num_all, 'result')}, of which {num_fresh} from the runs folder"
        say(f"{count}: {results.RESULTS} and {results.PAGE}")
    elif not results.is_up_to_date():
        warn("RESULTS.md does not show what results.json says: python -m analysis.results --update")
        return 1
    else:
        say("RESULTS.md shows what results.json says")
    return 0


def main(arguments: Sequence[str]) -> int:
    """Write or check the results, or say in one line why that cannot be done; return the exit code."""
    return run_program("results", lambda: work(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
