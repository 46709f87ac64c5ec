"""The engine against transformers' own generate, and its batching by hand-worked examples."""

from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from t5ray.config import DecodeConfig
from t5ray.model.engine import Engine, tokenise_inputs
from t5ray.model.predictor import batches_by_tokens, decode_tokens, runs_by_places
from tests.tiny import character_tokenizer, make_tiny_t5

TEXTS = [
    "a tale of two cities",
    "b",
    "the quick brown fox jumps over the lazy dog",
    "42 is the answer",
    "a",
    "",
    "zz top",
]


@pytest.mark.parametrize(("gated", "tied", "beams"), list(product([False, True], [False, True], [1, 3])))
def test_predictions_equal_transformers_generate_one_by_one(
    tmp_path: Path, gated: bool, tied: bool, beams: int
) -> None:
    folder = make_tiny_t5(tmp_path / "model", gated=gated, tied=tied)
    decode = DecodeConfig(max_new_tokens=12, num_beams=beams)
    predictions = Engine(str(folder), decode=decode, batch_tokens=60).predict(TEXTS)
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for text, prediction in zip(TEXTS, predictions, strict=True):
        output = model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=12, num_beams=beams)
        assert prediction.text == tokenizer.decode(output[0], skip_special_tokens=True)


def test_score_is_the_product_of_token_probabilities(tiny_t5: Path) -> None:
    (prediction,) = Engine(str(tiny_t5), decode=DecodeConfig(max_new_tokens=5)).predict(["hello"], scores=True)
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(tiny_t5), AutoTokenizer.from_pretrained(tiny_t5)
    output = model.generate(
        **tokenizer("hello", return_tensors="pt"), max_new_tokens=5, output_scores=True, return_dict_in_generate=True
    )
    steps = model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
    assert prediction.score == pytest.approx(steps.sum().exp().item(), rel=1e-4)


def test_an_output_without_its_end_hit_the_cap(tiny_t5: Path) -> None:
    model = AutoModelForSeq2SeqLM.from_pretrained(tiny_t5)
    engine = Engine(str(tiny_t5), decode=DecodeConfig(max_new_tokens=2))
    for text, prediction in zip(TEXTS, engine.predict(TEXTS), strict=True):
        tokens = model.generate(**AutoTokenizer.from_pretrained(tiny_t5)(text, return_tensors="pt"), max_new_tokens=2)
        assert prediction.hit_cap == (1 not in tokens[0].tolist())


def test_long_inputs_are_cut_before_their_end_of_sequence() -> None:
    tokenizer = character_tokenizer()
    (whole,), (cut,) = tokenise_inputs(tokenizer, ["abcdef"], None), tokenise_inputs(tokenizer, ["abcdef"], 4)
    assert cut == [*whole[:3], 1]


def test_batches_by_tokens_example() -> None:
    assert list(batches_by_tokens([3, 9, 4, 9], 18)) == [[1, 3], [2, 0]]


@given(lengths=st.lists(st.integers(1, 50), max_size=60), budget=st.integers(1, 200))
def test_every_row_is_in_one_batch_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(batches_by_tokens(lengths, budget))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


def test_runs_by_places_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t5ray.model.predictor.PLACES_TOKENS", 24)  # 1 place for 24 tokens, 2 for 11, 4 for 4
    assert list(runs_by_places([3, 24, 9, 11, 6, 4], 4)) == [[1], [3, 2, 4], [5, 0]]


@given(lengths=st.lists(st.integers(1, 50), max_size=60), most=st.integers(1, 9))
def test_every_row_is_in_one_run_longest_first(lengths: list[int], most: int) -> None:
    runs = list(runs_by_places(lengths, most))
    assert sorted(i for run in runs for i in run) == list(range(len(lengths)))
    assert [lengths[i] for run in runs for i in run] == sorted(lengths, reverse=True)


def test_ignored_labels_decode_as_padding() -> None:
    tokenizer = character_tokenizer()
    ids = torch.tensor([[*tokenizer("abc").input_ids, -100, -100]])
    assert decode_tokens(tokenizer, ids) == ["abc"]
