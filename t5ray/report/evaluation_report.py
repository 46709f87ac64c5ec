"""What the report of an evaluation shows, from the mapping that metrics.json holds and the judged examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from t5ray.counting import counted
from t5ray.report.page import render
from t5ray.report.words import one_for_all

MEANING = {
    "accuracy": "share of rows whose prediction is the reference",
    "macro_precision": "precision, each label counting the same",
    "macro_recall": "recall, each label counting the same",
    "macro_f1": "F1, each label counting the same",
    "weighted_precision": "precision, labels weighted by their rows",
    "weighted_recall": "recall, labels weighted by their rows",
    "weighted_f1": "F1, labels weighted by their rows",
    "rougeL": "longest common subsequence of words with the reference, F-measure",
    "rouge1": "words shared with the reference, F-measure",
    "rouge2": "word pairs shared with the reference, F-measure",
    "rougeLsum": "longest common subsequence, sentence by sentence",
    "token_f1": "words shared with the best of the references, after SQuAD's normalisation",
    "exact_match": "share of rows whose prediction equals a reference",
    "chrf": "character n-grams shared with the reference, 0 to 100",
    "bleu": "word n-grams shared with the reference over the whole corpus, 0 to 100",
}
UP_TO_100 = {"chrf", "bleu"}
MOST_CONFUSIONS = 12


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One metric with its interval, placed on a line from 0 to the metric's maximum."""

    name: str
    value: float
    low: float | None
    high: float | None
    meaning: str
    maximum: float

    def percent(self, value: float) -> float:
        """Return the place of a value on the line, in percent."""
        return round(min(100.0, max(0.0, 100 * value / self.maximum)), 2)


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the confusion matrix."""

    count: int
    share: float
    """Share of the row's total."""
    right: bool


@dataclass(frozen=True, slots=True)
class Confusion:
    """The confusion matrix: one line per reference, one column per prediction."""

    columns: list[str]
    lines: list[tuple[str, int, list[Cell]]]
    """(reference, its rows, cells)."""
    worst: list[tuple[str, str, int, float]]
    """(reference, prediction, rows, share of the reference's rows) of the most frequent mistakes."""


def render_evaluation(
    metrics: Mapping[str, Any],
    examples: Sequence[Mapping[str, Any]],
    *,
    title: str = "Evaluation",
    meta: Mapping[str, object] | None = None,
    confusion: Mapping[str, Mapping[str, int]] | None = None,
    max_examples: int = 200,
) -> str:
    """Return report.html for the content of metrics.json.

    Args:
        metrics: `rows` and `metrics`; `per_class`, `intervals` and `only_prediction` may be missing or empty.
        examples: each with `inputs`, `references` (one text or several), `prediction` (None where the row failed) and
            `correct`. Wrong ones are shown first.
        meta: what was judged (model, data, split, ...), name -> value.
        confusion: reference -> prediction -> rows. The order of the references is kept.
        max_examples: shown at most.
    """
    rows = [_metric_row(name, value, metrics.get("intervals") or {}) for name, value in metrics["metrics"].items()]
    shown = sorted(examples, key=lambda example: bool(example["correct"]))[:max_examples]
    return render(
        "evaluation.html",
        title=title,
        meta={name: value for name, value in (meta or {}).items() if value is not None},
        rows=metrics["rows"],
        metrics=rows,
        warning=_warning(metrics),
        per_class=metrics.get("per_class") or {},
        confusion=_confusion(confusion) if confusion else None,
        examples=[{**example, "references": _texts(example["references"])} for example in shown],
        num_examples=len(examples),
        num_wrong=sum(not example["correct"] for example in examples),
    )


def _warning(metrics: Mapping[str, Any]) -> str:
    """Say of a model that gave all rows one label that it did; nothing of any other."""
    if metrics.get("only_prediction") is None:
        return ""
    failed = metrics.get("rows_with_error") or 0
    rows = counted(metrics["rows"] - failed, "row")
    return one_for_all(metrics["only_prediction"], f"{rows} that have a prediction" if failed else rows)


def _metric_row(name: str, value: float, intervals: Mapping[str, Sequence[float]]) -> MetricRow:
    low, high = intervals.get(name) or (None, None)
    return MetricRow(name, value, low, high, MEANING.get(name, ""), 100.0 if name in UP_TO_100 else 1.0)


def _texts(references: str | Sequence[str]) -> list[str]:
    return [references] if isinstance(references, str) else list(references)


def _confusion(counts: Mapping[str, Mapping[str, int]]) -> Confusion:
    columns = list(dict.fromkeys([*counts, *(name for line in counts.values() for name in line)]))
    lines = [(reference, sum(line.values()), _cells(reference, line, columns)) for reference, line in counts.items()]
    mistakes = [
        (reference, prediction, cell.count, cell.share)
        for reference, _, cells in lines
        for prediction, cell in zip(columns, cells, strict=True)
        if cell.count and not cell.right
    ]
    mistakes.sort(key=lambda mistake: -mistake[2])
    return Confusion(columns, lines, mistakes[:MOST_CONFUSIONS])


def _cells(reference: str, line: Mapping[str, int], columns: Sequence[str]) -> list[Cell]:
    total = max(1, sum(line.values()))
    return [Cell(line.get(name, 0), round(line.get(name, 0) / total, 4), name == reference) for name in columns]
