"""The table of what can be deleted from a runs folder."""

from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from analysis.read.spare import Spare, free
from analysis.terminal import make_console, make_table
from data.visible import counted, say, visible


def prune(runs_dir: Path, files: Sequence[Spare], limit: int, is_meant: bool) -> None:
    """Print the files that can be deleted with their sizes, the largest first, and delete them if that is meant.

    Args:
        runs_dir: the runs folder.
        files: that can be deleted.
        limit: the most rows.
        is_meant: whether to delete them.
    """
    whole = size(sum(file.num_bytes for file in files))
    if not files:
        say("there is nothing to delete")
        return
    of_all = f", the largest {limit:,}" if limit < len(files) else ""
    table = make_table(("file", "size", "what it is"), f"{counted(len(files), 'file')}, {whole}{of_all}")
    table.columns[0].justify = table.columns[2].justify = "left"
    for file in sorted(files, key=lambda file: -file.num_bytes)[:limit]:
        cells = (str(file.path.relative_to(runs_dir)), size(file.num_bytes), file.what)
        table.add_row(*(Text(visible(cell)) for cell in cells))
    make_console().print(table)
    if not is_meant:
        say(f"nothing was deleted; to free {whole}: the same command with --yes")
        return
    num_bytes, kept = free(files)
    left = f"; {counted(len(kept), 'file')} could not be deleted, or are in use: {kept[0]}" if kept else ""
    say(f"{size(num_bytes)} freed{left}")


def size(num_bytes: float) -> str:
    """Return a number of bytes as people read it, such as 12.3 MB."""
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} GB"
