"""Beam search against transformers' generate: the same texts in the same order, with the same scores."""

from typing import Any, Literal

import pytest
import torch

from t5ray.config import DecodeConfig
from t5ray.model.decoding.beam import BeamResult, BeamRules, beam_search
from t5ray.model.decoding.processors import make_processor
from t5ray.model.decoding.vocabulary import Vocabulary
from t5ray.model.decoding.weights import prepare
from tests.model.decoding.models import (
    CAP,
    GROUPINGS,
    KINDS,
    decoder_over,
    make,
    padded,
    regroup,
    token_rows,
    until_end,
)

Stopping = bool | Literal["never"]


@torch.inference_mode()
def own(model: Any, rows: list[list[int]], beams: int, penalty: float, stop: Stopping, **settings: Any) -> BeamResult:
    weights = prepare(model)
    processor = make_processor(DecodeConfig(max_new_tokens=CAP, **settings), 1, torch.device("cpu"))
    rules = BeamRules(beams, penalty, stop, CAP)
    decoder = decoder_over(weights, rows, width=beams)
    return beam_search(weights, Vocabulary(weights), decoder, rules, processor)


def check(model: Any, rows: list[list[int]], beams: int, penalty: float, stop: Stopping, **settings: Any) -> None:
    found = own(model, rows, beams, penalty, stop, **settings)
    theirs = model.generate(
        **padded(rows),
        max_new_tokens=CAP,
        num_beams=beams,
        num_return_sequences=beams,
        length_penalty=penalty,
        early_stopping=stop,
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
        **settings,
    )
    expected = [until_end(row) for row in theirs.sequences[:, 1:].tolist()]
    assert [until_end(row) for row in found.tokens.flatten(0, 1).tolist()] == expected
    torch.testing.assert_close(found.scores.flatten(), theirs.sequences_scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_beam_equals_generate(kind: str, grouping: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = regroup(monkeypatch, grouping)
    check(make(kind), token_rows(), 3, 1.0, False)
    assert bool(sum(pairs)) == (grouping == "pairs")


@pytest.mark.parametrize("stop", [False, True, "never"])
@pytest.mark.parametrize("penalty", [-0.5, 0.0, 0.6, 2.0])
def test_length_penalty_and_early_stopping_equal_generate(penalty: float, stop: Stopping) -> None:
    check(make("t5-gated", seed=3), token_rows(), 4, penalty, stop)


def test_rows_do_not_depend_on_their_batch() -> None:
    model, rows = make("umt5"), token_rows()
    together = own(model, rows, 3, 1.0, False).tokens
    for number, row in enumerate(rows):
        (alone,) = own(model, [row], 3, 1.0, False).tokens
        assert [until_end(t) for t in alone.tolist()] == [until_end(t) for t in together[number].tolist()]


def test_processors_equal_generate() -> None:
    settings = {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "min_new_tokens": 4}
    check(make("t5"), token_rows(), 3, 1.0, True, **settings)
