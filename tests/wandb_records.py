"""What the double of the W&B server knows of sweeps, runs and agents."""

from dataclasses import dataclass, field
from typing import Any

SWEEP_KEYS = {  # those that the schema of W&B has, in `sweeps` of PyPI
    *("program", "command", "method", "metric", "metrics", "early_terminate", "parameters", "scheduler", "controller"),
    *("name", "description", "project", "entity", "run_cap", "kind", "apiVersion", "job", "image_uri"),
}


@dataclass
class Sweep:
    name: str
    config: dict[str, Any]
    project: str
    trials: list[dict[str, Any]] = field(default_factory=list)  # settings that no agent has had yet
    requeued: list[str] = field(default_factory=list)  # preempted runs, for the next agent
    queued: list[str] = field(default_factory=list)  # runs that its scheduler has asked for, those started among them
    state: str = "RUNNING"


@dataclass
class Run:
    name: str
    project: str = ""
    sweep: str = ""
    agent: str = ""
    group: str = ""
    tags: list[str] = field(default_factory=list)
    created: str = "2026-11-01T12:00:00"
    given: dict[str, Any] = field(default_factory=dict)  # by its sweep
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)  # by W&B's step: what is sent again replaces it
    num_repeated: int = 0  # rows that were sent at a step that had one
    files: dict[str, bytes] = field(default_factory=dict)
    artifacts: list[dict[str, Any]] = field(default_factory=list)  # with "files" and, at the end, "committed"
    used: list[str] = field(default_factory=list)  # ids of artifacts
    display_name: str = ""
    job_type: str = ""
    notes: str = ""
    entity: str = ""
    alerts: list[dict[str, Any]] = field(default_factory=list)
    has_begun: bool = False  # a client has said so
    is_pending: bool = False  # queued by a scheduler, and not yet given to an agent
    is_preempting: bool = False
    num_preempted: int = 0
    exit_code: int | None = None
    stop_times: list[float] = field(default_factory=list)  # monotonic seconds at which its agent was told to stop it
    end_time: float | None = None  # and at which the run itself said that it has ended

    @property
    def history(self) -> list[dict[str, Any]]:
        return [self.rows[step] for step in sorted(self.rows)]

    @property
    def shown_name(self) -> str:
        """W&B makes up a name for a run that has none."""
        return self.display_name or f"fluffy-{self.name}"

    @property
    def state(self) -> str:
        if self.is_pending:
            return "pending"
        if self.is_preempting:
            return "preempting" if self.exit_code is None else "preempted"
        return {None: "running", 0: "finished"}.get(self.exit_code, "failed")


@dataclass
class Agent:
    name: str
    sweep: str
    runs: list[str] = field(default_factory=list)
