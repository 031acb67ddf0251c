import errno

import pytest

from data.errors import LONGEST_MESSAGE, UserError, exit_code, in_words, suggestion


@pytest.mark.parametrize("length", [5_000, 3_000_000])
def test_a_message_about_a_vast_value_keeps_its_beginning_and_the_remedy_at_its_end(length):
    message = str(UserError(f"--lr={'9' * length} is not a number: write 1.0e-3"))
    assert len(message) < LONGEST_MESSAGE + 10
    assert message.startswith("--lr=999")
    assert message.endswith("999 is not a number: write 1.0e-3")


def test_a_full_disk_is_told_with_the_file_and_the_remedy():
    full = OSError(errno.ENOSPC, "No space left on device", "/scratch/metrics.jsonl")
    assert in_words(full) == (
        "/scratch/metrics.jsonl cannot be written (No space left on device): make room on its disk, or write to another"
    )
    assert in_words(OSError(errno.ENOSPC, "No space left on device")) == (
        "[Errno 28] No space left on device: make room on its disk, or write to another"
    )
    assert in_words(OSError("unreadable")) == "unreadable"


def test_a_name_that_no_file_has_is_the_users_to_put_right_and_a_full_disk_is_not():
    names = (errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EACCES)
    assert {exit_code(OSError(number, "")) for number in names} == {exit_code(UserError("x"))} == {2}
    assert {exit_code(OSError(number, "")) for number in (errno.ENOSPC, errno.EIO, errno.EMFILE)} == {1}
    assert exit_code(OSError("disk full")) == 1


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("drop_path", "drop_path_rate"),
        ("drop_rat", "drop_rate"),
        ("dropoot", "dropout"),
        ("dr", "drop_rate"),
        ("x", ""),
    ],
)
def test_a_name_that_is_cut_short_is_completed_before_others_that_are_spelled_alike(name, meant):
    known = ("drop_rate", "drop_path_rate", "dropout")
    assert suggestion(name, known) == (f", did you mean {meant}?" if meant else "")


def test_a_name_in_capitals_is_the_one_in_small_letters_and_the_other_way_round():
    assert suggestion("CNN", ("cnn", "mlp")) == ", did you mean cnn?"
    assert suggestion("map", ("mAP", "loss")) == ", did you mean mAP?"
