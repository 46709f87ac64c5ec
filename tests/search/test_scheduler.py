"""ASHA's rungs, before and after an interruption."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from t5ray.config import SchedulerConfig
from t5ray.search.ledger import Ledger, TrialRecord
from t5ray.search.scheduler import Asha, rung_epochs


def test_rung_epochs_example() -> None:
    assert rung_epochs(SchedulerConfig(grace_epochs=1, reduction_factor=3), 10) == [1, 3, 9]
    assert rung_epochs(SchedulerConfig(grace_epochs=2, reduction_factor=2), 8) == [2, 4]
    assert rung_epochs(SchedulerConfig(name="none"), 8) == []


def asha(tmp_path: Path, mode: str = "max") -> Asha:
    return Asha(SchedulerConfig(), Ledger(tmp_path / "l.json", mode), 9)  # type: ignore[arg-type]


def run(scheduler: Asha, name: str, values: list[float]) -> list[str]:
    trial = SimpleNamespace(trial_id=f"tune-{name}", config={"trial": name})
    scheduler.on_trial_add(None, trial)
    decisions = []
    for epoch, value in enumerate(values, start=1):
        decisions.append(scheduler.on_trial_result(None, trial, {"epoch": epoch, "value": value}))
        if decisions[-1] == "STOP":
            break
    return decisions


@pytest.mark.parametrize(("mode", "sign"), [("max", 1), ("min", -1)])
def test_a_trial_below_the_best_third_is_stopped_at_the_first_rung(tmp_path: Path, mode: str, sign: int) -> None:
    scheduler = asha(tmp_path, mode)
    for name, value in (("a", 0.5), ("b", 0.6), ("c", 0.7)):
        run(scheduler, name, [sign * value])
    assert run(scheduler, "d", [sign * 0.2, sign * 0.9]) == ["STOP"]
    assert run(scheduler, "e", [sign * 0.8, sign * 0.9]) == ["CONTINUE", "CONTINUE"]


def test_a_failed_trial_leaves_no_value_in_the_rungs(tmp_path: Path) -> None:
    scheduler = asha(tmp_path)
    trial = SimpleNamespace(trial_id="broken", config={"trial": 7})
    scheduler.on_trial_add(None, trial)
    scheduler.on_trial_complete(None, trial, {"failure": "the loss is nan", "done": True})
    assert all(recorded == {} for _, recorded in scheduler._brackets[0]._rungs)


def test_rungs_are_filled_again_from_the_ledger(tmp_path: Path) -> None:
    values = {0: [0.5, 0.6, 0.7], 1: [0.4], 2: [0.8, 0.9, 0.9]}
    undisturbed = asha(tmp_path)
    for number, history in values.items():
        run(undisturbed, str(number), history)
    ledger = Ledger(tmp_path / "l.json", "max")
    for number, history in values.items():
        reached = history if number != 1 else history[:1]
        ledger.trials[number] = TrialRecord(number, {}, "PRUNED", reports=[{"value": v} for v in reached])
    resumed = Asha(SchedulerConfig(), ledger, 9)

    def recorded(scheduler: Asha) -> list[tuple[float, list[float]]]:
        return [(epoch, sorted(rung.values())) for epoch, rung in scheduler._brackets[0]._rungs]

    assert recorded(resumed) == recorded(undisturbed)


def test_an_interrupted_trial_is_not_judged_again_on_epochs_it_had_passed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.json", "max")
    values = {0: [0.2, 0.3, 0.9], 1: [0.8], 2: [0.85], 3: [0.9]}
    for number, history in values.items():
        state = "RUNNING" if number == 0 else "PRUNED"
        ledger.trials[number] = TrialRecord(number, {}, state, reports=[{"value": v} for v in history])  # type: ignore[arg-type]
    resumed = Asha(SchedulerConfig(), ledger, 9)
    assert run(resumed, "0", [0.2, 0.3, 0.9, 0.91]) == ["CONTINUE"] * 4
    assert run(resumed, "9", [0.2]) == ["STOP"]  # a new trial is judged
