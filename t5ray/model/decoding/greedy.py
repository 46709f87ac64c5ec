"""One token after another for a batch: the best one, or a sampled one. Finished rows leave the batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from t5ray.model.decoding.decoder import Decoder
from t5ray.model.decoding.vocabulary import Vocabulary, log_probability
from t5ray.model.decoding.weights import T5Weights

LEAVE_SHARE = 8
"""Finished rows leave once they are one in so many: copying the caches of the rest costs about half a step."""


class Chooser(Protocol):
    """Picks the next token of each row where that is more than the highest logit."""

    def __call__(self, logits: torch.Tensor, tokens: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return int64 [B].

        Args:
            logits: [B, V]; may be changed in place.
            tokens: what each row has so far, the start token included, int64 [B, t].
            rows: which rows of the batch these are, int64 [B].
        """


@dataclass(frozen=True)
class Generated:
    """What decoding gave for B rows."""

    tokens: torch.Tensor
    """Generated tokens with EOS, int64 [B, T]; padded after it."""
    log_probabilities: torch.Tensor | None
    """Log-probability of each row's tokens, EOS included, [B]; None unless asked for."""


def generate(
    model: T5Weights,
    vocabulary: Vocabulary,
    decoder: Decoder,
    *,
    max_new_tokens: int,
    choose: Chooser | None = None,
    scores: bool = False,
) -> Generated:
    """Decode until every row has its EOS or the cap.

    Args:
        decoder: fresh, over the encoded rows.
        choose: None takes the highest logit.
        scores: also return log-probabilities, under the model itself whatever `choose` prefers.
    """
    device, num_rows = model.device, decoder.rows
    tokens = torch.full((num_rows, max_new_tokens + 1), model.pad_id, device=device)
    tokens[:, 0] = model.start_id
    total = torch.zeros(num_rows, device=device)
    rows = torch.arange(num_rows, device=device)
    ended = torch.zeros(num_rows, dtype=torch.bool, device=device)
    for length in range(1, max_new_tokens + 1):
        states = decoder.step(tokens[rows, length - 1])
        if choose is None and not scores:
            chosen = vocabulary.best(states)
        else:
            logits = vocabulary.logits(states)
            chosen = choose(logits.clone(), tokens[rows, :length], rows) if choose else logits.argmax(dim=-1)
            if scores:
                total[rows] += log_probability(logits, chosen).masked_fill(ended, 0.0)
        tokens[rows, length] = chosen.masked_fill(ended, model.pad_id)
        ended |= chosen == model.eos_id
        num_ended = int(ended.sum())
        if num_ended == len(rows):
            break
        if num_ended * LEAVE_SHARE >= len(rows):
            stay = (~ended).nonzero()[:, 0]
            decoder, rows, ended = decoder.select(stay), rows[stay], ended[stay]
    return Generated(tokens[:, 1 : length + 1], total if scores else None)


def strip(tokens: torch.Tensor, eos_id: int) -> list[Sequence[int]]:
    """Return each row of [B, T] up to its EOS, which is left out."""
    return [row[: row.index(eos_id)] if eos_id in row else row for row in tokens.tolist()]
