"""Queue the agents of a sweep on a SLURM cluster: python sweeps/slurm.py sweeps/cnn_lr.yaml --nodes 4 --gpus 2.

Every task of the job array is one agent, on one node, with the GPUs that it is given. Shortly before its time is up,
the agent has its trials save their state, and the task goes back to the queue; a task that is preempted, or whose node
fails, goes back there by itself. Whichever agent is free then goes on with these trials. The script that is submitted
and the agents' logs lie in `slurm/` in the sweep's folder, which all nodes must see, as they must see the checkout.
"""

import math
import shlex
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from string import Template

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis.command_line import Parser, count, run_program, whole_number
from analysis.read.storage import HIDDEN, masked
from analysis.read.sweeps import sweep_folder
from data.errors import UserError
from data.paths import CHECKOUT, default_runs_dir
from data.visible import say
from sweeps.local.contract import checked_sweep
from sweeps.local.sweep_file import COMMAND, name_of

SCRIPT = Template("""\
#!/bin/bash
#SBATCH --job-name=$name
#SBATCH --array=1-$nodes
#SBATCH --nodes=1 --ntasks=1
#SBATCH --time=$time
#SBATCH --signal=B:USR1@$grace
#SBATCH --requeue --open-mode=append
#SBATCH --output=$log
$options
# USR1 comes shortly before the time limit, TERM from scancel and from a preemption. The agent pauses at either.
trap 'limit=1; told=1; kill -TERM $$agent 2>/dev/null' USR1
trap 'told=1; kill -TERM $$agent 2>/dev/null' TERM
cd $checkout || exit 1
export VISION_SWEEPS_RUNS=$runs_dir PATH=$programs:"$$PATH"
$command &
agent=$$!
while told=; wait $$agent; code=$$?; [ "$$told" ]; do :; done
if [ "$$limit" ] && [ $$code $ended ]; then  # else the sweep has ended
    scontrol requeue "$${SLURM_ARRAY_JOB_ID}_$$SLURM_ARRAY_TASK_ID" && sleep 60  # until SLURM ends this script
fi
exit $$code
""")


def parse(arguments: Sequence[str]) -> Namespace:
    """Return the options of the command line."""
    parser = Parser(
        prog="python sweeps/slurm.py",
        description=__doc__,
        usage="%(prog)s [-h] (FILE | --sweep ENTITY/PROJECT/ID) [OPTION ...] [-- AGENT'S OPTION ...]",
        epilog="What comes after -- is for the agents: options of agent.py, as -- --count 100, or of `wandb agent`.",
    )
    parser.add_argument("file", type=Path, nargs="?", help="sweep file, for agents of our own")
    parser.add_argument(
        "--sweep", metavar="ENTITY/PROJECT/ID", help="sweep on W&B, for agents of W&B; in place of FILE"
    )
    parser.add_argument("--nodes", type=whole_number, default=1, help="agents, each on one node; default: 1")
    parser.add_argument("--gpus", type=count, default=0, help="GPUs of each agent; default: none")
    parser.add_argument("--time", default="4:00:00", help="time limit of each task, as for sbatch; default: 4:00:00")
    parser.add_argument(
        "--grace", type=whole_number, default=120, help="seconds before the limit at which trials save; default: 120"
    )
    parser.add_argument("--storage", help="database that the agents share; more than one agent needs it, see agent.py")
    parser.add_argument("--sbatch", default="", help="more options of sbatch: --sbatch='--partition=gpu'")
    parser.add_argument("--dry_run", action="store_true", help="print the script, and submit nothing")
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    return parser.parse_args(arguments[:cut], Namespace(agent=list(arguments[cut + 1 :])))


def submit(options: Namespace) -> None:
    """Write the script of the job array and submit it."""
    check_grace(options)
    name, command = agent_of_wandb(options) if options.sweep else own_agent(options)
    folder = sweep_folder(name).absolute() / "slurm"
    script = script_of(options, name, command, folder)
    if options.dry_run:
        print(script, end="")
        return
    if shutil.which("sbatch") is None:
        raise UserError("sbatch is not on this machine's PATH: go to a node that submits jobs, or give --dry_run")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "job.sh"
    path.write_text(script, encoding="utf-8")
    done = subprocess.run(["sbatch", "--parsable", str(path)], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"sbatch refused {path}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    job = done.stdout.strip().partition(";")[0]
    say(f"job {job}: {options.nodes} agents of {name}; their logs: {folder}/*.log; to end them: scancel {job}")


def own_agent(options: Namespace) -> tuple[str, list[str]]:
    """Return the name of the sweep and the command of an agent of our own.

    Raises:
        UserError: the sweep file has a fault, or the agents could not share the sweep.
    """
    if options.file is None:
        raise UserError("name the sweep: a file, or --sweep ENTITY/PROJECT/ID for one on W&B")
    sweep = checked_sweep(options.file)
    words = [sys.executable, "sweeps/agent.py", str(options.file.resolve()), *options.agent]
    if options.storage:
        if HIDDEN in masked(options.storage):
            raise UserError("--storage holds a password, which the script would show: set PGPASSWORD instead")
        words += ["--storage", options.storage]
    elif options.nodes > 1:
        raise UserError(
            f"--nodes={options.nodes} needs a database that the nodes share: "
            "give --storage postgresql+psycopg://USER@HOST/DATABASE, or --sweep for a sweep on W&B"
        )
    parser = Parser(add_help=False)
    for option in ("--name", "--workers", "--devices"):
        parser.add_argument(option)
    told, _ = parser.parse_known_args(options.agent)
    if options.gpus > 1 and sweep.command == COMMAND and not (told.workers or told.devices):
        words += ["--devices", ",".join(map(str, range(options.gpus)))]  # else there is one run, on one of them
    return name_of(sweep, options.file, told.name), words


def agent_of_wandb(options: Namespace) -> tuple[str, list[str]]:
    """Return the id of the sweep and the command of an agent of W&B.

    Raises:
        UserError: the sweep is not named as W&B names it, or a sweep file is named as well.
    """
    parts = options.sweep.split("/")
    if options.file or options.storage or len(parts) != 3 or not all(parts):
        raise UserError(f"--sweep={options.sweep}: give ENTITY/PROJECT/ID, and neither a sweep file nor --storage")
    words = ["agent", "--forward-signals", *options.agent, options.sweep]  # it waits for its run to save its state
    return parts[-1], [sys.executable, "-m", "wandb", *words]


def seconds_of(limit: str) -> float:
    """Return the seconds of a time limit as sbatch takes it, such as 90, 4:00:00 or 1-12; infinity for other words.

    sbatch refuses the others itself, or takes them for no limit.
    """
    days, dash, clock = limit.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in [days or "0", *parts]) or len(parts) > 3:
        return math.inf
    units = (3600, 60, 1) if dash or len(parts) == 3 else (60, 1)  # without days, a lone number is one of minutes
    seconds = sum(int(part) * unit for part, unit in zip(parts, units, strict=False))
    return 86400 * int(days or 0) + seconds or math.inf


def check_grace(options: Namespace) -> None:
    """Refuse a time in which no trial gets on: its tasks would be told to save at once, and queued again for ever.

    Raises:
        UserError: the agents would be told of the limit as soon as they start.
    """
    if seconds_of(options.time) <= options.grace:
        raise UserError(
            f"--time={options.time} leaves no time to train, as trials save {options.grace} seconds before: "
            "give more, or less --grace"
        )


def script_of(options: Namespace, name: str, command: Sequence[str], folder: Path) -> str:
    """Return the script that sbatch takes.

    Raises:
        UserError: an option of sbatch that holds a line break, or quotes that do not close.
    """
    try:
        extra = shlex.split(options.sbatch)
    except ValueError as error:
        raise UserError(f"--sbatch={options.sbatch}: {error}") from None
    if options.gpus:
        extra.append(f"--gpus-per-node={options.gpus}")
    told = {"--sbatch": options.sbatch, "--time": options.time, "the sweep's name": name}
    for what, value in told.items():
        if not value.isprintable():
            raise UserError(f"{what} holds a line break or a control character: leave it out")
    return SCRIPT.substitute(
        name=shlex.quote(name),
        nodes=options.nodes,
        time=shlex.quote(options.time),
        grace=options.grace,
        log=shlex.quote(f"{folder}/%a.log"),
        options="".join(f"#SBATCH {shlex.quote(word)}\n" for word in extra),
        checkout=shlex.quote(str(CHECKOUT)),
        runs_dir=shlex.quote(str(default_runs_dir().absolute())),
        programs=shlex.quote(str(Path(sys.executable).parent)),  # agents of W&B start "python", whichever that is
        command=shlex.join(command),
        ended="-ge 0" if options.sweep else "-ne 0",  # an agent of W&B does not say whether its sweep has ended
    )


def main(arguments: Sequence[str]) -> int:
    """Queue the agents; return the exit code."""
    return run_program("slurm.py", lambda: submit(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
