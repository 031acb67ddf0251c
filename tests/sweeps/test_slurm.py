"""Agents on a SLURM cluster: a real one, of one node on loopback."""

import math
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pytest

from sweeps import slurm
from tests.slurm_cluster import PROGRAMS, Cluster
from tests.sweep_agents import ROOT, Stage, wait_until
from tests.wandb_site import server, site  # noqa: F401

pytestmark = pytest.mark.waits(together=True)

SEARCH_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"


@pytest.fixture(scope="module")
def cluster():
    missing = [name for name in PROGRAMS if not shutil.which(name, path=SEARCH_PATH)]
    if missing or os.getuid():
        reason = f"SLURM is not installed: {missing} not found" if missing else "only root can start SLURM"
        if os.environ.get("REQUIRE_SLURM"):
            pytest.fail(reason + ", and REQUIRE_SLURM is set")
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:  # pytest's own lets nobody else in, such as munge
        cluster = Cluster(Path(folder))
        try:
            cluster.open()
            yield cluster
        finally:
            cluster.close()


@pytest.fixture
def stage(tmp_path, monkeypatch):
    stage = Stage(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, value in stage.environment.items():
        monkeypatch.setenv(name, value)
    yield stage
    stage.close()


def submit(cluster, stage, monkeypatch, capsys, *options):
    """Submit the agents of a sweep; return the number of the job."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    storage = f"--storage=sqlite:///{stage.folder}/study.db"
    assert slurm.main(["sweep.yaml", storage, *options]) == 0, capsys.readouterr().err
    return re.match(r"job (\d+): ", capsys.readouterr().out)[1]


def wait_for_the_end(cluster, job, state="COMPLETED", seconds=60.0):
    """Wait until all tasks of a job have ended as they should; those that wait to be run again need not wait long."""

    since = time.monotonic()  # its tasks have been pending

    def has_ended():
        nonlocal since
        states = set(cluster.states(job))
        if "PENDING" not in states:
            since = time.monotonic()
        elif time.monotonic() > since + 3:  # SLURM takes nobody back within the second in which it let him go
            cluster.ask("scontrol", "update", f"JobId={job}", "StartTime=now")
            since = time.monotonic()
        return states == {state}

    wait_until(has_ended, f"job {job} is {state}", seconds)


def assert_all_is_well(stage, num_trials):
    assert stage.states(url=f"sqlite:///{stage.folder}/study.db") == ["COMPLETE"] * num_trials
    assert stage.disorder() == []
    assert stage.processes() == []


@pytest.mark.slow
def test_before_the_time_limit_the_trials_are_saved_and_the_task_queued_again(cluster, stage, monkeypatch, capsys):
    # SLURM sends the signal half a minute too early: with this grace, 20 to 50 seconds after the start.
    stage.write(parameters={"epochs": 40, "seconds": 0.8})
    job = submit(cluster, stage, monkeypatch, capsys, "--time=1", "--grace=10", "--", "--count=1")
    wait_for_the_end(cluster, job, seconds=240)
    assert_all_is_well(stage, 1)
    assert re.search(r"Restarts=[1-9]", cluster.ask("scontrol", "show", "job", job))
    assert len(stage.journal("epoch")) <= 40 + len(stage.journal("start")) - 1


@pytest.mark.slow
def test_the_agents_of_an_array_share_a_sweep_and_after_a_cancellation_the_next_array_goes_on(
    cluster, stage, monkeypatch, capsys
):
    stage.write(parameters={"epochs": 6, "seconds": 0.3})
    job = submit(cluster, stage, monkeypatch, capsys, "--nodes=2", "--", "--count=3")
    stage.wait_for("epoch", 4)
    cluster.ask("scancel", job)
    wait_for_the_end(cluster, job, "CANCELLED")
    stage.wait_for_no_process(10)
    job = submit(cluster, stage, monkeypatch, capsys, "--nodes=2", "--", "--count=3")
    wait_for_the_end(cluster, job)
    assert_all_is_well(stage, 3)
    logs = sorted((stage.sweep() / "slurm").glob("*.log"))
    assert [log.name for log in logs] == ["1.log", "2.log"]
    assert all("trial" in log.read_text() for log in logs)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["preempted", "node down"])
def test_a_task_that_loses_its_place_goes_on_when_it_has_one_again(cluster, stage, monkeypatch, capsys, how):
    stage.write(parameters={"epochs": 6, "seconds": 0.3})
    job = submit(cluster, stage, monkeypatch, capsys, "--", "--count=2")
    stage.wait_for("epoch", 2)
    if how == "preempted":
        cluster.ask("scontrol", "requeue", job)
    else:
        cluster.ask("scontrol", "update", f"nodename={cluster.host}", "state=down", "reason=test")
        stage.wait_for_no_process(20)
        cluster.ask("scontrol", "update", f"nodename={cluster.host}", "state=resume")
    wait_for_the_end(cluster, job)
    assert_all_is_well(stage, 2)


@pytest.mark.slow
def test_a_node_that_is_drained_ends_its_trials_and_gets_no_more(cluster, stage, monkeypatch, capsys):
    stage.write(parameters={"epochs": 2, "seconds": 0.2})
    job = submit(cluster, stage, monkeypatch, capsys, "--", "--count=2")
    stage.wait_for("epoch", 1)
    cluster.ask("scontrol", "update", f"nodename={cluster.host}", "state=drain", "reason=test")
    try:
        wait_for_the_end(cluster, job)
        later = submit(cluster, stage, monkeypatch, capsys, "--", "--count=3")
        assert cluster.states(later) == ["PENDING"]
    finally:
        cluster.ask("scontrol", "update", f"nodename={cluster.host}", "state=resume")
    wait_for_the_end(cluster, later)
    assert_all_is_well(stage, 3)


@pytest.mark.slow
def test_an_agent_of_wandb_gives_its_trial_back_before_the_time_limit_and_goes_on_with_it(
    cluster, stage, server, site, monkeypatch, capsys
):
    for name, value in {**cluster.environment, **site.environment}.items():
        monkeypatch.setenv(name, value)
    assert slurm.main([f"--sweep={site.sweep([{'epochs': 120}])}"]) == 0, capsys.readouterr().err
    job = re.match(r"job (\d+): ", capsys.readouterr().out)[1]
    site.wait_for_epoch("trial0", 3)
    cluster.ask("scancel", "--batch", "--signal=USR1", f"{job}_1")  # as SLURM does it before the limit
    wait_until(lambda: server.runs["trial0"].num_preempted == 1, "W&B hears of it")
    wait_for_the_end(cluster, job, seconds=120)
    run = server.runs["trial0"]
    assert run.state == "finished"
    assert [row["epoch"] for row in run.history] == [*range(1, 121), 120]


def test_the_script_of_an_agent_of_wandb(stage, capsys):
    assert slurm.main(["--sweep=me/cats/abc123", "--nodes=3", "--gpus=2", "--dry_run", "--", "--count", "5"]) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --array=1-3\n" in script
    assert "#SBATCH --gpus-per-node=2\n" in script
    assert "-m wandb agent --forward-signals --count 5 me/cats/abc123 &\n" in script
    assert not (stage.runs_dir / "sweeps").exists()


def test_a_task_at_its_limit_queues_itself_again_and_no_other_of_its_array(stage, capsys):
    assert slurm.main(["--sweep=me/cats/abc123", "--nodes=3", "--dry_run"]) == 0
    script = capsys.readouterr().out  # the number of a job's last task is also that of the whole array
    assert 'scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"' in script
    assert f'PATH={Path(sys.executable).parent}:"$PATH"' in script


@pytest.mark.parametrize(
    ("options", "command", "devices"),
    [
        (["--gpus=2"], None, "--devices 0,1"),
        (["--gpus=1"], None, ""),
        (["--gpus=2", "--", "--workers=4"], None, ""),
        (["--gpus=2", "--", "--devices", "0+1"], None, "--devices 0+1"),
        (["--gpus=2"], ["accelerate", "launch", "${program}", "${args}"], ""),
    ],
)
def test_every_gpu_of_a_node_has_a_run_unless_told_otherwise(stage, capsys, options, command, devices):
    file = stage.write(**({"command": command} if command else {}))
    assert slurm.main([str(file), "--dry_run", *options]) == 0
    [agent] = [line for line in capsys.readouterr().out.splitlines() if "sweeps/agent.py" in line]
    assert agent.partition("--devices")[2].split()[:1] == devices.split()[1:2]


LIMITS = {"2": 120, "1:30": 90, "4:00:00": 14400, "1-0": 86400, "1-2:03": 93780, "1-02:03:04": 93784}


@pytest.mark.parametrize(("limit", "seconds"), {**LIMITS, "0": math.inf, "UNLIMITED": math.inf, "x": math.inf}.items())
def test_time_limits_are_read_as_sbatch_reads_them(limit, seconds):
    assert slurm.seconds_of(limit) == seconds


WRONG = {
    "no sweep": ([], "name the sweep"),
    "two sweeps": (["sweep.yaml", "--sweep=a/b/c"], "neither a sweep file"),
    "a sweep of W&B without its project": (["--sweep=abc123"], "give ENTITY/PROJECT/ID"),
    "agents without a common database": (["sweep.yaml", "--nodes=2"], "--nodes=2 needs a database"),
    "a password": (["sweep.yaml", "--storage=postgresql://me:secret@host/db"], "set PGPASSWORD instead"),
    "a quote that does not close": (["sweep.yaml", "--sbatch='--x"], "--sbatch="),
    "a line break": (["sweep.yaml", "--time=1\nrm"], "control character"),
    "a limit that is up at once": (["sweep.yaml", "--time=2"], "--time=2 leaves no time to train"),
    "fewer GPUs than none": (["sweep.yaml", "--gpus=-1"], "--gpus: -1 is not"),
    "a setting that is none": (["wrong.yaml"], "did you mean width?"),
    "a machine without SLURM": (["sweep.yaml"], "sbatch is not on this machine's PATH"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_submitted_is_told_in_one_line(stage, monkeypatch, capsys, arguments, message):
    stage.write()
    stage.write("wrong", program=str(ROOT / "train.py"), parameters={"model": "mlp", "widht": 3})
    monkeypatch.setenv("PATH", "")
    assert slurm.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "secret" not in error
    assert error.count("\n") == 1
