"""Work done by two processes of one group, as two ranks of a run are."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from tests.forks import FORKS, start_forks


def in_two_processes(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """What `work`, a function of a module, returns to each rank."""
    port = free_port()
    ranks = [FORKS.Process(target=join_and_work, args=(rank, work, port, folder)) for rank in (0, 1)]
    start_forks()
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0, 0]
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def free_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ranks_of_two() -> list[dict[str, str]]:
    """The variables that torchrun gives two processes of one group on a CPU."""
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return [{**group, "ACCELERATE_USE_CPU": "True", "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]


def join_and_work(rank: int, work: Callable[[int], Any], port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.save(work(rank), folder / f"{rank}.pt")
    distributed.destroy_process_group()
