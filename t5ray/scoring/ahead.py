"""Work on the next item while the caller is busy with this one. Knows nothing of what the work is."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def one_ahead(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield what `work` gives for each item, in turn; a thread has the next one under way by then.

    So an item is worked on while the one after it is taken from `items`: where making items takes time, their work is
    done meanwhile. An error comes in its item's place, after the results before it, and ends it.
    """
    iterator, failure = iter(items), None
    try:
        with ThreadPoolExecutor(1, "ahead") as pool:
            begun: deque[Future[Result]] = deque()
            while True:
                try:
                    begun.append(pool.submit(work, next(iterator)))
                except StopIteration:
                    break
                except Exception as exc:  # noqa: BLE001 (raised below)
                    failure = exc
                    break
                if len(begun) > 1:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        if failure is not None:
            raise failure
    finally:
        failure = None  # whose traceback holds this frame, and that the iterator and its threads
