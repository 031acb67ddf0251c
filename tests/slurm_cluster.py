"""A real SLURM cluster of one node on loopback, for tests: controller, node and their authentication."""

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.sweep_agents import wait_until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
ProctrackType=proctrack/linuxproc
ReturnToService=2
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmdParameters=config_overrides
SlurmdSpoolDir={folder}/spool
StateSaveLocation={folder}/state
SlurmUser=root
SlurmdUser=root
SwitchType=switch/none
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
MpiDefault=none
KillWait=2
CompleteWait=0
MinJobAge=300
MaxArraySize=100
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(number)]
    for free in sockets:
        free.bind(("127.0.0.1", 0))
    ports = [free.getsockname()[1] for free in sockets]
    for free in sockets:
        free.close()
    return ports


class Cluster:
    """A SLURM of our own; only root can start it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = socket.gethostname().partition(".")[0]
        self.configuration = folder / "slurm.conf"
        text = CONFIGURATION.format(host=self.host, folder=folder, ports=free_ports(2))
        self.configuration.write_text(text)
        self.environment = {"SLURM_CONF": str(self.configuration)}
        self.processes: list[subprocess.Popen] = []
        for name in ("spool", "state", "munge"):
            (folder / name).mkdir()
        os.chmod(folder, 0o755)

    def open(self) -> None:
        """Start it, and wait until it takes jobs."""
        self.start_munge(self.folder / "munge")
        self.start("slurmctld", "-D", "-f", str(self.configuration))
        self.start("slurmd", "-D", "-f", str(self.configuration), "-N", self.host)
        wait_until(lambda: "idle" in self.ask("sinfo", "--noheader", "--format=%t"), "the node is idle", 30)

    def start_munge(self, folder: Path) -> None:
        """Start the service by which SLURM's programs know each other."""
        owner = pwd.getpwnam("munge")
        key = folder / "key"
        key.write_bytes(os.urandom(64))
        key.chmod(0o400)
        for path in (folder, key):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={folder / name}" for option, name in files.items()]
        user = {"user": "munge", "group": "munge", "extra_groups": []}
        self.start("munged", "--foreground", f"--key-file={key}", *options, **user)
        wait_until((folder / "socket").exists, "munged listens")

    def start(self, program: str, *arguments: str, **options) -> None:
        command = [shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") or program, *arguments]
        with (self.folder / f"{program}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                start_new_session=True,
                **options,
            )
        self.processes.append(process)

    def ask(self, *command: str, environment: Mapping[str, str] = {}) -> str:
        """Return what one of SLURM's programs prints."""
        variables = {**os.environ, **self.environment, **environment}
        done = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=30)
        return done.stdout + done.stderr

    def states(self, job: str) -> list[str]:
        """The states of a job array's tasks."""
        return sorted(
            self.ask("squeue", "--noheader", "--array", "--states=all", "--format=%T", f"--jobs={job}").split()
        )

    def close(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
