import itertools
import random
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from t5ray.data.partition import carve, choose, digest_texts, tenth

TEXTS = st.lists(st.text(alphabet="abc", max_size=3), min_size=3, max_size=60)


@pytest.mark.parametrize(
    ("num_rows", "size"), [(3, 1), (5, 1), (14, 1), (15, 2), (24, 2), (25, 3), (100, 10), (1000, 100), (1004, 100)]
)
def test_tenth(num_rows: int, size: int) -> None:
    assert tenth(num_rows) == size


def test_digests_depend_on_text_and_seed_only() -> None:
    script = "from t5ray.data.partition import digest_texts; print(digest_texts(['a', 'ä', 'a'], 7).tolist())"
    other_process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    digests = digest_texts(["a", "ä", "a"], 7)
    assert str(digests.tolist()) == other_process.strip()
    assert digests[0] == digests[2] != digests[1]
    assert (digests != digest_texts(["a", "ä", "a"], 8)).all()


def test_carve_takes_the_lowest_digests_in_turn() -> None:
    digests = np.array([50, 10, 90, 20, 70], np.uint64)
    test, validation = carve(digests, [2, 1])
    assert (test.tolist(), validation.tolist()) == ([1, 3], [0])


def test_carve_keeps_equal_digests_together() -> None:
    digests = np.array([10, 20, 10, 30, 20, 40, 40, 50], np.uint64)
    (part,) = carve(digests, [3])
    assert part.tolist() == [0, 2, 3]  # the pair 10 fits, the pair 20 does not, 30 does


def test_carve_closes_a_gap_that_hash_order_leaves() -> None:
    digests = np.array([1, 1, 1, 2, 2, 3, 3, 4, 4, 4, 4], np.uint64)  # in hash order: 3, then no single for the 4th
    (part,) = carve(digests, [4])
    assert part.tolist() == [3, 4, 5, 6]


def test_carve_comes_as_near_below_as_it_can() -> None:
    digests = np.repeat(np.arange(10, dtype=np.uint64), 3)
    (part,) = carve(digests, [5])
    assert part.tolist() == [0, 1, 2]


def test_carve_leaves_every_part_a_group() -> None:
    digests = np.array([1, 2] + [3] * 98, np.uint64)
    test, validation = carve(digests, [10, 10])
    assert (test.tolist(), validation.tolist()) == ([0], [1])
    test, validation = carve(np.repeat(np.arange(3, dtype=np.uint64), 50), [15, 15])
    assert (len(test), len(validation)) == (50, 50)


def test_carve_is_fast_on_a_million_rows_without_single_texts() -> None:
    digests = np.repeat(digest_texts((str(n) for n in range(333_333)), 0), 3)
    sizes = [len(part) for part in carve(digests, [100_000, 100_000])]
    assert sizes == [99_999, 99_999]  # threes cannot sum to 100,000


def _sums(sizes: list[int]) -> set[int]:
    return {sum(chosen) for count in range(1, len(sizes)) for chosen in itertools.combinations(sizes, count)}


@given(st.lists(st.integers(1, 9), min_size=2, max_size=10), st.integers(1, 20))
def test_carve_is_exact_whenever_groups_allow(group_sizes: list[int], wanted: int) -> None:
    assume(wanted < sum(group_sizes))
    digests = np.repeat(np.arange(len(group_sizes), dtype=np.uint64), group_sizes)
    (part,) = carve(digests, [wanted])
    possible = _sums(group_sizes)
    assert len(part) == max((size for size in possible if size <= wanted), default=min(group_sizes))


@given(TEXTS.filter(lambda texts: len(set(texts)) > 2), st.integers(0, 3), st.randoms())
def test_parts_are_disjoint_whole_and_independent_of_order(
    texts: list[str], seed: int, shuffler: random.Random
) -> None:
    sizes = [tenth(len(texts))] * 2

    def split(rows: list[str]) -> list[Counter[str]]:
        return [Counter(rows[row] for row in part) for part in carve(digest_texts(rows, seed), sizes)]

    parts = split(texts)
    everything = Counter(texts)
    assert all(parts)
    assert not set(parts[0]) & set(parts[1])
    assert all(count == everything[text] for part in parts for text, count in part.items())
    assert set(parts[0]) | set(parts[1]) < set(texts)
    shuffled = texts.copy()
    shuffler.shuffle(shuffled)
    assert split(shuffled) == parts


@settings(max_examples=25)
@given(st.sets(st.text(max_size=5), min_size=10, max_size=200), st.integers())
def test_sizes_are_exact_on_different_texts(texts: set[str], seed: int) -> None:
    size = tenth(len(texts))
    assert [len(part) for part in carve(digest_texts(texts, seed), [size, size])] == [size, size]


@given(TEXTS, st.integers(1, 60), st.randoms())
def test_choice_is_nested_and_independent_of_order(texts: list[str], limit: int, shuffler: random.Random) -> None:
    rows = [(text, str(number % 3)) for number, text in enumerate(texts)]

    def chosen(rows: list[tuple[str, str]], limit: int) -> Counter[tuple[str, str]]:
        digests, ties = digest_texts((row[0] for row in rows), 0), digest_texts((row[1] for row in rows), 0)
        return Counter(rows[row] for row in choose(digests, ties, limit))

    few = chosen(rows, limit)
    assert few.total() == min(limit, len(rows))
    assert few <= chosen(rows, limit + 1)
    shuffler.shuffle(rows)
    assert chosen(rows, limit) == few
