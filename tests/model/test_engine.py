"""The engine against transformers' own generate."""

import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, ByT5Tokenizer

from t5ray.config import DecodeConfig
from t5ray.errors import ModelError
from t5ray.model.decoding import linear, vocabulary
from t5ray.model.engine import Engine, prepare_inputs
from t5ray.model.predictor import decode_tokens
from t5ray.scoring.halving import Halving
from tests.model.decoding.models import make
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


@pytest.mark.parametrize("beams", [1, 3])
def test_predictions_are_the_same_with_every_matrix_in_blocks(
    tiny_t5: Path, beams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = DecodeConfig(max_new_tokens=12, num_beams=beams)
    expected = Engine(str(tiny_t5), decode=decode, precision="fp32").predict(TEXTS, scores=True)
    monkeypatch.setattr(linear, "LEAST_NUMBERS", 0)  # those of a tiny model are plain otherwise
    monkeypatch.setattr(vocabulary, "SLICE", 16)  # so that its head has slices
    found = Engine(str(tiny_t5), decode=decode, precision="fp32").predict(TEXTS, scores=True)
    assert [each.text for each in found] == [each.text for each in expected]
    assert [each.score for each in found] == [pytest.approx(each.score, rel=1e-4) for each in expected]


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
    whole, cut = (prepare_inputs(tokenizer, ["abcdef"], most) for most in (None, 4))
    assert cut.rows == [[*whole.rows[0][:3], 1]]
    assert (whole.cut, cut.cut) == ([False], [True])


def test_equal_inputs_are_tokenised_and_scored_once(tiny_t5: Path) -> None:
    engine = Engine(str(tiny_t5), decode=DecodeConfig(max_new_tokens=4))
    prepared = engine.prepare(["abc", "z", "abc", "abc", "z"])
    assert prepared.rows == character_tokenizer()(["abc", "z"]).input_ids
    found = engine.score(prepared)
    assert engine.tally.real_tokens == len("abc") + len("z") + 2
    one, other = (engine.predict([text])[0] for text in ("abc", "z"))
    assert found == [one, other, one, one, other]
    assert engine.predict([]) == []


def test_a_prediction_says_whether_its_input_was_cut(tiny_t5: Path) -> None:
    engine = Engine(str(tiny_t5), decode=DecodeConfig(max_new_tokens=2))
    engine.cut_to = 4
    assert [one.input_cut for one in engine.predict(["ab", "abcdef", "abc", "abcdef"])] == [False, True, False, True]


def test_a_plain_model_takes_inputs_whole_that_are_longer_than_it_was_trained_on(tmp_path: Path) -> None:
    folder = make_tiny_t5(tmp_path / "model")
    tokenizer = character_tokenizer()
    tokenizer.model_max_length = 5
    tokenizer.save_pretrained(folder)
    engine = Engine(str(folder), decode=DecodeConfig(max_new_tokens=6))
    (found,) = engine.predict(["abcdefgh"])
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    output = model.generate(**tokenizer("abcdefgh", return_tensors="pt"), max_new_tokens=6)
    assert (found.text, found.input_cut) == (tokenizer.decode(output[0], skip_special_tokens=True), False)
    assert engine.max_input_tokens == 5


def test_equal_inputs_are_scored_once(tiny_t5: Path) -> None:
    engine = Engine(str(tiny_t5), decode=DecodeConfig(max_new_tokens=2))
    found = engine.predict(["ab", "c", "ab", "ab", "c"], scores=True)
    assert found == [found[0], found[1], found[0], found[0], found[1]]
    assert found[0] != found[1]
    assert engine.tally.real_tokens == len("ab") + 1 + len("c") + 1


def test_ignored_labels_decode_as_padding() -> None:
    tokenizer = character_tokenizer()
    ids = torch.tensor([[*tokenizer("abc").input_ids, -100, -100]])
    assert decode_tokens(tokenizer, ids) == ["abc"]


def test_a_tokenizer_without_a_fast_backend_decodes_too() -> None:
    ids = torch.tensor([[byte + 3 for byte in b"caf\xc3\xa9"] + [1], [byte + 3 for byte in b"tea"] + [1, 0, -100]])
    assert decode_tokens(ByT5Tokenizer(), ids) == ["caf\u00e9", "tea"]  # a byte's id is itself and three


WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"decode": DecodeConfig(max_new_tokens=6)},
    "penalised": {"decode": DecodeConfig(max_new_tokens=6, min_new_tokens=2, no_repeat_ngram_size=2)},
    "beams": {"decode": DecodeConfig(max_new_tokens=6, num_beams=3, no_repeat_ngram_size=2)},
    "samples": {"decode": DecodeConfig(max_new_tokens=6, do_sample=True, top_k=2, num_return_sequences=2)},
    "labels": {"labels": ("games", "graphics", "mail")},
}


def untied(folder: Path) -> Path:
    """Write a model whose head is not its embeddings, and return its folder."""
    make("mt5").save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)
    return folder


def damage(folder: Path, name: str, place: int, value: float) -> None:
    """Put a value that is no number into one place of a model's weights."""
    weights = load_file(folder / "model.safetensors")
    weights[name].view(-1)[place] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("name", ["encoder.block.0.layer.1.DenseReluDense.wo.weight", "lm_head.weight"])
@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("way", WAYS)
def test_a_model_that_gives_no_numbers_predicts_nothing(
    way: str, precision: str, value: float, name: str, tmp_path: Path
) -> None:
    folder = untied(tmp_path / "model")
    damage(folder, name, 70, value)
    engine = Engine(str(folder), precision=precision, **WAYS[way])
    for scores in (False, True):
        with pytest.raises(ModelError, match=r"scores must be finite, but the model gave NaN .*Use --precision fp32"):
            engine.predict(["the fox", "a dog"], scores=scores)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("way", WAYS)
def test_a_row_without_numbers_harms_itself_alone(way: str, precision: str, tmp_path: Path) -> None:
    folder = untied(tmp_path / "model")
    texts = ["the fox", "a dog", "1 Zoo", "a Zebra"]
    sound = Engine(str(folder), precision=precision, **WAYS[way])
    expected = [sound.predict([text])[0].text for text in texts[:2]]
    damage(folder, "shared.weight", 32 * character_tokenizer().convert_tokens_to_ids("Z"), math.nan)
    found = Halving(Engine(str(folder), precision=precision, **WAYS[way]), "m").predict(texts)
    assert [one if isinstance(one, str) else one.text for one in found[:2]] == expected
    assert all(str(one).startswith("ModelError: scores must be finite") for one in found[2:])
