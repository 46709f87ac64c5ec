"""How predictions are judged: `score` during training, `judge` at the end.

Comes in: predictions and references of the same rows. Goes out: numbers as metrics.json holds them. Point estimates
equal those of scikit-learn, sacrebleu, rouge_score and SQuAD's script on the same rows; `statistics.py` and
`classes.py` say how each is defined, `bootstrap.py` how sure it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from t5ray.config import MetricName, TaskConfig
from t5ray.text.bootstrap import intervals, point_estimates
from t5ray.text.classes import CLASS_METRICS, Confusion, confuse, read_classes, scores_by_label
from t5ray.text.statistics import build_statistics, equals_reference


@dataclass(frozen=True, slots=True)
class Judgement:
    """What evaluation finds. The first three are parts of metrics.json."""

    metrics: dict[str, float]
    """Metric -> value, in the order of the task."""
    per_class: dict[str, dict[str, float | int]]
    """Label -> precision, recall, f1 and support; empty where the task judges no labels."""
    intervals: dict[str, tuple[float, float]]
    """Metric -> 95 % interval (low, high); empty without bootstrap."""
    confusion: Confusion | None
    """For a task with closed labels."""
    only_prediction: str | None
    """See `only_prediction`."""


def score(
    metrics: Sequence[MetricName],
    predictions: Sequence[str | None],
    references: Sequence[Sequence[str]],
    labels: Sequence[str] = (),
) -> dict[str, float]:
    """Compute metrics over N rows.

    `exact_match` is SQuAD's where `token_f1` is among the metrics, and equality of text otherwise: give all metrics of
    a task at once.

    Args:
        predictions: None for a row that failed, which counts as wrong, or as an empty text for chrF and BLEU.
        references: texts that count as right for each row; the best of them counts.
        labels: the known labels of a task with a closed set.
    Returns:
        Metric -> value, in the order asked for: in [0, 1], chrF and BLEU in [0, 100].
    Raises:
        ValueError: there are no rows, a row has no reference, or the lengths differ.
    """
    _check(predictions, references)
    found = point_estimates(build_statistics(metrics, predictions, references, labels), len(predictions))
    return {metric: found[metric] for metric in metrics}


def judge(
    task: TaskConfig,
    predictions: Sequence[str | None],
    references: Sequence[Sequence[str]],
    *,
    bootstrap_samples: int,
    seed: int,
) -> Judgement:
    """Judge predictions as the task asks for.

    Args:
        predictions: None for a row that failed, as in `score`.
        references: texts that count as right for each row.
        bootstrap_samples: resamples of the rows behind each interval; 0 leaves the intervals out.
    Raises:
        ValueError: as in `score`.
    """
    _check(predictions, references)
    statistics = build_statistics(task.metrics, predictions, references, task.labels)
    estimates = point_estimates(statistics, len(predictions))
    classes = read_classes(predictions, references, task.labels) if _judges_labels(task) else None
    ranges = intervals(statistics, len(predictions), samples=bootstrap_samples, seed=seed)
    return Judgement(
        metrics={metric: estimates[metric] for metric in task.metrics},
        per_class=scores_by_label(classes) if classes else {},
        intervals={metric: ranges[metric] for metric in task.metrics if ranges},
        confusion=confuse(classes) if classes and task.closed_labels else None,
        only_prediction=only_prediction(task, predictions, references),
    )


def only_prediction(
    task: TaskConfig, predictions: Sequence[str | None], references: Sequence[Sequence[str]]
) -> str | None:
    """Return the label that every row was given, though it is not right for all: such a model tells nothing apart.

    None for any other model, and for a task that judges no labels. Rows that failed are left out.
    """
    given = [(text.strip(), texts) for text, texts in zip(predictions, references, strict=True) if text is not None]
    if not _judges_labels(task) or len(given) < 2 or len({text for text, _ in given}) > 1:
        return None
    return None if all(equals_reference(text, texts) for text, texts in given) else given[0][0]


def _judges_labels(task: TaskConfig) -> bool:
    return task.closed_labels or not set(CLASS_METRICS).isdisjoint(task.metrics)


def _check(predictions: Sequence[str | None], references: Sequence[Sequence[str]]) -> None:
    if len(predictions) != len(references) or not predictions or not all(references):
        raise ValueError(
            "there must be at least one row, and at least one reference for each, but got "
            f"{len(predictions)} predictions and {len(references)} rows of references, "
            f"{sum(not texts for texts in references)} of them empty"
        )
