"""Which combinations of settings train.py refuses, since they do not go together, though each is allowed by itself."""

import time
from collections.abc import Mapping
from typing import Any

from analysis.read.sweep_command import told_in_all
from data.datasets import describe
from data.errors import UserError
from models.core.settings import Settings
from models.loading import check_model, stand_in
from models.resolve import validate

# Settings that no model refuses beside others; a logistic probe refuses weight_decay, momentum, mixup and the like.
UNRELATED = ("lr", "seed", "data_seed", "train_fraction", "batch_size", "epochs", "patience", "dropout")
MOST_SECONDS = 20.0  # of building models: what comes after these is let pass


class Refusals:
    """What train.py refuses, found out by building each model once.

    Args:
        content: of the sweep file, whose command may tell settings.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        self.known: dict[frozenset[tuple[str, Any]], str] = {}
        self.seconds = 0.0

    @property
    def is_spent(self) -> bool:
        """Whether its time is over, after which it lets pass what it has not seen."""
        return self.seconds >= MOST_SECONDS

    def reason(self, told: Mapping[str, Any]) -> str:
        """Return why a run that is told some settings is refused; "" if it is not, or only its images can tell."""
        related = {name: value for name, value in told.items() if name not in UNRELATED}
        key = frozenset(related.items())
        if key not in self.known and not self.is_spent:
            start = time.monotonic()
            self.known[key] = self.look(related)
            if len(self.known) > 1:  # the first one takes seconds to import what it needs
                self.seconds += time.monotonic() - start
        return self.known.get(key, "")

    def look(self, told: Mapping[str, Any]) -> str:
        """Return what `reason` does, by building the model."""
        try:
            build(validate(told_in_all(self.content, told), {}))
        except UserError as error:
            return str(error)
        except Exception:  # a crash is the run's to tell
            return ""
        return ""


def build(settings: Settings) -> None:
    """Build the model of some settings, and its optimizers, for images of its dataset, which are not read.

    Raises:
        UserError: they do not go together.
    """
    info = describe(settings.dataset, settings.image_size, settings.eval_crop)
    if info is None:  # only the images themselves say how many classes there are
        check_model(settings)
    else:
        stand_in(settings, info).phases()
