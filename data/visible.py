"""Text from elsewhere, such as names of runs and of classes, made fit to be printed."""


def visible(text: object) -> str:
    r"""Return a text with its control characters and whatever else shows nothing escaped, as \x1b or \u202e.

    A terminal would obey the first, and could not show the others: line breaks, marks that turn the direction of
    writing round, and halves of characters, as names of files that are no UTF-8 hold them.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
