import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t5ray.text.calibration import (
    COLDEST,
    HOTTEST,
    Calibration,
    calibration_of,
    expected_calibration_error,
    fit_temperature,
)


def test_the_temperature_gives_the_likelier_label_its_share_of_right_rows() -> None:
    scores = np.array([[-1.0, -5.0]] * 4)  # 4 apart, 3 of 4 right: the sigmoid of 4 / T is 3 / 4 where T is 4 / ln 3
    assert fit_temperature(scores, np.array([0, 0, 1, 0])) == pytest.approx(4 / math.log(3), rel=1e-9)


def test_an_overconfident_model_is_cooled_as_torch_would() -> None:
    scores = np.random.default_rng(0).normal(0, 6, (80, 5))
    truths = np.where(np.arange(80) % 3 == 0, np.arange(80) % 5, scores.argmax(axis=1))
    beta = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([beta], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(torch.tensor(scores) * beta, torch.tensor(truths))
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    assert fit_temperature(scores, truths) == pytest.approx(1 / beta.item(), rel=1e-4)


@pytest.mark.parametrize(("scores", "truths"), [([[-1.0, -5.0]] * 3, [0, 0, 0]), (np.zeros((0, 2)), [])])
def test_where_nothing_is_wrong_nothing_is_learnt(scores: list[list[float]], truths: list[int]) -> None:
    assert fit_temperature(np.array(scores), np.array(truths, np.int64)) == 1.0


@given(st.lists(st.tuples(st.floats(-50, 0), st.floats(-50, 0), st.integers(0, 1)), min_size=1, max_size=20))
def test_a_temperature_stays_within_its_bounds(rows: list[tuple[float, float, int]]) -> None:
    found = fit_temperature(np.array([row[:2] for row in rows]), np.array([row[2] for row in rows]))
    assert COLDEST * 0.999 <= found <= HOTTEST * 1.001


@pytest.mark.parametrize(("scores", "edge"), [([0.0, -3.0], "20.00, the highest"), ([-1.0, -1.01], "0.05, the lowest")])
def test_a_temperature_at_a_bound_is_said_to_be_there(scores: list[float], edge: str) -> None:
    """The first model gives the wrong label the better score in 3 of 4 rows; the second hardly tells them apart."""
    truths = [1, 1, 1, 0] if edge.endswith("highest") else [0] * 99 + [1]
    found = fit_temperature(np.array([scores] * len(truths)), np.array(truths, np.int64))
    said = f"0.250 (0.400 before temperature {edge} there is, and the best one lies beyond)"
    assert str(Calibration(found, 0.4, 0.25)) == said
    assert "there is" not in str(Calibration(19.9, 0.4, 0.25))


def test_the_error_of_a_hand_worked_example() -> None:
    # bins of 1/15: both 0.9 share one, half of them right: gap 0.4 twice; 0.6 right: 0.4; 0.3 wrong: 0.3
    error = expected_calibration_error(np.array([0.9, 0.9, 0.6, 0.3]), np.array([True, False, True, False]))
    assert error == pytest.approx((2 * 0.4 + 0.4 + 0.3) / 4)


def test_certainty_and_none_fall_into_the_outermost_bins() -> None:
    assert expected_calibration_error(np.array([1.0, 0.0]), np.array([True, False])) == 0.0


def test_before_is_temperature_one() -> None:
    # at temperature 2 the scores 2 ln 3 apart gave 3 : 1; at 1 they give 9 : 1. One row of two is right.
    rows = [{"up": 0.75, "down": 0.25}, {"up": 0.75, "down": 0.25}, None]
    found = calibration_of(rows, [["up"], ["down", "left"], ["up"]], 2.0)
    assert found is not None
    assert (found.temperature, found.ece_before, found.ece_after) == pytest.approx((2.0, 0.4, 0.25))
    assert str(found) == "0.250 (0.400 before temperature 2.00)"
    assert str(Calibration(1.0, 0.25, 0.25)) == "0.250"


def test_without_probabilities_there_is_nothing_to_judge() -> None:
    assert calibration_of([None, {}], [["a"], ["a"]], 1.0) is None
