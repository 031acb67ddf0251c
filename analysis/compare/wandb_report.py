"""A comparison as a W&B Report, by `python -m analysis.report --publish`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.compare.comparison import Comparison
from analysis.compare.curves import curves_of
from analysis.compare.html_page import MOST_SETTINGS
from analysis.read.pictures import pictures
from analysis.read.records import RunRecord
from analysis.read.wandb_runs import ask_wandb, path_of
from data.errors import UserError
from data.metrics import USUAL, shown
from data.visible import counted

MOST_LOOKED_AT = 3  # runs, the best ones, that are asked which curves and pictures there are
MOST_TERMS = 8  # plots of curves
MOST_LISTED = 10  # runs in the text
LONGEST_TITLE = 128  # letters that W&B takes
FULL_WIDTH = 24  # columns of W&B's grid


@dataclass(frozen=True)
class Place:
    """Which runs on W&B a report draws.

    Attributes:
        entity: user or team that owns the project.
        project: name of the project.
        sweeps: names of the sweeps whose runs are drawn; empty for the runs of all, and of none.
        models: names of the models whose runs are drawn; empty for the runs of all.
    """

    entity: str
    project: str
    sweeps: Sequence[str]
    models: Sequence[str]


def publish(comparison: Comparison, project: str, sweeps: Sequence[str], models: Sequence[str]) -> str:
    """Make a report on W&B, and return its address.

    Args:
        comparison: the runs to show.
        project: entity/project of the runs, or the name alone; "" for the one where they were tracked.
        sweeps: names of the sweeps that the runs were chosen by; empty for none.
        models: names of the models that they were chosen by; empty for none.

    Raises:
        UserError: the runs are not on W&B, or it cannot be reached or refuses the report.
    """
    entity, _, name = project_of(comparison, project).partition("/")
    place = Place(entity, name, sweeps, models)

    def save(api: Any) -> str:
        from wandb_workspaces.reports.v2 import Report  # imported late: it takes seconds

        keys = picture_keys([entry.record for entry in comparison.ranked[:MOST_LOOKED_AT]], api)
        blocks = blocks_of(comparison, place, keys)
        title = comparison.title[:LONGEST_TITLE]
        return Report(project=name, entity=entity, title=title, blocks=blocks, width="fluid").save().url

    return ask_wandb(save, f"report on {entity}/{name}", "entity/project", "published on")


def project_of(comparison: Comparison, project: str = "") -> str:
    """Return the entity/project where the runs were tracked.

    Args:
        comparison: the runs.
        project: the one that they were read from, which is theirs if it names an entity; "" for none.

    Raises:
        UserError: they were tracked in no project, or in several.
    """
    if "/" in project:
        return project
    paths = [path_of(entry.record.address) for entry in comparison.entries if entry.record.address]
    projects = sorted({path.rpartition("/")[0] for path in paths})
    if not projects:
        raise UserError("--publish: none of these runs is on W&B; upload them by wandb sync, then give --project E/P")
    if len(projects) > 1:
        raise UserError(f"--publish: these runs are in {' and '.join(projects)}; give one of them as --project")
    return projects[0]


def blocks_of(comparison: Comparison, place: Place, picture_keys: Sequence[str]) -> list[Any]:
    """Return the report's text and panels, in the order of the HTML page.

    Args:
        comparison: the runs to show.
        place: which runs on W&B those are.
        picture_keys: names of the pictures to show.
    """
    from wandb_workspaces.reports import v2 as wr

    runs = runset_of(comparison, place)

    def grid(*panels: Any) -> Any:
        return wr.PanelGrid(runsets=[runs], panels=list(panels))

    best = [entry.record for entry in comparison.ranked[:MOST_LOOKED_AT]]
    wide = wr.Layout(w=FULL_WIDTH, h=10)
    lines = [wr.LinePlot(title=term, x="epoch", y=[*names]) for term, names in logged_terms(best).items()]
    blocks = [
        wr.MarkdownBlock(summary_text(comparison)),
        wr.H2("Curves"),
        grid(*lines),
        wr.H2("Settings"),
        grid(*settings_panels(comparison)),
        wr.H2("Differences"),
        grid(wr.RunComparer(diff_only="split", layout=wide)),
    ]
    if picture_keys:
        browsers = [
            wr.MediaBrowser(title=key, media_keys=[key], num_columns=len(best), layout=wide) for key in picture_keys
        ]
        blocks += [wr.H2("Pictures"), grid(*browsers)]
    return blocks


def runset_of(comparison: Comparison, place: Place) -> Any:
    """Return the runs that the panels draw, as W&B finds them, the best first."""
    from wandb_workspaces import expr
    from wandb_workspaces.reports import v2 as wr

    conditions = []
    if place.sweeps:  # the sweeps of sweeps/agent.py are groups on W&B
        conditions.append(expr.Or(*(expr.Metric(key) == name for name in place.sweeps for key in ("Sweep", "Group"))))
    if place.models:
        conditions.append(expr.Or(*(expr.Config("model") == name for name in place.models)))
    metric = comparison.metric
    return wr.Runset(
        entity=place.entity,
        project=place.project,
        name=comparison.title,
        filters=expr.And(*conditions) if conditions else "",
        order=[wr.OrderBy(wr.SummaryMetric(metric.name), ascending=metric.goal == "minimize")],
    )


def settings_panels(comparison: Comparison) -> list[Any]:
    """Return the panels that show the metric over the settings that differ."""
    from wandb_workspaces.reports import v2 as wr

    metric, settings = comparison.metric.name, comparison.varied[:MOST_SETTINGS]
    value = wr.SummaryMetric(metric)
    wide = wr.Layout(w=FULL_WIDTH, h=10)
    columns = [wr.ParallelCoordinatesPlotColumn(wr.Config(setting.name), log=setting.is_log) for setting in settings]
    return [
        wr.ParallelCoordinatesPlot(columns=[*columns, wr.ParallelCoordinatesPlotColumn(value)], layout=wide),
        wr.ParameterImportancePlot(with_respect_to=metric, layout=wide),
        *(
            wr.ScatterPlot(title=setting.name, x=wr.Config(setting.name), y=value, log_x=setting.is_log)
            for setting in settings
            if setting.is_number
        ),
    ]


def summary_text(comparison: Comparison) -> str:
    """Return a table of the best runs and the settings that differ between them, as Markdown."""
    metric, names = comparison.metric, [setting.name for setting in comparison.varied[:MOST_SETTINGS]]
    listed = comparison.ranked[:MOST_LISTED]
    differ = any(entry.kept for entry in listed)
    header = ["run", metric.name, *(["of kept weights"] if differ else []), "state", *names]
    rows = [
        [
            entry.record.run_id,
            shown(metric.name, entry.value),
            *([shown(metric.name, entry.kept.value if entry.kept else entry.value)] if differ else []),
            entry.state,
            *(entry.record.settings.get(name, "") for name in names),
        ]
        for entry in listed
    ]
    table = [header, ["---"] * len(header), *rows]
    lines = [f"| {' | '.join(map(markdown_cell, row))} |" for row in table]
    aim = {"minimize": "less", "maximize": "more"}[metric.goal]
    count = counted(len(comparison.entries), "run")
    return "\n".join([f"{count}, ranked by {markdown_cell(metric.name)}: {aim} is better.", "", *lines])


def markdown_cell(value: Any) -> str:
    """Return a value as the cell of a Markdown table: on one line, its letters no markup."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    marks = set("\\|`*_[]<>#!~") if text.strip("-") else set()
    return "".join(f"\\{letter}" if letter in marks else letter for letter in " ".join(text.split()))


def logged_terms(records: Sequence[RunRecord]) -> Mapping[str, list[str]]:
    """Return what runs log in their epochs: term -> names; those of training and validation stand together."""
    names = sorted({name for record in records for name in curves_of(record) if "/" in name})
    terms: dict[str, list[str]] = {}
    for name in names:
        terms.setdefault(name.rpartition("/")[2], []).append(name)
    first = sorted(terms, key=lambda term: (term not in USUAL, term != "loss", term))
    return {term: terms[term] for term in first[:MOST_TERMS]}


def picture_keys(records: Sequence[RunRecord], api: Any) -> list[str]:
    """Return the names that the runs' pictures have on W&B.

    Args:
        records: the runs.
        api: W&B's public API, which is asked about the runs that are not on this machine.
    """
    found = (local_keys(record) if record.is_local else media_keys(api, record) for record in records)
    return sorted({key for keys in found for key in keys})


def local_keys(record: RunRecord) -> list[str]:
    """Return the names on W&B of the pictures of a run on this machine.

    Pictures drawn before the end of a run are named panels/..., those of its end after the images that they show.
    """
    split = "test" if record.settings.get("test") else "val"
    return [f"{split if picture.is_of_the_end else 'panels'}/{picture.name}" for picture in pictures(record)]


def media_keys(api: Any, record: RunRecord) -> list[str]:
    """Return the names of the pictures of a run on W&B, out of all that it has logged."""
    rows = api.run(path_of(record.source)).scan_history()
    logged = (item for row in rows for item in row.items())
    return [key for key, value in logged if isinstance(value, Mapping) and "image" in str(value.get("_type", ""))]
