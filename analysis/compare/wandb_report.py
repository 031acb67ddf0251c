"""A comparison as a W&B Report: `python -m analysis.report --publish`."""

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.compare.comparison import Comparison, curves_of
from analysis.compare.html_page import MOST_SETTINGS, PICTURE_NAME, address_of
from analysis.read.runs import RunRecord, panels
from analysis.read.wandb_runs import ask_wandb, path_of
from data.errors import UserError

MOST_LOOKED_AT = 3  # of the best runs, for what there is to draw
MOST_TERMS = 8  # plots of curves
MOST_LISTED = 10  # runs in the text
LONGEST_TITLE = 128  # that W&B takes
FULL_WIDTH = 24  # columns of W&B's grid


def publish(comparison: Comparison, project: str, sweeps: Sequence[str] = (), models: Sequence[str] = ()) -> str:
    """Make the report, and return its address.

    Args:
        comparison: what it shows.
        project: entity/project of the runs; empty for the one where they were tracked.
        sweeps: that its runs are chosen by; none for all.
        models: likewise.

    Raises:
        UserError: the runs are not on W&B, or it cannot be reached or refuses the report.
    """
    entity, name = (project or project_of(comparison)).split("/")

    def save(api: Any) -> str:
        from wandb_workspaces.reports.v2 import Report

        pictures = picture_keys([entry.record for entry in comparison.ranked[:MOST_LOOKED_AT]], api)
        blocks = blocks_of(comparison, entity, name, sweeps, models, pictures)
        title = comparison.title[:LONGEST_TITLE]
        report = Report(project=name, entity=entity, title=title, blocks=blocks, width="fluid")
        return report.save().url

    return ask_wandb(save, f"report on {entity}/{name}", "entity/project", "published on")


def project_of(comparison: Comparison) -> str:
    """Entity/project where the runs were tracked.

    Raises:
        UserError: they were not, or in several.
    """
    paths = [path_of(address) for entry in comparison.entries if (address := address_of(entry))]
    projects = sorted({path.rpartition("/")[0] for path in paths})
    if not projects:
        raise UserError("--publish: none of these runs is on W&B; upload them by wandb sync, then give --project E/P")
    if len(projects) > 1:
        raise UserError(f"--publish: these runs are in {' and '.join(projects)}; give one of them as --project")
    return projects[0]


def blocks_of(
    comparison: Comparison,
    entity: str,
    project: str,
    sweeps: Sequence[str],
    models: Sequence[str],
    pictures: Sequence[str],
) -> list[Any]:
    """Text and panels, in the order of the page that needs no server."""
    from wandb_workspaces import expr
    from wandb_workspaces.reports import v2 as wr

    metric = comparison.metric
    value = wr.SummaryMetric(metric.name)
    conditions = []
    if sweeps:  # sweeps/agent.py makes its sweeps groups
        conditions.append(expr.Or(*(expr.Metric(key) == name for name in sweeps for key in ("Sweep", "Group"))))
    if models:
        conditions.append(expr.Or(*(expr.Config("model") == name for name in models)))
    runs = wr.Runset(
        entity=entity,
        project=project,
        name=comparison.title,
        filters=expr.And(*conditions) if conditions else "",
        order=[wr.OrderBy(value, ascending=metric.is_minimized)],
    )

    def grid(*panels: Any) -> Any:
        return wr.PanelGrid(runsets=[runs], panels=list(panels))

    best = [entry.record for entry in comparison.ranked[:MOST_LOOKED_AT]]
    wide = wr.Layout(w=FULL_WIDTH, h=10)
    lines = [wr.LinePlot(title=term, x="epoch", y=[*names]) for term, names in logged_terms(best).items()]
    columns = [
        wr.ParallelCoordinatesPlotColumn(wr.Config(setting.name), log=setting.is_log)
        for setting in comparison.varied[:MOST_SETTINGS]
    ]
    scatters = [
        wr.ScatterPlot(title=setting.name, x=wr.Config(setting.name), y=value, log_x=setting.is_log)
        for setting in comparison.varied[:MOST_SETTINGS]
        if setting.is_number
    ]
    blocks = [
        wr.MarkdownBlock(summary_text(comparison)),
        wr.H2("Curves"),
        grid(*lines),
        wr.H2("Settings"),
        grid(
            wr.ParallelCoordinatesPlot(columns=[*columns, wr.ParallelCoordinatesPlotColumn(value)], layout=wide),
            wr.ParameterImportancePlot(with_respect_to=metric.name, layout=wide),
            *scatters,
        ),
        wr.H2("Differences"),
        grid(wr.RunComparer(diff_only="split", layout=wide)),
    ]
    if pictures:
        browsers = [
            wr.MediaBrowser(title=key, media_keys=[key], num_columns=len(best), layout=wide) for key in pictures
        ]
        blocks += [wr.H2("Pictures"), grid(*browsers)]
    return blocks


def summary_text(comparison: Comparison) -> str:
    """What came out, as Markdown: the best runs with the settings that vary."""
    metric, names = comparison.metric, [setting.name for setting in comparison.varied[:MOST_SETTINGS]]
    aim = "less" if metric.is_minimized else "more"
    header = ["run", metric.name, "state", *names]
    rows = [
        [
            entry.record.run_id,
            f"{entry.value:.5g}",
            entry.state,
            *(entry.record.settings.get(name, "") for name in names),
        ]
        for entry in comparison.ranked[:MOST_LISTED]
    ]
    table = [header, ["---"] * len(header), *rows]
    lines = [f"| {' | '.join(map(markdown_cell, row))} |" for row in table]
    count = f"{len(comparison.entries)} run{'' if len(comparison.entries) == 1 else 's'}"
    return "\n".join([f"{count}, ranked by {markdown_cell(metric.name)}: {aim} is better.", "", *lines])


def markdown_cell(value: Any) -> str:
    """A value as a table's cell takes it: on one line, with no markup."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    marks = set("\\|`*_[]<>#!~") if text.strip("-") else set()
    return "".join(f"\\{letter}" if letter in marks else letter for letter in " ".join(text.split()))


def logged_terms(records: Sequence[RunRecord]) -> Mapping[str, list[str]]:
    """What the runs log of each term in an epoch: term -> names, training and validation in one plot."""
    names = sorted({name for record in records for name in curves_of(record) if "/" in name})
    terms: dict[str, list[str]] = {}
    for name in names:
        terms.setdefault(name.rpartition("/")[2], []).append(name)
    first = sorted(terms, key=lambda term: (term not in ("loss", "accuracy"), term != "loss", term))
    return {term: terms[term] for term in first[:MOST_TERMS]}


def picture_keys(records: Sequence[RunRecord], api: Any) -> list[str]:
    """Names under which the runs' pictures are on W&B."""
    found = (local_keys(record) if record.is_local else media_keys(api, record) for record in records)
    return sorted({key for keys in found for key in keys})


def local_keys(record: RunRecord) -> list[str]:
    """Those of a run on this machine: pictures of an epoch are panels, those of the end belong to a split."""
    split = "test" if record.settings.get("test") else "val"
    matches = [match for path in panels(record) if (match := PICTURE_NAME.fullmatch(path.stem))]
    return [f"{'panels' if match['epoch'] else split}/{match['name']}" for match in matches]


def media_keys(api: Any, record: RunRecord) -> list[str]:
    """Those of a run on W&B, from all that it logged."""
    rows = api.run(path_of(record.source)).scan_history()
    logged = (item for row in rows for item in row.items())
    return [key for key, value in logged if isinstance(value, Mapping) and "image" in str(value.get("_type", ""))]
