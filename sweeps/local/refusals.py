"""Which combinations of settings train.py refuses, since they do not go together, though each is allowed by itself."""

from collections.abc import Mapping
from typing import Any

from analysis.read.sweep_command import told_in_all
from data.datasets import describe
from data.errors import UserError
from models.core.settings import Settings
from models.loading import check_model, stand_in
from models.resolve import validate

UNRELATED = ("lr", "seed", "data_seed")  # settings that no model refuses beside others
MOST_BUILT = 2000  # models of a sweep, since each takes time: what comes after these is let pass


class Refusals:
    """What train.py refuses, found out by building each model once.

    Args:
        content: of the sweep file, whose command may tell settings.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        self.known: dict[frozenset[tuple[str, Any]], str] = {}

    def reason(self, told: Mapping[str, Any]) -> str:
        """Return why a run that is told some settings is refused; "" if it is not, or only its images can tell."""
        related = {name: value for name, value in told.items() if name not in UNRELATED}
        key = frozenset(related.items())
        if key not in self.known and len(self.known) < MOST_BUILT:
            self.known[key] = self.look(related)
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
