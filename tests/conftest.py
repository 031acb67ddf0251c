import itertools
import os
import signal
from pathlib import Path

import pytest
import torch

from tests.forks import LEAN

NUMBERS = itertools.count()
os.environ.pop("WANDB_DISABLED", None)  # of whoever starts the tests: many of them track runs

# A shell's background job ignores Ctrl-C, and so would all programs that the tests start from it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# So does one under nohup a closed terminal.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items):
    """Have half of the workers begin with the tests that wait, beside others that compute.

    Else they would wait one after the other at the end.
    """
    num_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    num_waiting = max(1, num_workers // 2)
    units: dict[str, list[pytest.Item]] = {}
    for item in items:
        if mark := item.get_closest_marker("waits"):
            units.setdefault(str(item.path) if mark.kwargs.get("together") else item.nodeid, []).append(item)
    waiting = [[item for unit in list(units.values())[i::num_waiting] for item in unit] for i in range(num_waiting)]
    others = [item for item in items if not item.get_closest_marker("waits")]
    share = -(-len(items) // num_workers)  # of a worker, as pytest-xdist deals them out
    ordered = []
    for i in range(num_workers):
        own = waiting[i] if i < num_waiting else []
        num_others = max(0, share - len(own))
        ordered += own + others[:num_others]
        others = others[num_others:]
    items[:] = ordered + others


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    # Not by mktemp, which looks through all folders made so far.
    folder = tmp_path_factory.getbasetemp() / "caches" / str(next(NUMBERS))
    folder.mkdir(parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))


@pytest.fixture
def one_thread():
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture
def lean(monkeypatch):
    """Programs that the test starts are up in half the time."""
    monkeypatch.setenv("PYTHONPATH", LEAN["PYTHONPATH"])


@pytest.fixture
def progress_told(monkeypatch):
    """A log is told at every step how far something is, in programs that are forked, too."""
    monkeypatch.setattr("data.progress.SECONDS_BETWEEN_LINES", 0.0)


@pytest.fixture
def figures():
    """Asked for where the figures that train.py draws are looked at; else tests of it leave them empty."""


@pytest.fixture(scope="session")
def cifar10_dir():
    root = os.environ.get("VISION_SWEEPS_DATA", "")
    if root and (Path(root) / "cifar-10-batches-bin").is_dir():
        return Path(root)
    reason = f"VISION_SWEEPS_DATA={root} holds no cifar-10-batches-bin"
    if os.environ.get("REQUIRE_CIFAR10"):
        pytest.fail(reason + ", and REQUIRE_CIFAR10 is set")
    pytest.skip(reason)
