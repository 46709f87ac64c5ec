"""Rows take turns: those that have ended leave, those that wait come in, and each is encoded once."""

import pytest
import torch

from t5ray.config import DecodeConfig
from t5ray.model.decoding.decoder import Decoder
from t5ray.model.predictor import Predictor
from tests.model.decoding.models import CAP, make, padded, token_rows, until_end
from tests.tiny import character_tokenizer

KIND = "t5-gated-untied"
"""Its texts are of many lengths."""


@pytest.fixture
def widths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each step of a decoder fed."""
    seen, step = list[int](), Decoder.step

    def counted(decoder: Decoder, tokens: torch.Tensor) -> torch.Tensor:
        seen.append(len(tokens))
        return step(decoder, tokens)

    monkeypatch.setattr(Decoder, "step", counted)
    return seen


def lengths_of_generate() -> list[int]:
    """Return how many tokens transformers generates for each row."""
    model, rows = make(KIND), token_rows()
    return [len(until_end(model.generate(**padded([row]), max_new_tokens=CAP)[0, 1:].tolist())) for row in rows]


def widths_in_turns(lengths: list[int], places: int) -> list[int]:
    """Return the texts of each step where a place that is free goes to the next row, or is given up."""
    waiting, running, found = list(lengths), list[int](), list[int]()
    while waiting or running:
        while waiting and len(running) < places:
            running.append(waiting.pop(0))
        found.append(len(running))
        running = [left - 1 for left in running if left > 1]
    return found


@pytest.mark.parametrize("places", [7, 3, 2])
def test_a_place_is_free_when_its_text_ends(monkeypatch: pytest.MonkeyPatch, widths: list[int], places: int) -> None:
    lengths = lengths_of_generate()
    assert len(set(lengths)) > 2
    monkeypatch.setattr("t5ray.model.predictor.MOST_ROWS", places)
    found = Predictor(make(KIND), character_tokenizer(), DecodeConfig(max_new_tokens=CAP)).predict(token_rows())
    assert len(found) == len(lengths)
    assert widths == widths_in_turns(lengths, places)
    assert sum(widths) == sum(lengths)


def test_labels_share_one_encoding_of_each_row() -> None:
    labels = ("games", "graphics", "mail", "web")
    predictor = Predictor(make("t5"), character_tokenizer(), DecodeConfig(), labels=labels, batch_tokens=60)
    predictor.predict(token_rows(), scores=True, all_scores=True)
    assert predictor.tally.real_tokens == sum(map(len, token_rows()))
