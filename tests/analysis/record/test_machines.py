"""A run on several machines: whether they share the folder of runs, and see the same images."""

import os

import pytest
from accelerate import PartialState

from analysis.record import machines
from data.errors import UserError
from tests.two_processes import in_two_processes, ranks_of_two


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


def check_images(rank, fingerprints):
    """What one of two processes hears that have read images of these fingerprints."""
    os.environ.update(ranks_of_two()[rank])
    PartialState(cpu=True)
    try:
        machines.check_images_agree(fingerprints[rank])
    except UserError as error:
        return str(error)
    return ""


def check_same_images(rank):
    return check_images(rank, ["a", "a"])


def check_other_images(rank):
    return check_images(rank, ["a", "b"])


@pytest.mark.slow
@pytest.mark.parametrize(("work", "is_refused"), [(check_same_images, False), (check_other_images, True)])
def test_processes_that_read_different_images_are_refused(work, is_refused, tmp_path):
    heard = in_two_processes(work, tmp_path)
    assert ["the machines have different images" in each for each in heard] == [is_refused] * 2


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
