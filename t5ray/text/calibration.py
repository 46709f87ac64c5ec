"""Do the probabilities of labels mean what they say: of the rows with 0.8, are 80 % right?

Comes in: scores or probabilities of every label. Goes out: a temperature, an error. Knows no model.
Source: Guo et al. 2017, "On Calibration of Modern Neural Networks".
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
BINS = 15
"""Of equal width; the number that the paper uses."""
COLDEST, HOTTEST = 0.05, 20.0
"""Bounds of a temperature, beyond which probabilities are all certain or all equal."""
STEPS = 60
"""Halvings of the interval between the bounds: more than a float can tell apart."""


@dataclass(frozen=True)
class Calibration:
    """How far a model's probabilities are from the truth."""

    temperature: float
    """Divides the labels' scores before they become probabilities."""
    ece_before: float
    """Expected calibration error at temperature 1."""
    ece_after: float
    """Expected calibration error of the probabilities as they are given."""

    def __str__(self) -> str:
        """Return words for a report.

        Example:
            0.031 (0.084 before temperature 1.62)
        """
        before = f" ({self.ece_before:.3f} before temperature {self.temperature:.2f}{self._edge})"
        return f"{self.ece_after:.3f}{before if self.temperature != 1.0 else ''}"

    @property
    def _edge(self) -> str:
        """What to know of a temperature that would lie beyond its bounds."""
        edges = {"highest": math.isclose(self.temperature, HOTTEST), "lowest": math.isclose(self.temperature, COLDEST)}
        return "".join(f", the {edge} there is, and the best one lies beyond" for edge in edges if edges[edge])


def fit_temperature(scores: Floats, truths: npt.NDArray[np.int64]) -> float:
    """Return the temperature at which the right labels are likeliest.

    It is 1 where nothing can be learnt: no rows, or none that the model has wrong, which would make it certain of all.

    Args:
        scores: log-probability of every label for each row, [N, L].
        truths: the right label of each row, [N].
    Example:
        two labels whose scores lie 4 apart, 3 rows of 4 right -> 4 / ln 3, at which the likelier one has 0.75
    """
    if not len(scores) or np.array_equal(scores.argmax(axis=1), truths):
        return 1.0
    right = scores[np.arange(len(truths)), truths].mean()
    low, high = np.log(1 / HOTTEST), np.log(1 / COLDEST)  # of 1 / temperature, in which the loss is convex
    for _ in range(STEPS):
        middle = (low + high) / 2
        expected = (_softmax(np.exp(middle) * scores) * scores).sum(axis=1).mean()
        low, high = (low, middle) if expected > right else (middle, high)
    return float(np.exp(-(low + high) / 2))


def expected_calibration_error(confidences: Floats, is_right: npt.NDArray[np.bool_]) -> float:
    """Return the mean gap between confidence and share of right rows, over bins of the confidence weighted by rows.

    Args:
        confidences: probability of each row's prediction, [N], N at least 1.
        is_right: whether it is the reference, [N].
    Example:
        0.9 right, 0.9 wrong, 0.6 right, 0.3 wrong -> (2 * 0.4 + 0.4 + 0.3) / 4 = 0.375
    """
    bins = np.clip(np.ceil(confidences * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, weights=confidences - is_right, minlength=BINS)
    return float(np.abs(gaps).sum() / len(confidences))


def calibration_of(
    rows: Sequence[Mapping[str, float] | None], references: Sequence[Sequence[str]], temperature: float
) -> Calibration | None:
    """Judge probabilities that were made with a temperature; None where no row has any.

    Args:
        rows: label -> probability of each row; None where the row failed.
        references: texts that count as right, per row.
    """
    known = [(scores, right) for scores, right in zip(rows, references, strict=True) if scores]
    if not known:
        return None
    is_right = np.array([max(scores, key=scores.__getitem__) in right for scores, right in known])
    given = [np.fromiter(scores.values(), np.float64) for scores, _ in known]
    before = np.array([_at_one(probabilities, temperature).max() for probabilities in given])
    after = np.array([probabilities.max() for probabilities in given])
    return Calibration(
        temperature, expected_calibration_error(before, is_right), expected_calibration_error(after, is_right)
    )


def _at_one(probabilities: Floats, temperature: float) -> Floats:
    """Undo a temperature."""
    powers = (probabilities / probabilities.max()) ** temperature
    undone: Floats = powers / powers.sum()
    return undone


def _softmax(scores: Floats) -> Floats:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=1, keepdims=True)
    return shares
