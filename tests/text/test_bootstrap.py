from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from t5ray.config import MetricName
from t5ray.text import bootstrap
from t5ray.text.bootstrap import Floats, intervals, point_estimates


@dataclass
class Mean:
    values: Floats

    def estimate(self, weights: Floats) -> Mapping[MetricName, Floats]:
        assert (weights.sum(axis=1) == len(self.values)).all(), "a resample has as many rows as the data"
        return {"accuracy": weights @ self.values / weights.sum(axis=1)}


ROWS = Mean(np.array([1.0] * 320 + [0.0] * 80))


def test_point_estimate_counts_every_row_once() -> None:
    assert point_estimates([ROWS], 400) == {"accuracy": pytest.approx(0.8)}


def test_interval_of_a_share_is_the_normal_one() -> None:
    half = 1.96 * (0.8 * 0.2 / 400) ** 0.5
    expected = (0.8 - half, 0.8 + half)
    assert intervals([ROWS], 400, samples=4000, seed=1)["accuracy"] == pytest.approx(expected, abs=0.005)


def test_interval_is_the_percentiles_of_resampled_rows() -> None:
    values = np.array([0.1, 0.7, 0.3, 0.9])
    generator = np.random.default_rng(3)
    means = values[generator.integers(4, size=(50, 4))].mean(axis=1)
    expected = tuple(np.percentile(means, [2.5, 97.5]))
    assert intervals([Mean(values)], 4, samples=50, seed=3)["accuracy"] == pytest.approx(expected)


def test_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    first, again, other = (intervals([ROWS], 400, samples=200, seed=seed) for seed in (5, 5, 6))
    assert first == again != other


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = intervals([ROWS], 400, samples=101, seed=0)
    for cells in (1, 4000):
        monkeypatch.setattr(bootstrap, "BLOCK_CELLS", cells)
        assert intervals([ROWS], 400, samples=101, seed=0) == whole


def test_one_row_has_no_width() -> None:
    assert intervals([Mean(np.array([0.5]))], 1, samples=10, seed=0) == {"accuracy": (0.5, 0.5)}


def test_no_samples_give_no_intervals() -> None:
    assert intervals([ROWS], 400, samples=0, seed=0) == {}
