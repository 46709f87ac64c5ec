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
    found = importances(PLAIN, ledger(searched(40))).shares
    assert found is not None
    assert set(found) == {"fANOVA", "PED-ANOVA"}
    for shares in found.values():
        assert sum(shares.values()) == pytest.approx(1)
        assert shares["learning_rate"] > 0.8


def test_few_trials_say_nothing() -> None:
    found = importances(PLAIN, ledger(searched(9)))
    assert (found.shares, found.unknown) == (None, "it takes 10 trials inside the search space, and there are 9")


def test_failed_trials_and_defaults_outside_the_space_do_not_count() -> None:
    records = searched(9)
    records.append(record(9, {"learning_rate": 0.5, "dropout": 0.1}, 0.99))  # outside its range
    records.append(record(10, {"learning_rate": 1e-3, "dropout": 0.1}, 0.99, "FAIL"))
    assert importances(PLAIN, ledger(records)).shares is None


def test_a_range_under_a_condition_is_named_with_it() -> None:
    draw = random.Random(0)
    records = []
    for number in range(40):
        optimizer = draw.choice(["adamw", "adafactor"])
        rate = 10 ** draw.uniform(-4, -2)
        value = 0.5 + (0.3 if optimizer == "adafactor" else 0.1 * math.log10(rate) / 4)
        records.append(record(number, {"optimizer": optimizer, "learning_rate": rate}, value))
    found = importances(CONDITIONAL, ledger(records)).shares
    assert found is not None
    assert set(found) == {"PED-ANOVA"}
    assert set(found["PED-ANOVA"]) == {
        "optimizer",
        "learning_rate where optimizer is adamw",
        "learning_rate where optimizer is adafactor",
    }


def test_a_condition_is_worded_as_the_search_space_has_it() -> None:
    frozen = {"freeze_encoder": {"choice": [True, False]}, "dropout": {"uniform": [0.0, 0.3]}}
    rate = [{"loguniform": [1e-5, 1e-2], "when": {"freeze_encoder": value}} for value in (True, False)]
    space = SearchSpace.model_validate({"parameters": {**frozen, "learning_rate": rate}})
    draw = random.Random(0)
    records = []
    for number in range(40):
        params: dict[str, object] = {
            "freeze_encoder": number % 2 == 0,
            "learning_rate": 10 ** draw.uniform(-4, -2),
            "dropout": 0.1,
        }
        records.append(record(number, params, draw.random()))
    found = importances(space, ledger(records)).shares
    assert found is not None
    assert {f"learning_rate where freeze_encoder is {value}" for value in ("true", "false")} < set(found["PED-ANOVA"])


EPSILON = {"epsilon": {"loguniform": [1e-10, 1e-8]}}
"""Narrower than the 1e-7 that scikit-learn's trees tell apart."""


def drawn(num_trials: int, seed: int, **ranges: tuple[float, float]) -> list[TrialRecord]:
    """Random values at random places, which nothing decides."""
    draw = random.Random(seed)
    return [
        record(n, {name: 10 ** draw.uniform(*ends) for name, ends in ranges.items()}, draw.choice([0.0, 0.25, 0.5]))
        for n in range(num_trials)
    ]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("beside", [{}, {"optimizer": {"choice": ["adamw"]}}])
def test_one_parameter_that_differs_is_compared_with_nothing(beside: dict[str, object], seed: int) -> None:
    """Among them spaces whose trees have no variance, or one of rounding only."""
    space = SearchSpace.model_validate({"parameters": {**EPSILON, **beside}})
    records = drawn(12, seed, epsilon=(-10, -8))
    for each in records:
        each.params |= dict.fromkeys(beside, "adamw")
    found = importances(space, ledger(records))
    assert (found.shares, found.unknown) == (None, "fewer than two parameters differ between the trials")


def test_a_narrow_range_decides_where_it_does() -> None:
    """Its logarithm is what trials are drawn by; whatever the dropout is, the value follows epsilon."""
    space = SearchSpace.model_validate({"parameters": {**EPSILON, "dropout": {"uniform": [0.1, 0.10000001]}}})
    draw, records = random.Random(0), []
    for number in range(40):
        exponent = draw.uniform(-10, -8)
        records.append(
            record(number, {"epsilon": 10**exponent, "dropout": draw.uniform(0.1, 0.10000001)}, -abs(exponent + 9))
        )
    found = importances(space, ledger(records)).shares
    assert found is not None
    assert all(shares["epsilon"] > 0.8 for shares in found.values())


@pytest.mark.parametrize("seed", range(3))
def test_values_that_hardly_differ_say_nothing(seed: int) -> None:
    records, draw = searched(12), random.Random(seed)
    for each in records:
        each.reports[0]["best_value"] = each.reports[0]["value"] = 0.5 + 1e-9 * draw.random()
    found = importances(PLAIN, ledger(records))
    assert (found.shares, found.unknown) == (None, "all trials came out the same")


def test_random_values_never_end_in_an_error() -> None:
    space = SearchSpace.model_validate({"parameters": {**EPSILON, "learning_rate": {"loguniform": [1e-5, 1e-2]}}})
    for seed in range(5):
        found = importances(space, ledger(drawn(12, seed, epsilon=(-10, -8), learning_rate=(-5, -2))))
        for shares in (found.shares or {}).values():
            assert sum(shares.values()) == pytest.approx(1)
        assert found.shares or found.unknown


def test_numbers_too_large_to_square_are_no_shares() -> None:
    """No share is nan, which JSON has no word for."""
    records, draw = searched(12), random.Random(0)
    for each in records:
        each.reports[0]["best_value"] = each.reports[0]["value"] = draw.choice([1e300, -1e300])
    found = importances(PLAIN, ledger(records))
    assert "fANOVA cannot tell" in found.unknown
    assert "fANOVA" not in (found.shares or {})


@pytest.mark.parametrize("raised", [RuntimeError("Encountered zero\ntotal variance"), ValueError(), AssertionError()])
def test_what_one_evaluator_raises_keeps_the_other_s_answer(raised: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(*_: object, **__: object) -> dict[str, float]:
        raise raised

    monkeypatch.setattr("optuna.importance.FanovaImportanceEvaluator.evaluate", evaluate)
    found = importances(PLAIN, ledger(searched(40)))
    assert set(found.shares or {}) == {"PED-ANOVA"}
    why = " ".join(str(raised).split()) or type(raised).__name__
    assert found.unknown == f"fANOVA cannot tell ({why})"


def test_shares_of_nothing_are_not_equal_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = {"learning_rate": 0.0, "dropout": 0.0}
    for name in ("FanovaImportanceEvaluator", "PedAnovaImportanceEvaluator"):
        monkeypatch.setattr(f"optuna.importance.{name}.evaluate", lambda *_, **__: nothing)
    found = importances(PLAIN, ledger(searched(40)))
    assert found.shares is None
    assert found.unknown.startswith("fANOVA cannot tell (")
    assert "; PED-ANOVA cannot tell (" in found.unknown
