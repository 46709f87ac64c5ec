"""Predictions of labels: class by class, and their precision, recall and F1.

Comes in: predictions, references, known labels. Goes out: a code per row, and what can be counted from it. The known
labels are those of the task and those of the references judged against, so an unseen label is a class that was missed;
any other output is wrong and belongs to no class.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from t5ray.config import MetricName
from t5ray.text.bootstrap import Floats

CLASS_METRICS: tuple[MetricName, ...] = (
    "macro_precision",
    "macro_recall",
    "macro_f1",
    "weighted_precision",
    "weighted_recall",
    "weighted_f1",
)
OTHER = "<other>"
"""Row and column of the confusion matrix for outputs that are no known label."""


@dataclass(frozen=True, eq=False)
class Classes:
    """True and predicted class of N rows, as codes."""

    labels: tuple[str, ...]
    """The L known labels, sorted."""
    truth: NDArray[np.int64]
    """[N], in [0, L)."""
    predicted: NDArray[np.int64]
    """[N], in [0, L]; L is an output that is no known label, or a row that failed."""


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often each label was taken for each other."""

    labels: tuple[str, ...]
    """The known labels, sorted, and `<other>` last where an output was none of them."""
    counts: tuple[tuple[int, ...], ...]
    """Rows are true labels, columns predicted ones, both in the order of `labels`."""


def read_classes(
    predictions: Sequence[str | None], references: Sequence[Sequence[str]], labels: Sequence[str]
) -> Classes:
    """Give each row its true and its predicted class.

    A row with several accepted labels is of the class that was predicted, where that is accepted, else of its first.

    Args:
        predictions: of N rows; None for a row that failed.
        references: accepted labels of each row, at least one.
        labels: the task's labels; () where it has no closed set.
    """
    accepted = [[text.strip() for text in texts] for texts in references]
    found = [None if text is None else text.strip() for text in predictions]
    known = tuple(sorted({*labels, *(text for texts in accepted for text in texts)}))
    code = {label: number for number, label in enumerate(known)}
    truth = [text if text in texts else texts[0] for text, texts in zip(found, accepted, strict=True)]
    return Classes(
        labels=known,
        truth=np.array([code[str(text)] for text in truth], dtype=np.int64),
        predicted=np.array([len(known) if text is None else code.get(text, len(known)) for text in found], np.int64),
    )


@dataclass(frozen=True, eq=False)
class ClassStatistic:
    """Precision, recall and F1, averaged over classes.

    macro averages over the labels that are true or predicted in at least one row, as scikit-learn does; weighted
    weighs each label by its true rows. What would be 0/0 is 0.
    """

    classes: Classes
    metrics: tuple[MetricName, ...]
    """Which of `CLASS_METRICS` to give."""

    def estimate(self, weights: Floats) -> dict[MetricName, Floats]:
        """Return metric -> values [B]; weights are [B, N]."""
        hits = np.where(self.classes.truth == self.classes.predicted, self.classes.truth, len(self.classes.labels))
        matched = self._count(hits, weights)
        support = self._count(self.classes.truth, weights)
        guessed = self._count(self.classes.predicted, weights)
        scores = {
            "precision": _ratio(matched, guessed),
            "recall": _ratio(matched, support),
            "f1": _ratio(2 * matched, support + guessed),
        }
        over = {"macro": (support + guessed > 0).astype(np.float64), "weighted": support}
        values: dict[MetricName, Floats] = {}
        for metric in self.metrics:
            average, _, score = metric.partition("_")
            values[metric] = (scores[score] * over[average]).sum(axis=1) / over[average].sum(axis=1)
        return values

    def _count(self, codes: NDArray[np.int64], weights: Floats) -> Floats:
        """Return [B, L]: the weight of the rows with each code; rows of no class are left out."""
        num_labels = len(self.classes.labels)
        return np.stack([np.bincount(codes, row, minlength=num_labels + 1)[:num_labels] for row in weights])


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def scores_by_label(classes: Classes) -> dict[str, dict[str, float | int]]:
    """Return label -> precision, recall, f1 and support (true rows), for every known label."""
    from sklearn.metrics import precision_recall_fscore_support  # a second to import: not in training's workers

    columns = precision_recall_fscore_support(
        classes.truth, classes.predicted, labels=range(len(classes.labels)), zero_division=0
    )
    return {
        label: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
        for label, p, r, f, s in zip(classes.labels, *columns, strict=True)
    }


def confuse(classes: Classes) -> Confusion:
    """Count true against predicted labels."""
    from sklearn.metrics import confusion_matrix  # as above

    has_other = bool((classes.predicted == len(classes.labels)).any())
    labels = (*classes.labels, _unused_name(classes.labels)) if has_other else classes.labels
    counts = confusion_matrix(classes.truth, classes.predicted, labels=range(len(labels)))
    return Confusion(labels, tuple(tuple(int(count) for count in row) for row in counts))


def _unused_name(labels: Sequence[str]) -> str:
    name = OTHER
    while name in labels:
        name = f"<{name}>"
    return name
