"""`python -m tests.bad_inputs`: how many inputs were tried, and how many of them fell short, with a list of those."""

import argparse
import importlib
import os
import pkgutil
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # threads of a process are not there in those that are forked from it

from tests.bad_inputs.attempt import Attempt, attempt
from tests.bad_inputs.cases import Case, cases_of
from tests.bad_inputs.programs import Base, all_bases
from tests.bad_inputs.world import build_part, copy_parts

LATE = ("timm", "wandb", "sklearn.datasets", "openTSNE", "torchvision.transforms", "optuna")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bad_inputs", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn by chance; default: 0")
    parser.add_argument("--limit", type=int, help="inputs that are tried, drawn from all; default: all")
    parser.add_argument("--programs", nargs="+", default=[], help="such as train or analysis.runs; default: all")
    parser.add_argument("--kinds", nargs="+", default=[], help="of option, variable, file and field; default: all")
    parser.add_argument("--match", default="", help="try only inputs whose description has this in it")
    parser.add_argument("--root", type=Path, help="folder in which the world is made, and kept for later calls")
    parser.add_argument("--show", action="store_true", help="tell each input before it is tried")
    parser.add_argument("--keep", action="store_true", help="end at the first that falls short, and keep its world")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    bases = all_bases(options.programs)
    needs_torch = any(base.module.startswith("train") or {"looks", "sweep"} & set(base.parts) for base in bases)
    preload({base.module for base in bases}, needs_torch)
    root = Path(options.root or tempfile.mkdtemp(prefix="bad-inputs-")).resolve()
    try:
        world, template = root / "world", root / "template"
        if not options.kinds or {"file", "field"} & set(options.kinds):
            build(bases, world, template)  # the files that are there to be damaged
        draw = random.Random(options.seed)
        cases = [case for base in bases for case in cases_of(base, template, draw)]
        cases = [case for case in cases if not options.kinds or case.kind in options.kinds]
        cases = [case for case in cases if options.match in describe(case)]
        if options.limit is not None and options.limit < len(cases):
            cases = draw.sample(cases, options.limit)
        build([case.base for case in cases], world, template)
        return try_all(cases, template, world, options)
    finally:
        if not options.keep and not options.root:
            shutil.rmtree(root)


def build(bases: Sequence[Base], world: Path, template: Path) -> None:
    """Build the parts of the world that some commands need, in a folder each."""
    for part in sorted({part for base in bases for part in base.parts}):
        if not (template / part).exists():
            shutil.rmtree(world, ignore_errors=True)
            build_part(world, part)
            template.mkdir(exist_ok=True)
            world.rename(template / part)


def preload(modules: set[str], with_torch: bool) -> None:
    """Import all that the programs will need, so that the processes that are forked have it."""
    for name in (*modules, "matplotlib.pyplot"):
        importlib.import_module(name)
    sys.modules["matplotlib"].get_configdir()
    if not with_torch:
        return
    import models

    for name in [*LATE, *(f"models.{info.name}" for info in pkgutil.iter_modules(models.__path__))]:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)


def try_all(cases: Sequence[Case], template: Path, world: Path, options: argparse.Namespace) -> int:
    """Try inputs one by one, print what came of them, and return the exit code."""
    tried: Counter[tuple[str, str]] = Counter()
    short: Counter[tuple[str, str]] = Counter()
    started = time.monotonic()
    for i, case in enumerate(cases):
        if options.show:
            print(f"{i}: {describe(case)}", flush=True)
        faults = try_one(case, template, world)
        tried[case.base.module, case.kind] += 1
        if faults:
            short[case.base.module, case.kind] += 1
            print(f"{describe(case)}\n    " + "\n    ".join(map(ascii, faults)), flush=True)
            if options.keep:
                break
        if i % 100 == 99:
            print(f"{i + 1} of {len(cases)} tried, {short.total()} fell short", file=sys.stderr, flush=True)
    for key in sorted(tried):
        print(f"{' '.join(key):<40}{tried[key]:>6} tried{short[key]:>6} fell short")
    seconds = time.monotonic() - started
    print(f"{tried.total()} inputs tried, {short.total()} fell short ({seconds:.0f} s)")
    return int(bool(short))


def try_one(case: Case, template: Path, world: Path) -> list[str]:
    """Try an input in a fresh world; return what is wrong with what the program did."""
    copy_parts(template, case.base.parts, world)
    if case.damage:
        case.damage(world / case.file)
    words = [word.replace("{w}", str(world)) for word in case.words]
    told = {**case.base.variables, **case.variables}
    variables = {key: value.replace("{w}", str(world)) for key, value in told.items()}
    base = case.base
    return attempt(
        Attempt(
            base.module,
            words,
            world,
            case.writes,
            base.verdict,
            base.asked_to_end,
            case.begun,
            variables,
            base.prepare,
            case.names_outside,
        )
    )


def describe(case: Case) -> str:
    """Return an input in one line."""
    words = " ".join(word if len(word) < 100 else f"{word[:60]}...({len(word)})" for word in case.words)
    return f"{case.base.module} [{case.kind}] {case.what} | {words}".encode("unicode_escape").decode()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
