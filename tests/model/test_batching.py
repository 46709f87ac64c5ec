"""Batches by hand-worked examples, and that no row is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5ray.model.batching import batches_by_tokens, call_rows, runs_by_places, runs_within


def test_batches_by_tokens_example() -> None:
    assert list(batches_by_tokens([3, 9, 4, 9], 18)) == [[1, 3], [2, 0]]


@given(lengths=st.lists(st.integers(1, 50), max_size=60), budget=st.integers(1, 200))
def test_every_row_is_in_one_batch_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(batches_by_tokens(lengths, budget))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


@pytest.mark.parametrize(
    ("numbers", "rows"), [(120_000, 1024), (38_500_000, 4096), (124_000_000, 2216), (392_000_000, 1024)]
)
def test_models_that_take_longer_are_handed_fewer_rows_and_so_are_small_ones(numbers: int, rows: int) -> None:
    assert call_rows(numbers) == rows


def test_runs_by_places_example() -> None:
    # four batches of 6 tokens: 1 place for 24 tokens, 2 for 11, 4 for 4
    assert list(runs_by_places([3, 24, 9, 11, 6, 4], 6, 4)) == [[1], [3, 2, 4], [5, 0]]


@given(lengths=st.lists(st.integers(1, 50), max_size=60), most=st.integers(1, 9))
def test_every_row_is_in_one_run_longest_first(lengths: list[int], most: int) -> None:
    runs = list(runs_by_places(lengths, 8, most))
    assert sorted(i for run in runs for i in run) == list(range(len(lengths)))
    assert [lengths[i] for run in runs for i in run] == sorted(lengths, reverse=True)


def test_runs_stay_within_their_budget() -> None:
    assert list(runs_within([5, 4, 2, 2, 9], 10)) == [range(2), range(2, 4), range(4, 5)]
    assert list(runs_within([30, 1, 1, 1], 3)) == [range(1), range(1, 4)]
    assert list(runs_within([1, 2, 3], 9)) == [range(3)]
