"""Which rows go through the model together: optimizer steps of exact size, micro-batches of like length.

A step's rows do not depend on the number of workers or on memory; only their cut into micro-batches does. That is what
makes losses comparable between one worker and many.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from t5ray.data.tokens import TokenisedSplit

WINDOW_STEPS = 32
"""Steps whose rows are sorted by length together: wide enough to save padding, small enough to keep epochs random."""
IGNORED = -100
"""Label that the loss skips."""

Indices = np.ndarray[tuple[int], np.dtype[np.int64]]
Limit = Callable[[int], int]
"""Takes the tokens of a group's longest row, input and target together; returns how many rows may be in the group."""


@dataclass(frozen=True)
class Batch:
    """Padded rows."""

    input_ids: torch.Tensor
    """int64 [B, S]"""
    attention_mask: torch.Tensor
    """int64 [B, S], 1 at tokens"""
    labels: torch.Tensor
    """int64 [B, T], -100 at padding"""

    def to(self, device: torch.device) -> "Batch":
        """Copy to a device."""
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Step:
    """One worker's part of one optimizer step."""

    micro_batches: tuple[Indices, ...]
    """Rows to forward, group by group; empty where the step has fewer rows than there are workers."""
    target_tokens: int
    """Target tokens of the whole step, over all workers: what the summed loss is divided by."""


def num_steps(rows: int, batch_size: int) -> int:
    """Return the optimizer steps of one epoch; the last one may be smaller."""
    return -(-rows // batch_size)


def epoch_steps(
    split: TokenisedSplit,
    *,
    batch_size: int,
    limit: Limit,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Step]:
    """Yield the steps of one epoch for one worker.

    Rows are shuffled by (seed, epoch), sorted by length within windows of steps, and the steps shuffled again.
    """
    lengths = np.asarray(split.input_lengths) + np.asarray(split.label_lengths)
    targets = np.asarray(split.label_lengths)
    for rows in _shuffled_steps(lengths, batch_size, seed, epoch):
        mine = rows[rank::world_size]
        groups = micro_batches(mine, lengths, limit)
        yield Step(tuple(groups), int(targets[rows].sum()))


def _shuffled_steps(lengths: Indices, batch_size: int, seed: int, epoch: int) -> list[Indices]:
    """Cut all rows into steps of `batch_size`, each of like length, longest row first."""
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    window = WINDOW_STEPS * batch_size
    steps: list[Indices] = []
    for start in range(0, len(order), window):
        rows = order[start : start + window]
        rows = rows[np.argsort(-lengths[rows], kind="stable")]
        steps += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    return [steps[i] for i in random.permutation(len(steps))]


def token_budget(tokens: int, most: int | None = None) -> Limit:
    """Return the limit of so many padded tokens to a group, and of `most` rows; a single row may exceed the first."""
    return lambda longest: max(1, min(tokens // longest, most or tokens))


def micro_batches(rows: Indices, lengths: Indices, limit: Limit) -> Iterator[Indices]:
    """Cut rows, longest first, into groups within a limit.

    Args:
        lengths: tokens of each row of the split, input and target together.
    Example:
        rows of lengths [9, 8, 3, 3], token_budget(18) -> [9, 8], [3, 3]
    """
    start = 0
    while start < len(rows):
        size = limit(int(lengths[rows[start]]))
        yield rows[start : start + size]
        start += size


def collate(split: TokenisedSplit, rows: Sequence[int] | Indices, *, pad_id: int) -> Batch:
    """Pad tokenised rows into one batch.

    Args:
        rows: B positions in the split; S and T are the longest input and target of them, in tokens with EOS.
        pad_id: pads `input_ids`; `labels` pad with -100.
    Example:
        inputs [[7, 8, 1], [9, 1]] -> input_ids [[7, 8, 1], [9, 1, 0]]
    Source: seqio EncDecFeatureConverter; Raffel et al. 2020.
    """
    inputs = _padded(split.input_ids, split.input_offsets, rows, pad_id)
    labels = _padded(split.labels, split.label_offsets, rows, IGNORED)
    widths = np.diff(split.input_offsets)[rows]
    mask = np.arange(inputs.shape[1]) < widths[:, None]
    return Batch(torch.from_numpy(inputs), torch.from_numpy(mask.astype(np.int64)), torch.from_numpy(labels))


def _padded(
    flat: np.ndarray[tuple[int], np.dtype[np.int32]], offsets: Indices, rows: Sequence[int] | Indices, fill: int
) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    pieces = [flat[offsets[i] : offsets[i + 1]] for i in rows]
    padded = np.full((len(pieces), max(map(len, pieces))), fill, dtype=np.int64)
    for line, piece in zip(padded, pieces, strict=True):
        line[: len(piece)] = piece
    return padded
