"""A run on several machines: whether they share the folder of runs."""

import os

import pytest
from accelerate import PartialState

from analysis.record import machines
from data.errors import UserError
from tests.two_processes import in_two_processes


def check(rank, folders):
    """What one of two machines hears when each has a folder of its own, or the same."""
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"})
    os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank)})
    PartialState(cpu=True)
    os.environ["LOCAL_WORLD_SIZE"] = "1"  # as if the other one were on another machine
    machines.SECONDS_TO_APPEAR = 0.0
    try:
        machines.check_is_shared(folders[rank])
    except UserError as error:
        return str(error)
    return ""


def check_one(rank):
    return check(rank, [machines.Path("one"), machines.Path("one")])


def check_two(rank):
    return check(rank, [machines.Path("one"), machines.Path("two")])


@pytest.mark.slow
@pytest.mark.parametrize(("work", "is_refused"), [(check_one, False), (check_two, True)])
def test_machines_that_do_not_share_the_folder_of_runs_are_refused(work, is_refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    heard = in_two_processes(work, tmp_path)
    assert ["is not the same folder on all machines" in each for each in heard] == [is_refused] * 2
    assert not list((tmp_path / "one").iterdir())
