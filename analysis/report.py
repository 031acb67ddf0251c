"""Compare runs in a report: one HTML file that opens anywhere, without a network.

It holds a leaderboard, curves, the best value so far, settings against values, parallel coordinates, the importance of
each setting, differences and pictures. With --publish the same comparison becomes a report on W&B.

python -m analysis.report                          all runs
python -m analysis.report --sweep cnn_lr mlp_lr    the runs of some sweeps
python -m analysis.report --model cnn              the runs of a model
python -m analysis.report --serve                  the page on this machine, which follows the runs
python -m analysis.report --sweep cnn_lr --text    which settings matter, as a table here
"""

import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence

from analysis.command_line import count, parser_of, path, run_program
from analysis.compare.report import FILE, Choice, find_comparison, publish_report, write_report
from analysis.compare.serve import serve
from analysis.compare.what_mattered import print_what_mattered
from data.errors import UserError
from data.visible import say

PORT = 8000


def parse(arguments: Sequence[str]) -> Namespace:
    """Return the options that a command line gives."""
    parser = parser_of("report", __doc__)
    parser.add_argument("--sweep", nargs="+", default=[], metavar="S", help="sweeps to compare; default: all runs")
    parser.add_argument("--model", default="", metavar="M", help="compare the runs of this model alone")
    parser.add_argument(
        "--metric",
        default="",
        metavar="NAME",
        help="rank by it, 'maximize val/x' for a goal; default: the sweep's, else val/accuracy or val/loss",
    )
    parser.add_argument(
        "--project", default="", metavar="E/P", help="W&B project whose runs are read in place of the runs folder's"
    )
    parser.add_argument(
        "--runs_dir", type=path, metavar="DIR", help="runs folder; default: $VISION_SWEEPS_RUNS, else runs"
    )
    parser.add_argument("--out", type=path, metavar="FILE", help=f"default: {FILE} in the sweep's or the runs folder")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--publish", action="store_true", help="make a report on W&B in place of a file")
    instead.add_argument("--text", action="store_true", help="print which settings matter, in place of a file")
    instead.add_argument("--serve", action="store_true", help="serve the page on 127.0.0.1, fresh while runs go")
    parser.add_argument("--port", type=count, default=PORT, help=f"with --serve; 0 for any; default: {PORT}")
    return parser.parse_args(arguments)


def report(options: Namespace, arguments: Sequence[str]) -> None:
    """Make the report that the options ask for, and print where it is."""
    choice = Choice(options.runs_dir, options.project, options.sweep, options.model, options.metric)
    command = shlex.join(["python", "-m", "analysis.report", *arguments])
    if options.out and (way := next((way for way in ("publish", "text", "serve") if getattr(options, way)), "")):
        raise UserError(f"--out names the file of the page: leave it out, or --{way}")
    if options.serve:
        if options.project:
            raise UserError("--serve is for runs on this machine: leave out --project")
        serve(choice, command, options.port)
    elif options.text:
        print_what_mattered(find_comparison(choice))
    elif options.publish:
        say(publish_report(choice, find_comparison(choice)))
    else:
        say(write_report(choice, find_comparison(choice), options.out, command))


def main(arguments: Sequence[str]) -> int:
    """Report on runs, or say in one line why that cannot be done; return the exit code."""
    return run_program("report", lambda: report(parse(arguments), arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
