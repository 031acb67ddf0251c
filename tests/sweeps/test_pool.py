"""The pool of runs that the agent and final.py share."""

import os
import signal
import sys
from functools import partial
from itertools import islice

import pytest

from sweeps.local.launch import OUTPUT, SECONDS_TO_SAVE, Run
from sweeps.local.pool import ENDING_SIGNALS, Pool
from tests.sweep_agents import wait_until

SLEEP = "import time; print('up', flush=True); time.sleep(60)"


@pytest.fixture
def pool():
    handlers = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    made = Pool([{"DEVICE": "a"}, {"DEVICE": "b"}])
    yield made
    made.kill()
    for number, handler in handlers.items():
        signal.signal(number, handler)


def start(pool, folder, run_id, code):
    slot = pool.free_slots()[0]
    pool.add(Run([sys.executable, "-c", code], run_id, folder, {}, pool.devices[slot]), slot)


def test_each_run_has_a_slot_with_its_own_devices_and_leaves_it_free_when_it_has_ended(pool, tmp_path):
    for run_id in ("one", "two"):
        assert pool.free_slots()
        start(pool, tmp_path, run_id, "import os; print(os.environ['DEVICE'])")
    assert not pool.free_slots()
    wait_until(lambda: len(pool.ended()) == 2, "both end")
    assert [(tmp_path / name / OUTPUT).read_text() for name in ("one", "two")] == ["a\n", "b\n"]
    pool.free(pool.runs[0])
    start(pool, tmp_path, "three", "import os; print(os.environ['DEVICE'])")
    wait_until(lambda: len(pool.ended()) == 2, "the third ends")
    assert (tmp_path / "three" / OUTPUT).read_text() == "a\n"
    assert [run.run_id for run in pool.runs] == ["three", "two"]


def test_runs_are_asked_to_stop_once_and_keep_the_first_reason(pool, tmp_path):
    start(pool, tmp_path, "one", SLEEP)
    wait_until((tmp_path / "one" / OUTPUT).read_text, "it is up")
    pool.stop("paused")
    deadline = pool.runs[0].deadline
    pool.stop("ended")
    assert (pool.runs[0].reason, pool.runs[0].deadline) == ("paused", deadline)
    wait_until(pool.ended, "it ends")
    assert pool.runs[0].exit() == "killed by SIGTERM"


def test_a_killed_pool_has_no_process_left(pool, tmp_path):
    for run_id in ("one", "two"):
        start(pool, tmp_path, run_id, SLEEP)
    pool.kill()
    assert [run.process.returncode for run in pool.runs] == [-signal.SIGKILL] * 2


def test_signals_are_noted_and_the_first_gives_the_exit_code(pool):
    assert pool.exit_code == 0
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), number)
    assert pool.signals == [signal.SIGTERM, signal.SIGINT]
    assert pool.exit_code == 143


def test_one_signal_that_comes_twice_within_a_second_is_one_request(pool):
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGHUP)
    assert pool.signals == [signal.SIGHUP]
    pool.noted_at -= 2.0
    os.kill(os.getpid(), signal.SIGHUP)
    assert pool.signals == [signal.SIGHUP] * 2


def test_a_signal_that_is_ignored_from_the_start_stays_so_as_nohup_wants_it(pool):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    later = Pool([{}])
    for number in (signal.SIGHUP, signal.SIGTERM):
        os.kill(os.getpid(), number)
    assert later.signals == [signal.SIGTERM]


@pytest.mark.parametrize("is_closed", [True, False])
def test_a_second_signal_kills_a_run_that_does_not_end(pool, tmp_path, is_closed):
    start(pool, tmp_path, "deaf", f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}")
    wait_until((tmp_path / "deaf" / OUTPUT).read_text, "it is up")
    [run] = pool.runs
    pool.signals += [signal.SIGINT, signal.SIGTERM]
    if is_closed:
        pool.close("paused")
    else:
        pool.work(fill=lambda: None, note=lambda run: None, is_left=lambda: False, is_over=lambda: True)
    assert run.exit() == "killed by SIGKILL"
    assert run.seconds() < SECONDS_TO_SAVE / 2


def test_nothing_is_waited_for_where_no_run_is_under_way_and_no_more_is_to_be_started(pool, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits"))
    pool.work(fill=pytest.fail, note=pytest.fail, is_left=lambda: True, is_over=lambda: True)


class Brief:
    """A run that has ended at the look of a number."""

    def __init__(self, name, looks, device):
        self.name, self.looks, self.device = name, looks, device["DEVICE"]

    def has_ended(self):
        self.looks -= 1
        return self.looks <= 0


def test_runs_are_watched_in_their_order_each_on_the_devices_of_the_slot_that_it_has(pool):
    starts = [partial(Brief, name, looks) for name, looks in (("one", 2), ("two", 1), ("three", 1))]
    looks = [(run.name, run.device, has_ended) for run, has_ended in islice(pool.watch(starts), 9)]
    assert looks == [("one", "a", False), ("two", "b", True), ("one", "a", True), ("three", "b", True)]


def test_a_signal_ends_the_watch(pool):
    pool.signals.append(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        list(islice(pool.watch([partial(Brief, "one", 9)]), 9))
    pool.slots = [None] * 2


def test_runs_do_not_share_the_agent_s_connection_to_wandb(pool, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SERVICE", "2-1-unix-x")
    start(pool, tmp_path, "one", "import os; print(os.environ.get('WANDB_SERVICE'))")
    wait_until(pool.ended, "it ends")
    assert (tmp_path / "one" / OUTPUT).read_text() == "None\n"


def test_what_is_left_of_a_pool_that_is_closed_ends(pool, tmp_path):
    start(pool, tmp_path, "one", SLEEP)
    wait_until((tmp_path / "one" / OUTPUT).read_text, "it is up")
    pool.close("paused")
    assert pool.runs[0].exit() == "killed by SIGTERM"
