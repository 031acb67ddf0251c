"""The metric by which runs are ranked: the one that is asked for, or that of their sweeps, or one that most have."""

from collections.abc import Collection, Mapping, Sequence

from analysis.read.records import RunRecord
from analysis.read.runs import names_of_metrics
from data.errors import UserError, suggestion
from data.metrics import RANKING, Metric, metric_named

MOST_NAMED = 12  # metrics, in a message


def choose_metric(name: str, records: Sequence[RunRecord], sweeps: Mapping[str, Metric]) -> Metric:
    """Return the metric that ranks runs.

    Args:
        name: of the metric that is asked for; "" for the runs' own.
        records: the runs.
        sweeps: the metric of each of the runs' sweeps, which says whether less or more of it is better.

    Raises:
        UserError: none of the runs has such a metric.
    """
    if not name:
        return metric_they_share(records, sweeps) or common_metric(records)
    goals = {metric for metric in sweeps.values() if metric.name == name}
    if records and not goals and not any(name in names for names in names_of_metrics(records)):
        known = set[str]().union(*names_of_metrics(records, of_all_logs=True))
        if name not in known:
            near = suggestion(name, known) or listing(known)
            raise UserError(f"--metric={name}: none of the runs has a value of it{near}")
    return goals.pop() if len(goals) == 1 else metric_named(name)  # sweeps that disagree say nothing


def listing(names: Collection[str]) -> str:
    """Return the end of a message that names what metrics there are."""
    first = sorted(names, key=lambda name: (not name.startswith("val/"), name))[:MOST_NAMED]
    return f": they have {', '.join(first)}" if first else ": they have no metric yet"


def metric_they_share(records: Sequence[RunRecord], sweeps: Mapping[str, Metric]) -> Metric | None:
    """Return the metric of the sweeps, if they have the same and all the runs are theirs; None otherwise."""
    metrics = set(sweeps.values())
    return metrics.pop() if {record.sweep for record in records} == set(sweeps) and len(metrics) == 1 else None


def common_metric(records: Sequence[RunRecord]) -> Metric:
    """Return a metric for runs of no one sweep: the first of RANKING that most of the runs have, else the last."""
    known = names_of_metrics(records)
    usual = (name for name in RANKING if 2 * sum(name in names for names in known) > len(records))
    return metric_named(next(usual, RANKING[-1]))
