"""A comparison as one HTML file that needs no network: its data, plotly's JavaScript and the page's own."""

import base64
import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from importlib import resources
from io import BytesIO
from pathlib import Path
from string import Template
from typing import Any

from analysis.compare.comparability import code_version
from analysis.compare.comparison import Comparison
from analysis.compare.curves import curves_of
from analysis.compare.entry import Entry
from analysis.compare.fronts import front_data
from analysis.compare.importance import branches, importance
from analysis.compare.isolation import isolation_data
from analysis.compare.recipes import recipe_data
from analysis.read.figures import finite
from analysis.read.pictures import newest_pictures, read_picture
from analysis.read.recipe import recipe_of
from analysis.read.trials import Trial
from data.metrics import is_finite, is_percentage, metrics_of_finals
from data.visible import visible

ASSETS = Path(__file__).parent / "page"
MOST_CURVES = 24  # runs, the best ones, whose curves and settings are in the page
MOST_FINALS = 6  # final runs, beside those, of which they are in the page, too
MOST_PICTURED = 6  # runs, the best ones, whose pictures are in the page, and as many final runs
LONGEST_VALUE = 2000  # letters of a setting
MOST_SKIPPED = 5  # folders that are named
MOST_SETTINGS = 10  # columns and axes
PICTURE_PIXELS = 720  # longest side of a picture
PICTURE_QUALITY = 80  # of WebP, out of 100
MOST_PICTURE_BYTES = 6_000_000  # all pictures together
ENVIRONMENT = ("device", "num_processes", "data")  # the part of a run's environment that is compared


def html_page(comparison: Comparison, command: str, stamp: str = "") -> str:
    """Return the whole page as HTML.

    Args:
        comparison: the runs to show.
        command: the command line that makes this page again, which the page names.
        stamp: of the runs, as a server tells it; the page asks there whether they have gone on. "" for no server.
    """
    content = json.dumps(page_data(comparison), allow_nan=False, separators=(",", ":"))
    return Template((ASSETS / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(visible(comparison.title)),
        command=escape(visible(command)),
        stamp=escape(stamp),
        style=(ASSETS / "style.css").read_text(encoding="utf-8"),
        data=content.replace("<", "\\u003c"),  # else a name could end the script that it stands in
        plotly=(resources.files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8"),
        modules=json.dumps({"imports": modules()}),
    )


def modules() -> dict[str, str]:
    """Return the page's JavaScript modules as data: URLs, by the names under which a browser imports them.

    A module in a data: URL lies in no folder, so `./name.js` would lead nowhere from there. It is imported as
    page/name.js instead, a name that the page's import map leads to the module.
    """
    sources = {path.name: path.read_text(encoding="utf-8") for path in sorted(ASSETS.glob("*.js"))}
    return {
        f"page/{name}": data_uri("text/javascript", source.replace(' from "./', ' from "page/').encode())
        for name, source in sources.items()
    }


def data_uri(kind: str, content: bytes) -> str:
    """Return content of a MIME type as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def page_data(comparison: Comparison) -> dict[str, Any]:
    """Return what the page's scripts draw, fit for JSON; a run is named by its place in the list of runs."""
    metric, entries = comparison.metric, comparison.entries
    settings = comparison.varied[:MOST_SETTINGS]
    chosen = choose(entries, MOST_CURVES, MOST_FINALS)
    sweeps = names_of_sweeps(entries)
    places = {entry.number: place for place, entry in enumerate(entries)}
    start = min(entry.record.created for entry in entries)
    curves = {i: curves_of(entries[i].record, entries[i].best_epoch) for i in chosen}
    aims = {each.name for each in comparison.front.metrics} if comparison.front else set()
    metrics = {metric.name, *aims, *comparison.further, *(name for logged in curves.values() for name in logged)}
    return {
        "title": comparison.title,
        "metric": {"name": metric.name, "goal": metric.goal},
        "tested": [each.name for each in metrics_of_finals(metric)],
        "percentages": sorted(filter(is_percentage, metrics)),
        "numSkipped": len(comparison.skipped),
        "skipped": comparison.skipped[:MOST_SKIPPED],
        "warning": comparison.warning,
        "edges": comparison.edges,
        "settings": [setting._asdict() for setting in settings],
        "numMoreSettings": len(comparison.varied) - len(settings),
        "sweeps": sorted({*sweeps}),
        "figures": comparison.further,
        "runs": [
            {"key": key, **run_data(entry, sweep, start, [setting.name for setting in settings], comparison.further)}
            for key, entry, sweep in zip(keys_of(entries), entries, sweeps, strict=True)
        ],
        "trials": [places[entry.number] for entry in comparison.trials],
        "details": {i: details(entries[i]) for i in chosen},
        "curves": curves,
        "pictures": pictures(entries, choose(entries, MOST_PICTURED, MOST_PICTURED)),
        "importance": importance(comparison)._asdict(),
        "branches": branch_data(comparison, [setting.name for setting in settings]),
        "isolation": isolation_data(comparison),
        "front": front_data(comparison.front, {entry.record.run_id: i for i, entry in enumerate(entries)}),
        "recipes": recipe_data(comparison),
    }


def keys_of(entries: Sequence[Entry]) -> list[str]:
    """Return what tells each run from all others: its place under the folder that all lie in, or its address."""
    local = [Path(entry.record.source) for entry in entries if entry.record.is_local]
    root = os.path.commonpath([folder.parent for folder in local]) if local else ""
    sources = [(entry.record.source, entry.record.is_local) for entry in entries]
    return [os.path.relpath(source, root) if is_local else source for source, is_local in sources]


def names_of_sweeps(entries: Sequence[Entry]) -> list[str]:
    """Return the name of each run's sweep; with its place where sweeps in several folders have that name."""
    folders: dict[str, set[Path]] = {}
    for record in (entry.record for entry in entries):
        if record.is_local:
            folders.setdefault(record.sweep, set()).add(Path(record.source).parent)

    def name_of(entry: Entry) -> str:
        name, source = entry.record.sweep, entry.record.source
        if not name or not entry.record.is_local or len(folders[name]) < 2:
            return name
        place = Path(source).parent.relative_to(os.path.commonpath(folders[name])).parent
        return f"{name} in {place}" if place.parts else name

    return [name_of(entry) for entry in entries]


def run_data(
    entry: Entry, sweep: str, start: datetime, settings: Sequence[str], further: Sequence[str]
) -> dict[str, Any]:
    """Return what the page shows of one run.

    Args:
        entry: the run.
        sweep: what its sweep is called; "" for none.
        start: when the first of all the runs was started; the run's end is told in seconds from then.
        settings: names of the settings that have columns.
        further: names of the metrics that have columns beside the one that ranks the runs.
    """
    record = entry.record
    return {
        "name": record.run_id,
        "sweep": sweep,
        "model": f"{record.model} on {record.dataset}",
        "number": entry.number,
        "state": entry.state,
        "isFinal": record.is_final,
        "trial": record.trial,
        "isRanked": entry.is_ranked,
        "value": entry.value,
        "epochs": finite(record.summary.get("epochs")),
        "bestEpoch": entry.best_epoch,
        "overSeeds": entry.trial and seeds_data(entry.trial),
        "kept": entry.kept and finite(entry.kept.value),
        "keptEpoch": entry.kept and entry.kept.epoch,
        "keptBy": str(record.summary.get("best_by") or "") if entry.kept else "",
        "error": record.error,
        "seconds": entry.seconds,
        "created": record.created.isoformat(timespec="minutes"),
        "ended": finite((entry.ended - start).total_seconds()),
        "settings": [plain(record.settings.get(name)) for name in settings],
        "figures": [entry.further.get(name) for name in further],
        "url": record.address,
    }


def seeds_data(trial: Trial) -> dict[str, Any]:
    """Return what the page shows of a trial over its seeds or folds."""
    return {
        "trial": trial.run_id,
        "mean": finite(trial.value),
        "deviation": finite(trial.deviation),
        "num": len(trial.seeds),
        "over": trial.what_over,
    }


def branch_data(comparison: Comparison, settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what the page shows of each model by itself where models have settings of their own: by the model's name.

    Args:
        comparison: all runs.
        settings: names of the settings that have columns, by whose places in that list those of a model are named.
    """
    places = {entry.number: place for place, entry in enumerate(comparison.entries)}
    return {
        model: {
            "importance": importance(part)._asdict(),
            "runs": [places[entry.number] for entry in part.entries],
            "settings": [k for k, name in enumerate(settings) if name in {setting.name for setting in part.varied}],
        }
        for model, part in branches(comparison).items()
    }


def choose(entries: Sequence[Entry], most: int, most_finals: int) -> list[int]:
    """Return the places of the best runs in a list, and of the best final runs among them."""
    finals = [i for i, entry in enumerate(entries) if entry.record.is_final]
    others = [i for i, entry in enumerate(entries) if not entry.record.is_final]
    return sorted(others[:most] + finals[:most_finals])


def plain(value: Any) -> Any:
    """Return a setting's value as JSON can hold it: what it has no form for becomes text."""
    if value is None or isinstance(value, bool) or is_finite(value):
        return value
    text = str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def details(entry: Entry) -> dict[str, Any]:
    """Return what a run may differ in from another: settings, environment and versions of packages."""
    known = entry.record.environment
    packages = known.get("packages")
    versions = packages if isinstance(packages, Mapping) else {}
    environment = {"code": code_version(known), **{name: known[name] for name in ENVIRONMENT if name in known}}
    return {
        "settings": {name: plain(value) for name, value in recipe_of(entry.record.settings).items()},
        "environment": {name: plain(value) for name, value in environment.items() if value != ""}
        | {name: str(version) for name, version in versions.items()},
    }


def pictures(entries: Sequence[Entry], places: Sequence[int]) -> dict[str, dict[int, dict[str, Any]]]:
    """Return the newest picture of each name: name -> place of the run -> its epoch, 0 for the end, and its data URI.

    The runs are gone through in order, the best first, until MOST_PICTURE_BYTES are used up.
    """
    found: dict[str, dict[int, dict[str, Any]]] = {}
    room = MOST_PICTURE_BYTES
    for place in places:
        for name, picture in newest_pictures(entries[place].record).items():
            uri = thumbnail(picture.path)
            room -= len(uri)
            if uri and room > 0:
                found.setdefault(name, {})[place] = {"epoch": picture.epoch or 0, "uri": uri}
    return found


def thumbnail(path: Path) -> str:
    """Return a picture, made small, as a data URI; "" where it cannot be read."""
    small = read_picture(path)
    if small is None:
        return ""
    small.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
    buffer = BytesIO()
    small.save(buffer, "WEBP", quality=PICTURE_QUALITY, method=2)
    return data_uri("image/webp", buffer.getvalue())
