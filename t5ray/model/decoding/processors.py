"""What the decode settings make of a step's scores: transformers' own processors, in the order of `generate`."""

from collections.abc import Callable, Sequence
from hashlib import blake2b

import numpy as np
import torch
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from t5ray.config import DecodeConfig

Processor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Takes scores [B, V] and the tokens so far, int64 [B, t] with the start token; returns scores [B, V]."""

START_TOKENS = 1
"""Length of a T5 decoder's prompt."""


def make_processor(decode: DecodeConfig, eos_id: int, device: torch.device) -> Processor | None:
    """Return what penalises and forbids tokens; None where the settings change nothing.

    Args:
        device: where scores will be.
    """
    found = LogitsProcessorList()
    if decode.repetition_penalty != 1.0:
        found.append(RepetitionPenaltyLogitsProcessor(penalty=decode.repetition_penalty))
    if decode.no_repeat_ngram_size:
        found.append(NoRepeatNGramLogitsProcessor(decode.no_repeat_ngram_size))
    if decode.min_new_tokens:
        least = decode.min_new_tokens
        found.append(MinNewTokensLengthLogitsProcessor(START_TOKENS, least, eos_id, device=str(device)))
    if decode.do_sample:
        found.extend(_warpers(decode))
    return (lambda scores, tokens: found(tokens, scores)) if found else None


def _warpers(decode: DecodeConfig) -> list[object]:
    found: list[object] = []
    if decode.temperature != 1.0:
        found.append(TemperatureLogitsWarper(decode.temperature))
    if decode.top_k:
        found.append(TopKLogitsWarper(decode.top_k))
    if decode.top_p < 1.0:
        found.append(TopPLogitsWarper(decode.top_p))
    return found


class Best:
    """Chooses the highest score that a processor leaves."""

    def __init__(self, processor: Processor) -> None:
        self._processor = processor

    def __call__(self, logits: torch.Tensor, tokens: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return the chosen tokens, int64 [B]."""
        return self._processor(logits, tokens).argmax(dim=-1)


class Sampler:
    """Samples tokens with random numbers of each row's own, so that a row's text does not depend on its batch."""

    def __init__(self, processor: Processor | None, draws: torch.Tensor) -> None:
        """Take the random numbers.

        Args:
            draws: uniform in [0, 1), fp64 [rows, max_new_tokens].
        """
        self._processor, self._draws = processor, draws

    def __call__(self, logits: torch.Tensor, tokens: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return the chosen tokens, int64 [B]."""
        scores = self._processor(logits, tokens) if self._processor else logits
        cumulative = torch.softmax(scores.double(), dim=-1).cumsum(dim=-1)
        drawn = self._draws[rows, tokens.shape[1] - START_TOKENS][:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, drawn, right=True)[:, 0].clamp_max(scores.shape[-1] - 1)


def draws(rows: Sequence[Sequence[int]], samples: int, max_new_tokens: int, seed: int) -> torch.Tensor:
    """Return random numbers that depend on the seed, a row's own tokens and the sample's number alone.

    Returns:
        fp64 [rows * samples, max_new_tokens]; a row's samples follow each other.
    """
    found = np.empty((len(rows) * samples, max_new_tokens))
    for number, row in enumerate(rows):
        digest = blake2b(np.asarray(row, dtype=np.int64).tobytes(), digest_size=8, key=seed.to_bytes(8)).digest()
        for sample in range(samples):
            bits = np.random.Philox(key=np.array([int.from_bytes(digest), sample], dtype=np.uint64))
            found[number * samples + sample] = np.random.Generator(bits).random(max_new_tokens)
    return torch.from_numpy(found)
