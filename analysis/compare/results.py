"""The results table of README.md, and the committed file of figures that it is made of.

    python -m analysis.results --update              the final runs of the sweeps in the runs folder
    python -m analysis.results --update RUN SWEEP    these, too: runs that read the test images, of any number of seeds
    python -m analysis.results --check               whether README.md says what the file says

Figures of other machines stay in the file until a sweep or a run of their name takes their place.
"""

import json
import statistics
import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from analysis.command_line import Parser, run_program
from analysis.compare.references import REFERENCES
from analysis.compare.results_table import Result, figures_of, read_results, render, replace_section, spread
from analysis.look.reproduction import command_of, told_settings
from analysis.read.runs import RunRecord, read_runs
from analysis.read.sweeps import SweepRecord, read_sweeps
from analysis.record import run_folder
from analysis.record.environment import CHECKOUT
from data.datasets import has_test_images
from data.errors import UserError
from models.core.settings import Settings

README = CHECKOUT / "README.md"
RESULTS = Path(__file__).parents[1] / "results.json"
# Settings that a row need not tell: they are the protocol's, or columns of their own.
UNTOLD = run_folder.MAY_CHANGE_ON_RESUMING | {"model", "dataset", "seed", "lr", "epochs", "patience", "test"}
UNTOLD |= {"mixed_precision", "train_fraction", "val_fraction", "fid_every", "fid_images", "extractor"}


def result_of_sweep(sweep: SweepRecord) -> Result:
    """What the final runs of a sweep's best trial came to.

    Raises:
        UserError: none has finished.
    """
    try:
        return result_of_trial(sweep.name, sweep.final["trials"][0])  # the best by validation, not by test figures
    except (KeyError, IndexError, TypeError):
        path = f"{sweep.source}/{run_folder.FINAL_RESULT}"
        raise UserError(f"{path} has no finished final run: python sweeps/final.py {sweep.name} makes them") from None


def result_of_trial(name: str, best: Mapping[str, Any]) -> Result:
    """What sweeps/final.py says of one trial's settings."""
    settings = best["settings"]
    return Result(
        name=name,
        model=settings.get("model", Settings.model),
        dataset=settings.get("dataset", Settings.dataset),
        settings={key: value for key, value in settings.items() if key not in UNTOLD},
        lr=settings.get("lr"),
        epochs=settings["epochs"],
        num_seeds=len(best["seeds"]),
        num_parameters=best["num_parameters"],
        metrics={key: rounded(figure) for key, figure in figures_of(best).items()},
        train_seconds=best["train_seconds"]["mean"],
        images_per_second=best["images_per_second"]["mean"],
        device=best["device"],
        command=of_seeds(best["command"], best["seeds"]),
    )


def result_of_runs(records: Sequence[RunRecord]) -> Result:
    """What runs with the same settings but for their seeds came to."""
    first, seeds = records[0], [record.settings["seed"] for record in records]
    summaries = [{**record.summary, **read_generation(record)} for record in records]
    told = told_settings(first.settings)
    keys = figures_of(summaries[0])
    metrics = {key: spread([summary[key] for summary in summaries if key in summary]) for key in keys}
    return Result(
        name=first.run_id,
        model=first.model,
        dataset=first.dataset,
        settings={key: value for key, value in told.items() if key not in UNTOLD},
        lr=first.settings["lr"],
        epochs=first.summary["epochs"],
        num_seeds=len(records),
        num_parameters=first.summary["num_parameters"],
        metrics={key: rounded(figure) for key, figure in metrics.items()},
        train_seconds=statistics.mean(summary["train_seconds"] for summary in summaries),
        images_per_second=statistics.mean(summary["images_per_second"] for summary in summaries),
        device=first.environment.get("device", ""),
        command=of_seeds(command_of(first.settings), seeds),
    )


def read_generation(record: RunRecord) -> dict[str, float]:
    """What analysis.look.fidelity found of a run's images."""
    return run_folder.read_json(Path(record.source) / run_folder.GENERATION)


def rounded(figure: Mapping[str, Any]) -> dict[str, float | None]:
    """Mean and deviation, without the digits that no table shows."""
    return {key: None if figure[key] is None else round(figure[key], 5) for key in ("mean", "std")}


def of_seeds(command: str, seeds: Sequence[int]) -> str:
    """The command of every seed's run, from that of the first."""
    if len(seeds) == 1:
        return command
    each = command.replace(f"--seed={seeds[0]}", "--seed=$seed")
    return f"for seed in {' '.join(map(str, seeds))}; do {each}; done"


def collect(runs_dir: Path | None, names: Sequence[str]) -> list[Result]:
    """Results in the runs folder: of the sweeps of the table's rows, and of runs and sweeps by name.

    Raises:
        UserError: there is none of that name, or one that has no figures.
    """
    records = read_runs(runs_dir).records
    sweeps = {sweep.name: sweep for sweep in read_sweeps(runs_dir).sweeps}
    known = {record.run_id: record for record in records}
    rows = {(reference.model, reference.dataset) for reference in REFERENCES}
    results = [result_of_sweep(sweeps[name]) for name in names if name in sweeps]
    for sweep in sweeps.values():
        if sweep.name in names or not sweep.final:
            continue
        try:
            result = result_of_sweep(sweep)
        except UserError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        if (result.model, result.dataset) in rows:
            results.append(result)
    alike: dict[str, list[RunRecord]] = {}
    for name in names:
        if name not in sweeps:
            record = known.get(name)
            if record is None or record.state != "finished" or not has_been_judged(record):
                raise UserError(f"{name} is no sweep and no finished run with --test=True: name one of the runs folder")
            others = {key: record.settings[key] for key in record.settings.keys() - run_folder.MAY_CHANGE_ON_RESUMING}
            alike.setdefault(json.dumps({**others, "seed": None}, sort_keys=True), []).append(record)
    return results + [result_of_runs(group) for group in alike.values()]


def has_been_judged(record: RunRecord) -> bool:
    """Whether a run read the test images, or its dataset has none."""
    settings = record.settings
    return bool(settings.get("test")) or not has_test_images(record.dataset, settings.get("data_dir", ""))


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Write the file that is to be committed."""
    text = json.dumps([asdict(result) for result in results], indent=1) + "\n"
    run_folder.replace_file(path, lambda unfinished: unfinished.write_text(text))


def update(options: Namespace) -> None:
    """Collect results, and write the file and README.md."""
    fresh = {result.name: result for result in collect(options.runs_dir, options.names)}
    known = {result.name: result for result in read_results(RESULTS)}
    results = list({**known, **fresh}.values())
    text = replace_section(README.read_text(), render(results))
    write_results(RESULTS, results)
    run_folder.replace_file(README, lambda unfinished: unfinished.write_text(text))
    print(f"{len(results)} results, of which {len(fresh)} from the runs folder: {RESULTS} and {README}")


def check(options: Namespace) -> int:
    """Say whether README.md shows the committed results; returns the exit code."""
    text = README.read_text()
    if replace_section(text, render(read_results(RESULTS))) == text:
        return 0
    print(f"README.md does not show what {RESULTS.name} says: python -m analysis.results --update", file=sys.stderr)
    return 1


def parse(arguments: Sequence[str]) -> Namespace:
    """The command line."""
    parser = Parser(prog="python -m analysis.results", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="runs and sweeps that are to be in the table, too")
    parser.add_argument("--runs_dir", type=Path, help="folder of the runs; default: $VISION_SWEEPS_RUNS, else runs")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--update", dest="work", action="store_const", const=update, help="write the file and README.md")
    what.add_argument("--check", dest="work", action="store_const", const=check, help="compare them")
    return parser.parse_args(arguments)


def work(arguments: Sequence[str]) -> int | None:
    """Do what is asked for; returns the exit code."""
    options = parse(arguments)
    return options.work(options)


def main(arguments: Sequence[str]) -> int:
    """Update or check the results, or say in one line what keeps them from it; returns the exit code."""
    return run_program("results", lambda: work(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
