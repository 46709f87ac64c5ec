import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5ray.report.charts import Scale, Tick, padded, parameter_axis, path, spread


def labels(ticks: list[Tick]) -> list[str]:
    return [tick.label for tick in ticks]


def test_a_scale_maps_ends_and_middle() -> None:
    scale = Scale(0, 10, 100, 0)
    assert (scale(0), scale(5), scale(10)) == (100, 50, 0)
    log = Scale(1e-4, 1e-2, 0, 200, log=True)
    assert (log(1e-4), log(1e-3), log(1e-2)) == (0, 100, 200)


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (Scale(0, 1, 0, 100), ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (Scale(0.815, 0.905, 0, 100), ["0.82", "0.84", "0.86", "0.88", "0.9"]),
        (Scale(-3, 14, 0, 100), ["0", "5", "10"]),
        (Scale(1e-5, 1e-2, 0, 100, log=True), ["1e-05", "0.0001", "0.001", "0.01"]),
        (Scale(0.004, 0.11, 0, 100, log=True), ["0.01", "0.03", "0.1"]),
        (Scale(0.9, 6, 0, 100, log=True), ["1", "2", "5"]),
    ],
)
def test_ticks_are_round(scale: Scale, expected: list[str]) -> None:
    assert labels(scale.ticks()) == expected
    assert [tick.at for tick in scale.ticks()] == [scale(float(label)) for label in expected]


def test_an_axis_of_zeros_alone_does_not_go_below_zero() -> None:
    scale = padded([0.0, 0.0], 100, 0)
    assert labels(scale.ticks()) == ["0", "0.25", "0.5", "0.75", "1"]


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1))
def test_padded_holds_every_value(values: list[float]) -> None:
    scale = padded(values, 300, 20)
    assert all(20 <= scale(value) <= 300 for value in values)


def test_words_truth_values_and_few_whole_numbers_are_categories() -> None:
    assert labels(parameter_axis(["adamw", "adafactor", "adamw"], 0, 100).ticks) == ["adafactor", "adamw"]
    assert labels(parameter_axis([True, False], 0, 100).ticks) == ["false", "true"]
    assert labels(parameter_axis([None, 3], 0, 100).ticks) == ["3", "null"]
    axis = parameter_axis([64, 8, 16, 8], 0, 90)
    assert axis.ticks == [Tick(15, "8"), Tick(45, "16"), Tick(75, "64")]
    assert axis(16) == 45


def test_values_over_orders_of_magnitude_are_drawn_by_logarithm() -> None:
    by_factors, even = [1e-4, 1e-3, 1e-2], [0.01, 0.1, 0.2, 0.25, 0.3]
    log, linear = parameter_axis(by_factors, 0, 100), parameter_axis(even, 0, 100)
    assert log(1e-3) == pytest.approx(50, abs=0.1)
    assert linear(0.2) - linear(0.1) == pytest.approx(linear(0.3) - linear(0.2), abs=0.15)


def test_a_single_value_has_an_axis() -> None:
    axis = parameter_axis([0.1], 0, 100)
    assert axis(0.1) == 50


def test_path() -> None:
    assert path([(1, 2), (3.5, 4)]) == "M1,2L3.5,4"


@settings(deadline=None)
@given(st.lists(st.floats(0, 300), min_size=1, max_size=6))
def test_spread_keeps_order_and_gap(places: list[float]) -> None:
    moved = sorted(spread(places, 17))
    assert all(after - before >= 17 - 1e-9 for before, after in itertools.pairwise(moved))
    assert all(new >= old for new, old in zip(spread(places, 17), places, strict=True))


def test_spread_leaves_what_is_apart() -> None:
    assert spread([50, 10], 17) == [50, 10]
    assert spread([12, 10], 17) == [27, 10]
