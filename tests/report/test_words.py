import pytest

from t5ray.report.words import number, seconds, setting, share, signed


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.85, "0.8500"), (27.3112, "27.31"), (-0.5, "-0.5000"), (None, "–"), (float("nan"), "–"), (1, "1.0000")],
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


def test_signed() -> None:
    assert (signed(0.03), signed(-0.03), signed(0.0)) == ("+0.0300", "−0.0300", "+0.0000")


@pytest.mark.parametrize(
    ("value", "text"),
    [(3e-4, "0.0003"), (1.23456e-5, "1.235e-05"), (16, "16"), ("adamw", "adamw"), (True, "true"), (None, "null")],
)
def test_setting(value: object, text: str) -> None:
    assert setting(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.04, "0.0 s"), (8.44, "8.4 s"), (59.97, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min"), (None, "–")],
)
def test_seconds(value: float | None, text: str) -> None:
    assert seconds(value) == text


def test_share() -> None:
    assert share(0.375) == "38 %"
