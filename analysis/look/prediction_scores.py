"""How right predictions of image files are, where the truth is known: accuracy, confusion, mistakes, slices."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.table import Table
from rich.text import Text

from analysis.look.calibration import UNCHANGED, calibration_on
from analysis.look.classification import worst_mistakes
from analysis.look.label_scores import tabulate_labels, worst_labels
from analysis.look.picture_files import PictureFile
from analysis.look.prediction import Member, Predicted
from analysis.read.predictions import held_out_files
from analysis.terminal import make_table
from data.datasets import find_data_dir
from data.errors import UserError, suggestion
from data.metrics import shown
from data.visible import counted, percent, visible

MOST_CLASSES = 12  # of a confusion matrix; of more classes the frequent confusions are listed
NUM_LISTED = 10  # confusions, and mistakes
WORSE = ", which is worse: without --temperature=val these probabilities are more to be believed"
NO_MISTAKE = ": without a mistake among them, a temperature cannot be found"
OF_FILES = ("csv", "folder")  # datasets whose images are files of the user's own


def summary(predicted: Predicted, members: Sequence[Member]) -> list[str]:
    """Return in lines how right predictions are, how often the members disagree, and what a temperature does."""
    lines, known, true, labelling = [], predicted.known, predicted.true, predicted.labelling
    accuracy, num = labelling.accuracy, counted(len(predicted.files), "image")
    if len(known):
        probabilities = predicted.probabilities[known]
        logits = predicted.logits[known]
        scores = {"loss": predicted.losses, **labelling.scores(logits, true)}
        figures = {name: values.mean().item() for name, values in scores.items() if name != accuracy}
        figures |= labelling.split_metrics(labelling.kept(logits, true))
        figures["ece"] = calibration_on(probabilities, true, labelling).error
        told = ", ".join(f"{name} {shown(name, value)}" for name, value in figures.items())
        rest = len(predicted.files) - len(known)
        note = f" ({counted(rest, 'other')} of no known class)" if rest else ""
        right = shown(accuracy, predicted.rightness.mean().item())
        lines.append(f"{accuracy} {right} of {counted(len(known), 'image')}{note}, {told}")
        paths = [predicted.files[i].path.resolve() for i in known.tolist()]
        for member in members:
            if num_own := count_trained_on(member, paths):
                lines.append(f"{num_own:,} of them {member.name} was trained on: of new images fewer will be right")
    if len(members) > 1:
        split = int((predicted.agreed < len(members)).sum())
        lines.append(f"the {len(members)} runs disagree on {split:,} of {num}")
        for member, votes in zip(members, predicted.votes, strict=True):
            if len(known):
                own = labelling.rightness(votes[known], true).mean().item()
                lines.append(f"  {member.name}: {accuracy} {shown(accuracy, own)} alone")
    for member in members:
        if kept := member.calibration:
            errors = " -> ".join(shown("ece", kept[name]) for name in ("ece", "ece_calibrated"))
            held_out = f"{kept['num_images']:,.0f} validation images"
            told = f"{member.name}: temperature {kept['temperature']:.3f}, ece on {held_out} {errors}"
            remarks = (NO_MISTAKE, kept["temperature"] == UNCHANGED), (WORSE, kept["ece_calibrated"] > kept["ece"])
            lines.append(told + "".join(remark for remark, is_due in remarks if is_due))
    if len(known) and members[0].calibration:
        both = labelling.probabilities(predicted.uncalibrated), predicted.probabilities
        errors = " -> ".join(shown("ece", calibration_on(each[known], true, labelling).error) for each in both)
        lines.append(f"ece on these images {errors}")
    return lines


def count_trained_on(member: Member, paths: Sequence[Path]) -> int:
    """Return how many images lie among those that a run's dataset was read from, and were not held out.

    Args:
        member: the run.
        paths: of the images' files, without links.
    """
    settings = member.run.settings
    if settings.dataset not in OF_FILES:
        return 0
    place = find_data_dir(settings.data_dir).resolve()
    root = place.parent if place.is_file() else place
    own = {path.relative_to(root).as_posix() for path in paths if path.is_relative_to(root)}
    return len(own - held_out_files(Path(member.name))) if own else 0


def tables(predicted: Predicted, column: str) -> list[Table]:
    """Return the tables of a look at what is right and wrong; none where no class is known.

    Args:
        predicted: image files, some of them of known classes.
        column: of a CSV file, by whose values accuracy is told; empty for none.
    """
    if not len(predicted.known):
        return []
    found = [make(predicted) for make in TABLES[predicted.info.several_labels]] if predicted.rightness.min() < 1 else []
    return [*found, by_slice(predicted, column)] if column else found


def confusion(predicted: Predicted) -> Table:
    """Return the confusion matrix or, of many classes, the most frequent confusions."""
    classes = predicted.info.classes
    counts = Counter(zip(predicted.true.tolist(), predicted.guessed[predicted.known].tolist(), strict=True))
    if len(classes) <= MOST_CLASSES:
        table = make_table(["true", *classes], title="true classes in rows, predicted ones in columns")
        for row, name in enumerate(classes):
            table.add_row(Text(name), *(Text(str(counts[row, place] or "·")) for place in range(len(classes))))
        return table
    table = make_table(["true", "predicted", "images"], title="most frequent confusions")
    wrong = [(pair, num) for pair, num in counts.most_common() if pair[0] != pair[1]]
    for (label, guess), num in wrong[:NUM_LISTED]:
        table.add_row(Text(classes[label]), Text(classes[guess]), Text(f"{num:,}"))
    return table


def mistakes(predicted: Predicted) -> Table:
    """Return the wrong predictions made with the most confidence, of the images whose classes are known."""
    known, true, classes = predicted.known, predicted.true, predicted.info.classes
    probabilities = predicted.probabilities[known]
    table = make_table(["file", "true", "predicted", "probability"], title="worst mistakes")
    table.columns[0].justify = "left"
    for i in worst_mistakes(probabilities, true)[:NUM_LISTED].tolist():
        guess = int(probabilities[i].argmax())
        names = [predicted.files[int(known[i])].path, classes[true[i]], classes[guess]]
        table.add_row(*(Text(visible(name)) for name in names), Text(percent(probabilities[i, guess].item())))
    return table


def by_label(predicted: Predicted) -> Table:
    """Return how well each of several labels is told."""
    known = predicted.known
    scores = tabulate_labels(predicted.logits[known], predicted.guessed[known], predicted.true, predicted.info.classes)
    table = make_table(scores.columns)
    for name, *figures, support in scores.rows:
        texts = ("" if figure is None else f"{figure:.4f}" for figure in figures)
        table.add_row(*map(Text, (visible(name), *texts, f"{support:,}")))
    return table


def mistaken_labels(predicted: Predicted) -> Table:
    """Return the images with the greatest losses of which a label is wrong: what is predicted, and what is true."""
    known, losses = predicted.known, predicted.losses
    table = make_table(["file", "true", "predicted", "loss"], title="worst mistakes")
    for column in (0, 1, 2):
        table.columns[column].justify = "left"
    for i in worst_labels(losses, predicted.rightness == 1)[:NUM_LISTED].tolist():
        place = int(known[i])
        names = [predicted.info.named(label) for label in (predicted.true[i], predicted.guessed[place])]
        cells = [predicted.files[place].path, *names, f"{losses[i]:.4f}"]
        table.add_row(*(Text(visible(cell)) for cell in cells))
    return table


TABLES = {False: (confusion, mistakes), True: (by_label, mistaken_labels)}  # by whether labels may be several


def check_column(files: Sequence[PictureFile], column: str) -> None:
    """Refuse to slice by a column that no row has, or where no class is known.

    Raises:
        UserError: there is no such column, or there are no classes to be right about.
    """
    columns = list(dict.fromkeys(name for file in files for name in file.row))
    if column not in columns:
        there = f"there are: {', '.join(columns)}" if columns else "name a CSV file that has it"
        raise UserError(f"--slice-by={column} is no column{suggestion(column, columns)}; {there}")
    if all(file.true is None for file in files):
        raise UserError(f"--slice-by={column}: no class is known: give the CSV file a column class, or label:...")


def by_slice(predicted: Predicted, column: str) -> Table:
    """Return how right predictions are for each value of a CSV column, the worst first."""
    accuracy, groups = predicted.labelling.accuracy, dict[str, list[int]]()
    for place, i in enumerate(predicted.known.tolist()):
        groups.setdefault(predicted.files[i].row.get(column, ""), []).append(place)
    table = make_table([column, "images", accuracy], title=f"by {column}")
    shares = {value: predicted.rightness[torch.tensor(places)].mean().item() for value, places in groups.items()}
    for value in sorted(shares, key=lambda value: (shares[value], value)):
        table.add_row(Text(visible(value)), Text(f"{len(groups[value]):,}"), Text(shown(accuracy, shares[value])))
    return table
