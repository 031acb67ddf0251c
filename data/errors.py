"""The error that tells users what they did wrong, and how to put it right."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake that the user can put right; its message is one line that names the wrong value and the remedy."""


def suggestion(name: object, known: Iterable[str]) -> str:
    """Return ", did you mean ...?" with the known name that is spelled most like `name`; "" if none is similar."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f", did you mean {near[0]}?" if near else ""
