"""Batches by hand-worked examples, and the invariants that make losses comparable between worker counts."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from t5ray.data.batches import collate, epoch_steps, micro_batches, num_steps, token_budget
from t5ray.data.tokens import TokenisedSplit


def split_of(inputs: list[list[int]], labels: list[list[int]]) -> TokenisedSplit:
    def flat(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
        return np.array([i for row in rows for i in row], dtype=np.int32), offsets

    return TokenisedSplit(*flat(inputs), *flat(labels))


def split_with_lengths(lengths: list[int]) -> TokenisedSplit:
    return split_of([[5] * n for n in lengths], [[6] * (1 + n % 3) for n in lengths])


def test_collate_example() -> None:
    batch = collate(split_of([[7, 8, 1], [9, 1]], [[4, 1], [5, 6, 1]]), [0, 1], pad_id=0)
    assert batch.input_ids.tolist() == [[7, 8, 1], [9, 1, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch.labels.tolist() == [[4, 1, -100], [5, 6, 1]]


def test_micro_batches_example() -> None:
    lengths = np.array([9, 8, 3, 3])
    groups = micro_batches(np.arange(4), lengths, token_budget(18))
    assert [lengths[g].tolist() for g in groups] == [[9, 8], [3, 3]]
    few = micro_batches(np.arange(4), lengths, token_budget(18, 1))
    assert [lengths[g].tolist() for g in few] == [[9], [8], [3], [3]]
    tight = micro_batches(np.arange(4), lengths, token_budget(6))
    assert [lengths[g].tolist() for g in tight] == [[9], [8], [3, 3]]


def test_num_steps_keeps_the_smaller_last_step() -> None:
    assert [num_steps(n, 4) for n in (1, 4, 5, 8)] == [1, 1, 2, 2]


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=120),
    batch_size=st.integers(1, 40),
    workers=st.integers(1, 4),
    micro=st.one_of(st.none(), st.integers(1, 8)),
    seed=st.integers(0, 3),
)
def test_every_row_trains_once_per_epoch_whatever_the_workers_and_memory(
    lengths: list[int], batch_size: int, workers: int, micro: int | None, seed: int
) -> None:
    split = split_with_lengths(lengths)

    def steps(rank: int, size: int, micro_size: int | None) -> list[tuple[list[int], int]]:
        found = epoch_steps(
            split,
            batch_size=batch_size,
            limit=token_budget(64, micro_size),
            seed=seed,
            epoch=1,
            rank=rank,
            world_size=size,
        )
        return [([int(r) for group in step.micro_batches for r in group], step.target_tokens) for step in found]

    alone = steps(0, 1, None)
    parts = [steps(rank, workers, micro) for rank in range(workers)]
    assert sorted(row for rows, _ in alone for row in rows) == list(range(len(lengths)))
    assert len(alone) == num_steps(len(lengths), batch_size)
    for index, (rows, tokens) in enumerate(alone):
        together = sorted(row for part in parts for row in part[index][0])
        assert together == sorted(rows)
        assert tokens == sum(int(split.label_lengths[row]) for row in rows)
        assert all(part[index][1] == tokens for part in parts)


def test_epochs_differ_and_repeat() -> None:
    split = split_with_lengths([3] * 50)

    def order(epoch: int) -> list[int]:
        found = epoch_steps(split, batch_size=8, limit=token_budget(99), seed=0, epoch=epoch)
        return [int(r) for step in found for group in step.micro_batches for r in group]

    assert order(1) == order(1) != order(2)


def test_batches_hold_rows_of_like_length() -> None:
    lengths = list(np.random.default_rng(0).integers(5, 200, size=2000))
    split = split_with_lengths([int(n) for n in lengths])
    steps = epoch_steps(split, batch_size=16, limit=token_budget(10**9), seed=0, epoch=1)
    padded = sum(len(g) * max(lengths[int(r)] for r in g) for step in steps for g in step.micro_batches)
    assert sum(lengths) / padded > 0.9
