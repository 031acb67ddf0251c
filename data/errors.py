"""What a user is told when something of theirs is wrong."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user can put right: its one line names the offending value and the remedy."""


def suggestion(name: object, known: Iterable[str]) -> str:
    """', did you mean ...?' where a known name is near, else nothing."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f", did you mean {near[0]}?" if near else ""
