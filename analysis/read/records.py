"""What is known of one run, wherever it was read, and which runs are wanted."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from analysis.record import run_folder
from data.metrics import is_finite

LONGEST_REASON = 300  # letters
LONGEST_SECONDS = 1e9  # no run has trained for 30 years
RUN_PAGE = re.compile(r"https?://[\w.:-]+(/[^/\s]+){2,}/runs/[^/\s]+")  # host, path, entity, project, id on W&B
STATES = ("finished", "stopped", "failed", "unfinished")


@dataclass(frozen=True)
class RunRecord:
    """What is known of one run, as far as it got.

    Attributes:
        run_id: name of the run's folder, which is its id on W&B, too.
        source: path of the run's folder, or the run's address on W&B.
        sweep: name of the sweep that it belongs to, as a trial or as a final run; "" for none.
        state: how it ended, one of STATES; "unfinished" while it trains, and after it was killed.
        created: when it was started or, if it was resumed, last resumed; in UTC.
        model: name of its network, a key of MODELS.
        dataset: name of its images, a key of DATASETS.
        tags: the words of its setting `tags`.
        settings: the value of each of its settings, by name.
        summary: its result, by name: metrics, times and sizes; {} until it has ended.
        environment: its command, commit, package versions and hardware, by name; {} for a run on W&B.
    """

    run_id: str
    source: str
    sweep: str
    state: str
    created: datetime
    model: str
    dataset: str
    tags: tuple[str, ...]
    settings: Mapping[str, Any] = field(hash=False)
    summary: Mapping[str, Any] = field(hash=False)
    environment: Mapping[str, Any] = field(hash=False)

    @property
    def is_local(self) -> bool:
        """Whether the run is a folder on this machine."""
        return "://" not in self.source

    @property
    def is_final(self) -> bool:
        """Whether the run is one of sweeps/final.py, which trains on all the training images."""
        return bool(self.trial)

    @property
    def trial(self) -> str:
        """Id of the trial whose settings a final run has; "" for other runs, those of no sweep among them."""
        name = run_folder.NAME_OF_FINAL.fullmatch(self.run_id)
        return name[1] if name and self.sweep else ""

    @property
    def name_of_seeds(self) -> str:
        """The run's name without the seed at its end: runs of one recipe that differ in the seed share it."""
        return re.sub(rf"{run_folder.SEED_SUFFIX}\d+$", "", self.run_id)

    @property
    def first_of_trial(self) -> str:
        """Name of the first run of its trial, where it is one of a further seed or fold; else its own."""
        return run_folder.first_of_trial(self.run_id)

    @property
    def order_of_seeds(self) -> tuple[int, str]:
        """The key that sorts the runs of a trial by their seeds."""
        return run_folder.order_of_seeds(self.run_id)

    @property
    def train_seconds(self) -> float | None:
        """How long the run has trained, in seconds; None where its summary does not say, or says what cannot be."""
        seconds = self.summary.get("train_seconds")
        return seconds if seconds is not None and is_finite(seconds) and 0 <= seconds < LONGEST_SECONDS else None

    @property
    def error(self) -> str:
        """Why the run failed; "" where it did not, or nothing says why."""
        return str(self.summary.get("error") or "")[:LONGEST_REASON] if self.state == "failed" else ""

    @property
    def address(self) -> str:
        """Address of the run's page on W&B; "" where it has none."""
        address = str(self.environment.get("wandb", "") if self.is_local else self.source)
        return address if RUN_PAGE.fullmatch(address) else ""


def fits(name: str, pattern: str) -> bool:
    """Return whether a name matches a pattern, in which `*` stands for any letters, `?` for any one."""
    return fnmatchcase(name, pattern.replace("[", "[[]"))


class RunList(NamedTuple):
    """The runs of a runs folder or of a W&B project.

    Attributes:
        records: the newest first.
        skipped: folders within it that hold no run or a broken one; on W&B ids of runs that are none of ours.
    """

    records: list[RunRecord]
    skipped: list[str]


@dataclass(frozen=True)
class Filter:
    """Conditions that a run must meet, all of them; an empty or None one is met by every run.

    Names may hold the wildcards of a shell: `*` for any letters, `?` for any one.

    Attributes:
        sweep: name of the run's sweep.
        model: name of its network.
        dataset: name of its images.
        tag: one of its tags.
        state: one of STATES.
        since: the earliest time of its start.
        until: the latest time of its start.
    """

    sweep: str = ""
    model: str = ""
    dataset: str = ""
    tag: str = ""
    state: str = ""
    since: datetime | None = None
    until: datetime | None = None

    def apply(self, records: Iterable[RunRecord]) -> list[RunRecord]:
        """Return the runs that meet the conditions, in their order."""
        return [record for record in records if self.wants(record)]

    def wants(self, record: RunRecord) -> bool:
        """Return whether a run meets the conditions."""
        wanted = ((name, getattr(self, name)) for name in ("sweep", "model", "dataset", "state"))
        return (
            all(fits(getattr(record, name), pattern) for name, pattern in wanted if pattern)
            and (not self.tag or any(fits(tag, self.tag) for tag in record.tags))
            and (self.since is None or record.created >= self.since)
            and (self.until is None or record.created <= self.until)
        )
