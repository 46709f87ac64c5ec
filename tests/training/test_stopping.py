"""Early stopping against values worked out by hand."""

import pytest

from t5ray.training.stopping import patience_is_over


@pytest.mark.parametrize(
    ("values", "mode", "patience", "min_gain", "stops_after"),
    [
        ([0.45, 0.40, 0.42], "min", 1, 0.0, 3),
        ([0.45, 0.40, 0.42, 0.41, 0.39, 0.40], "min", 2, 0.0, 4),
        ([0.45, 0.40, 0.42, 0.39, 0.40, 0.41], "min", 2, 0.0, 6),
        ([0.50, 0.50], "max", 1, 0.0, 2),  # standing still is no gain
        ([0.50, 0.505, 0.511], "max", 2, 0.01, None),  # two small gains make one that counts
        ([0.50, 0.505, 0.509], "max", 2, 0.01, 3),
    ],
)
def test_a_run_stops_when_patience_is_over(
    values: list[float], mode: str, patience: int, min_gain: float, stops_after: int | None
) -> None:
    over = [
        patience_is_over(values[:n], mode, patience=patience, min_gain=min_gain)  # type: ignore[arg-type]
        for n in range(1, len(values) + 1)
    ]
    assert (over.index(True) + 1 if True in over else None) == stops_after
