"""All inputs: odd options, odd environment variables, and damaged files."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.bad_inputs.damage import damages
from tests.bad_inputs.programs import LASTING, ODD, OUTSIDE, Base, options_of, values_of
from tests.bad_inputs.tables import damages_of_fields

# Variables that programs, or the libraries under them, read; the others of an attempt's environment say where it is.
VARIABLES = (
    "VISION_SWEEPS_RUNS",
    "VISION_SWEEPS_DATA",
    "XDG_CACHE_HOME",
    "HOME",
    "WANDB_MODE",
    "WANDB_DISABLED",
    "WANDB_PROJECT",
    "WANDB_RUN_ID",
    "WANDB_BASE_URL",
    "WANDB_SWEEP_PARAM_PATH",
    "ACCELERATE_MIXED_PRECISION",
    "ACCELERATE_USE_CPU",
    "ACCELERATE_USE_FSDP",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
    "ACCELERATE_TORCH_DEVICE",
    "NETRC",
    "COLUMNS",
    "TERM",
    "RANK",
    "WORLD_SIZE",
)


class Case(NamedTuple):
    """One input.

    Attributes:
        base: the command that works.
        kind: "option", "variable", "file" or "field".
        what: what is odd of it.
        words: the command line.
        file: that is damaged, in the world.
        damage: what is done to it.
    """

    base: Base
    kind: str
    what: str
    words: Sequence[str]
    variables: dict[str, str] = {}
    file: str = ""
    damage: Callable[[Path], object] | None = None

    @property
    def writes(self) -> Sequence[str]:
        """Patterns of the files that may change: what an odd option names may do so, too."""
        return self.base.writes if self.kind in ("file", "field") else (*self.base.writes, *ODD)

    @property
    def begun(self) -> str | None:
        """Pattern of the output of a program that may work for long: any where it was asked for much."""
        return "" if self.what.startswith(LASTING) else self.base.begun

    @property
    def names_outside(self) -> bool:
        """Whether the input names a place outside of the world."""
        return self.what.rpartition(" ")[2] in OUTSIDE


def cases_of(base: Base, template: Path, draw: random.Random) -> Iterator[Case]:
    """Yield all inputs made of a command that works, in a world that is whole."""
    for what, words in options_of(base, draw):
        yield Case(base, "option", what, words)
    of_one_model = base.settings is None or base.settings[0] == "mlp"
    if base.options and of_one_model and base.module in ("train", "sweeps.agent", "analysis.runs", "analysis.latent"):
        for name in VARIABLES:
            for key, value in values_of("text", draw):
                yield Case(base, "variable", f"{name} {key}", base.words, {name: value})
    for pattern in base.reads:
        for path in sorted(path for part in base.parts for path in (template / part).glob(pattern)):
            name = path.relative_to(template).as_posix().partition("/")[2]
            for what, damage in damages(path, draw):
                yield Case(base, "file", f"{name}: {what}", base.words, {}, name, damage)
            for what, damage in damages_of_fields(path, draw, base.num_values):
                yield Case(base, "field", f"{name}: {what}", base.words, {}, name, damage)
