"""What is left of a search's time and trials, and what ends it."""

import functools
from pathlib import Path

import pytest
import ray.tune

from t5ray.config import SearchSpace
from t5ray.errors import StorageError
from t5ray.search import study
from t5ray.search.conclude import why_all_failed
from t5ray.search.confirm import Confirmation
from t5ray.search.journal import open_storage
from t5ray.search.ledger import Ledger, TrialRecord
from t5ray.search.searcher import StudySearch
from t5ray.search.study import budget_left_s, most_runs
from tests.search.test_observer import observer

SPACE = SearchSpace.model_validate({"parameters": {"learning_rate": {"loguniform": [1e-5, 1e-2]}}})


def test_the_runs_of_an_extended_search_are_all_given_out(tmp_path: Path) -> None:
    """Four candidates were cut off after one seed; then three better trials come, and are confirmed, too."""
    ledger = Ledger(tmp_path / "l.json", confirm_seeds=[1, 2, 3])
    search = functools.partial(StudySearch, SPACE, ledger, first_points=[], seed=0)
    first = search(storage=open_storage(tmp_path / "journal"), num_trials=4)
    for number in range(4):
        first.suggest(f"trial {number}")
        end(first, f"trial {number}", ledger.trials[number], 0.1 * number)
    ledger.confirm_runs = [TrialRecord(n, ledger.trials[n].params, seed=1) for n in range(4)]
    for run in ledger.confirm_runs:
        run.reports, run.state = [{"value": 0.5, "best_epoch": 1, "best_value": 0.5}], "COMPLETE"
    ledger.settle_target(ledger.wanted(4, 3))
    again = search(storage=open_storage(tmp_path / "journal"), num_trials=7, confirmation=Confirmation(ledger))
    given = 0
    while isinstance(config := again.suggest(str(given)), dict):
        confirms = "seed" in config
        record = ledger.confirm_run(config["trial"], config["seed"]) if confirms else ledger.trials[config["trial"]]
        end(again, str(given), record, 0.9 + 0.01 * config["trial"])
        given += 1
    assert given == 3 + 3 * 3 + 4 * 2  # the trials, the new best on all seeds, the old ones on those that are left
    assert given <= most_runs(ledger)


def end(search: StudySearch, name: str, record: TrialRecord, value: float) -> None:
    record.reports = [{"epoch": 1, "value": value, "best_epoch": 1, "best_value": value}]
    record.state = "COMPLETE"
    search.on_trial_complete(name, {**record.reports[0], "final": True})


def test_a_time_budget_goes_on_after_an_interruption_and_begins_anew_once_it_was_used_up(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.json")
    assert budget_left_s(7200.0, ledger) == 7200.0
    assert budget_left_s(None, ledger) is None
    ledger.wall_s = 5000.0  # then its process was killed
    assert budget_left_s(7200.0, ledger) == 2200.0
    ledger.wall_s = 9000.0
    assert budget_left_s(7200.0, ledger) == 1.0  # Tune takes no time that is over
    ledger.budget_from_s = 9000.0
    assert budget_left_s(7200.0, ledger) == 7200.0


def test_causes_are_gathered(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.json")
    reasons = ["the loss is nan", "the loss is nan", "out of GPU memory"]
    ledger.trials = {n: TrialRecord(n, {}, "FAIL", reason) for n, reason in enumerate(reasons)}
    assert "all 3 failed: the loss is nan (trial 0, 1); out of GPU memory (trial 2)" in why_all_failed(ledger)
    ledger.trials = {0: TrialRecord(0, {})}  # cut off before its first epoch had ended
    assert "the time budget was used up before. Go on with --resume; give a longer --time-budget" in why_all_failed(
        ledger
    )


@pytest.mark.parametrize(
    ("reason", "mend"),
    [
        ("the loss must be finite, but is nan at step 3", "Lower the learning rates"),
        ("out of GPU memory: it must hold a row", "gradient_checkpointing=true"),
        ("the trial's process died", "memory of the nodes"),
        ("something else", "Run python -m t5ray.doctor."),
    ],
)
def test_what_helps_goes_by_the_cause(tmp_path: Path, reason: str, mend: str) -> None:
    ledger = Ledger(tmp_path / "l.json")
    ledger.trials = {0: TrialRecord(0, {}, "FAIL", reason)}
    text = why_all_failed(ledger)
    assert mend in text
    assert ("learning rates" in text) == ("finite" in reason)


def test_a_storage_that_stays_away_ends_a_search_in_the_worker_s_words(tmp_path: Path) -> None:
    class Tuner:
        def fit(self) -> None:
            raise ray.tune.TuneError("Traceback (most recent call last):\n  ...\nStorageError: s3://b")

    books = observer(Ledger(tmp_path / "state/ledger.json"), tmp_path)
    books.away = "s3://b: the storage must be reachable, but: ExpiredToken."
    with pytest.raises(StorageError, match=r"^s3://b: the storage must be reachable, but: ExpiredToken\.$") as found:
        study._fit(Tuner(), books.workspace, books)
    assert found.value.exit_code == 6


def test_trials_save_nothing_to_the_folder_that_only_the_driver_has(tmp_path: Path) -> None:
    found = study._run_config(str(tmp_path), None)  # type: ignore[arg-type]
    assert found.checkpoint_config.checkpoint_at_end is False
