"""The programs: for each some commands that work in a world, what they read there, and where they may write."""

import argparse
import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from models.core.settings import Settings, kinds
from models.registry import MODELS
from tests.bad_inputs.values import BOOLEANS, DATES, NUMBERS, PLACES, TEXTS
from tests.bad_inputs.world import FROZEN, SMALL
from tests.test_frozen import parser_of

NEW_RUN = (r"runs/[a-z0-9]{8}(/.*)?", r"here/(.*)", r"cache/.*", r"odd/.*/[a-z0-9]{8}(/.*)?")
OF_LIBRARIES = (r"home/\.config(/.*)?", r"tmp/torchinductor_.*", r"tmp/wandb-.*")  # that another process loads
CACHES = (r"cache(/.*)?", r".*\.lock", *OF_LIBRARIES)
RESUMED = (r"runs/half/.*", *CACHES)
SWEPT = (r"runs/sweeps/.*", r"journal(/.*)?", *CACHES)
DIVERGED = "diverged|not finite|is nan|no memory"
TRAINS = r"^\S+: .* train / "
# Options with which there may be work for years.
LASTING = ("--num", "--num_images", "--rounds", "--batch_sizes", "--points", "--eigenvalues")
TRAINED_WITH = ("zero", "one", "fraction", "tiny", "yes")
ODD = (r"odd(/.*)?", r"home(/.*)?", r"here(/.*)?", r"out(/.*)?")  # an option can name these
LOOKS = ("attention", "latent", "samples", "generation", "classification_score", "reproduce")
LOOKS = (*LOOKS, "benchmark", "feature_benchmark", "landscape", "predict", "evaluate", "export")
OUTSIDE = ("dots", "root")  # values that name what is outside of a world


class Base(NamedTuple):
    """A command that works.

    Attributes:
        module: of the program.
        words: of the command line; {w} is the world.
        reads: files in the world that the program reads.
        writes: patterns of files that it may change.
        settings: names of the settings that are options of it; None for those of its parser.
        parts: of the world.
        num_values: odd values that each field of a file gets.
        verdict, asked_to_end, begun, variables, prepare: as of an Attempt.
    """

    module: str
    words: Sequence[str]
    reads: Sequence[str] = ()
    writes: Sequence[str] = CACHES
    settings: tuple[str, Sequence[str]] | None = None
    options: bool = True
    parts: Sequence[str] = ("runs",)
    num_values: int = 3
    verdict: str = ""
    asked_to_end: float = 0.0
    begun: str | None = None
    variables: dict[str, str] = {}
    prepare: Callable[[Path], object] | None = None


def own_results(world: Path) -> None:
    """Let a program take the world's results for those of the checkout."""
    from analysis.compare import references, results

    results.RESULTS, results.PAGE = world / "results.json", world / "RESULTS.md"
    references.FILE = world / "references.yaml"


def without_git(world: Path) -> None:
    """Spare each run the time in which git looks for changes of the checkout."""
    from analysis.record import environment

    environment.git = lambda *arguments: ""  # type: ignore[assignment]


def run_files(name: str, *names: str) -> list[str]:
    return [f"runs/{name}/{file}" for file in names or ("settings.json", "environment.json", "summary.json")]


def train_bases() -> Iterator[Base]:
    from tests.test_train import QUICK

    def base(words: Sequence[str], reads: Sequence[str] = (), writes: Sequence[str] = NEW_RUN, **more: Any) -> Base:
        more = {"options": False, "parts": ("data",), "num_values": 2, "prepare": without_git, **more}
        return Base("train", words, reads, (*writes, *CACHES), verdict=DIVERGED, asked_to_end=5.0, begun=TRAINS, **more)

    common = [field.name for field in dataclasses.fields(Settings) if field.name != "model"]
    for model in MODELS:
        own = [key for key in kinds(MODELS[model].settings_class) if key not in common]
        if model in ("resnet18_pretrained", "vit_b16_finetune", "vit_b16_frozen", "cvae_head"):
            continue  # settings of another model with other defaults
        small = [f"--model={model}", *SMALL, "--test=False", *QUICK.get(model, ["--width=4"])]
        small = [word for word in small if model != "logistic_probe" or not word.startswith("--batch_size")]
        yield base(small, settings=(model, [*common, *own] if model == "mlp" else own), options=True)
    half = ["--tracking=off", "--run_id=half"]
    files = ["settings.json", "environment.json", "metrics.jsonl", "checkpoint.pt", "best.pt"]
    yield base(half, run_files("half", *files), RESUMED, parts=("looks",))
    yield base(["--tracking=off", "--resume"], run_files("half", *files[:2]), RESUMED, parts=("looks",), num_values=1)
    yield base(["--run_id=mlp"], run_files("mlp"), (r"runs/mlp/.*",), parts=("looks",))
    mlp = ["--model=mlp", "--width=8", *SMALL]
    tested = ["--test=False", "--train_fraction=1.0", "--batch_size=4"]
    pictures = ["data/pictures/cat/0.png", "data/pictures/dog/1.png"]
    yield base([*mlp, "--dataset=folder", "--data_dir={w}/data/pictures", *tested], pictures)
    arrays = ["data/arrays/train.npz", "data/arrays/test.npz"]
    yield base([*mlp, "--dataset=arrays", "--data_dir={w}/data/arrays", *tested], arrays)
    cifar = [f"data/cifar/cifar-10-batches-bin/{name}.bin" for name in ("data_batch_1", "test_batch")]
    yield base([*mlp, "--dataset=cifar10", "--data_dir={w}/data/cifar"], cifar)
    frozen = ["--model=frozen", *FROZEN]
    yield base(frozen, ["data/weights/test_efficientnet.safetensors"])
    yield base([*frozen, "--weights={w}/data/weights/own.pt"], ["data/weights/own.pt"], num_values=1)
    cached = [*frozen, "--pretrained=False", "--feature_dir={w}/features"]
    features = ["features/*/images", "features/*/features", "features/*/network.json"]
    yield base(cached, features, (*NEW_RUN, "features/.*"), parts=("looks",))
    values = {"WANDB_SWEEP_PARAM_PATH": "{w}/values.yaml"}
    yield base(mlp, ["values.yaml"], variables=values, parts=("sweep",), num_values=8)


def sweep_bases() -> Iterator[Base]:
    ends = {"verdict": "no trial logged|trials failed|the storage does not answer|no run has finished|exit code"}
    ends |= {"asked_to_end": 6.0, "parts": ("sweep",)}
    yield Base("sweeps.agent", ["{w}/sweep.yaml", "--name=new"], ["sweep.yaml"], SWEPT, num_values=12, **ends)
    yield Base("sweeps.slurm", ["{w}/sweep.yaml", "--dry_run"], ["sweep.yaml"], parts=("sweep",), num_values=1)
    going_on, study = ["{w}/sweep.yaml", "--count=3"], "runs/sweeps/lr/study.db"
    yield Base("sweeps.agent", going_on, [study, "runs/sweeps/lr/sweep.yaml"], SWEPT, options=False, **ends)
    final = ["runs/sweeps/lr/final-*/summary.json", "runs/sweeps/lr/final-*/settings.json"]
    yield Base("sweeps.final", ["lr", "--seeds=1"], [study, "runs/sweeps/lr/sweep.yaml", *final], SWEPT, **ends)


def analysis_bases() -> Iterator[Base]:
    runs = [*run_files("a"), "runs/a/metrics.jsonl", *run_files("sweeps/beta/000-run"), "runs/sweeps/beta/sweep.yaml"]
    metrics, final = "runs/sweeps/beta/000-run/metrics.jsonl", "runs/sweeps/beta/final.json"
    yield Base("analysis.runs", [], runs)
    yield Base("analysis.runs", ["--sweep=beta", "--metric=val/loss"], [*runs, metrics], options=False, num_values=1)
    study = "runs/sweeps/lr/study.db"
    yield Base("analysis.runs", ["--sweeps"], ["runs/sweeps/lr/sweep.yaml", study], options=False, parts=("sweep",))
    html = (r"runs/report.html", r"runs/sweeps/[^/]+/report.html", *CACHES)
    yield Base("analysis.report", [], [*runs, metrics, "runs/sweeps/beta/000-run/panels/samples.png"], html)
    beta = [*run_files("sweeps/beta/000-run"), metrics, "runs/sweeps/beta/000-run/panels/samples.png"]
    yield Base("analysis.beta", ["beta"], beta, (r"runs/sweeps/beta/beta.png", *CACHES), num_values=1)
    own = {"prepare": own_results, "writes": (r"results.json", r"RESULTS.md", *CACHES)}
    files = ["results.json", "references.yaml", final, *run_files("a")]
    yield Base("analysis.results", ["a", "--update"], files, **own)
    files = ["results.json", "references.yaml", "RESULTS.md"]
    yield Base("analysis.results", ["--check"], files, options=False, verdict="does not show", **own)


def look_bases() -> Iterator[Base]:
    looks: dict[str, Any] = {"parts": ("looks",), "num_values": 1}
    weights = lambda name: [*run_files(name, "settings.json", "environment.json"), f"runs/{name}/best.pt"]  # noqa: E731
    panels = (r"runs/vit/panels/.*", *CACHES)
    yield Base("analysis.attention", ["vit", "--images", "0"], weights("vit"), panels, **looks)
    latent = ["vae", "--num_images=30", "--out={w}/out/latent"]
    yield Base("analysis.latent", latent, weights("vae"), (r"out/.*", *CACHES), **looks)
    landscape = ["mlp", "--images=4", "--points=2", "--eigenvalues=1", "--out={w}/out/landscape"]
    yield Base("analysis.landscape", landscape, weights("mlp"), (r"out/.*", *CACHES), **looks)
    samples = ["cvae", "--num=3", "--out={w}/out/samples"]
    yield Base("analysis.samples", samples, weights("cvae"), (r"out/.*", *CACHES), **looks)
    generation = ["vae", "--num=8", "--extractor", "test_efficientnet"]
    kept = (r"runs/vae/generation.json", *CACHES)
    yield Base("analysis.generation", generation, [*weights("vae")], kept, **{**looks, "parts": ("looks", "data")})
    score = ["cvae", "--num=20", "--model=mlp", "--width=4", "--epochs=1", "--batch_size=8"]
    kept = (r"runs/cvae/generation.json", *CACHES)
    yield Base("analysis.classification_score", score, (), kept, **looks)
    used = [*weights("mlp"), "runs/mlp/data.json", "runs/mlp/calibration.json"]
    with_data = {**looks, "parts": ("looks", "data")}
    predicted = ["mlp", "{w}/data/pictures", "--temperature=val", "--out={w}/out/p.csv", "--sheet={w}/out/p.png"]
    yield Base("analysis.predict", predicted, [*used, "data/pictures/cat/0.png"], (r"out/.*", *CACHES), **with_data)
    evaluated = ["vae", "--data_dir={w}/data/pictures", "--dataset=folder"]
    yield Base("analysis.evaluate", evaluated, weights("vae"), (r"runs/vae/evaluations.json", *CACHES), **with_data)
    yield Base("analysis.export", ["mlp", "--to=pt2"], used[:-1], (r"runs/mlp/export(/.*)?", *CACHES), **looks)
    reproduced = {**looks, "num_values": 4}
    yield Base("analysis.reproduce", ["mlp"], run_files("mlp"), **reproduced)
    yield Base("analysis.benchmark", ["--models=mlp", "--rounds=1"], **looks)
    features = ["--arch=test_efficientnet", "--input_size=32", "--num_images=2", "--rounds=1", "--batch_sizes=1"]
    yield Base("analysis.feature_benchmark", features, **looks)


GROUPS: dict[tuple[str, ...], Callable[[], Iterator[Base]]] = {
    ("train",): train_bases,
    ("sweeps.agent", "sweeps.final", "sweeps.slurm"): sweep_bases,
    tuple(f"analysis.{name}" for name in ("runs", "report", "beta", "results")): analysis_bases,
    tuple(f"analysis.{name}" for name in LOOKS): look_bases,
}


def all_bases(programs: Sequence[str]) -> list[Base]:
    """Return all commands of some programs that are tried, or of all where none is named."""
    groups = [make for names, make in GROUPS.items() if not programs or set(programs) & set(names)]
    return [base for make in groups for base in make() if not programs or base.module in programs]


def options_of(base: Base, draw: random.Random) -> Iterator[tuple[str, list[str]]]:
    """Yield a command with one odd option, and what is odd of it."""
    if not base.options:
        return
    if base.settings:
        model, names = base.settings
        known = kinds(MODELS[model].settings_class)
        for name in names:
            kind = {int: "number", float: "number", bool: "flag", str: "text"}[known[name].type]
            for key, value in values_of("choice" if isinstance(known[name].allowed, tuple) else kind, draw):
                # Of the other models, which are slower, only what is likely to be taken is trained with.
                is_built_alone = model != "mlp" and key not in TRAINED_WITH
                dry = ["--dry_run"] if is_built_alone else []
                yield f"--{name} {key}", [*base.words, *dry, f"--{name}={value}"]
        return
    for action in parser_of(base.module)._actions:
        if isinstance(action, argparse._HelpAction) or action.dest == "on_end":  # whose value is run, by a shell
            continue
        name = action.option_strings[0] if action.option_strings else action.dest
        for key, value in values_of(kind_of(action), draw):
            if not action.option_strings:
                command = [value, *base.words[1:]]
            elif action.nargs == "+":
                command = [*base.words, name, value]
            else:
                command = [*base.words, f"{name}={value}"]
            yield f"{name} {key}", command


def kind_of(action: argparse.Action) -> str:
    """Return the kind of values that an option takes."""
    if action.nargs == 0:
        return "flag"
    if action.choices:
        return "choice"
    name = getattr(action.type, "__name__", "")
    numbers = dict.fromkeys(("int", "float", "whole_number", "count", "amount", "seed"), "number")
    return {**numbers, "moment": "date"}.get(name, "text")


def values_of(kind: str, draw: random.Random) -> Iterator[tuple[str, str]]:
    """Yield odd values for an option of a kind: all of that kind, and some of the others."""
    places = {f"at {name[:12]!r}": f"{{w}}/odd/{name}" for name in PLACES}
    own = {
        "number": NUMBERS,
        "date": {**DATES, **NUMBERS},
        "choice": TEXTS,
        "flag": {**BOOLEANS, "empty": "", "long": TEXTS["long"], "escape": TEXTS["escape"]},
        "text": {**TEXTS, **places},
    }[kind]
    others = {**TEXTS, **NUMBERS, **DATES}
    yield from own.items()
    yield from ((key, others[key]) for key in draw.sample(list(others), 4) if key not in own)
