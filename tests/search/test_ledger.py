"""The ledger on disk, and who is best."""

from pathlib import Path

import pytest

from t5ray.errors import DataError
from t5ray.search.ledger import Ledger, TrialRecord


def report(epoch: int, value: float, best_epoch: int, best_value: float) -> dict[str, object]:
    times = {"train_s": 2.0, "validate_s": 0.5}
    return {"epoch": epoch, "value": value, "best_epoch": best_epoch, "best_value": best_value, **times}


def trial(number: int, values: list[float], state: str = "COMPLETE") -> TrialRecord:
    reports = []
    for epoch, value in enumerate(values, start=1):
        best = max(values[:epoch])
        reports.append(report(epoch, value, values.index(best) + 1, best))
    return TrialRecord(number, {"learning_rate": 0.1 * number}, state, reports=reports)  # type: ignore[arg-type]


def test_a_ledger_comes_back_as_it_was(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.json", "max", study_run_id="abc", wall_s=3.5)
    ledger.trials = {0: trial(0, [0.1, 0.3, 0.2]), 1: trial(1, [], "RUNNING")}
    ledger.save()
    assert Ledger.load(tmp_path / "ledger.json") == ledger


def test_a_ledger_of_before_comes_back(tmp_path: Path) -> None:
    """As it was written when `most_trials` was called `most`, and a winner was noted at a search's end only."""
    path = tmp_path / "ledger.json"
    books = '"confirm": {"winner": 1}, "confirm_runs": [], "trials": []'
    path.write_text(f'{{"mode": "max", "most": 4, "target": 4, {books}}}')
    assert Ledger.load(path) == Ledger(path, "max", target=4, most_trials=4, confirm={"winner": 1}, has_leader=True)
    path.write_text(f'{{"mode": "max", "grid_points": 4, "target": 4, {books}}}')  # later it was called so
    assert Ledger.load(path) == Ledger(path, "max", target=4, most_trials=4, confirm={"winner": 1})


def test_no_two_runs_of_other_origin_share_a_folder(tmp_path: Path) -> None:
    """What was saved of one must not be taken for another's: of another search, other parameters, another seed."""
    one, other = Ledger(tmp_path / "l.json", key="a" * 32), Ledger(tmp_path / "l.json", key="b" * 32)
    slow, fast = {"learning_rate": 1e-5, "batch_size": 16}, {"learning_rate": 1e-3, "batch_size": 16}
    records = [
        (one, TrialRecord(3, slow)),
        (other, TrialRecord(3, slow)),
        (one, TrialRecord(3, fast)),
        (one, TrialRecord(4, slow)),
        (one, TrialRecord(3, slow, seed=43)),
        (one, TrialRecord(3, slow, seed=44)),
    ]
    for ledger, record in records:
        ledger.mark(record)
    keys = [record.key for _, record in records]
    assert len(set(keys)) == len(keys)
    assert [key.partition(".")[0] for key in keys] == ["3", "3", "3", "4", "3-seed43", "3-seed44"]


def test_a_run_that_is_given_out_again_has_the_folder_it_had(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.json", key="a" * 32)
    ledger.trials[3] = TrialRecord(3, {"learning_rate": 1e-3, "optimizer": "adamw", "max_grad_norm": None})
    ledger.mark(ledger.trials[3])
    ledger.save()
    again = Ledger.load(ledger.path)
    before = again.trials[3].key
    again.mark(again.trials[3])
    assert again.trials[3].key == before == ledger.trials[3].key


def test_the_best_trial_is_by_its_best_epoch_not_its_last(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.json", "max")
    ledger.trials = {0: trial(0, [0.1, 0.9, 0.2]), 1: trial(1, [0.5, 0.6, 0.7])}
    assert ledger.best is ledger.trials[0]
    assert (ledger.trials[0].best_epoch, ledger.trials[0].best_value) == (2, 0.9)


def test_failed_trials_and_trials_without_a_value_are_never_best(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.json", "max")
    ledger.trials = {0: trial(0, [0.9], "FAIL"), 1: trial(1, [0.1], "PRUNED"), 2: trial(2, [], "FAIL")}
    assert ledger.best is ledger.trials[1]
    ledger.trials = {2: trial(2, [], "FAIL")}
    assert ledger.best is None


def test_smaller_is_better_where_the_mode_says_so(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.json", "min")
    ledger.trials = {0: trial(0, [0.9]), 1: trial(1, [0.1])}
    assert ledger.best is ledger.trials[1]


def test_busy_seconds_are_training_and_validation() -> None:
    assert trial(0, [0.1, 0.2]).busy_s == 5.0


@pytest.mark.parametrize("content", ["", "{", '{"trials": 3}', '{"trials": [{"trial": 0, "colour": 1}]}'])
def test_a_broken_ledger_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "ledger.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"ledger\.json: must hold the saved state of a search"):
        Ledger.load(path)


def test_a_running_leader_is_not_the_best_yet(tmp_path: Path) -> None:
    """Its checkpoints are no reason to delete those of the best that has ended: it may still fail."""
    ledger = Ledger(tmp_path / "ledger.json", "max")
    ledger.trials = {0: trial(0, [0.8]), 1: trial(1, [0.85], "RUNNING")}
    assert ledger.best is ledger.trials[0]


def test_an_extension_that_was_cut_off_keeps_its_target(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.json", "max")
    assert ledger.settle_target(ledger.wanted(20, None)) == 20
    ledger.trials = {n: trial(n, [0.1]) for n in range(20)}
    assert ledger.settle_target(ledger.wanted(20, 10)) == 30
    ledger.trials |= {n: trial(n, [0.1]) for n in range(20, 23)}
    assert ledger.settle_target(ledger.wanted(20, None)) == 30  # --resume
