import pytest

from t5ray.counting import counted


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0 rows"), (1, "1 row"), (1.0, "1 row"), (0.5, "0.5 rows"), (2.0, "2 rows"), (1200, "1,200 rows")],
)
def test_one_is_singular(number: float, shown: str) -> None:
    assert counted(number, "row") == shown


def test_a_plural_may_be_given() -> None:
    assert (counted(1, "copy", "copies"), counted(2, "copy", "copies")) == ("1 copy", "2 copies")
