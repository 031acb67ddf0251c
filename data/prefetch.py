"""Results that threads compute ahead of their use."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from data.cores import num_cores

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetched(
    function: Callable[[Item], Result], items: Iterable[Item], num_ahead: int, num_threads: int | None = None
) -> Iterator[Result]:
    """Yield what a function returns for each item, in order.

    Args:
        function: called in several threads at once.
        items: what it is called with.
        num_ahead: the most results that wait for their use in memory.
        num_threads: None for as many as there are cores to use.
    """
    pool = ThreadPoolExecutor(num_threads or num_cores())
    waiting = iter(items)
    try:
        queue = deque(pool.submit(function, item) for item in islice(waiting, num_ahead))
        while queue:
            result = queue.popleft().result()
            queue.extend(pool.submit(function, item) for item in islice(waiting, 1))
            yield result
    finally:
        # Without waiting: where a generator was left in its midst, this may be the garbage collector, anywhere.
        pool.shutdown(wait=False, cancel_futures=True)
