"""What mattered in a search, in a terminal: which settings, and the best value in each part of their ranges."""

from typing import NamedTuple

from analysis.compare.comparison import Comparison
from analysis.compare.importance import Importance, branches, importance
from analysis.compare.isolation import Bin, isolation
from analysis.compare.text_table import Column, print_table
from analysis.terminal import number
from data.metrics import shown
from data.visible import percent, say


class Row(NamedTuple):
    """A bin of a setting."""

    setting: str
    share: str
    bin: Bin


def print_what_mattered(comparison: Comparison) -> None:
    """Print which settings matter, the best value in each part of their ranges, and whether these were wide enough."""
    name, shares, bins = comparison.metric.name, importance(comparison), isolation(comparison)
    texts = share_texts(shares)
    for model, part in branches(comparison).items():  # settings of some models alone have shares there
        own = {setting: text for setting, text in share_texts(importance(part)).items() if setting not in shares.names}
        for setting, text in own.items():
            texts[setting] = f"{texts[setting]}, {model} {text}" if setting in texts else f"{model} {text}"
    order = [
        *(setting for setting in shares.names if setting in bins),
        *(each for each in bins if each not in shares.names),
    ]
    rows = [
        Row(setting if i == 0 else "", texts.get(setting, "") if i == 0 else "", one)
        for setting in order
        for i, one in enumerate(bins[setting])
    ]
    columns: list[Column] = [
        ("setting", lambda row: row.setting),
        ("share", lambda row: row.share),
        ("values", lambda row: ends(row.bin)),
        ("runs", lambda row: str(row.bin.num_runs)),
        (f"best {name}", lambda row: shown(name, row.bin.best)),
        ("expected", lambda row: expected(name, row.bin)),
        ("run", lambda row: row.bin.run),
    ]
    print_table(
        columns, rows, "the best in each part of a setting's range, the other settings chosen as well as possible"
    )
    say(*filter(None, [shares.remark, *(f"searched enough? {line}" for line in comparison.edges)]))
    if not rows:
        say(f"There are too few runs, or no setting differs between them: {len(comparison.ranked)} are ranked.")


def share_texts(shares: Importance) -> dict[str, str]:
    """Return the share of each setting with its standard error as text, by name."""
    found = zip(shares.names, shares.means, shares.deviations, strict=True)
    return {setting: f"{100 * mean:.0f} ± {percent(deviation, 0)}" for setting, mean, deviation in found}


def ends(one: Bin) -> str:
    """Return the values in a bin as text."""
    return number(one.low) if one.low == one.high else f"{number(one.low)} to {number(one.high)}"


def expected(name: str, one: Bin) -> str:
    """Return what is expected in a bin as text; "" where that is not known."""
    if one.expected is None:
        return ""
    low, mean, high = (shown(name, value) for value in sorted(one.expected))
    return f"{mean} ({low} to {high})"
