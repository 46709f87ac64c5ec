"""Chance is told from difference as often as it should be."""

import numpy as np
import pytest
from scipy import stats

from t5ray.text.bootstrap import Floats, percentile_interval
from t5ray.text.comparison import are_behind, means_over_seeds

ROWS, SAMPLES = 100, 200


def judged(generator: np.random.Generator, ahead: float, seeds: int, candidates: int = 4) -> Floats:
    """Scores [C, S, N] of candidates that are alike but for the first, over rows that are easy or hard for all."""
    rows = generator.normal(size=ROWS)
    luck = 0.3 * generator.normal(size=(candidates, seeds, 1))
    scores: Floats = rows + luck + 0.5 * generator.normal(size=(candidates, seeds, ROWS))
    scores[0] += ahead
    return scores


def behind(generator: np.random.Generator, scores: Floats) -> list[bool]:
    counts = generator.multinomial(ROWS, [1 / ROWS] * ROWS, size=SAMPLES) / ROWS
    degrees, means = 2 * (scores.shape[1] - 1), scores.mean(axis=(1, 2))
    drawn = [means_over_seeds(found @ counts.T, degrees=degrees, seed=place) for place, found in enumerate(scores)]
    return are_behind(np.stack(drawn), means, int(means.argmax()))


@pytest.mark.parametrize(("seeds", "share"), [(2, 1 / 7), (3, 1 / 20)])
def test_of_equal_candidates_about_one_search_in_twenty_finds_any_behind(seeds: int, share: float) -> None:
    generator = np.random.default_rng(seeds)
    wrong = sum(any(behind(generator, judged(generator, 0.0, seeds))) for _ in range(200))
    assert wrong <= stats.binom.ppf(0.999, 200, share)


def test_a_difference_of_many_times_the_luck_of_a_seed_is_found() -> None:
    generator = np.random.default_rng(0)
    found = [behind(generator, judged(generator, 3.0, seeds=3)) for _ in range(50)]
    assert sum(verdict == [False, True, True, True] for verdict in found) >= 48


def test_the_interval_of_a_mean_of_few_seeds_is_about_student_s() -> None:
    means = np.random.default_rng(0).normal(size=5)  # rows that vary nothing
    drawn = means_over_seeds(np.repeat(means[:, None], 4000, axis=1), degrees=4, seed=0)
    low, high = stats.t.interval(0.95, 4, means.mean(), stats.sem(means))
    assert percentile_interval(drawn) == pytest.approx((low, high), abs=0.15 * (high - low))


def test_one_seed_varies_by_its_rows_alone() -> None:
    values = np.random.default_rng(0).normal(size=(1, 50))
    assert means_over_seeds(values, degrees=0, seed=3).tolist() == values[0].tolist()


def test_candidates_whose_values_never_vary_differ_where_their_values_do() -> None:
    assert are_behind(np.repeat([[1.0], [1.0], [0.0]], 9, axis=1), np.array([1.0, 1.0, 0.0]), 0) == [False, False, True]
