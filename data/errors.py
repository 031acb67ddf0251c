"""The error that tells users what they did wrong, and how to put it right."""

import difflib
import errno
import textwrap
from collections.abc import Collection, Iterable

LATER = 75
LONGEST_MESSAGE = 1000  # characters
# What CUDA's libraries say where a GPU's memory is short, for which torch has its own class only elsewhere.
NO_GPU_MEMORY = (
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "unable to find an engine to execute this computation",  # none that would do with the memory that is left
)
NO_MEMORY = ("can't allocate memory", "calculation overflowed", *NO_GPU_MEMORY)
# Of what the user has named, or of what stands there; the others are faults of the machine.
USERS_ERRORS = ("ENOENT", "ENOTDIR", "EISDIR", "EEXIST", "ENAMETOOLONG", "ELOOP", "EACCES", "EPERM", "EINVAL", "ENXIO")
FULL = ("ENOSPC", "EDQUOT")  # a disk, or somebody's share of it
TO_MAKE_ROOM = "make room on its disk, or write to another"


class UserError(ValueError):
    """A mistake that the user can put right; its message is one line that names the wrong value and the remedy."""

    def __str__(self) -> str:
        return shortened(super().__str__())


class InProgressError(UserError):
    """What is asked for is under way in another process: later it may be had."""


def shortened(text: str) -> str:
    """Return a text or, where it is longer than a message should be, its beginning and its end."""
    num_left = LONGEST_MESSAGE // 4
    return text if len(text) <= LONGEST_MESSAGE else f"{text[: 3 * num_left]}...{text[-num_left:]}"


def in_words(error: Exception) -> str:
    """Return what an error says, shortened; with the remedy where a disk or somebody's share of it is full."""
    if isinstance(error, OSError) and errno.errorcode.get(error.errno or 0) in FULL:
        where = f"{error.filename} cannot be written ({error.strerror})" if error.filename else str(error)
        return shortened(f"{where}: {TO_MAKE_ROOM}")
    return shortened(str(error))


def exit_code(error: Exception) -> int:
    """Return 2 for what the user can put right, such as a name that no file can have, and 1 for other faults.

    For what is in progress elsewhere it is 75, which sysexits.h has for what may succeed later.
    """
    if isinstance(error, InProgressError):
        return LATER
    code = errno.errorcode.get(getattr(error, "errno", None) or 0)
    return 2 if isinstance(error, UserError) or code in USERS_ERRORS else 1


def check_known(told: str, name: object, known: Collection[str]) -> None:
    """Refuse a name that is none of those known; the message begins with how it was told, such as --classes=frog.

    Raises:
        UserError: with the names that there are.
    """
    if name not in known:
        raise UserError(f"{told} is not known{suggestion(name, known)}; there are: {', '.join(known)}")


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, which has the cause; its kind where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def message_of(error: BaseException) -> str:
    """Return all that an error says, on one line; its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def in_one_line(error: BaseException) -> str:
    """Return what an error says, shortened to one line; its kind where it says nothing."""
    return textwrap.shorten(message_of(error), 100, placeholder="...")


def lack_of_memory(error: Exception) -> str:
    """Return in one line that there was too little memory, of the machine or of its GPU; "" for another error."""
    is_said_so = any(words in str(error) for words in NO_MEMORY)
    if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError" and not is_said_so:
        return ""
    reason = textwrap.shorten(str(error).partition("\n")[0], LONGEST_MESSAGE // 2)
    return f"no memory ({reason}): lower --batch_size, --image_size or the model's sizes, or take fewer images"


def is_of_the_machine(error: Exception) -> bool:
    """Return whether an error is of the disk, the memory or the device, and tells nothing of what a file holds."""
    is_of_the_disk = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)  # of a damaged file
    is_of_the_device = type(error).__name__ == "AcceleratorError"  # torch's, which is not loaded here
    return is_of_the_disk or is_of_the_device or bool(lack_of_memory(error))


def suggestion(name: object, known: Iterable[str]) -> str:
    """Return ", did you mean ...?" with the known name that is spelled most like `name`; "" for none."""
    meant = nearest(name, known)
    return f", did you mean {meant}?" if meant else ""


def nearest(name: object, known: Iterable[str]) -> str:
    """Return the known name that is spelled most like `name` in any case, or begins with it; "" where there is none."""
    told, spelled = str(name).casefold(), {each.casefold(): each for each in known}
    near = difflib.get_close_matches(told, list(spelled), n=3)
    near += [each for each in spelled if told and each.startswith(told)]
    near.sort(key=lambda each: not each.startswith(told))  # drop_path is short for drop_path_rate
    return spelled[near[0]] if near else ""
