"""Results that threads compute ahead of their use."""

import os
import time
from threading import Barrier, Event, current_thread

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


def test_who_leaves_before_the_end_waits_for_no_thread():
    may_end = Event()
    results = prefetched(lambda number: number and may_end.wait(30), range(9), 4, 2)
    assert next(results) == 0
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 10
    may_end.set()
