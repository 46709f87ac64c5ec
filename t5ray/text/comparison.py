"""Which candidates differ by more than chance, where each was trained on a few seeds and all were judged on one sample.

Comes in: each candidate's metric on each seed, in resamples of the rows. Goes out: resampled means over seeds, and
verdicts. Chance is of three kinds: which rows were in the sample, which seeds were drawn, and that the best of several
equals looks best. Must not know any metric.
"""

from math import sqrt

import numpy as np
from scipy import stats

from t5ray.text.bootstrap import COVERED, Floats

TAIL = (1 + COVERED) / 2


def means_over_seeds(values: Floats, *, degrees: int, seed: int) -> Floats:
    """Return the mean over seeds [B] in resamples of rows and seeds.

    Seeds are drawn with replacement. A few of them differ less among themselves than they would from others: their
    deviations are widened to the unbiased variance, and on to what Student's t distribution makes of it. One seed shows
    no deviation at all: then the means vary by the rows alone.

    Args:
        values: [S, B], on each of S seeds in B resamples of the rows.
        degrees: degrees of freedom of the variance that is estimated: S - 1 for one mean, twice that for the difference
            of two.
        seed: seeds the drawing.
    Source: Student 1908, The Probable Error of a Mean; Efron and Tibshirani 1993.
    """
    seeds, means = len(values), np.asarray(values.mean(axis=0), dtype=np.float64)
    if seeds == 1:
        return means
    width = sqrt(seeds / (seeds - 1)) * stats.t.ppf(TAIL, degrees) / stats.norm.ppf(TAIL)
    drawn = np.random.default_rng(seed).integers(seeds, size=values.shape)
    deviations: Floats = np.take_along_axis(values, drawn, axis=0).mean(axis=0) - means
    widened: Floats = means + width * deviations
    return widened


def are_behind(drawn: Floats, means: Floats, best: int) -> list[bool]:
    """Say of each of C candidates whether it differs from the best by more than chance.

    Where all candidates are alike, about one search in twenty finds any behind; more with two seeds, which show little
    of how far seeds differ. A difference, in its own standard errors, must be larger than the largest one among
    all pairs is in 95 % of the resamples.

    Args:
        drawn: [C, B], the candidates' means in resamples.
        means: [C], as they were found.
        best: place of the best one.
    Source: Westfall and Young 1993, single-step maxT; for all pairs, as Tukey's range test.
    """
    deviations = drawn - drawn.mean(axis=1, keepdims=True)
    errors = np.sqrt(((deviations[:, None] - deviations[None]) ** 2).mean(axis=2))  # [C, C]
    apart = np.abs(deviations[:, None] - deviations[None])
    scaled = np.divide(apart, errors[:, :, None], out=np.zeros_like(apart), where=errors[:, :, None] > 0)
    chance = np.quantile(scaled.max(axis=(0, 1)), COVERED)
    return [bool(abs(means[best] - mean) > chance * error) for mean, error in zip(means, errors[best], strict=True)]
