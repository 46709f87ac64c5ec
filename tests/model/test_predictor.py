"""Predictions from tokens: labels, several texts, samples."""

import collections
import math
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import processors
from transformers import PreTrainedModel

from t5ray.config import DecodeConfig
from t5ray.errors import ModelError
from t5ray.model.decoding.processors import draws
from t5ray.model.predictor import Predictor
from tests.model.decoding.models import make, padded, token_rows
from tests.tiny import character_tokenizer

LABELS = ("games", "graphics", "mail", "web")


def predictor(decode: DecodeConfig, labels: tuple[str, ...] = (), *, kind: str = "t5", batch: int = 500) -> Predictor:
    return Predictor(make(kind), character_tokenizer(), decode, labels=labels, batch_tokens=batch)


def test_a_closed_task_predicts_labels_with_probabilities_that_sum_to_one() -> None:
    found = predictor(DecodeConfig(), LABELS).predict(token_rows(), scores=True, all_scores=True)
    for prediction in found:
        assert prediction.label_scores is not None
        assert tuple(prediction.label_scores) == LABELS
        assert sum(prediction.label_scores.values()) == pytest.approx(1.0)
        assert prediction.score == prediction.label_scores[prediction.text] == max(prediction.label_scores.values())


def test_a_temperature_flattens_probabilities_and_changes_no_label() -> None:
    model, rows = make("t5"), token_rows()
    plain = Predictor(model, character_tokenizer(), DecodeConfig(), labels=LABELS)
    flat = Predictor(model, character_tokenizer(), DecodeConfig(), labels=LABELS, temperature=3.0)
    expected = (plain.label_scores(rows) / 3.0).softmax(dim=1)
    found = flat.predict(rows, all_scores=True)
    for prediction, row, other in zip(found, expected.tolist(), plain.predict(rows), strict=True):
        assert prediction.text == other.text
        assert list((prediction.label_scores or {}).values()) == pytest.approx(row, rel=1e-4)


def test_answers_take_the_place_of_generation() -> None:
    answers = ("yes", "no", "q", "4", "zz")
    found = predictor(DecodeConfig(max_new_tokens=3, answers=answers)).predict(token_rows())
    expected = [likeliest(row, answers) for row in token_rows()]
    assert len(set(expected)) > 1
    assert [prediction.text for prediction in found] == expected


def likeliest(row: list[int], answers: tuple[str, ...]) -> str:
    """Return the answer of the highest probability, end included, as transformers' loss has it."""
    model = make("t5")
    tokens = {answer: torch.tensor([character_tokenizer()(answer).input_ids]) for answer in answers}
    return min(tokens, key=lambda answer: loss_of(model, row, tokens[answer]) * tokens[answer].numel())


@torch.no_grad()
def loss_of(model: PreTrainedModel, row: list[int], labels: torch.Tensor) -> float:
    return float(model(**padded([row]), labels=labels).loss)


def test_labels_that_the_tokenizer_cannot_tell_apart_share_the_first_name() -> None:
    found = predictor(DecodeConfig(), ("a\u4e00", "a\u4e8c")).predict(token_rows(), all_scores=True)
    assert {tuple(prediction.label_scores or {}) for prediction in found} == {("a\u4e00",)}


@pytest.mark.parametrize("labels", [("b", "a", "ab", "abc"), ("</s>b", "a")])
def test_labels_that_do_not_end_with_eos_and_there_alone_are_refused(labels: tuple[str, ...]) -> None:
    """Where a label is the beginning of another one, no end would tell them apart: all had the score of the first."""
    tokenizer = character_tokenizer()
    if "ab" in labels:
        tokenizer.backend_tokenizer.post_processor = processors.Sequence([])
    message = (
        r"must end every label with its EOS token, id 1, and have it nowhere else, but '(</s>)?b' gives \[\d.*\]\. "
    )
    with pytest.raises(ModelError, match=message):
        Predictor(make("t5"), tokenizer, DecodeConfig(), labels=labels)


def test_all_scores_need_labels() -> None:
    with pytest.raises(ModelError, match="closed labels only"):
        predictor(DecodeConfig(max_new_tokens=4)).predict(token_rows(), all_scores=True)


def test_generating_needs_a_cap() -> None:
    with pytest.raises(ModelError, match="max_new_tokens must be set"):
        predictor(DecodeConfig())


def test_several_texts_are_the_best_beams_in_order() -> None:
    several = predictor(DecodeConfig(max_new_tokens=8, num_beams=4, num_return_sequences=3)).predict(token_rows())
    single = predictor(DecodeConfig(max_new_tokens=8, num_beams=4)).predict(token_rows())
    for many, one in zip(several, single, strict=True):
        assert len(many.texts) == 3
        assert many.texts[0] == many.text == one.text
        assert one.texts == ()


def test_samples_depend_on_the_row_and_the_seed_alone() -> None:
    decode = DecodeConfig(max_new_tokens=8, do_sample=True, temperature=1.5, num_return_sequences=2, seed=4)
    rows = token_rows()
    together = predictor(decode).predict(rows)
    assert [predictor(decode).predict([row])[0] for row in rows] == together
    assert list(reversed(predictor(decode, batch=30).predict(rows[::-1]))) == together
    assert predictor(decode.model_copy(update={"seed": 5})).predict(rows) != together
    assert any(prediction.texts[0] != prediction.texts[1] for prediction in together)


def shares(logits: torch.Tensor, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> list[float]:
    """Return how often each token should be drawn: the likeliest k, of those the fewest that hold p of the rest."""
    order = sorted(range(len(logits)), key=lambda token: -float(logits[token]))[: top_k or None]
    weights = [math.exp(float(logits[token] - logits[order[0]]) / temperature) for token in order]
    found, held = [0.0] * len(logits), 0.0
    for token, weight in zip(order, weights, strict=True):
        if held < top_p * sum(weights):
            found[token] = weight
        held += weight
    return [weight / sum(found) for weight in found]


@pytest.mark.parametrize(
    "settings", [{"top_k": 4}, {"top_p": 0.6}, {"temperature": 0.4}, {"temperature": 2.0, "top_k": 5, "top_p": 0.8}]
)
def test_samples_follow_the_models_distribution(settings: dict[str, Any]) -> None:
    """The first token of many rows that the model reads alike, against its own probabilities."""
    model = make("t5")
    with torch.no_grad():
        for layer in model.decoder.block:
            layer.layer[1].EncDecAttention.o.weight.zero_()  # deaf to the input: every row has one distribution
    rows = [[3 + i % 60, 3 + i // 60, 1] for i in range(2000)]
    decode = DecodeConfig(max_new_tokens=1, do_sample=True, **settings)
    found = Predictor(model, character_tokenizer(), decode).predict(rows)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([rows[0]]), decoder_input_ids=torch.tensor([[0]])).logits[0, 0]
    drawn = collections.Counter(prediction.text for prediction in found)
    expected = collections.defaultdict[str, float](float)
    for token, share in enumerate(shares(logits, **settings)):
        expected[character_tokenizer().decode([token], skip_special_tokens=True)] += share  # special ones are all ""
    assert all(expected[text] > 0 for text in drawn)
    for text, share in expected.items():
        assert drawn[text] / len(rows) == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"do_sample": True, "num_beams": 2}, "do_sample needs num_beams 1"),
        ({"num_return_sequences": 2}, "num_return_sequences must be at most num_beams"),
        ({"top_k": 5}, "top_k needs do_sample"),
        ({"min_new_tokens": 5, "max_new_tokens": 4}, "min_new_tokens must be at most"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DecodeConfig.model_validate(settings)


def test_draws_take_all_bits_of_a_rows_digest() -> None:
    """Philox's key is the digest itself, as two words of 64 bits."""
    is_high = list[bool]()
    for row in ([5, 1], [6, 1], [7, 1], [8, 1]):
        digest = int.from_bytes(blake2b(np.array(row).tobytes(), digest_size=8, key=(3).to_bytes(8)).digest())
        bits = np.random.Philox()
        state: Any = bits.state
        state["state"] = {"counter": np.zeros(4, np.uint64), "key": np.array([digest, 1], np.uint64)}
        bits.state = state
        assert draws([row], 2, 3, seed=3)[1].tolist() == np.random.Generator(bits).random(3).tolist()
        is_high.append(digest >= 2**63)
    assert any(is_high)
