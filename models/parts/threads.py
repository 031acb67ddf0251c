"""Work that the threads of a CPU divide among them part by part, where torch would divide each operation of it."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier

import torch


def do_each(work: Callable[[int], None], num: int) -> None:
    """Call work(0) to work(num - 1), spread over as many threads as torch has.

    Args:
        work: is told a number, from 0 on; in such a thread, torch does not divide it further.
        num: how many there are.
    """

    def plainly(number: int) -> None:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):  # which each thread is told by itself
            work(number)

    threads = torch.get_num_threads()
    for _ in (pool(threads).map if threads > 1 and num > 1 else map)(plainly, range(num)):  # raises what one has raised
        pass


@cache
def pool(num_threads: int) -> ThreadPoolExecutor:
    """Return threads, in each of which torch does all of its work alone."""
    barrier = Barrier(num_threads + 1)

    def begin() -> None:
        torch.get_num_threads()  # makes torch set a number for this thread now, and not later
        torch.set_num_threads(1)  # for this thread, and for those that begin later
        barrier.wait()

    threads = ThreadPoolExecutor(num_threads, initializer=begin)
    for _ in range(num_threads):
        threads.submit(int)
    barrier.wait()
    torch.set_num_threads(num_threads)
    return threads


os.register_at_fork(after_in_child=pool.cache_clear)  # a forked process has none of the threads
