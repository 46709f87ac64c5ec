import collections
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5ray.text.squad import normalise_answer, squad_exact_match, squad_f1

WORDS = st.lists(st.sampled_from(["the", "a", "Tower", "tower.", "of", "an", "Eiffel", "!"]), max_size=6).map(" ".join)


def official_tokens(text: str) -> list[str]:
    """`get_tokens` of evaluate-v2.0.py, put together."""
    text = "".join(ch for ch in text.lower() if ch not in set(string.punctuation))
    return " ".join(re.sub(re.compile(r"\b(a|an|the)\b", re.UNICODE), " ", text).split()).split()


def official_f1(gold: str, predicted: str) -> float:
    """`compute_f1` of evaluate-v2.0.py."""
    gold_tokens, predicted_tokens = official_tokens(gold), official_tokens(predicted)
    common = collections.Counter(gold_tokens) & collections.Counter(predicted_tokens)
    num_same = sum(common.values())
    if len(gold_tokens) == 0 or len(predicted_tokens) == 0:
        return int(gold_tokens == predicted_tokens)
    if num_same == 0:
        return 0
    precision = 1.0 * num_same / len(predicted_tokens)
    recall = 1.0 * num_same / len(gold_tokens)
    return (2 * precision * recall) / (precision + recall)


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("The  Eiffel-Tower!", "eiffeltower"),
        ("an apple a day", "apple day"),
        ("theory of Anna", "theory of anna"),
        ("1,000\tmiles", "1000 miles"),
        ("Größe – the", "größe –"),
        ("a", ""),
    ],
)
def test_normalisation(text: str, normalised: str) -> None:
    assert normalise_answer(text) == normalised


@pytest.mark.parametrize(
    ("prediction", "references", "exact", "f1"),
    [
        ("the cat", ["Cat."], 1, 1),
        ("black cat", ["cat"], 0, 2 / 3),
        ("cat cat", ["cat"], 0, 2 / 3),
        ("cat", ["dog", "a black cat", "the cat sat"], 0, 2 / 3),
        ("dog", ["cat"], 0, 0),
        ("", ["cat"], 0, 0),
        ("the", ["a"], 1, 1),
    ],
)
def test_hand_counted_scores(prediction: str, references: list[str], exact: float, f1: float) -> None:
    assert squad_exact_match(prediction, references) == exact
    assert squad_f1(prediction, references) == pytest.approx(f1)


@given(WORDS, st.lists(WORDS, min_size=1, max_size=3))
def test_f1_is_the_best_of_the_official_scripts(prediction: str, references: list[str]) -> None:
    assert squad_f1(prediction, references) == pytest.approx(max(official_f1(r, prediction) for r in references))
