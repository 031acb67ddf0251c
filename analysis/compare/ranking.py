"""The metric by which runs are ranked: the one that is asked for, or that of their sweeps, or one that most have."""

from collections.abc import Collection, Iterable, Sequence

from analysis.read.records import RunRecord
from analysis.read.runs import names_of_metrics
from data.errors import UserError, suggestion
from data.metrics import RANKING, Metric, metric_named

MOST_NAMED = 12  # metrics, in a message

# The name of a sweep, which another one may have, and the metrics that it is after.
MetricsOfSweep = tuple[str, Sequence[Metric]]


def choose_metric(name: str, records: Sequence[RunRecord], sweeps: Collection[MetricsOfSweep]) -> Metric:
    """Return the metric that ranks runs.

    Args:
        name: of the metric that is asked for, with its goal before it or without; "" for the runs' own.
        records: the runs.
        sweeps: the metrics of each of the runs' sweeps, which say whether less or more of them is better.

    Raises:
        UserError: none of the runs has such a metric.
    """
    if not name:
        return metric_they_share(records, sweeps) or common_metric(records)
    asked = metric_named(name)
    goals = {metric for _, metrics in sweeps for metric in metrics if metric.name == asked.name}
    if records and not goals and not any(asked.name in names for names in names_of_metrics(records)):
        known = set[str]().union(*names_of_metrics(records, of_all_logs=True))
        if asked.name not in known:
            near = suggestion(asked.name, known) or listing(known)
            raise UserError(f"--metric={name}: none of the runs has a value of it{near}")
    goals = goals or {metric for metric in map(kept_by, records) if metric.name == asked.name}
    return goals.pop() if len(goals) == 1 and asked.name == name else asked  # what disagrees says nothing


def kept_by(record: RunRecord) -> Metric:
    """Return the metric that a run was told to keep the weights of the best epoch of; one without a name for none."""
    return metric_named(str(record.settings.get("best_by") or ""))


def listing(names: Collection[str]) -> str:
    """Return the end of a message that names what metrics there are."""
    first = sorted(names, key=lambda name: (not name.startswith("val/"), name))[:MOST_NAMED]
    return f": they have {', '.join(first)}" if first else ": they have no metric yet"


def disagreement(metric: Metric, sweeps: Iterable[Sequence[Metric]]) -> str:
    """Return a line that says how a metric ranks where sweeps have different goals for it; "" where they agree."""
    goals = {each.goal for metrics in sweeps for each in metrics if each.name == metric.name}
    words = {"minimize": "less", "maximize": "more"}
    told = f"Sweeps disagree on whether more or less of {metric.name} is better: here {words[metric.goal]} is."
    return told if len(goals) > 1 else ""


def metric_they_share(records: Sequence[RunRecord], sweeps: Collection[MetricsOfSweep]) -> Metric | None:
    """Return the first metric of the sweeps, if it is the same and all the runs are theirs; None otherwise."""
    metrics = {own[0] for _, own in sweeps}
    names = {name for name, _ in sweeps}
    return metrics.pop() if {record.sweep for record in records} == names and len(metrics) == 1 else None


def common_metric(records: Sequence[RunRecord]) -> Metric:
    """Return a metric for runs of no one sweep: the first of RANKING that most of the runs have, else the last.

    Runs that have none of them, having failed before the end of an epoch, do not count.
    """
    known = [names for names in names_of_metrics(records) if not names.isdisjoint(RANKING)]
    usual = (name for name in RANKING if 2 * sum(name in names for names in known) > len(known))
    return metric_named(next(usual, RANKING[-1]))
