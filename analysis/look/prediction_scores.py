"""How right predictions of image files are, where their classes are known: accuracy, confusion, mistakes, slices."""

from collections import Counter
from collections.abc import Sequence

import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor

from analysis.look.calibration import error_of
from analysis.look.classification import worst_mistakes
from analysis.look.picture_files import NO_CLASS, PictureFile
from analysis.look.prediction import Member, Predicted
from analysis.terminal import make_table
from data.errors import UserError, suggestion
from data.metrics import shown
from data.visible import counted, visible

MOST_CLASSES = 12  # of a confusion matrix; of more classes the frequent confusions are listed
NUM_LISTED = 10  # confusions, and mistakes


def summary(predicted: Predicted, members: Sequence[Member]) -> list[str]:
    """Return in lines how right predictions are, how often the members disagree, and what a temperature does."""
    lines, known = [], predicted.known
    true, probabilities = predicted.true[known], predicted.probabilities[known]
    if len(known):
        accuracy = (probabilities.argmax(1) == true).float().mean().item()
        loss = predicted.losses[known].mean().item()
        ece = error_of(probabilities, true)
        figures = ", ".join(f"{name} {shown(name, value)}" for name, value in {"loss": loss, "ece": ece}.items())
        rest = len(predicted.files) - len(known)
        note = f" ({counted(rest, 'other')} of no known class)" if rest else ""
        lines.append(f"accuracy {shown('accuracy', accuracy)} of {counted(len(known), 'image')}{note}, {figures}")
    if len(members) > 1:
        split = int((predicted.agreed < len(members)).sum())
        lines.append(f"the {len(members)} runs disagree on {split:,} of {counted(len(predicted.files), 'image')}")
        for member, votes in zip(members, predicted.votes, strict=True):
            if len(known):
                own = (votes[known] == true).float().mean().item()
                lines.append(f"  {member.name}: accuracy {shown('accuracy', own)} alone")
    for member in members:
        if kept := member.calibration:
            errors = " -> ".join(shown("ece", kept[name]) for name in ("ece", "ece_calibrated"))
            held_out = f"{kept['num_images']:,.0f} validation images"
            lines.append(f"{member.name}: temperature {kept['temperature']:.3f}, ece on {held_out} {errors}")
    if len(known) and members[0].calibration:
        both = predicted.uncalibrated, predicted.probabilities
        errors = " -> ".join(shown("ece", error_of(each[known], true)) for each in both)
        lines.append(f"ece on these images {errors}")
    return lines


def tables(predicted: Predicted, column: str) -> list[Table]:
    """Return the tables of a look at what is right and wrong; none where no class is known.

    Args:
        predicted: image files, some of them of known classes.
        column: of a CSV file, by whose values accuracy is told; empty for none.
    """
    known = predicted.known
    if not len(known):
        return []
    true, guessed = predicted.true[known], predicted.probabilities[known].argmax(1)
    found = [confusion(predicted, true, guessed)] if (true != guessed).any() else []
    if (true != guessed).any():
        found.append(mistakes(predicted, known))
    return [*found, by_slice(predicted, column)] if column else found


def confusion(predicted: Predicted, true: Tensor, guessed: Tensor) -> Table:
    """Return the confusion matrix or, of many classes, the most frequent confusions."""
    classes = predicted.classes
    counts = Counter(zip(true.tolist(), guessed.tolist(), strict=True))
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


def mistakes(predicted: Predicted, known: Tensor) -> Table:
    """Return the wrong predictions made with the most confidence, of the images [L] whose classes are known."""
    probabilities, true = predicted.probabilities[known], predicted.true[known]
    table = make_table(["file", "true", "predicted", "probability"], title="worst mistakes")
    table.columns[0].justify = "left"
    for i in worst_mistakes(probabilities, true)[:NUM_LISTED].tolist():
        guess = int(probabilities[i].argmax())
        names = [predicted.files[int(known[i])].path, predicted.classes[true[i]], predicted.classes[guess]]
        table.add_row(*(Text(visible(name)) for name in names), Text(f"{probabilities[i, guess]:.1%}"))
    return table


def check_column(files: Sequence[PictureFile], column: str) -> None:
    """Refuse to slice by a column that no row has, or where no class is known.

    Raises:
        UserError: there is no such column, or there are no classes to be right about.
    """
    columns = list(dict.fromkeys(name for file in files for name in file.row))
    if column not in columns:
        there = f"there are: {', '.join(columns)}" if columns else "name a CSV file that has it"
        raise UserError(f"--slice-by={column} is no column{suggestion(column, columns)}; {there}")
    if all(file.true == NO_CLASS for file in files):
        raise UserError(f"--slice-by={column}: no class is known: give the CSV file a column called class")


def by_slice(predicted: Predicted, column: str) -> Table:
    """Return how right predictions are for each value of a CSV column, the worst first."""
    known = predicted.known
    is_right = predicted.probabilities[known].argmax(1) == predicted.true[known]
    groups: dict[str, list[int]] = {}
    for place, i in enumerate(known.tolist()):
        groups.setdefault(predicted.files[i].row.get(column, ""), []).append(place)
    table = make_table([column, "images", "accuracy"], title=f"by {column}")
    shares = {value: is_right[torch.tensor(places)].float().mean().item() for value, places in groups.items()}
    for value in sorted(shares, key=lambda value: (shares[value], value)):
        table.add_row(Text(visible(value)), Text(f"{len(groups[value]):,}"), Text(shown("accuracy", shares[value])))
    return table
