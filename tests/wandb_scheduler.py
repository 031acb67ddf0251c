"""What `wandb sweep-scheduler` asks of the double of the W&B server: sweeps whose runs a scheduler queues."""

import json
from typing import Any

import yaml


class Schedulers:
    """The part of the server that schedulers talk to.

    A run that is queued is there from then on, pending, with the config that it is to be told; an agent that asks gets
    the one that was queued first. The server searches nothing itself for such a sweep, so that its agents wait.
    """

    def is_scheduled(self, sweep: Any) -> bool:
        return bool(sweep.config.get("scheduler"))

    def sweep_config(self, variables: dict) -> dict:
        sweep = self.sweeps.get(variables["sweep"])
        if sweep is None:
            return {"project": {"sweep": None}}
        node = {"id": sweep.name, "state": sweep.state, "config": yaml.dump(sweep.config), "displayName": sweep.name}
        return {"project": {"sweep": {**node, "controllerRunName": f"{sweep.name}-controller"}}}

    def enqueue_run(self, variables: dict) -> dict:
        sweep = self.sweeps[variables["id"]]
        run = self.run(f"queued{len(sweep.queued)}")
        run.sweep, run.project, run.is_pending = sweep.name, sweep.project, True
        run.given = {key: entry["value"] for key, entry in json.loads(variables["config"]).items()}
        run.config = dict(run.given)
        sweep.queued.append(run.name)
        return {"enqueueSweepRun": {"id": run.name, "runQueueItemId": run.name}}

    def sweep_state(self, variables: dict) -> dict:
        sweep = self.sweeps[variables["id"]]
        sweep.state = variables["state"]
        return {"upsertSweep": {"sweep": {"state": sweep.state}}}

    def runs_with_history(self, variables: dict) -> dict:
        sweep = self.sweeps[variables["sweep"]]
        return {"project": {"sweep": {"state": sweep.state, "runs": self.page(variables, self.runs_of(sweep))}}}

    def watched_runs(self, variables: dict) -> dict:
        sweep = self.sweeps[variables["sweep"]]
        self.filters.append(json.loads(variables["filters"]))
        runs = [run for run in self.runs_of(sweep) if run.name in json.dumps(self.filters[-1])]
        return {"project": {"sweep": {"state": sweep.state}, "runs": self.page(variables, runs)}}

    def runs_of(self, sweep: Any) -> list[Any]:
        return [run for run in self.runs.values() if run.sweep == sweep.name]

    def page(self, variables: dict, runs: list[Any]) -> dict:
        start = int(variables.get("cursor") or 0)
        end = start + variables["first"]
        edges = [{"node": self.scheduled_node(run, variables["historySpecs"])} for run in runs[start:end]]
        return {"edges": edges, "pageInfo": {"endCursor": str(end), "hasNextPage": end < len(runs)}}

    def scheduled_node(self, run: Any, specs: list[str]) -> dict:
        self.specs = specs
        histories = []
        for spec in map(json.loads, specs):
            keys = spec["keys"]
            rows = [row for row in run.history if row.keys() >= set(keys)]
            histories.append([{key: row[key] for key in keys} for row in rows][: spec.get("samples", 500)])
        config = json.dumps({key: {"value": value} for key, value in run.config.items()})
        node = {"id": run.name, "name": run.name, "state": run.state, "config": config}
        return {**node, "summaryMetrics": json.dumps(run.summary), "sampledHistory": histories}

    def stop_run(self, variables: dict) -> dict:
        self.stopping.add(variables["id"])
        return {"stopRun": {"success": True}}

    OPERATIONS = {
        "SweepConfig": sweep_config,
        "EnqueueSweepRun": enqueue_run,
        "UpsertSweepState": sweep_state,
        "SweepRunsWithHistory": runs_with_history,
        "SweepWatchedRuns": watched_runs,
        "StopRun": stop_run,
    }
