import itertools
import logging

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from t5ray.config import MetricName
from t5ray.text import statistics
from t5ray.text.metrics import score
from t5ray.text.statistics import CORPUS_METRICS, ROUGE, build_statistics

PREDICTIONS = [
    "the cat sat on the mat .",
    "",
    "Es war einmal ein König, der hatte eine Tochter.",
    "one line\nand another line",
    "ja",
    "A quick brown fox jumps over lazy dogs",
]
REFERENCES = [
    ["the cat is on the mat .", "there is a cat on the mat ."],
    ["nothing was said"],
    ["Es war einmal ein König, und der hatte eine schöne Tochter.", "Ein König hatte eine Tochter.", "Ein König"],
    ["another line\none more line"],
    ["ja", "ja, gern"],
    ["The quick brown fox jumps over the lazy dog."],
]
EVERY: tuple[MetricName, ...] = (
    *("accuracy", "macro_precision", "macro_recall", "macro_f1", "weighted_precision", "weighted_recall"),
    *("weighted_f1", *ROUGE, "token_f1", "exact_match", *CORPUS_METRICS),
)


def streams(references: list[list[str]]) -> list[tuple[str | None, ...]]:
    return list(itertools.zip_longest(*references))


def test_chrf_and_bleu_equal_sacrebleu_with_a_varying_number_of_references() -> None:
    found = score(("chrf", "bleu"), PREDICTIONS, REFERENCES)
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(PREDICTIONS, streams(REFERENCES)).score)
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(PREDICTIONS, streams(REFERENCES)).score)
    assert 20 < found["bleu"] < found["chrf"] < 100


def test_chunks_do_not_change_chrf_and_bleu(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = score(CORPUS_METRICS, PREDICTIONS, REFERENCES)
    monkeypatch.setattr(statistics, "CHUNK_ROWS", 2)
    assert score(CORPUS_METRICS, PREDICTIONS, REFERENCES) == pytest.approx(whole)


def test_bleu_of_tokenised_text_warns_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "sacrebleu"):
        score(["bleu"], ["a b ."] * 300, [["a b ."]] * 300)
    assert not caplog.records


def test_rouge_equals_rouge_score_with_the_best_reference() -> None:
    found = score(ROUGE, PREDICTIONS, REFERENCES)
    scorer = RougeScorer(list(ROUGE))
    for metric in ROUGE:
        best = [
            max(scorer.score(reference, prediction)[metric].fmeasure for reference in references)
            for prediction, references in zip(PREDICTIONS, REFERENCES, strict=True)
        ]
        assert found[metric] == pytest.approx(np.mean(best))
    assert found["rougeLsum"] > found["rougeL"], "lines count as sentences"


def test_rouge_does_not_stem() -> None:
    assert score(["rouge1"], ["running"], [["runs"]]) == {"rouge1": 0.0}


def test_weights_stand_for_repeated_rows_in_every_metric() -> None:
    """What the bootstrap relies on: no metric changes whether a row is weighted or written several times."""
    labels = sorted(text for texts in REFERENCES for text in texts)
    weights = np.random.default_rng(0).multinomial(6, [1 / 6] * 6, size=5).astype(float)
    found = [s.estimate(weights) for s in build_statistics(EVERY, PREDICTIONS, REFERENCES, labels)]
    for number, counts in enumerate(weights.astype(int)):
        rows = [row for row, count in enumerate(counts) for _ in range(count)]
        expected = score(EVERY, [PREDICTIONS[r] for r in rows], [REFERENCES[r] for r in rows], labels)
        drawn = {metric: float(values[number]) for estimate in found for metric, values in estimate.items()}
        assert drawn == pytest.approx(expected)
