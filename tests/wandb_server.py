"""A double of the W&B server on loopback: what `wandb sweep`, `wandb agent`, a run and `wandb.Api` ask of it.

It keeps what arrives in plain attributes. An idle agent gets the next of its sweep's trials, or goes home.
"""

import json
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import yaml

from tests.wandb_artifacts import ENTITY, Artifacts
from tests.wandb_records import SWEEP_KEYS, Agent, Run, Sweep
from tests.wandb_scheduler import Schedulers

API_KEY = "0" * 40


class WandbServer(Artifacts, Schedulers):
    """Answers in threads of its own from the start to `go_offline`, and again from `come_back`."""

    def __init__(self) -> None:
        super().__init__()
        self.sweeps: dict[str, Sweep] = {}
        self.runs: dict[str, Run] = {}
        self.agents: dict[str, Agent] = {}
        self.reports: list[dict[str, Any]] = []  # variables of their upserts, the spec parsed
        self.stopping: set[str] = set()  # runs that their agent is told to stop, as hyperband does, at every heartbeat
        self.features: list[str] = []  # that it says it has
        self.filters: list[Any] = []  # with which a scheduler has asked for runs
        self.faults: list[str] = []  # requests that the double cannot play
        self.requeues = True  # gives preempted runs to the next agent
        self.refused: dict[str, int] = {}  # status by the name of an operation, or "file_stream"
        self.asked: Counter[str] = Counter()  # how often for each operation, or path
        self.lock = threading.RLock()
        self.http = self.bind(0)
        self.come_back()

    def bind(self, port: int) -> ThreadingHTTPServer:
        http = ThreadingHTTPServer(("127.0.0.1", port), Handler, bind_and_activate=False)
        http.daemon_threads = True
        http.double = self
        http.server_bind()
        return http

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    def go_offline(self) -> None:
        """Refuse connections; the port is kept."""
        if self.is_online:
            self.http.shutdown()
            self.http.server_close()
            self.http = self.bind(self.http.server_port)
        self.is_online = False

    def come_back(self) -> None:
        self.is_online = True
        self.http.server_activate()
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self.go_offline()
        self.http.server_close()

    def add_sweep(self, config: dict[str, Any], trials: list[dict[str, Any]]) -> str:
        """A sweep without `wandb sweep`; returns its path."""
        sweep = Sweep(f"sweep{len(self.sweeps)}", config, "project", trials)
        self.sweeps[sweep.name] = sweep
        return f"{ENTITY}/{sweep.project}/{sweep.name}"

    def run(self, name: str) -> Run:
        return self.runs.setdefault(name, Run(name))

    # GraphQL operations, by their name in the query.

    def viewer(self, variables: dict) -> dict:
        user = {"id": "user", "entity": ENTITY, "username": ENTITY, "defaultEntity": {"name": ENTITY}}
        user |= {"name": ENTITY, "email": "", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": user}

    def server_features(self, variables: dict) -> dict:
        return {"serverInfo": {"features": [{"name": name, "isEnabled": True} for name in self.features]}}

    def organization(self, variables: dict) -> dict:
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def upsert_sweep(self, variables: dict) -> dict:
        name = variables["id"] or f"sweep{len(self.sweeps)}"
        self.sweeps[name] = Sweep(name, yaml.safe_load(variables["config"]), variables["projectName"])
        project = {"id": "1", "name": variables["projectName"], "entity": {"id": "1", "name": ENTITY}}
        sweep, unknown = {"name": name, "project": project}, sorted(self.sweeps[name].config.keys() - SWEEP_KEYS)
        warnings = [f"Additional properties are not allowed ({key!r} was unexpected)" for key in unknown]
        return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": warnings}}

    def sweep(self, variables: dict) -> dict:
        sweep = self.sweeps.get(variables.get("name") or variables["sweep"])
        if sweep is None:
            return {"project": {"sweep": None}}
        return {"project": {"sweep": {**self.sweep_node(sweep), "runs": {"edges": []}}}}

    def list_sweeps(self, variables: dict) -> dict:
        nodes = [self.sweep_node(sweep) for sweep in self.sweeps.values()]
        page = {"edges": [{"node": node} for node in nodes], "pageInfo": {"endCursor": None, "hasNextPage": False}}
        return {"project": {"totalSweeps": len(nodes), "sweeps": page}}

    def sweep_node(self, sweep: Sweep) -> dict:
        node = {"id": sweep.name, "name": sweep.name, "state": sweep.state, "config": yaml.dump(sweep.config)}
        node |= {"method": sweep.config["method"], "displayName": None, "description": None, "bestLoss": None}
        return {**node, "createdAt": "", "updatedAt": "", "runCount": 0, "runCountExpected": None}

    def create_agent(self, variables: dict) -> dict:
        name = f"agent{len(self.agents)}"
        self.agents[name] = Agent(name, variables["sweep"])
        return {"createAgent": {"agent": {"id": name}}}

    def heartbeat(self, variables: dict) -> dict:
        agent = self.agents[variables["id"]]
        running = json.loads(variables["runState"])
        commands = []
        for name in self.stopping & running.keys():
            self.run(name).stop_times.append(time.monotonic())
            commands.append({"type": "stop", "run_id": name})
        if not running and (command := self.next_trial(agent)):
            commands.append(command)
        return {"agentHeartbeat": {"agent": {"id": agent.name}, "commands": json.dumps(commands)}}

    def next_trial(self, agent: Agent) -> dict[str, Any]:
        sweep = self.sweeps[agent.sweep]
        if sweep.requeued:
            return self.resume(sweep, agent)
        if self.is_scheduled(sweep):
            return self.next_queued(sweep, agent)
        if not sweep.trials:
            return {"type": "exit"}
        run = self.run(f"trial{sum(len(other.runs) for other in self.agents.values())}")
        agent.runs.append(run.name)
        run.agent, run.sweep, run.project = agent.name, sweep.name, sweep.project
        run.given = sweep.trials.pop(0)
        arguments = {key: {"value": value} for key, value in run.given.items()}
        return {"type": "run", "run_id": run.name, "program": sweep.config["program"], "args": arguments}

    def next_queued(self, sweep: Sweep, agent: Agent) -> dict[str, Any]:
        run = next((run for run in map(self.run, sweep.queued) if run.is_pending), None)
        if run is None:
            return {"type": "exit"} if sweep.state == "FINISHED" else {}
        agent.runs.append(run.name)
        run.agent, run.is_pending = agent.name, False
        arguments = {key: {"value": value} for key, value in run.given.items()}
        return {"type": "run", "run_id": run.name, "program": sweep.config["program"], "args": arguments}

    def resume(self, sweep: Sweep, agent: Agent) -> dict[str, Any]:
        """Give an agent a run that was preempted, with a key of W&B's own among its arguments, as the real server."""
        run = self.runs[sweep.requeued.pop(0)]
        agent.runs.append(run.name)
        run.agent, run.exit_code, run.is_preempting = agent.name, None, False
        arguments = {key: {"value": value} for key, value in run.given.items()} | {"_wandb": {"value": {"t": {}}}}
        return {"type": "resume", "run_id": run.name, "program": sweep.config["program"], "args": arguments}

    def stop_flag(self, variables: dict) -> dict:
        return {"project": {"run": {"stopped": variables["run"] in self.stopping}}}

    def resume_status(self, variables: dict) -> dict:
        run = self.runs.get(variables["name"])
        node = None
        if run is not None and run.has_begun:
            tail = json.dumps([json.dumps(row) for row in run.history[-1:]])
            counts = {"logLineCount": 0, "historyLineCount": len(run.history), "eventsLineCount": 0}
            config = json.dumps({key: {"value": value} for key, value in run.config.items()})
            # Without "t" W&B's client takes the run for one that is queued, and does not go on from its steps.
            state = {"summaryMetrics": json.dumps(run.summary), "config": config, "wandbConfig": '{"t": {}}'}
            node = {"id": run.name, "name": run.name, "displayName": run.shown_name, "tags": run.tags}
            node |= {"notes": run.notes, "jobType": run.job_type, "groupName": run.group}
            node |= {**counts, **state, "historyTail": tail, "eventsTail": "[]"}
        return {"model": {"id": "1", "name": run and run.project, "entity": {"name": ENTITY}, "bucket": node}}

    def upsert_run(self, variables: dict) -> dict:
        run = self.run(variables["name"] or variables["id"])
        run.project = variables["project"] or run.project
        run.sweep = variables["sweep"] or run.sweep
        run.display_name = variables.get("displayName") or run.display_name
        run.job_type = variables.get("jobType") or run.job_type
        run.group = variables.get("groupName") or run.group
        run.tags = variables.get("tags") or run.tags
        run.notes = variables.get("notes") or run.notes
        run.entity = variables.get("entity") or ENTITY
        run.has_begun = True
        if variables["config"]:
            run.config |= {
                key: entry["value"] for key, entry in json.loads(variables["config"]).items() if key != "_wandb"
            }
        project = {"id": "1", "name": run.project, "entity": {"id": "1", "name": run.entity}}
        bucket = {"id": run.name, "name": run.name, "displayName": run.shown_name, "description": "", "config": "{}"}
        bucket |= {"sweepName": run.sweep or None, "project": project, "historyLineCount": len(run.history)}
        return {"upsertBucket": {"bucket": bucket, "inserted": not run.history}}

    def create_files(self, variables: dict) -> dict:
        files = [
            {"name": name, "uploadUrl": f"{self.url}/upload/{variables['run']}/{name}"} for name in variables["files"]
        ]
        return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}

    def list_runs(self, variables: dict) -> dict:
        filters = json.loads(variables["filters"]).get("$and", [])
        runs = [run for run in self.runs.values() if all(run.sweep == wanted["sweep"] for wanted in filters)]
        start = int(variables.get("cursor") or 0)
        end = start + variables["perPage"]
        edges = [{"node": self.node(run), "cursor": str(i + 1)} for i, run in enumerate(runs)][start:end]
        page = {"edges": edges, "pageInfo": {"endCursor": str(end), "hasNextPage": end < len(runs)}}
        return {"project": {"internalId": "1", "runCount": len(runs), "readOnly": False, "runs": page}}

    def one_run(self, variables: dict) -> dict:
        return {"project": {"run": self.node(self.run(variables.get("name") or variables["runName"]))}}

    def sampled_history(self, variables: dict) -> dict:
        spec = json.loads(variables["spec"])
        steps = range(spec["minStep"], spec["maxStep"] + 1)
        rows = [row for row in self.run(variables["run"]).history if row["_step"] in steps]
        rows = [{key: row[key] for key in spec["keys"]} for row in rows if row.keys() >= set(spec["keys"])]
        return {"project": {"run": {"sampledHistory": [rows]}}}

    def history_page(self, variables: dict) -> dict:
        steps = range(variables["minStep"], variables["maxStep"])
        rows = [json.dumps(row) for row in self.run(variables["run"]).history if row["_step"] in steps]
        return {"project": {"run": {"history": rows}}}

    def node(self, run: Run) -> dict:
        config = json.dumps({key: {"value": value} for key, value in run.config.items()})
        node = {"id": run.name, "name": run.name, "displayName": run.shown_name, "projectId": 1, "state": run.state}
        node |= {"config": config, "summaryMetrics": json.dumps(run.summary), "systemMetrics": "{}"}
        node |= {"tags": run.tags, "group": run.group, "jobType": run.job_type, "createdAt": run.created}
        node |= {"sweepName": run.sweep or None, "user": {"name": ENTITY, "username": ENTITY}}
        node["historyKeys"] = {"lastStep": max(run.rows, default=-1)}
        return {**node, "parquetHistory": {"parquetUrls": [], "liveData": run.history}}

    def project_id(self, variables: dict) -> dict:
        known = {run.project for run in self.runs.values()}
        return {"project": {"internalId": "UHJvamVjdDox"} if variables["projectName"] in known else None}

    def list_projects(self, variables: dict) -> dict:
        names = sorted({run.project for run in self.runs.values()})
        nodes = [
            {"id": name, "name": name, "entityName": ENTITY, "createdAt": "", "isBenchmark": False, "user": None}
            for name in names
        ]
        edges = [{"node": node, "cursor": node["id"]} for node in nodes]
        return {"models": {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}}

    def upsert_report(self, variables: dict) -> dict:
        self.reports.append({**variables, "spec": json.loads(variables["spec"])})
        project = {"id": "1", "name": variables["projectName"], "entityName": variables["entityName"]}
        view = {"id": f"report{len(self.reports)}", "project": project, "updatedAt": "2026-11-01T12:00:00"}
        names = ("type", "name", "displayName", "description", "spec")
        return {"upsertView": {"view": {**view, **{name: variables[name] for name in names}}, "inserted": True}}

    def alert(self, variables: dict) -> dict:
        self.run(variables["runName"]).alerts.append(variables)
        return {"notifyScriptableRunAlert": {"success": True}}

    OPERATIONS = {
        **Artifacts.OPERATIONS,
        **Schedulers.OPERATIONS,
        "RunStoppedStatus": stop_flag,
        "Viewer": viewer,
        "GetDefaultEntity": viewer,
        "ServerFeaturesQuery": server_features,
        "OrganizationCoreWeaveOrganizationID": organization,
        "UpsertSweep": upsert_sweep,
        "SweepWithRuns": sweep,
        "GetSweep": sweep,
        "GetSweeps": list_sweeps,
        "CreateAgent": create_agent,
        "Heartbeat": heartbeat,
        "RunResumeStatus": resume_status,
        "UpsertBucket": upsert_run,
        "NotifyScriptableRunAlert": alert,
        "CreateRunFiles": create_files,
        "Runs": list_runs,
        "Run": one_run,
        "RunHistoryKeys": one_run,
        "RunParquetHistory": one_run,
        "SampledHistoryPage": sampled_history,
        "HistoryPage": history_page,
        "ProjectInternalId": project_id,
        "GetProjects": list_projects,
        "upsertView": upsert_report,
    }

    def graphql(self, body: dict[str, Any]) -> dict | int:
        operation = re.search(r"(?:query|mutation)\s+(\w+)", body["query"])[1]
        self.asked[operation] += 1
        if operation in self.refused:
            return self.refused[operation]
        try:
            return {"data": self.OPERATIONS[operation](self, body.get("variables") or {})}
        except (KeyError, ValueError) as error:
            self.faults.append(f"{operation}: {error!r}")
            return {"errors": [{"message": self.faults[-1]}]}

    def file_stream(self, name: str, body: dict[str, Any]) -> dict | int:
        if "file_stream" in self.refused:
            return self.refused["file_stream"]
        run = self.run(name)
        files = body.get("files", {})
        if "wandb-history.jsonl" in files:
            rows = {row["_step"]: row for row in map(json.loads, files["wandb-history.jsonl"]["content"])}
            run.num_repeated += len(rows.keys() & run.rows.keys())
            run.rows |= rows
        if "wandb-summary.json" in files:
            run.summary = json.loads(files["wandb-summary.json"]["content"][-1])
        run.is_preempting = run.is_preempting or body.get("preempting", False)
        if body.get("complete"):
            run.exit_code, run.end_time = body["exitcode"], time.monotonic()
            if run.state == "preempted" and run.exit_code:
                run.num_preempted += 1
                if self.requeues:
                    self.sweeps[run.sweep].requeued.append(run.name)
        return {}

    def upload(self, kind: str, owner: str, name: str, content: bytes) -> None:
        files = self.run(owner).files if kind == "upload" else self.artifacts[owner]["files"]
        files[name] = content


class Handler(BaseHTTPRequestHandler):
    """One request."""

    def do_GET(self) -> None:
        kind, _, place = unquote(self.path)[1:].partition("/")
        self.server.double.asked[self.path] += 1
        if kind != "artifact":
            return self.reply({})
        identity, _, name = place.partition("/")
        self.send(self.server.double.artifacts[identity]["files"][name])

    def do_POST(self) -> None:
        double, body = self.server.double, self.body()
        answer: dict | int = {}
        with double.lock:
            if self.path == "/graphql":
                answer = double.graphql(json.loads(body))
            elif match := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
                answer = double.file_stream(match[1], json.loads(body))
            elif not self.path.startswith("/sdk/otel/"):  # telemetry, which need not be understood
                double.faults.append(self.path)
        self.reply(answer)

    def do_PUT(self) -> None:
        kind, owner, name = unquote(self.path)[1:].split("/", 2)
        content = self.body()
        with self.server.double.lock:
            self.server.double.upload(kind, owner, name, content)
        self.reply({})

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(self, content: dict | int) -> None:
        """Send an answer, or refuse by a status."""
        if isinstance(content, int):
            self.send(b'{"errors": [{"message": "refused"}]}', content)
        else:
            self.send(json.dumps(content).encode())

    def send(self, data: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        """Keep quiet."""
