"""Every metric as sums over rows, so that a bootstrap draws rows and never looks at text again.

Comes in: predictions and references. Goes out: `Statistic`s. Each family knows what it has to keep of a row:

    mean of a value per row     accuracy, exact_match, token_f1, ROUGE      the value
    counts per class            macro and weighted precision, recall, F1    true and predicted class
    counts over the corpus      chrF, BLEU                                  sacrebleu's n-gram counts

The home of sacrebleu and rouge_score.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from t5ray.config import MetricName
from t5ray.text.bootstrap import Floats, Statistic
from t5ray.text.classes import CLASS_METRICS, ClassStatistic, read_classes
from t5ray.text.squad import squad_exact_match, squad_f1

ROUGE: tuple[MetricName, ...] = ("rougeL", "rouge1", "rouge2", "rougeLsum")
CORPUS_METRICS: tuple[MetricName, ...] = ("chrf", "bleu")
CHUNK_ROWS = 256
"""Rows given to sacrebleu at once: it keeps the n-grams of all their references in memory, 100 kB and more a row."""
RowScore = Callable[[str, Sequence[str]], float]


def bounds(metric: str) -> tuple[float, float]:
    """Return the lowest and the highest value that a metric, or `validation_loss`, can have."""
    if metric == "validation_loss":
        return 0.0, math.inf
    return 0.0, 100.0 if metric in CORPUS_METRICS else 1.0


@dataclass(frozen=True, eq=False)
class MeanStatistic:
    """Metrics that are the mean of a value per row."""

    metrics: tuple[MetricName, ...]
    values: Floats
    """[N, number of metrics]."""

    def estimate(self, weights: Floats) -> dict[MetricName, Floats]:
        """Return metric -> values [B]; weights are [B, N]."""
        means = weights @ self.values / weights.sum(axis=1, keepdims=True)
        return dict(zip(self.metrics, means.T, strict=True))


@dataclass(frozen=True, eq=False)
class CorpusStatistic:
    """A metric of sacrebleu: a function of n-gram counts summed over rows."""

    metric: MetricName
    counts: Floats
    """[N, K], sacrebleu's segment statistics."""
    scorer: Any
    """sacrebleu's metric object."""

    def estimate(self, weights: Floats) -> dict[MetricName, Floats]:
        """Return metric -> values [B]; weights are [B, N]."""
        totals = (weights @ self.counts).tolist()
        return {self.metric: np.array([self.scorer._compute_score_from_stats(total).score for total in totals])}


def build_statistics(
    metrics: Sequence[MetricName],
    predictions: Sequence[str | None],
    references: Sequence[Sequence[str]],
    labels: Sequence[str],
) -> list[Statistic]:
    """Reduce texts to what the metrics need of them.

    Args:
        predictions: of N rows; None for a row that failed.
        references: of the same rows, at least one text each.
        labels: the known labels of a closed set; () where there is none.
    """
    metrics = tuple(dict.fromkeys(metrics))
    statistics: list[Statistic] = []
    means = tuple(m for m in metrics if m not in CLASS_METRICS and m not in CORPUS_METRICS)
    if means:
        statistics.append(MeanStatistic(means, _row_values(means, predictions, references)))
    of_classes = tuple(m for m in metrics if m in CLASS_METRICS)
    if of_classes:
        statistics.append(ClassStatistic(read_classes(predictions, references, labels), of_classes))
    statistics += [_corpus_statistic(m, predictions, references) for m in metrics if m in CORPUS_METRICS]
    return statistics


def equals_reference(prediction: str, references: Sequence[str]) -> float:
    """Return 1 where the prediction equals a reference, white space around both aside, else 0."""
    return float(prediction.strip() in {reference.strip() for reference in references})


def _row_values(
    metrics: Sequence[MetricName], predictions: Sequence[str | None], references: Sequence[Sequence[str]]
) -> Floats:
    """Return [N, number of metrics]; a row that failed has 0 in all."""
    rows = list(zip(predictions, references, strict=True))
    columns = [
        [0.0 if text is None else score_row(text, texts) for text, texts in rows] for score_row in _row_scores(metrics)
    ]
    return np.array(columns).T


def _row_scores(metrics: Sequence[MetricName]) -> list[RowScore]:
    """Return for each metric its function of a prediction and the references.

    `exact_match` beside `token_f1` is SQuAD's pair of measures and ignores case, punctuation and articles as that
    does. Without `token_f1` it asks for equal text.
    """
    known: dict[MetricName, RowScore] = {
        "accuracy": equals_reference,
        "exact_match": squad_exact_match if "token_f1" in metrics else equals_reference,
        "token_f1": squad_f1,
    }
    return [_rouge(metric) if metric in ROUGE else known[metric] for metric in metrics]


def _rouge(metric: MetricName) -> RowScore:
    """Return the F-measure of one kind of ROUGE, for the reference that gives most.

    rouge_score's defaults: no stemming, which only knows English; rougeLsum takes lines for sentences. Its tokens are
    runs of a-z and 0-9, so text in other scripts scores 0.
    """
    from rouge_score.rouge_scorer import RougeScorer  # a second to import, through nltk

    scorer = RougeScorer([metric])
    return lambda prediction, references: float(scorer.score_multi(references, prediction)[metric].fmeasure)


def _corpus_statistic(
    metric: MetricName, predictions: Sequence[str | None], references: Sequence[Sequence[str]]
) -> CorpusStatistic:
    """Count n-grams with sacrebleu's defaults: chrF2; BLEU with 13a tokens and exponential smoothing.

    Its segment statistics are private, but sacrebleu's own bootstrap is built on them, and the version is pinned.
    """
    from sacrebleu.metrics import BLEU, CHRF  # only these metrics need it

    scorer = CHRF() if metric == "chrf" else BLEU(force=True)  # force: no warning about text that looks tokenised
    texts = [text or "" for text in predictions]
    counts = []
    for start in range(0, len(texts), CHUNK_ROWS):
        chunk = slice(start, start + CHUNK_ROWS)
        streams = list(itertools.zip_longest(*references[chunk]))  # sacrebleu skips the None of a shorter row
        counts += scorer._extract_corpus_statistics(texts[chunk], streams)
    return CorpusStatistic(metric, np.array(counts, dtype=np.float64), scorer)
