"""Beam search with the rules of transformers 5, row for row: the same scores, lengths and moments to stop.

Each row of the batch has K beams and, apart, its K best finished texts. Rows whose best texts can change no more leave
the batch. What a text costs that was found is worked out again over a fresh decoder.
Source: transformers GenerationMixin._beam_search; Wu et al. 2016 for the length penalty.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from t5ray.model.decoding.decoder import Decoder
from t5ray.model.decoding.processors import Processor
from t5ray.model.decoding.vocabulary import Vocabulary
from t5ray.model.decoding.weights import T5Weights

LEAVE_SHARE = 8
"""Rows that are done leave the batch once they are one in so many: to leave, all others must be copied."""
IMPOSSIBLE = -1.0e9
"""Score of what must not be chosen."""


@dataclass(frozen=True)
class BeamRules:
    """How beams are ranked, and when a row is done."""

    num_beams: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    max_new_tokens: int


@dataclass
class _Beams:
    """R rows of K beams each. Lengths count generated tokens; T is their cap."""

    rows: torch.Tensor
    """Which rows of the batch these are, int64 [R]."""
    running: torch.Tensor
    """Tokens of the running beams with the start token, int64 [R, K, T + 1]."""
    running_scores: torch.Tensor
    finished: torch.Tensor
    """Tokens of the finished texts, int64 [R, K, T + 1]."""
    finished_scores: torch.Tensor
    is_finished: torch.Tensor
    """Which places of `finished` are taken, bool [R, K]."""
    can_improve: torch.Tensor
    """Whether a running beam may still beat a finished text, bool [R, 1]."""

    def select(self, chosen: torch.Tensor) -> "_Beams":
        return _Beams(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class BeamResult:
    """The K best texts of B rows, best first."""

    tokens: torch.Tensor
    """int64 [B, K, T], padded after EOS."""
    scores: torch.Tensor
    """Sum of log-probabilities over length ** length_penalty, [B, K]."""


def beam_search(
    model: T5Weights,
    vocabulary: Vocabulary,
    decoder: Decoder,
    rules: BeamRules,
    processor: Processor | None = None,
) -> BeamResult:
    """Search the best texts of each row.

    Args:
        decoder: fresh, over the encoded rows, with a width of `num_beams`.
        processor: changes log-probabilities before beams are compared.
    """
    num_rows, width = decoder.places, rules.num_beams
    beams = _start(model, num_rows, rules)
    noted = torch.zeros(num_rows, dtype=torch.bool, device=model.device)
    done_tokens, done_scores = beams.finished.clone(), beams.finished_scores.clone()
    for length in range(1, rules.max_new_tokens + 1):
        states = decoder.step(beams.running[:, :, length - 1].flatten())
        scores = torch.log_softmax(vocabulary.logits(states), dim=-1)
        if processor is not None:
            scores = processor(scores, beams.running[:, :, :length].flatten(0, 1))
        origin = _advance(beams, scores, length, model.eos_id, rules)
        done = _done(beams, length, rules) & ~noted
        done_tokens[beams.rows[done]], done_scores[beams.rows[done]] = beams.finished[done], beams.finished_scores[done]
        noted |= done
        num_noted = int(noted.sum())
        if num_noted == len(noted):
            break
        texts = origin + torch.arange(len(noted), device=model.device)[:, None] * width
        if num_noted * LEAVE_SHARE < len(noted):
            decoder.reorder(texts.flatten())
        else:
            stay = (~noted).nonzero()[:, 0]
            beams, noted = beams.select(stay), noted[stay]
            decoder = decoder.select(texts[stay].flatten(), stay)
    return BeamResult(done_tokens[:, :, 1 : length + 1], done_scores)


def _done(beams: _Beams, length: int, rules: BeamRules) -> torch.Tensor:
    """Say whose best texts stand, bool [R]."""
    if length == rules.max_new_tokens:
        return torch.ones(len(beams.rows), dtype=torch.bool, device=beams.rows.device)
    done = ~beams.can_improve[:, 0]
    return done | beams.is_finished.all(dim=1) if rules.early_stopping is True else done


def _start(model: T5Weights, num_rows: int, rules: BeamRules) -> _Beams:
    shape, device = (num_rows, rules.num_beams), model.device
    tokens = torch.full((*shape, rules.max_new_tokens + 1), model.pad_id, device=device)
    tokens[:, :, 0] = model.start_id
    running = torch.zeros(shape, device=device)
    running[:, 1:] = IMPOSSIBLE  # all beams are equal at first: only one may be continued
    return _Beams(
        rows=torch.arange(num_rows, device=device),
        running=tokens,
        running_scores=running,
        finished=tokens.clone(),
        finished_scores=torch.full(shape, IMPOSSIBLE, device=device),
        is_finished=torch.zeros(shape, dtype=torch.bool, device=device),
        can_improve=torch.ones(num_rows, 1, dtype=torch.bool, device=device),
    )


def _advance(beams: _Beams, scores: torch.Tensor, length: int, eos_id: int, rules: BeamRules) -> torch.Tensor:
    """Continue the beams by a token, in place.

    Args:
        scores: log-probabilities, [R K, V].
        length: tokens that the beams have after this one.
    Returns:
        The beam that each one continues, int64 [R, K].
    """
    width, vocabulary = rules.num_beams, scores.shape[-1]
    total = scores.view(-1, width, vocabulary) + beams.running_scores[:, :, None]
    # Twice as many as there are beams, so that enough are left to go on where all of the best end here.
    best, flat = torch.topk(total.view(len(total), -1), k=2 * width)
    origin, token = flat // vocabulary, flat % vocabulary
    tokens = _pick(beams.running, origin)
    tokens[:, :, length] = token
    ends = (token == eos_id) | (length >= rules.max_new_tokens)
    going_on = best + ends.float() * IMPOSSIBLE
    kept = torch.topk(going_on, k=width)[1]
    _finish(beams, tokens, best, ends, length, rules)
    beams.running, beams.running_scores = _pick(tokens, kept), going_on.gather(1, kept)
    beams.can_improve = beams.can_improve & _may_improve(beams, length, rules)
    return origin.gather(1, kept)


def _finish(
    beams: _Beams, tokens: torch.Tensor, scores: torch.Tensor, ends: torch.Tensor, length: int, rules: BeamRules
) -> None:
    """Let texts that end here, among the K best, take their places among the finished."""
    is_full = beams.is_finished.all(dim=1, keepdim=True) & (rules.early_stopping is True)
    counts = ends.clone()
    counts[:, rules.num_beams :] = False
    scores = scores / length**rules.length_penalty
    scores = scores + (is_full.float() + (~beams.can_improve).float() + (~counts).float()) * IMPOSSIBLE
    merged = torch.cat((beams.finished_scores, scores), dim=1)
    kept = torch.topk(merged, k=rules.num_beams)[1]
    beams.finished = _pick(torch.cat((beams.finished, tokens), dim=1), kept)
    beams.finished_scores = merged.gather(1, kept)
    beams.is_finished = torch.cat((beams.is_finished, counts), dim=1).gather(1, kept)


def _may_improve(beams: _Beams, length: int, rules: BeamRules) -> torch.Tensor:
    """Say whether the best running beam could still beat the worst finished text, bool [R, 1]."""
    optimistic = rules.early_stopping == "never" and rules.length_penalty > 0.0
    hypothetical = rules.max_new_tokens if optimistic else length
    best = beams.running_scores[:, :1] / hypothetical**rules.length_penalty
    worst = beams.finished_scores.amin(dim=1, keepdim=True)
    found: torch.Tensor = (best > torch.where(beams.is_finished, worst, IMPOSSIBLE)).any(dim=1, keepdim=True)
    return found


def _pick(tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return tokens [R, N, T] at places [R, M]."""
    return tokens.gather(1, places[:, :, None].expand(-1, -1, tokens.shape[-1]))


def sequence_log_probabilities(
    vocabulary: Vocabulary, decoder: Decoder, tokens: torch.Tensor, eos_id: int
) -> torch.Tensor:
    """Return the log-probability [B] of given texts [B, T], EOS included, over a fresh decoder."""
    start = torch.full_like(tokens[:, :1], decoder.model.start_id)
    fed, total = torch.cat((start, tokens), dim=1), torch.zeros(len(tokens), device=tokens.device)
    ended, rows = torch.zeros_like(tokens[:, 0], dtype=torch.bool), torch.arange(len(tokens), device=tokens.device)
    for position in range(tokens.shape[1]):
        chosen = tokens[:, position]
        found = vocabulary.log_probabilities(decoder.step(fed[:, position]), rows, chosen)
        total += found.masked_fill(ended, 0.0)
        ended |= chosen == eos_id
    return total
