"""Importances of made-up searches in which it is known what decides."""

import math
import random
from pathlib import Path

import pytest

from t5ray.config import SearchSpace
from t5ray.search.importance import importances
from t5ray.search.ledger import Ledger, TrialRecord

PLAIN = SearchSpace.model_validate(
    {"parameters": {"learning_rate": {"loguniform": [1e-5, 1e-2]}, "dropout": {"uniform": [0.0, 0.3]}}}
)
CONDITIONAL = SearchSpace.model_validate(
    {
        "parameters": {
            "optimizer": {"choice": ["adamw", "adafactor"]},
            "learning_rate": [
                {"loguniform": [1e-5, 1e-2], "when": {"optimizer": "adamw"}},
                {"loguniform": [1e-4, 1e-2], "when": {"optimizer": "adafactor"}},
            ],
        }
    }
)


def record(number: int, params: dict[str, object], value: float, state: str = "COMPLETE") -> TrialRecord:
    reports = [{"value": value, "best_value": value, "best_epoch": 1}]
    return TrialRecord(number, dict(params), state=state, reports=reports)  # type: ignore[arg-type]


def ledger(records: list[TrialRecord]) -> Ledger:
    return Ledger(Path("unused.json"), trials={r.trial: r for r in records})


def searched(num_trials: int) -> list[TrialRecord]:
    """The learning rate decides all but a little."""
    draw = random.Random(0)
    found = []
    for number in range(num_trials):
        rate, dropout = 10 ** draw.uniform(-5, -2), draw.uniform(0, 0.3)
        value = 0.9 - 0.2 * abs(math.log10(rate) + 3) - 0.01 * dropout
        found.append(record(number, {"learning_rate": rate, "dropout": dropout}, value))
    return found


def test_both_evaluators_find_what_decides() -> None:
    found = importances(PLAIN, ledger(searched(40)))
    assert found is not None
    assert set(found) == {"fANOVA", "PED-ANOVA"}
    for shares in found.values():
        assert sum(shares.values()) == pytest.approx(1)
        assert shares["learning_rate"] > 0.8


def test_few_trials_say_nothing() -> None:
    assert importances(PLAIN, ledger(searched(9))) is None


def test_failed_trials_and_defaults_outside_the_space_do_not_count() -> None:
    records = searched(9)
    records.append(record(9, {"learning_rate": 0.5, "dropout": 0.1}, 0.99))  # outside its range
    records.append(record(10, {"learning_rate": 1e-3, "dropout": 0.1}, 0.99, "FAIL"))
    assert importances(PLAIN, ledger(records)) is None


def test_a_range_under_a_condition_is_named_with_it() -> None:
    draw = random.Random(0)
    records = []
    for number in range(40):
        optimizer = draw.choice(["adamw", "adafactor"])
        rate = 10 ** draw.uniform(-4, -2)
        value = 0.5 + (0.3 if optimizer == "adafactor" else 0.1 * math.log10(rate) / 4)
        records.append(record(number, {"optimizer": optimizer, "learning_rate": rate}, value))
    found = importances(CONDITIONAL, ledger(records))
    assert found is not None
    assert set(found) == {"PED-ANOVA"}
    assert set(found["PED-ANOVA"]) == {
        "optimizer",
        "learning_rate where optimizer is adamw",
        "learning_rate where optimizer is adafactor",
    }
