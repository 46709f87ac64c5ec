"""Random searches, failures, kills and extensions among them: the weights that would be published are on disk."""

from pathlib import Path
from random import Random
from typing import Literal

import pytest

from t5ray.search.confirm import Confirmation, standing
from t5ray.search.ledger import Ledger, TrialRecord
from t5ray.search.observer import Observer
from t5ray.search.workspace import Workspace
from t5ray.tracking import NoTracker
from tests.search.events import epoch, tune_trial

HISTORIES = 200
MODES: tuple[Literal["max", "min"], ...] = ("max", "min")
KILLED = 0.04
"""Chance that a session ends after an event."""


class Disk(Workspace):
    """Stands in for the folders of a search: whose weights are there."""

    there: set[str]

    def drop_trial(self, key: str) -> None:
        self.there.discard(key)

    def leave_best(self, key: str, step: int) -> None:
        assert key in self.there

    def upload_state(self) -> None: ...


class Session:
    """One session of a search whose slots end their runs in any order, well or badly."""

    def __init__(self, ledger: Ledger, disk: Disk, random: Random, *, slots: int, fails: float) -> None:
        self.ledger, self.disk, self.random, self.slots, self.fails = ledger, disk, random, slots, fails
        self.confirmation, self.cut_off = Confirmation(ledger), list(ledger.interrupted)
        self.running = list[TrialRecord]()
        self.books = Observer(
            ledger,
            NoTracker(),
            workspace=disk,
            objective="accuracy",
            max_epochs=2,
            slots=slots,
            announce=lambda record: None,
            tell_end=lambda record: None,
        )

    def go(self) -> None:
        """Run until nothing is left or the session is killed."""
        while self._fill() and self.random.random() > KILLED:
            self._end(self.running.pop(self.random.randrange(len(self.running))))
            require_weights(self.ledger, self.disk)

    def _fill(self) -> bool:
        while len(self.running) < self.slots and (record := self._next()) is not None:
            self.running.append(record)
            self.books.on_trial_start(0, [], tune_trial(record.trial, record.seed))
        return bool(self.running)

    def _next(self) -> TrialRecord | None:
        if self.cut_off:
            return self.cut_off.pop(0)
        number, draw = len(self.ledger.trials), self.random
        if number == self.ledger.target:
            return self.confirmation.next_run()
        params = {"batch_size": draw.randrange(4)} if draw.random() < 0.3 else {"dropout": draw.random()}
        record = self.ledger.trials[number] = TrialRecord(number, params)
        return record

    def _end(self, record: TrialRecord) -> None:
        trial = tune_trial(record.trial, record.seed)
        if self.random.random() < self.fails:
            trial.last_result = {"done": True, "failure": "the loss must be finite"}
        else:
            self.disk.there.add(record.key)
            final = record.seed is not None or self.random.random() < 0.6
            trial.last_result = epoch(1, round(self.random.random(), 1), final=final)  # with ties
        self.books.on_trial_result(0, [], trial, trial.last_result)
        self.books.on_trial_complete(0, [], trial)


def require_weights(ledger: Ledger, disk: Disk) -> None:
    source = standing(ledger).source
    assert source is None or source.key in disk.there
    assert source is not None or not disk.there


def test_whatever_happens_the_weights_to_publish_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = Ledger.save
    monkeypatch.setattr(Ledger, "save", lambda ledger: None)  # each session's end is enough here
    for history in range(HISTORIES):
        random = Random(history)
        ledger = Ledger(
            tmp_path / f"{history}.json", MODES[history % 2], confirm_seeds=[11, 12, 13][: random.randint(1, 3)]
        )
        disk, slots, fails = Disk(tmp_path, tmp_path), random.randint(1, 4), random.choice((0.0, 0.15, 0.4))
        object.__setattr__(disk, "there", set())
        ledger.target = random.choice((1, 2, 3, 5, 8))
        for _ in range(3):
            Session(ledger, disk, random, slots=slots, fails=fails).go()
            save(ledger)
            ledger = Ledger.load(ledger.path)
            require_weights(ledger, disk)
            ledger.target += random.choice((0, 0, 1, 2, 4))  # --extend
