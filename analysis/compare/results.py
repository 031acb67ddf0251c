"""Results out of the runs folder, in the committed file results.json, and out of that in RESULTS.md."""

import json
import shlex
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from analysis.compare.comparability import by_images
from analysis.compare.references import recipes, references
from analysis.compare.results_table import Result, read_results, render
from analysis.read.figures import figures_of, spread
from analysis.read.recipe import command_of, flags, model_and_dataset, recipe_of, told_settings
from analysis.read.records import RunRecord
from analysis.read.runs import generation_scores, read_runs
from analysis.read.sweeps import SweepRecord, read_sweeps
from data.datasets import has_test_images
from data.errors import UserError
from data.files import replace_file
from data.metrics import is_finite
from data.visible import listed, visible, warn

RESULTS = Path(__file__).parents[1] / "results.json"
PAGE = Path(__file__).parents[1] / "RESULTS.md"
MOST_EPOCHS = 5  # numbers of them that a note tells, where the seeds of a row had different ones
# Settings that a row of the table need not name: those of the protocol, and those with a column of their own.
UNNAMED = {"model", "dataset", "seed", "lr", "epochs", "patience", "test", "mixed_precision", "train_fraction"}
UNNAMED |= {"val_fraction", "fid_every", "fid_images", "extractor", "channels_last", "compile"}


def result_of_sweep(sweep: SweepRecord) -> Result:
    """Return the result of the final runs with the settings of a sweep's best trial.

    Raises:
        UserError: no final run has finished.
    """
    try:
        return presentable(result_of_trial(sweep.name, sweep.final["trials"][0]))  # the best on validation images
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):
        path = f"{sweep.source}/final.json"
        raise UserError(f"{path} has no finished final run: python sweeps/final.py {sweep.name} makes them") from None


def presentable(result: Result) -> Result:
    """Return a result whose parts can all be shown; else raise TypeError or ValueError."""
    render([result]).encode()
    return result


def result_of_trial(name: str, best: Mapping[str, Any]) -> Result:
    """Return the result of the final runs with one trial's settings.

    Args:
        name: name of the sweep.
        best: what sweeps/final.py has written of the trial.
    """
    settings = best["settings"]
    model, dataset = model_and_dataset(settings)
    return Result(
        name=name,
        model=model,
        dataset=dataset,
        settings=shown_settings(recipe_of(settings)),
        lr=settings.get("lr"),
        epochs=settings["epochs"],
        num_seeds=len(best["seeds"]),
        num_parameters=best["num_parameters"],
        metrics={key: rounded(figure) for key, figure in figures_of(best).items() if "seeds" not in figure},
        train_seconds=best["train_seconds"]["mean"],
        images_per_second=best["images_per_second"]["mean"],
        device=best["device"],
        command=of_seeds(best["command"], best["seeds"]),
    )


def result_of_runs(records: Sequence[RunRecord]) -> Result:
    """Return the result of runs that differ in their seeds alone.

    Raises:
        UserError: one of them, which may be of an older version, lacks what a result has, or its model is no more.
    """
    try:
        return presentable(result_of_whole_runs(records))
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        names = ", ".join(record.run_id for record in records)
        raise UserError(f"{names}: no result, for lack or by the kind of {error}: train it anew") from None


def result_of_whole_runs(records: Sequence[RunRecord]) -> Result:
    """Return the result of runs that differ in their seeds alone, and lack nothing; -seed1 is left out of its name.

    It has the figures that all of them have.
    """
    first, seeds = records[0], [record.settings["seed"] for record in records]
    if len({*seeds}) < len(seeds):
        names = ", ".join(record.run_id for record in records)
        raise UserError(f"{names}: runs of one recipe, of which some have the same seed: name one of each seed")
    summaries = [{**record.summary, **generation_scores(record)} for record in records]
    epochs = [summary["epochs"] for summary in summaries]
    keys = [key for key in figures_of(summaries[0]) if all(is_finite(summary.get(key)) for summary in summaries)]
    metrics = {key: spread([summary[key] for summary in summaries]) for key in keys}
    return Result(
        name=first.name_of_seeds,
        model=first.model,
        dataset=first.dataset,
        settings=shown_settings(told_settings(first.settings)),
        lr=first.settings["lr"],
        epochs=max(epochs),
        num_seeds=len(records),
        num_parameters=first.summary["num_parameters"],
        metrics={key: rounded(figure) for key, figure in metrics.items()},
        train_seconds=statistics.mean(summary["train_seconds"] for summary in summaries),
        images_per_second=statistics.mean(summary["images_per_second"] for summary in summaries),
        device="; ".join(dict.fromkeys(record.environment.get("device", "") for record in records)),
        command=of_seeds(short_command(first.settings), seeds),
        note=f"epochs of its seeds: {listed(list(map(str, epochs)), MOST_EPOCHS)}" if len({*epochs}) > 1 else "",
    )


def short_command(settings: Mapping[str, Any]) -> str:
    """Return the command that repeats a run, which names the recipe's file where the run has all of its settings."""
    told = told_settings(settings)
    for name, recipe in recipes().items():
        if recipe.items() <= told.items():
            rest = {key: value for key, value in told.items() if key not in recipe}
            return shlex.join(["python", "train.py", f"--config=sweeps/best/{name}", *flags(rest)])
    return command_of(settings)


def shown_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a row of the table shows: all but those in UNNAMED."""
    return {key: value for key, value in settings.items() if key not in UNNAMED}


def rounded(figure: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the mean and the deviation without the digits that no table shows.

    Raises:
        ValueError: the mean is no number that JSON has.
    """
    if not is_finite(figure["mean"]):
        raise ValueError(f"a mean of {figure['mean']}")
    return {key: round(figure[key], 7) if is_finite(figure[key]) else None for key in ("mean", "std")}


def of_seeds(command: str, seeds: Sequence[int]) -> str:
    """Return the command line of all the runs, given that of the first seed's run."""
    if len(seeds) == 1:
        return command
    each = command.replace(f"--seed={seeds[0]}", "--seed=$seed")
    return f"for seed in {' '.join(map(str, seeds))}; do {each}; done"


def collect(runs_dir: Path | None, names: Sequence[str]) -> list[Result]:
    """Return the results in a runs folder: those of the sweeps that have a row in the table, and those that are named.

    A sweep of the table whose final runs cannot be read, or are not of its best trial, is left out, with a line that
    says so, unless it is named.

    Args:
        runs_dir: the runs folder; None for the default one.
        names: names of runs and sweeps that are wanted, too.

    Raises:
        UserError: there is no run or sweep of a name, or it has no result; or several runs have a name, those of one
            recipe the same seed, or those of one name several recipes.
    """
    records = read_runs(runs_dir).records
    sweeps = {sweep.name: sweep for sweep in read_sweeps(runs_dir).sweeps}
    results = [result_of_sweep(sweeps[name]) for name in dict.fromkeys(names) if name in sweeps]
    results += results_of_table(sweep for sweep in sweeps.values() if sweep.final and sweep.name not in names)
    runs = [find_result_run(records, name) for name in dict.fromkeys(names) if name not in sweeps]
    of_runs = [result_of_runs(group) for group in group_by_recipe(runs)]
    counts = Counter(result.name for result in of_runs)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise UserError(f"several results would be called {twice[0]}: its runs differ in more than their seeds")
    return results + of_runs


def results_of_table(sweeps: Iterable[SweepRecord]) -> list[Result]:
    """Return the results of those of the sweeps that have a row in the table, if they are of the sweeps' best trials.

    Others are left out, with a line each.
    """
    rows = {(reference.model, reference.dataset) for reference in references()}
    results = []
    for sweep in sweeps:
        try:
            result = result_of_sweep(sweep)
            if (result.model, result.dataset) in rows:
                check_is_of_the_best(sweep)
                results.append(result)
        except UserError as error:
            warn(f"left out: {visible(error)}")
    return results


def check_is_of_the_best(sweep: SweepRecord) -> None:
    """Refuse final runs of another trial than the sweep's best one, which the user has picked or which led before.

    Raises:
        UserError: the final runs are such.
    """
    if not sweep.has_finals_of_its_best():
        raise UserError(
            f"{sweep.source}/final.json is of {sweep.final['trials'][0].get('trial')}, not of the sweep's best trial: "
            f"python sweeps/final.py {sweep.name} trains that one, or name the sweep to take it as it is"
        )


def find_result_run(records: Iterable[RunRecord], name: str) -> RunRecord:
    """Return the run of that name.

    Raises:
        UserError: there is none, there are several, or it has no result to show.
    """
    found = [record for record in records if record.run_id == name]
    if len(found) > 1:
        places = " and ".join(sorted(record.source for record in found))
        raise UserError(f"{name} is the name of {len(found)} runs, {places}: rename one, or move it elsewhere")
    record = found[0] if found else None
    if record is None or record.state != "finished" or not has_been_judged(record):
        raise UserError(f"{name} is no sweep and no finished run with --test=True: name one of the runs folder")
    return record


def has_been_judged(record: RunRecord) -> bool:
    """Return whether a run has read the test images, or its dataset has none."""
    settings = record.settings
    return bool(settings.get("test")) or not has_test_images(record.dataset, settings.get("data_dir", ""))


def group_by_recipe(records: Iterable[RunRecord]) -> list[list[RunRecord]]:
    """Return the runs in groups that differ in their seeds alone; an older run may lack settings that are new.

    Runs on other images are no such group.
    """
    alike: dict[str, list[RunRecord]] = {}
    for record in records:
        recipe = json.dumps({**told_settings(record.settings), "seed": None}, sort_keys=True)
        alike.setdefault(recipe, []).append(record)
    return [own for group in alike.values() for own in by_images(group, lambda record: record).values()]


def update(
    runs_dir: Path | None, names: Sequence[str], notes: Mapping[str, str] = MappingProxyType({})
) -> tuple[int, int]:
    """Collect results, and write results.json and RESULTS.md; return how many there are, and how many were collected.

    Results that were not collected, such as those of other machines, stay as they are.

    Args:
        runs_dir: the runs folder; None for the default one.
        names: names of runs and sweeps that are wanted beside those that have a row in the table.
        notes: remarks for the reader, by the name of the result, before what its runs themselves give cause for; a
            result whose figures are the same keeps its own.

    Raises:
        UserError: there is no run or sweep of a name, or it has no result.
    """
    known = {result.name: result for result in read_results(RESULTS)}
    collected = {result.name: result for result in collect(runs_dir, names)}
    kept = {name: it.note for name, it in known.items() if name in collected and it.metrics == collected[name].metrics}
    remarks = {name: "; ".join(filter(None, (notes.get(name), it.note))) for name, it in collected.items()}
    fresh = {
        name: replace(result, note=remarks[name] if name in notes else kept.get(name, remarks[name]))
        for name, result in collected.items()
    }
    results = list({**known, **fresh}.values())
    content = json.dumps([asdict(result) for result in results], indent=1) + "\n"
    for path, text in ((RESULTS, content), (PAGE, render(results))):
        replace_file(path, partial(Path.write_text, data=text, encoding="utf-8"))
    return len(results), len(fresh)


def is_up_to_date() -> bool:
    """Return whether RESULTS.md is what results.json makes of it."""
    return PAGE.is_file() and PAGE.read_bytes() == render(read_results(RESULTS)).encode()
