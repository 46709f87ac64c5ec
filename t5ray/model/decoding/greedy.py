"""One token after another: the best one, or a sampled one. A row that has ended leaves its place to one that waits.

So products stay wide until the rows run out, and no weight is read for a handful of texts that happen to be long.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

from t5ray.model.decoding.decoder import Decoder
from t5ray.model.decoding.vocabulary import Vocabulary
from t5ray.model.decoding.waiting import Waiting
from t5ray.model.decoding.weights import T5Weights

FILL_SHARE = 16
"""Free places are filled once they are one in so many."""
LEAVE_SHARE = 8
"""With no row waiting, free places are given up once they are one in so many."""


class Chooser(Protocol):
    """Picks the next token of each row where that is more than the highest logit."""

    def __call__(self, logits: torch.Tensor, tokens: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return int64 [B].

        Args:
            logits: [B, V]; may be changed in place.
            tokens: what each row has so far, the start token included, int64 [B, t].
            rows: which rows these are, int64 [B].
        """


@dataclass(frozen=True)
class Generated:
    """What decoding gave for N rows."""

    tokens: torch.Tensor
    """Generated tokens with EOS, int64 [N, T]; padded after it."""
    log_probabilities: torch.Tensor | None
    """Log-probability of each row's tokens, EOS included, [N]; None unless asked for."""


def generate(
    model: T5Weights,
    vocabulary: Vocabulary,
    waiting: Waiting,
    decoder: Decoder,
    *,
    num_rows: int,
    max_new_tokens: int,
    choose: Chooser | None = None,
    scores: bool = False,
) -> Generated:
    """Decode until every row has its EOS or the cap.

    Args:
        waiting: `num_rows` rows.
        decoder: empty places for them.
        choose: None takes the highest logit. It must see texts of one length, so there is a place for every row.
        scores: also return log-probabilities, under the model itself whatever `choose` prefers.
    """
    run = _Run(model, waiting, decoder, num_rows, max_new_tokens)
    while run.fill():
        states = run.decoder.step(run.tokens[run.rows, run.decoder.ages])
        if choose is None and not scores:
            chosen = vocabulary.best(states)
        else:
            logits, log_sum = vocabulary.normalised(states)
            chosen = choose(logits.clone(), *run.history()) if choose else logits.argmax(dim=-1)
            run.total[run.rows] += (logits.gather(1, chosen[:, None]) - log_sum)[:, 0]
        run.note(chosen)
    return Generated(run.tokens[:num_rows, 1 : run.longest + 1], run.total[:num_rows] if scores else None)


class _Run:
    """Which row is in which place, and what each has so far. Row number N is nobody's: it belongs to free places."""

    def __init__(self, model: T5Weights, waiting: Waiting, decoder: Decoder, num_rows: int, cap: int) -> None:
        self._model, self._waiting, self._num_rows, self._cap = model, waiting, num_rows, cap
        self.decoder = decoder
        device = model.device
        self.tokens = torch.full((num_rows + 1, cap + 1), model.pad_id, device=device)
        self.tokens[:, 0] = model.start_id
        self.total = torch.zeros(num_rows + 1, device=device)
        self.rows = torch.full((decoder.places,), num_rows, device=device)
        self.longest = 0
        """Tokens of the longest text so far."""
        self._next, self._num_free = 0, decoder.places

    def fill(self) -> bool:
        """Let rows that wait into free places, or give those up; say whether there is a row left to decode."""
        places = len(self.rows)
        if self._waiting and self._num_free * FILL_SHARE >= places:
            free = (self.rows == self._num_rows).nonzero()[:, 0]
            for part in self._waiting.take(self._num_free):
                taken, free = free[: len(part.lengths)], free[len(part.lengths) :]
                self.decoder.fill(taken, part)
                self.rows[taken] = torch.arange(self._next, self._next + len(taken), device=taken.device)
                self._next, self._num_free = self._next + len(taken), self._num_free - len(taken)
        if self._num_free < places and self._num_free * LEAVE_SHARE >= places and not self._waiting:
            stay = self._without_holes()
            self.decoder.keep(stay)
            self.rows, self._num_free = self.rows[stay], 0
        return self._num_free < places

    def _without_holes(self) -> torch.Tensor:
        """Return the places that stay, int64; the last of them stand where a free one was, so that few need to move."""
        is_free = self.rows == self._num_rows
        stay = (~is_free).nonzero()[:, 0]
        kept = torch.arange(len(stay), device=stay.device)
        kept[is_free[: len(stay)]] = stay[stay >= len(stay)]
        return kept

    def history(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what each place's text had before this step, int64 [B, t], and its row; free places have any."""
        return self.tokens[self.rows, : self.decoder.oldest], self.rows.clamp_max(self._num_rows - 1)

    def note(self, chosen: torch.Tensor) -> None:
        """Write down the tokens of a step and let go of what they end."""
        ages = self.decoder.ages
        self.tokens[self.rows, ages] = chosen
        self.longest = max(self.longest, self.decoder.oldest)
        free = (chosen == self._model.eos_id) | (ages == self._cap) | (self.rows == self._num_rows)
        before, self._num_free = self._num_free, int(free.sum())
        self.rows.masked_fill_(free, self._num_rows)
        self.decoder.rest(free, ended=self._num_free > before)
