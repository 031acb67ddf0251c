"""What counts as a fault of the machine, and what as one of the settings."""

import signal

import pytest

from sweeps.local import faults
from sweeps.local.faults import FULL, OTHERS_HOLD_MEMORY, OUT_OF_MEMORY, fault_of, num_killed_for_memory

GPU_WORDS = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 512.00 MiB. GPU 0 has a total capacity of 79.10 GiB "
    "of which 12.00 MiB is free. Including non-PyTorch memory, this process has {own} GiB memory in use. Of the ..."
)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("train.py: [Errno 28] No space left on device", FULL),
        ("OSError: [Errno 28] No space left on device: '/runs/a/best.pt'", FULL),
        ("train.py: [Errno 122] Disk quota exceeded", FULL),
        ("sqlite3.OperationalError: database or disk is full", FULL),
        ("train.py (process 1): [Errno 116] Stale file handle", "its disk does not answer"),
        ("RuntimeError: No CUDA GPUs are available", "its GPU is lost or taken"),
        ("CUDA error: CUDA-capable device(s) is/are busy or unavailable", "its GPU is lost or taken"),
        ("OSError: [Errno 24] Too many open files", "too many files are open"),
        ("a\nMemoryError", OUT_OF_MEMORY),
        ("train.py: [Errno 12] Cannot allocate memory", OUT_OF_MEMORY),
        (GPU_WORDS.format(own="8.50"), OTHERS_HOLD_MEMORY),
        (GPU_WORDS.format(own="70.60"), OTHERS_HOLD_MEMORY),  # 71.10 with what it asks for, of 0.9 x 79.10 = 71.19
    ],
)
def test_a_fault_of_the_machine_is_known_by_its_words(words, reason, tmp_path):
    fault = fault_of(1, words, tmp_path, 0)
    assert fault == (reason, "memory" in reason)  # which the settings may take themselves


@pytest.mark.parametrize(
    "words",
    [
        "",
        "ValueError: mat1 and mat2 shapes cannot be multiplied",
        "CUDA error: device-side assert triggered",
        "train.py: the loss is nan in epoch 28",
        "train.py: [Errno 2] No such file or directory: 'x'",
        GPU_WORDS.format(own="78.90"),  # it would not fit if it were alone
        GPU_WORDS.format(own="70.80"),  # nor would it with what it asks for: 71.30, as above
    ],
)
def test_a_fault_of_the_settings_is_not_taken_for_the_machine_s(words, tmp_path):
    assert fault_of(1, words, tmp_path, 0) is None


def test_signals_tell_a_full_disk_and_full_memory_also_below_a_shell(tmp_path):
    for code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        assert fault_of(code, "", tmp_path, 0) is None
        assert fault_of(code, "", tmp_path, 1) == (OUT_OF_MEMORY, True)
    for code in (-signal.SIGBUS, 128 + signal.SIGBUS):
        fault = fault_of(code, "", tmp_path, 0)
        assert fault is not None
        assert fault.reason.startswith(FULL)
        assert fault.may_recur  # the file may be cut short for good


def test_a_disk_that_is_full_keeps_even_the_reason_from_being_written(tmp_path, monkeypatch):
    monkeypatch.setattr(faults, "free_bytes", lambda folder: 4096)
    assert fault_of(1, "", tmp_path, 0) == (FULL, False)
    assert fault_of(-signal.SIGKILL, "", tmp_path, 0) is None  # who killed it had another reason


@pytest.mark.parametrize(
    ("said", "num"), [("nr_free_pages 9\noom_kill 3\nzswpin 0\n", 3), ("nr_free_pages 9\n", 0), (None, 0)]
)
def test_killed_processes_are_as_many_as_the_system_says(said, num, tmp_path, monkeypatch):
    if said is not None:
        (tmp_path / "vmstat").write_text(said)
    monkeypatch.setattr(faults, "Path", {"/proc/vmstat": tmp_path / "vmstat"}.get)
    assert num_killed_for_memory() == num
