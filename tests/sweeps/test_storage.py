"""Several agents on one sweep: a real PostgreSQL server on loopback, and SQLite."""

import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
import pytest

from tests.sweep_agents import (
    TIMEOUT_SECONDS,
    no_process,
    wait_until,
)

DEBIAN = "/usr/lib/postgresql/*/bin"
MISSED = 2.0  # seconds without a sign of life
OTHER_MACHINE = {"socket.gethostname": functools.partial(str, "other"), "sweeps.local.trials.processes_of": no_process}
THIS_MACHINE = {"sweeps.local.trials.processes_of": no_process}  # of the other
QUICK = {"sweeps.local.claims.SECONDS_TO_BE_MISSED": MISSED, "sweeps.local.agent.SECONDS_BETWEEN_BEATS": 0.3}
SLOW = {"epochs": 20, "seconds": 0.1}


class Server:
    """A PostgreSQL server of our own."""

    def __init__(self, programs: dict[str, str], folder: Path) -> None:
        self.postgres = programs["postgres"]
        self.folder = folder
        # It refuses to run as root.
        self.user = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
        if self.user:
            nobody = pwd.getpwnam("nobody")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        options = ["--auth=trust", "--username=sweeps", "--encoding=UTF8", "--locale=C", "--no-sync"]
        self.carry_out(programs["initdb"], f"--pgdata={folder / 'data'}", *options)
        self.process: subprocess.Popen | None = None
        self.num_databases = 0
        self.start()

    def carry_out(self, *command: str) -> None:
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, **self.user)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(self.folder), "fsync": "off"}
        command = [self.postgres, "-D", str(self.folder / "data"), "-p", str(self.port)]
        command += [word for key, value in options.items() for word in ("-c", f"{key}={value}")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, **self.user)
        wait_until(self.answers, "PostgreSQL answers")

    def answers(self) -> bool:
        try:
            self.connect().close()
        except psycopg.OperationalError:
            assert self.process is not None
            assert self.process.poll() is None, (self.folder / "log").read_text()
            return False
        return True

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(f"postgresql://sweeps@127.0.0.1:{self.port}/postgres", autocommit=True)

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)  # it then disconnects everybody
        self.process.wait(TIMEOUT_SECONDS)

    def new_database(self) -> str:
        """Address of an empty database."""
        self.num_databases += 1
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE sweeps{self.num_databases}")
        return f"postgresql+psycopg://sweeps@127.0.0.1:{self.port}/sweeps{self.num_databases}"


def programs_of_the_server():
    """Where PostgreSQL's programs are; None for one that is not installed."""
    path = os.pathsep.join([os.environ["PATH"], *map(str, sorted(Path("/").glob(DEBIAN[1:]), reverse=True))])
    return {name: shutil.which(name, path=path) for name in ("initdb", "postgres")}


@pytest.fixture(scope="session")
def server():
    programs = programs_of_the_server()
    if None in programs.values():
        reason = f"initdb and postgres are neither on PATH nor in {DEBIAN}: PostgreSQL is not installed"
        if os.environ.get("REQUIRE_POSTGRESQL"):
            pytest.fail(reason + ", and REQUIRE_POSTGRESQL is set")
        pytest.skip(reason)
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to other users
        server = Server(programs, Path(folder))
        yield server
        server.stop()


@pytest.fixture
def postgresql(server):
    return server.new_database()


def two(stage, *arguments, separate=True):
    """Two agents, each with a runs folder of its own, as on two machines."""
    folders = [str(stage.folder / name) if separate else str(stage.runs_dir) for name in ("one", "two")]
    return [stage.start(*arguments, environment={"VISION_SWEEPS_RUNS": folder}) for folder in folders]


def num_epochs(stage, number):
    return sum(int(row["run"][:3]) == number for row in stage.journal("epoch"))


def starts_of(stage, number):
    return [row for row in stage.journal("start") if int(row["run"][:3]) == number]


@pytest.mark.slow
def test_two_agents_that_start_at_once_share_a_sweep(stage, postgresql):
    file = stage.write(parameters={"epochs": 3, "seconds": 0.1})
    agents = two(stage, file, "--count=8", f"--storage={postgresql}")
    assert [agent.wait() for agent in agents] == [0, 0], [agent.errors for agent in agents]
    assert stage.states(url=postgresql) == ["COMPLETE"] * 8
    assert list(stage.starts().values()) == [1] * 8
    runs = [{path.name for path in (stage.folder / name).glob("sweeps/sweep/0*")} for name in ("one", "two")]
    assert min(map(len, runs)) >= 2
    assert not runs[0] & runs[1]
    assert runs[0] | runs[1] == {trial.user_attrs["run_id"] for trial in stage.trials(url=postgresql)}
    assert all("8 trials: 8 finished" in agent.output for agent in agents)


@pytest.mark.slow
def test_two_agents_share_a_sweep_in_sqlite(stage):
    file = stage.write(parameters={"epochs": 3, "seconds": 0.1})
    agents = two(stage, file, "--count=8", "--workers=2", separate=False)
    assert [agent.wait() for agent in agents] == [0, 0], [agent.errors for agent in agents]
    assert stage.states() == ["COMPLETE"] * 8
    assert list(stage.starts().values()) == [1] * 8


@pytest.mark.slow
def test_a_choice_is_tried_once_by_agents_that_are_told_it_at_the_same_time(stage, postgresql):
    file = stage.write(parameters={"epochs": 2, "seconds": 0.1})
    agents = two(stage, file, "--count=6", "--enqueue=lr=0.003", "--enqueue=lr=0.5", f"--storage={postgresql}")
    assert [agent.wait() for agent in agents] == [0, 0], [agent.errors for agent in agents]
    assert stage.states(url=postgresql) == ["COMPLETE"] * 6
    rates = [trial.user_attrs["settings"]["lr"] for trial in stage.trials(url=postgresql)]
    assert (rates.count(0.003), rates.count(0.5)) == (1, 1)


@pytest.mark.slow
def test_hyperband_compares_with_the_other_agents_trials(stage, postgresql):
    file = stage.write(
        method="grid",
        early_terminate={"type": "hyperband", "min_iter": 2, "eta": 2},
        parameters={"lr": {"values": [0.001, 0.003, 0.01]}, "epochs": 20, "seconds": 0.05},
    )
    stage.run(file, f"--storage={postgresql}", "--count=2")
    stage.run(file, f"--storage={postgresql}", environment={"VISION_SWEEPS_RUNS": str(stage.folder / "two")})
    assert stage.states(url=postgresql) == ["COMPLETE", "COMPLETE", "PRUNED"]


@pytest.mark.slow
def test_an_agent_takes_over_from_one_that_was_killed_on_the_same_machine_at_once(stage, postgresql):
    command = (stage.write(parameters={"epochs": 60, "seconds": 0.1}), "--count=2", f"--storage={postgresql}")
    killed = stage.start(*command)
    stage.wait_for("epoch", 1)
    other = stage.start(*command, "--workers=2")
    stage.wait_for("start", 2)
    wait_until(lambda: num_epochs(stage, 0) >= 5, "trial 0 trains")
    killed.signal(signal.SIGKILL)
    killed_at = time.monotonic()
    wait_until(lambda: len(starts_of(stage, 0)) == 2, "trial 0 is taken over", 10)
    print(f"taken over after {starts_of(stage, 0)[1]['time'] - killed_at:.2f} s")
    assert other.wait() == 0
    assert stage.states(url=postgresql) == ["COMPLETE"] * 2
    assert stage.disorder() == []
    assert [len(trial.intermediate_values) for trial in stage.trials(url=postgresql)] == [60, 60]


@pytest.mark.slow
def test_an_agent_of_another_machine_is_given_up_after_its_time_and_not_before(stage, postgresql):
    command = (stage.write(parameters={"epochs": 60, "seconds": 0.1}), "--count=2", f"--storage={postgresql}")
    killed = stage.start(*command, patches={**QUICK, **OTHER_MACHINE})
    stage.wait_for("epoch", 1)
    other = stage.start(*command, "--workers=2", patches=QUICK)
    stage.wait_for("start", 2)
    time.sleep(MISSED + 1)
    assert len(starts_of(stage, 0)) == 1
    killed.signal(signal.SIGKILL)
    killed_at = time.monotonic()
    wait_until(lambda: len(starts_of(stage, 0)) == 2, "trial 0 is taken over", MISSED + 10)
    seconds = starts_of(stage, 0)[1]["time"] - killed_at
    print(f"taken over after {seconds:.2f} s")
    assert seconds > MISSED - 0.5  # it last beat up to 0.3 s before
    assert other.wait() == 0
    assert stage.states(url=postgresql) == ["COMPLETE"] * 2
    assert stage.disorder() == []


@pytest.mark.slow
def test_a_frozen_agent_lets_go_of_what_another_has_taken_over(stage, postgresql):
    parameters = {"epochs": 5, "seconds": 1.0}
    command = (stage.write(parameters=parameters), "--count=1", f"--storage={postgresql}")
    elsewhere = {"VISION_SWEEPS_RUNS": str(stage.folder / "two")}
    frozen = stage.start(*command, patches={**QUICK, **OTHER_MACHINE}, environment=elsewhere)
    [own] = stage.wait_for("epoch", 1)
    other = stage.start(*command, patches={**QUICK, **THIS_MACHINE})
    frozen.signal(signal.SIGSTOP)
    wait_until(lambda: len(starts_of(stage, 0)) == 2, "trial 0 is taken over", MISSED + 10)
    stage.wait_for("end", 1, pid=own["pid"])  # its copy has a result to record
    frozen.signal(signal.SIGCONT)
    assert frozen.wait() == 0
    assert other.wait() == 0
    assert "trial 0: another agent has taken it over" in frozen.output
    assert "trial 0 finished" in other.output
    assert "trial 0 finished" not in frozen.output
    assert frozen.errors == other.errors == ""
    [trial] = stage.trials(url=postgresql)
    assert (trial.state.name, len(trial.intermediate_values)) == ("COMPLETE", 5)
    assert stage.processes() == []


@pytest.mark.slow
def test_an_agent_that_was_out_of_touch_ends_its_copy_at_the_next_value(stage, postgresql):
    command = (stage.write(parameters={"epochs": 2, "seconds": 6.0}), "--count=1", f"--storage={postgresql}")
    silent = {**QUICK, **OTHER_MACHINE, "sweeps.local.agent.SECONDS_BETWEEN_BEATS": 1000.0}
    elsewhere = {"VISION_SWEEPS_RUNS": str(stage.folder / "two")}
    lost = stage.start(*command, patches=silent, environment=elsewhere)
    [own] = stage.wait_for("epoch", 1)
    other = stage.start(*command, patches={**QUICK, **THIS_MACHINE})
    wait_until(lambda: len(starts_of(stage, 0)) == 2, "trial 0 is taken over", MISSED + 10)
    wait_until(lambda: "trial 0: another agent has taken it over" in lost.output, "it lets go", 10)
    wait_until(lambda: own["pid"] not in [process.pid for process in stage.processes()], "its copy ends", 5)
    for agent in (lost, other):
        agent.signal(signal.SIGINT)
        assert agent.wait() == 130
    assert lost.errors == ""


@pytest.mark.slow
def test_agents_go_on_after_the_database_server_was_away(server, stage, postgresql):
    command = (stage.write(parameters={"epochs": 70, "seconds": 0.1}), "--count=2", f"--storage={postgresql}")
    one = stage.start(*command, patches={**QUICK, **OTHER_MACHINE, "sweeps.local.agent.SECONDS_BETWEEN_BEATS": 1.5})
    stage.wait_for("epoch", 1)
    # With an idle worker that looks for orphans, and is the first to find the server again.
    two = stage.start(
        *command, "--workers=2", patches={**QUICK, **THIS_MACHINE, "sweeps.local.agent.SECONDS_BETWEEN_BEATS": 0.1}
    )
    stage.wait_for("start", 2)
    server.stop()
    try:
        time.sleep(2 * MISSED)
    finally:
        server.start()
    assert [one.wait(), two.wait()] == [0, 0], one.errors + two.errors
    assert "the storage does not answer, trying again" in one.output
    assert stage.states(url=postgresql) == ["COMPLETE"] * 2
    assert [len(trial.intermediate_values) for trial in stage.trials(url=postgresql)] == [70, 70]
    assert list(stage.starts().values()) == [1, 1]  # neither was thought dead because nobody could tell
