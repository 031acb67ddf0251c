"""Results that threads compute ahead of their use."""

import os
from threading import Barrier, current_thread

import pytest

from data.prefetch import prefetched


@pytest.mark.parametrize("num", [3, 40])
def test_as_many_threads_compute_as_there_are_cores_to_use(num, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 192)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(num)), raising=False)
    all_at_once = Barrier(num)  # each waits for all others
    turns = sorted(prefetched(lambda _: all_at_once.wait(5), range(num), num))
    assert turns == list(range(num))
    names = set(prefetched(lambda _: current_thread().name, range(10 * num), 10 * num))
    assert len(names) <= num
