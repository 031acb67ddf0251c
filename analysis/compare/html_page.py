"""A comparison as one HTML file that needs no network: its data, plotly's JavaScript and the page's own."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from io import BytesIO
from pathlib import Path
from string import Template
from typing import Any

from analysis.compare.comparison import Comparison, Entry, curves_of, number
from analysis.compare.importance import importance
from analysis.read.runs import UNCOMPARED, panels

ASSETS = Path(__file__).parent / "page"
SCRIPTS = ("format.js", "tables.js", "charts.js", "parallel.js", "page.js")
MOST_CURVES = 24  # runs whose curves and settings are in the page, the best ones
MOST_FINALS = 6  # final runs beside them
MOST_PICTURED = 6  # runs whose pictures are, and as many final ones
MOST_SETTINGS = 10  # columns and axes
PICTURE_PIXELS = 720  # the longer side of a picture, at most
PICTURE_QUALITY = 80  # of WebP, to 100
MOST_PICTURE_BYTES = 6_000_000  # of all pictures together
FIGURES = ("val/accuracy", "val/loss", "test/accuracy", "test/loss")  # columns where runs have them
ENVIRONMENT = ("commit", "device", "num_processes", "data")  # what is compared of it
PICTURE_NAME = re.compile(r"(?P<name>.+?)(-(?P<epoch>\d+))?")


def html_page(comparison: Comparison, command: str) -> str:
    """The whole page.

    Args:
        comparison: what it shows.
        command: that makes it again.
    """
    content = json.dumps(page_data(comparison), allow_nan=False, separators=(",", ":"))
    return Template((ASSETS / "page.html").read_text()).substitute(
        title=escape(comparison.title),
        command=escape(command),
        style=(ASSETS / "style.css").read_text(),
        data=content.replace("<", "\\u003c"),  # else a name could end the script that it stands in
        plotly=(resources.files("plotly") / "package_data" / "plotly.min.js").read_text(),
        scripts="\n".join((ASSETS / name).read_text() for name in SCRIPTS),
    )


def page_data(comparison: Comparison) -> dict[str, Any]:
    """What the page's scripts draw, as JSON takes it; runs are told apart by their place in the list."""
    metric, entries = comparison.metric, comparison.entries
    settings = comparison.varied[:MOST_SETTINGS]
    chosen = choose(entries, MOST_CURVES, MOST_FINALS)
    start = min(entry.record.created for entry in entries)
    figures = [name for name in FIGURES if any(name in e.record.summary for e in entries) and name != metric.name]
    return {
        "title": comparison.title,
        "metric": metric._asdict(),
        "numSkipped": comparison.num_skipped,
        "settings": [setting._asdict() for setting in settings],
        "numMoreSettings": len(comparison.varied) - len(settings),
        "sweeps": sorted({entry.record.sweep for entry in entries}),
        "figures": figures,
        "runs": [
            {
                "name": entry.record.run_id,
                "sweep": entry.record.sweep,
                "model": f"{entry.record.model} on {entry.record.dataset}",
                "number": entry.number,
                "state": entry.state,
                "value": entry.value,
                "epochs": number(entry.record.summary.get("epochs")),
                "bestEpoch": entry.best_epoch,
                "seconds": entry.seconds,
                "created": entry.record.created.isoformat(timespec="minutes"),
                "ended": number((entry.ended - start).total_seconds()),
                "settings": [plain(entry.record.settings.get(setting.name)) for setting in settings],
                "figures": [number(entry.record.summary.get(name)) for name in figures],
                "url": address_of(entry),
            }
            for entry in entries
        ],
        "details": {i: details(entries[i]) for i in chosen},
        "curves": {i: curves_of(entries[i].record) for i in chosen},
        "pictures": pictures(entries, choose(entries, MOST_PICTURED, MOST_PICTURED)),
        "importance": importance(comparison)._asdict(),
    }


def choose(entries: Sequence[Entry], most: int, most_finals: int) -> list[int]:
    """Places of the best entries, and of some final ones."""
    finals = [i for i, entry in enumerate(entries) if entry.record.is_final]
    others = [i for i, entry in enumerate(entries) if not entry.record.is_final]
    return sorted(others[:most] + finals[:most_finals])


def plain(value: Any) -> Any:
    """A setting as JSON takes it."""
    if value is None or isinstance(value, bool | str):
        return value
    return value if number(value) is not None else str(value)


def address_of(entry: Entry) -> str:
    """Where W&B shows a run; empty if it does not."""
    address = str(entry.record.environment.get("wandb", "") if entry.record.is_local else entry.record.source)
    return address if address.startswith(("https://", "http://")) else ""


def details(entry: Entry) -> dict[str, Any]:
    """Everything of a run in which it may differ from another."""
    settings = {name: value for name, value in entry.record.settings.items() if name not in UNCOMPARED}
    environment: Mapping[str, Any] = {
        name: entry.record.environment[name] for name in ENVIRONMENT if name in entry.record.environment
    }
    packages = entry.record.environment.get("packages", {})
    return {
        "settings": {name: plain(value) for name, value in settings.items()},
        "environment": {name: plain(value) for name, value in environment.items()}
        | {name: str(version) for name, version in packages.items()},
    }


def pictures(entries: Sequence[Entry], places: Sequence[int]) -> dict[str, dict[int, dict[str, Any]]]:
    """The newest picture of every kind: kind -> run -> epoch and data URI; the best runs first while there is room."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    room = MOST_PICTURE_BYTES
    for place in places:
        latest: dict[str, tuple[int, Path]] = {}
        for path in panels(entries[place].record):
            match = PICTURE_NAME.fullmatch(path.stem)
            assert match is not None
            epoch = int(match["epoch"] or 0)
            latest[match["name"]] = max(latest.get(match["name"], (0, path)), (epoch, path))
        for name, (epoch, path) in latest.items():
            uri = thumbnail(path)
            room -= len(uri)
            if uri and room > 0:
                found.setdefault(name, {})[place] = {"epoch": epoch, "uri": uri}
    return found


def thumbnail(path: Path) -> str:
    """A picture as a data URI of bounded size; empty where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
    except (OSError, SyntaxError):  # half written, or no picture
        return ""
    small.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
    buffer = BytesIO()
    small.save(buffer, "WEBP", quality=PICTURE_QUALITY, method=2)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
