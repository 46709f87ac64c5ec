"""Which rows an engine takes at once, by their lengths in tokens. Pure arithmetic."""

from collections.abc import Iterator, Sequence

MOST_ROWS = 256
"""Texts decoded at once."""
CPU_PLACES = 64
"""Places that rows are decoded in by a stream on a CPU: more make products no faster, and the last ones less full."""
BF16_CPU_PLACES = 256
"""Those in bf16: with AMX, which this was measured with, wider products are faster by the row. As many as MOST_ROWS."""
PLACES_BUDGETS = 4
"""Batches whose tokens all places hold together, at most: a decoded token takes less memory than an encoded one."""

LEAST_CALL_ROWS, MOST_CALL_ROWS = 1024, 4096
CALL_NUMBERS = 2**38
"""Rows of a call times the numbers of the matrices that a step multiplies each with, at most, if the rows are many."""
SMALL_MODEL = 4_000_000
"""Numbers in the matrices of a decoder and its head, below which Python takes most of a step."""


def call_rows(numbers: int) -> int:
    """Return how many rows should take turns in the same places in one call, where there are more.

    The last rows of a call are decoded in places of which ever fewer are taken, so a call should have many; but while
    it lasts nobody hears how far it is, and a large model takes its time. Small models take about as long to score rows
    as the next ones to be tokenised, which is done meanwhile, and so should be handed few.

    Args:
        numbers: in the matrices that a step multiplies with.
    Example:
        flan-t5-small, 38 million -> 4,096; flan-t5-base, 124 million -> 2,216; flan-t5-large, 392 million -> 1,024
    """
    if numbers < SMALL_MODEL:
        return LEAST_CALL_ROWS
    return max(LEAST_CALL_ROWS, min(MOST_CALL_ROWS, CALL_NUMBERS // numbers))


def batches_by_tokens(lengths: Sequence[int], budget: int, most_rows: int | None = None) -> Iterator[list[int]]:
    """Yield index groups of like length, longest first, each at most `budget` padded tokens.

    Args:
        most_rows: rows of a group, at most.
    Example:
        lengths [3, 9, 4, 9], budget 18 -> [1, 3], [2, 0]
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        size = max(1, budget // max(1, lengths[order[start]]))
        size = size if most_rows is None else min(size, most_rows)
        yield order[start : start + size]
        start += size


def num_places(longest: int, budget: int, most: int) -> int:
    """Return how many places there are for inputs of up to `longest` tokens, where a batch has `budget`."""
    return max(1, min(most, PLACES_BUDGETS * budget // max(1, longest)))


def runs_by_places(lengths: Sequence[int], budget: int, most: int) -> Iterator[list[int]]:
    """Yield index groups, longest first, that can take turns in the same places.

    Where inputs are so long that there are fewer than `most` places, those of half the length get places of their own.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        longest, end = lengths[order[start]], start + 1
        many = num_places(longest, budget, most) == most
        while end < len(order) and (many or 2 * lengths[order[end]] > longest):
            end += 1
        yield order[start:end]
        start = end


def runs_within(lengths: Sequence[int], budget: int) -> Iterator[range]:
    """Yield runs of neighbours that take no more than the budget if each is as long as the longest of them.

    Example:
        lengths [5, 4, 2, 2, 9], budget 10 -> 0 and 1; 2 and 3; 4
    """
    start, longest = 0, 0
    for place, length in enumerate(lengths):
        longest = max(longest, length)
        if longest * (place + 1 - start) > budget and place > start:
            yield range(start, place)
            start, longest = place, length
    yield range(start, len(lengths))
