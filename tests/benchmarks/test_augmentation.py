"""The arithmetic of the augmentation benchmark: which epochs are run, and what its tables say."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.augmentation import Outcome, epochs_of, margin_of, read_results, settings_of, summarise, table
from t5ray.config import TrainingConfig

SETUP = {"data": "rows.jsonl", "copies": 2}


def outcome(technique: str, seed: int, value: float, rows: int = 200) -> Outcome:
    return Outcome(SETUP, technique, seed, epochs=2, rows=rows, steps=26, value=value, seconds=1.0)


RUNS = {
    "none": [outcome("none", seed, value) for seed, value in enumerate([0.50, 0.52, 0.54])],
    "swap": [outcome("swap", seed, value, 600) for seed, value in enumerate([0.51, 0.54, 0.57])],
}


@pytest.mark.parametrize(
    ("comparison", "rows", "expected"),
    [
        ("equal steps", 600, 2),  # 38 steps an epoch: the longest keeps its epochs
        ("equal steps", 200, 6),  # 13 an epoch: 76 steps are 5.8 of them
        ("equal epochs", 200, 2),
    ],
)
def test_epochs(comparison: str, rows: int, expected: int) -> None:
    assert epochs_of(comparison, 2, rows, longest=600, batch_size=16) == expected


def test_the_margin_is_students() -> None:
    """t(0.975, 2) = 4.3027 in any table; the standard deviation of 1, 2, 3 is 1."""
    assert margin_of([1.0, 2.0, 3.0]) == pytest.approx(4.3027 / 3**0.5, abs=1e-4)


def test_gains_are_taken_seed_by_seed() -> None:
    none, swap = summarise(RUNS)
    assert (none.value, none.deviation, none.gain) == pytest.approx((0.52, 0.02, 0.0))
    assert (swap.value, swap.deviation, swap.gain) == pytest.approx((0.54, 0.03, 0.02))
    assert swap.margin == pytest.approx(4.3027 * 0.01 / 3**0.5, abs=1e-4)  # of 1, 2 and 3 points


def test_the_table_is_in_points() -> None:
    *_, none, swap = table("equal epochs", summarise(RUNS))
    assert none == "| none | 200 | 2.0 | 26 | 52.0 ± 2.0 |  |"
    assert swap == "| swap | 600 | 2.0 | 26 | 54.0 ± 3.0 | +2.0 ± 2.5 |"


def test_each_technique_is_told_apart_by_the_settings() -> None:
    def rates(technique: str) -> list[float]:
        return list(TrainingConfig.model_validate(settings_of(technique, 0.1, 2)).word_rates.values())

    assert not TrainingConfig.model_validate(settings_of("none", 0.1, 2)).augments
    assert rates("deletion") == [0, 0, 0.1, 0]
    assert rates("all four") == [0.1] * 4
    assert rates("back translation") == [0] * 4


def test_only_runs_of_the_same_setup_are_taken_up(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    results.write_text("".join(json.dumps(asdict(run)) + "\n" for run in RUNS["swap"]))
    assert list(read_results(results, SETUP)) == [("swap", seed, 2) for seed in range(3)]
    assert read_results(results, {**SETUP, "copies": 4}) == {}
    assert read_results(tmp_path / "none yet", SETUP) == {}
