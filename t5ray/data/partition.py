"""Which row goes to which split, from nothing but a hash of its text.

Comes in: one 64-bit digest per row. Goes out: row numbers. Rows of equal digest are one group and never part. Nothing
depends on the order of rows, on the process or on the machine.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Digests = NDArray[np.uint64]
RowNumbers = NDArray[np.int64]


SEEN_SEED = 0
"""Seed of the digests that a bundle keeps of the texts it has seen."""


def digest_texts(texts: Iterable[str], seed: int) -> Digests:
    """Hash each text with the seed. Over 10 million texts, two share a digest by chance about once in 400,000 times."""
    seeded = hashlib.blake2b(f"{seed}\n".encode(), digest_size=8)

    def digest(text: str) -> bytes:
        own = seeded.copy()
        own.update(text.encode())
        return own.digest()

    return np.frombuffer(b"".join(map(digest, texts)), dtype="<u8").astype(np.uint64)


def tenth(num_rows: int) -> int:
    """Return the size of a validation or test split: a tenth of the rows, rounded half up, and at least 1."""
    return max(1, (num_rows + 5) // 10)


def carve(digests: Digests, sizes: Sequence[int]) -> list[RowNumbers]:
    """Take parts of given sizes out of the rows.

    Groups are visited in the order of their digests, and each goes to the part at hand if it still fits. Where that
    leaves a gap that other groups can close, those are taken instead. Each part, and what is left over, gets at least
    one group, even where the smallest exceeds the size.

    Args:
        digests: one per row; must hold more groups than there are parts.
        sizes: rows of each part.
    Returns:
        Row numbers of each part, ascending.
    Example:
        ten rows of different digests, sizes [1, 1] -> the row of the lowest digest, the row of the second lowest
    """
    _, group_of_row, group_sizes = np.unique(digests, return_inverse=True, return_counts=True)
    assert len(group_sizes) > len(sizes), "the caller checks that there are enough groups"
    free = np.arange(len(group_sizes))
    part_of_group = np.full(len(group_sizes), -1)
    for part, size in enumerate(sizes):
        keep_back = len(sizes) - part
        chosen = _fill(group_sizes[free].tolist(), size, at_most=len(free) - keep_back)
        part_of_group[free[chosen]] = part
        free = np.delete(free, chosen)
    part_of_row = part_of_group[group_of_row]
    return [np.flatnonzero(part_of_row == part) for part in range(len(sizes))]


def _fill(group_sizes: list[int], wanted: int, *, at_most: int) -> list[int]:
    """Choose at most so many groups that hold `wanted` rows together, or as near below as can be; at least one."""
    chosen, gap = list[int](), wanted
    for group, size in enumerate(group_sizes):
        if gap == 0 or len(chosen) == at_most:
            break
        if size <= gap:
            chosen.append(group)
            gap -= size
    if gap:
        nearest = _nearest_sum(group_sizes, wanted)
        if len(nearest) <= at_most and sum(group_sizes[group] for group in nearest) > wanted - gap:
            chosen = nearest
    return chosen or [group_sizes.index(min(group_sizes))]


def _nearest_sum(group_sizes: list[int], wanted: int) -> list[int]:
    """Choose groups whose sizes sum to `wanted`, or to the greatest sum below it that exists.

    Bit n of `reachable[k]` says that n is a sum of groups of the k smallest sizes: subset sum over distinct sizes,
    whose number is at most the root of twice the rows.
    """
    kinds = sorted((size, count) for size, count in Counter(group_sizes).items() if size <= wanted)
    mask = (1 << (wanted + 1)) - 1
    reachable = [1]
    for size, count in kinds:
        reachable.append(_add_kind(reachable[-1], size, count) & mask)
    rest = reachable[-1].bit_length() - 1
    take = Counter[int]()
    for (size, _), before in zip(reversed(kinds), reversed(reachable[:-1]), strict=True):
        while not before >> rest & 1:
            take[size] += 1
            rest -= size
    return _first_of_each(group_sizes, take)


def _add_kind(reachable: int, size: int, count: int) -> int:
    """Return the sums that up to `count` more groups of one size make reachable, in log(count) shifts."""
    step = 1
    while count:
        step = min(step, count)
        reachable |= reachable << step * size
        count -= step
        step *= 2
    return reachable


def _first_of_each(group_sizes: list[int], take: Counter[int]) -> list[int]:
    chosen = []
    for group, size in enumerate(group_sizes):
        if take[size]:
            take[size] -= 1
            chosen.append(group)
    return chosen


def choose(digests: Digests, tie_breaks: Digests, limit: int) -> RowNumbers:
    """Return the rows of the `limit` lowest digests, ascending: a smaller limit chooses among the rows of a larger.

    Args:
        tie_breaks: orders rows of equal digest, so that the choice does not depend on the order of rows.
    """
    return np.sort(np.lexsort((tie_breaks, digests))[:limit])
