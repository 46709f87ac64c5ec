"""Work on rows, shared out to threads of one process.

torch spreads each operation over its threads and lets them wait for each other after it. A decoding step is some
hundred operations, many of them small, so that waiting takes a third of it on two cores. Threads that each have rows of
their own wait once, at the end. Python's lock is free while an operation runs, so large models do not notice it.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from t5ray.model.batching import SMALL_MODEL

MOST_STREAMS = 4
"""More would wait for Python's lock."""
LEAST_ROWS = 32
"""Rows of a stream: fewer make narrow products."""


def num_streams(num_rows: int, numbers: int) -> int:
    """Return how many streams this thread should share rows out to, by its share of the machine.

    Args:
        numbers: in the matrices that a step multiplies with.
    """
    if numbers < SMALL_MODEL:
        return 1
    return max(1, min(torch.get_num_threads(), MOST_STREAMS, num_rows // LEAST_ROWS))


Item = TypeVar("Item")
Result = TypeVar("Result")


def share_out(work: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item], streams: int) -> list[Result]:
    """Return what `work` gives for all items, in their order; it is called once by each of several threads.

    Items are dealt in turn, so that sorted ones give each thread as much. torch's threads are shared out too.

    Example:
        [9, 7, 4, 2, 1] over 2 streams -> work([9, 4, 1]) and work([7, 2])
    """
    if streams == 1:
        return list(work(items))
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(streams, "stream", torch.set_num_threads, (max(1, threads // streams),)) as pool:
            done = list(pool.map(work, [items[number::streams] for number in range(streams)]))
    finally:
        torch.set_num_threads(threads)  # a thread's setting is also what threads begin with that are made later
    found: dict[int, Result] = {}
    for number, results in enumerate(done):
        found.update(zip(range(number, len(items), streams), results, strict=True))
    return [found[place] for place in range(len(items))]
