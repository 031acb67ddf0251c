"""What a trained classifier makes of pictures, by `python -m analysis.predict RUN PATHS...`.

PATHS are image files of any kind, folders of them, and CSV files with a column of paths. Each is seen as the images of
the run's dataset were: upright, over white, its central square. Only the run's folder is needed, not its images.

RUN is the first word; further runs, whose mean is taken, follow a --with each:
    python -m analysis.predict RUN --with RUN2 --with RUN3 pictures/ more.jpg

Where pictures lie in folders called as the run's classes, or a CSV file has these in a column called class, label or
true, it is also told how right the predictions are. Files that cannot be read are named and left out.

Of a run whose images may have several labels, the labels are told whose probability is above a half; a CSV file tells
the true ones in columns label:NAME, as in training.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from analysis.command_line import parser_of_a_look, path, run_program
from analysis.look.picture_files import find_pictures
from analysis.look.prediction import NUM_KEPT, Predicted, load_members, predict_files
from analysis.look.prediction_scores import check_column, summary, tables
from analysis.look.prediction_tables import FORMATS, draw_sheet, rows_of, table_of
from analysis.read.runs import find_run
from analysis.terminal import make_console
from data.errors import UserError
from data.files import check_can_be_made, is_special, replace_file
from data.visible import say, visible_lines, warn

MOST_ROWS = 100  # of the table on the terminal


def parse(arguments: Sequence[str]) -> Namespace:
    """Return what the command line says."""
    parser = parser_of_a_look("predict", __doc__)
    parser.add_argument("paths", nargs="+", type=path, metavar="PATH", help="image files, folders, CSV files")
    parser.add_argument(
        "--with", dest="others", action="append", default=[], metavar="RUN", help="one more run, for the mean of all"
    )
    parser.add_argument("--tta", choices=["flip"], help="flip: the mean over each picture and its mirror image")
    parser.add_argument(
        "--temperature", choices=["val"], help="val: probabilities calibrated on the run's validation images"
    )
    parser.add_argument("--format", choices=["table", *FORMATS], help="default: that of --out, else table")
    parser.add_argument("--out", type=path, metavar="FILE", help=f"file to write to: {', '.join(FORMATS)} by its name")
    parser.add_argument(
        "--sheet", type=path, metavar="FILE.png", help=f"also write a sheet of the first {NUM_KEPT} pictures"
    )
    parser.add_argument(
        "--column", default="", help="of the paths in a CSV file (default: the one called path or file)"
    )
    parser.add_argument("--slice-by", default="", metavar="COLUMN", help="of a CSV file: accuracy for each value of it")
    return parser.parse_args(arguments)


def choose_format(options: Namespace) -> str:
    """Return the format of the predictions.

    Raises:
        UserError: the name of --out tells none, or a table is to be written to a file.
    """
    if options.sheet and options.sheet.suffix.lower() != ".png":
        raise UserError(f"--sheet={options.sheet}: give a file name that ends in .png")
    chosen = options.format or (options.out.suffix[1:].lower() if options.out else "table")
    if options.out and chosen not in FORMATS:
        raise UserError(f"--out={options.out}: give a name that ends in .csv or .jsonl, or --format=csv")
    return chosen


def write(predicted: Predicted, form: str, out: Path | None) -> None:
    """Write the predictions to a file, or print them."""
    rows = list(rows_of(predicted))
    if form == "table":
        console = make_console()
        console.print(table_of(rows[:MOST_ROWS], console.width))
        if len(rows) > MOST_ROWS:
            say(f"the first {MOST_ROWS} of {len(rows):,} images: --out=predictions.csv has all of them")
        return
    text = StringIO()
    FORMATS[form](rows, text)
    if out is None:
        print(visible_lines(text.getvalue()), end="", flush=True)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, lambda unfinished: unfinished.write_text(text.getvalue(), "utf-8", "surrogateescape"))


def predict(options: Namespace) -> None:
    """Predict the classes of pictures, and tell how right that is where it is known."""
    form = choose_format(options)
    for out in filter(None, (options.out, options.sheet)):
        if not is_special(out):
            check_can_be_made(out.parent, "name another")
    folders = [find_run(name) for name in (options.run, *options.others)]
    with redirect_stdout(sys.stderr):  # where models say what they do; the output may be for programs
        members = load_members(folders, options.data_dir, options.temperature == "val")
        files = find_pictures(options.paths, members[0].run.info, options.column)
        if options.slice_by:
            check_column(files, options.slice_by)
        predicted = predict_files(members, files, options.tta == "flip")
    write(predicted, form, options.out)
    if options.sheet:
        draw_sheet(predicted, options.sheet)
    is_data = form != "table" and options.out is None
    for line in summary(predicted, members):
        (warn if is_data else say)(line)
    if not is_data:
        for table in tables(predicted, options.slice_by):
            make_console().print(table)
    if written := [str(it) for it in (options.out, options.sheet) if it and not is_data]:
        say(*written)


def main(arguments: Sequence[str]) -> int:
    """Predict, or say in one line what keeps it from being done; return the exit code."""
    return run_program("predict", lambda: predict(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
