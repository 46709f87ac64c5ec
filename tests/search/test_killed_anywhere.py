"""A search killed before, or in the middle of, any write to its disk ends, resumed, as if nothing had been.

What a killed search knows is what is on disk. So killing it at every write, and before every deletion, covers every
moment; Tune and the trainings are stand-ins that call the search's parts in Tune's order and give values that follow
from the parameters.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
import ray.tune.search
from optuna.storages.journal import JournalFileBackend

from t5ray.config import SearchSpace
from t5ray.model import card
from t5ray.search.confirm import Confirmation, standing
from t5ray.search.journal import open_storage
from t5ray.search.ledger import Ledger, TrialRecord
from t5ray.search.scheduler import Asha, build_scheduler
from t5ray.search.searcher import StudySearch
from t5ray.search.workspace import Workspace
from t5ray.training.best import best_name
from tests.search.events import epoch, tune_trial
from tests.search.test_observer import observer

EPOCHS, NUM_TRIALS = 4, 5
SPACE = SearchSpace.model_validate(
    {
        "parameters": {"learning_rate": {"loguniform": [1e-5, 1e-2]}, "batch_size": {"choice": [16, 32]}},
        "sampler": {"startup_trials": 2},
        "scheduler": {"reduction_factor": 2},
    }
)


class Killed(BaseException):
    """The process is gone."""


class Disk:
    """Counts writes, and kills at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.writes, self.last, self.half = 0, -1, False
        write_text, append = card.write_text, JournalFileBackend.append_logs

        def guarded_text(path: Path, text: str) -> None:
            self.count(None)  # whole or not at all
            write_text(path, text)

        def guarded_append(backend: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
            self.count(Path(backend._file_path))
            append(backend, logs)

        for home in ("t5ray.search.ledger", "t5ray.model.card"):  # the ledger's, and those of write_json
            monkeypatch.setattr(f"{home}.write_text", guarded_text)
        monkeypatch.setattr(JournalFileBackend, "append_logs", guarded_append)
        for name in ("drop_trial", "leave_best"):
            monkeypatch.setattr(Workspace, name, self._guarded(getattr(Workspace, name)))

    def _guarded(self, delete: Callable[..., None]) -> Callable[..., None]:
        def guarded(workspace: Workspace, *given: Any) -> None:
            self.count(None)
            delete(workspace, *given)

        return guarded

    def count(self, journal: Path | None) -> None:
        if self.writes == self.last:
            if self.half and journal is not None:
                with journal.open("a") as file:
                    file.write('{"op_code":4,"worker_id":"b')
            raise Killed
        self.writes += 1

    @contextmanager
    def killing(self, write: int, *, half: bool) -> Iterator[None]:
        """Kill at the write of that number; a line of the journal is cut short, or not begun."""
        self.writes, self.last, self.half = 0, write, half
        try:
            yield
        except Killed:
            pass
        finally:
            self.last = -1


def holds_what_it_names(folder: Path) -> bool:
    """Say whether the weights are on disk of every trial that the books on disk need to go on or to end with."""
    path = folder / "state/ledger.json"
    if not path.exists():
        return True
    ledger = Ledger.load(path)
    needed = [record for record in _records(ledger) if record.key in standing(ledger).kept and record.reports]
    trials = folder / "state/trials"
    return all((trials / record.key / best_name(record.reports[-1]["best_step"])).exists() for record in needed)


def _records(ledger: Ledger) -> list[TrialRecord]:
    return [*ledger.trials.values(), *ledger.confirm_runs]


def value_of(params: dict[str, Any], number: int, seed: int | None) -> float:
    """A learning curve whose end depends on the parameters, and a little on the seed."""
    distance = abs(float(params["learning_rate"]) - 2e-3) * 100 + float(params["batch_size"]) / 100
    return round(number / (number + distance) + (seed or 0) / 1000, 6)


def search(folder: Path) -> Ledger:
    """Search, or go on with what is in the folder, to the end."""
    path = folder / "state/ledger.json"
    ledger = Ledger.load(path) if path.exists() else Ledger(path)
    ledger.confirm_seeds = [1, 2]
    books = observer(ledger, folder, max_epochs=EPOCHS)
    scheduler = build_scheduler(SPACE.scheduler, ledger, EPOCHS)
    searcher = StudySearch(
        SPACE,
        ledger,
        storage=open_storage(folder / "journal"),
        first_points=[{"learning_rate": 3e-4, "batch_size": 32}],
        num_trials=NUM_TRIALS,
        seed=0,
        confirmation=Confirmation(ledger),
    )
    while isinstance(config := searcher.suggest("one"), dict):
        _run(config, folder, books, scheduler, searcher)
    assert config == ray.tune.search.Searcher.FINISHED
    Workspace(folder, folder / "cache").leave_trials(standing(ledger).kept)  # as the search's end begins
    return ledger


def _run(config: dict[str, Any], folder: Path, books: Any, scheduler: Any, searcher: StudySearch) -> None:
    """Run one trial from its first epoch, as one that tells its saved epochs again does, in Tune's order of calls."""
    trial = tune_trial(config["trial"], config.get("seed"), config["params"])
    books.on_trial_start(0, [], trial)
    key, values = books._record(trial).key, list[float]()
    for number in range(1, EPOCHS + 1):
        values.append(value_of(config["params"], number, config.get("seed")))
        best = values.index(max(values)) + 1
        result = epoch(number, values[-1], final=number == EPOCHS)
        result |= {"best_value": max(values), "best_epoch": best, "best_step": best}
        (folder / "state/trials" / key / best_name(best)).mkdir(parents=True, exist_ok=True)
        if result["final"] and "seed" in config:
            result["rows"] = {"predictions": [key]}
        stop = result["final"] or scheduler.on_trial_result(None, trial, result) == "STOP"
        if not stop:
            searcher.on_trial_result("one", result)
        books.on_trial_result(0, [], trial, result)
        trial.last_result = result
        if stop:
            scheduler.on_trial_complete(None, trial, result)
            searcher.on_trial_complete("one", result)
            books.on_trial_complete(0, [], trial)
            return


def outcome(folder: Path) -> dict[str, Any]:
    """Return everything that must not depend on a kill."""
    ledger = Ledger.load(folder / "state/ledger.json")
    names = ("trial", "seed", "state", "reason", "params", "values", "best_epoch", "stopped_epoch")
    records = _records(ledger)
    told = optuna.load_study(study_name="t5ray", storage=open_storage(folder / "journal")).trials
    winner = standing(ledger).source
    assert winner is not None
    return {
        "records": [{name: getattr(record, name) for name in names} for record in records],
        "rungs": [bracket._rungs for bracket in Asha(SPACE.scheduler, ledger, EPOCHS)._brackets],
        "told": [(t.number, t.state.name, t.value, t.params, t.intermediate_values, t.system_attrs) for t in told],
        "kept": [path.name for path in (folder / "state/trials").iterdir()],
        "rows": sorted(path.name for path in (folder / "state/confirm").iterdir()),
        "winner": winner.key,
    }


@pytest.mark.long
def test_a_kill_at_any_write_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    search(tmp_path / "whole")
    expected, writes = outcome(tmp_path / "whole"), disk.writes
    states = [record["state"] for record in expected["records"]]
    assert {"COMPLETE", "PRUNED"} <= set(states)
    assert expected["kept"] == [expected["winner"]]
    for write in range(writes):
        folder = tmp_path / f"killed-{write}"
        with disk.killing(write, half=write % 2 == 0):
            search(folder)
        assert holds_what_it_names(folder), f"killed at write {write} of {writes}"
        search(folder)
        assert outcome(folder) == expected, f"killed at write {write} of {writes}"


@pytest.mark.parametrize("apart", [23, 31, 47])
def test_kills_after_kills_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: int) -> None:
    disk = Disk(monkeypatch)
    search(tmp_path / "whole")
    folder = tmp_path / "killed"
    kills = 0
    while not (folder / "over").exists() and kills < 40:
        with disk.killing(apart, half=kills % 2 == 0):
            search(folder)
            (folder / "over").touch()
        assert holds_what_it_names(folder)
        kills += 1
    assert kills > 1
    assert outcome(folder) == outcome(tmp_path / "whole")
