"""Percentile bootstrap over rows.

Comes in: metrics as functions of how often each row is drawn. Goes out: 95 % intervals. Must not know any metric.

Drawing N rows with replacement is counting how often each row is drawn. So a resample is a vector of N counts, and a
metric that depends on rows only through sums is a matrix product: no text is looked at twice.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from t5ray.config import MetricName

Floats = NDArray[np.float64]
COVERED = 0.95
"""Share of the resamples inside an interval."""
BLOCK_CELLS = 2_000_000
"""Counts made at a time, which hold 48 MB while they are made."""


class Statistic(Protocol):
    """One or several metrics over the same rows."""

    def estimate(self, weights: Floats) -> Mapping[MetricName, Floats]:
        """Return metric -> values [B], for B samples of the rows.

        Args:
            weights: [B, N], how often each of N rows counts in each sample; every sum is positive.
        """


def point_estimates(statistics: Sequence[Statistic], num_rows: int) -> dict[MetricName, float]:
    """Return metric -> value where every row counts once."""
    ones = np.ones((1, num_rows))
    return {name: float(values[0]) for s in statistics for name, values in s.estimate(ones).items()}


def intervals(
    statistics: Sequence[Statistic], num_rows: int, *, samples: int, seed: int
) -> dict[MetricName, tuple[float, float]]:
    """Return metric -> (low, high), the 2.5th and 97.5th percentile over resamples of the rows.

    Args:
        samples: resamples; all metrics see the same ones. 0 gives no intervals.
    Source: Efron and Tibshirani 1993, percentile method.
    """
    if samples == 0:
        return {}
    found = resampled(statistics, num_rows, samples=samples, seed=seed)
    return {metric: percentile_interval(values) for metric, values in found.items()}


def resampled(statistics: Sequence[Statistic], num_rows: int, *, samples: int, seed: int) -> dict[MetricName, Floats]:
    """Return metric -> its value in each resample [samples].

    The same seed draws the same rows, so that two predictors of the same rows can be compared in pairs.
    """
    blocks = [
        {name: values for s in statistics for name, values in s.estimate(weights).items()}
        for weights in _resamples(num_rows, samples, seed)
    ]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def percentile_interval(values: Floats) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentile."""
    tail = 100 * (1 - COVERED) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def _resamples(num_rows: int, samples: int, seed: int) -> Iterator[Floats]:
    """Yield counts [b, N] in blocks of bounded size, `samples` in all."""
    generator = np.random.default_rng(seed)
    block = max(1, BLOCK_CELLS // num_rows)
    for done in range(0, samples, block):
        size = min(block, samples - done)
        drawn = generator.integers(num_rows, size=(size, num_rows))
        drawn += num_rows * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * num_rows).reshape(size, num_rows).astype(np.float64)
