"""The books of a search: where its seconds went, and what stays open when time is up."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import ray.cloudpickle
import ray.exceptions
import ray.tune.experiment
from mlflow import MlflowClient
from ray.core.generated.common_pb2 import ActorDiedErrorContext

from t5ray.config import RunConfig, TrackingConfig
from t5ray.errors import ClusterError
from t5ray.search import observer as module
from t5ray.search.ledger import Ledger, TrialRecord
from t5ray.search.observer import Observer
from t5ray.search.workspace import Workspace
from t5ray.tracking import open_tracker
from t5ray.training.best import BestWeights
from tests.search.events import epoch, tune_trial

OTHER_SECONDS = 0.5
"""Of an epoch, besides training and validation."""


class Clock:
    """Stands in for the clock: every epoch takes 2 s of training, 1 s of validation and half a second besides."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return int(self.now * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def observer(
    ledger: Ledger,
    folder: Path,
    max_epochs: int = 2,
    *,
    tell_end: Callable[[TrialRecord], None] = lambda record: None,
    tracking_uri: str = "none",
) -> Observer:
    (folder / "state/confirm").mkdir(parents=True, exist_ok=True)
    tracker = open_tracker(TrackingConfig(uri=tracking_uri), outbox=folder / "outbox")
    return Observer(
        ledger,
        tracker,
        workspace=Workspace(folder, folder / "cache"),
        objective="accuracy",
        max_epochs=max_epochs,
        slots=1,
        announce=lambda record: None,
        tell_end=tell_end,
    )


def test_a_trial_that_begins_is_known_at_the_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its worker copies states there, and another machine is to go on from them."""
    monkeypatch.chdir(tmp_path)
    workspace = Workspace.of(RunConfig(storage=f"memory://{tmp_path.name}/runs", name="study"))
    workspace.ledger.parent.mkdir(parents=True)
    books = observer(Ledger(workspace.ledger), workspace.folder)
    books.workspace = workspace
    books.ledger.trials[0] = TrialRecord(0, {"learning_rate": 1e-3})
    books.on_trial_start(0, [], tune_trial(0))
    saved = json.loads(fsspec.filesystem("memory").cat(f"/{tmp_path.name}/runs/study/saved/ledger.json"))
    assert [(trial["trial"], trial["state"]) for trial in saved["trials"]] == [(0, "RUNNING")]


def begin(books: Observer, clock: Clock, number: int, seed: int | None = None) -> Any:
    """Start a trial, or its run on a fresh seed, after 1 s."""
    record = TrialRecord(number, {}, seed=seed)
    if seed is None:
        books.ledger.trials.setdefault(number, record)
    elif all((run.trial, run.seed) != (number, seed) for run in books.ledger.confirm_runs):
        books.ledger.confirm_runs.append(record)
    clock.now += 1.0
    trial = tune_trial(number, seed)
    books.on_trial_start(0, [], trial)
    return trial


def run(books: Observer, clock: Clock, number: int, epochs: range, seed: int | None = None) -> None:
    """Run these epochs of a trial of two."""
    trial = begin(books, clock, number, seed)
    for number in epochs:
        clock.now += 3.0 + OTHER_SECONDS
        trial.last_result = epoch(number, 0.5, final=number == 2, train_s=2.0, validate_s=1.0)
        books.on_trial_result(0, [], trial, trial.last_result)
    if epochs[-1] == 2:
        books.on_trial_complete(0, [], trial)


def sums(ledger: Ledger) -> tuple[float, float]:
    runs = [*ledger.trials.values(), *ledger.confirm_runs]
    return sum(r.busy_s for r in runs), sum(r.overhead_s for r in runs)


def test_busy_and_overhead_seconds_of_trials_and_confirming_runs_are_the_wall_seconds_of_their_slot(
    tmp_path: Path, clock: Clock
) -> None:
    books = observer(ledger := Ledger(tmp_path / "state/ledger.json"), tmp_path)
    run(books, clock, 0, range(1, 3))
    run(books, clock, 1, range(1, 3))
    run(books, clock, 1, range(1, 3), seed=1)
    busy, overhead = sums(ledger)
    assert (busy, overhead) == (3 * 2 * 3.0, 3 * (1.0 + 2 * OTHER_SECONDS))
    assert busy + overhead == ledger.wall_s == clock.now - 100.0


def test_a_kill_loses_no_second_up_to_the_last_report(tmp_path: Path, clock: Clock) -> None:
    books = observer(ledger := Ledger(tmp_path / "state/ledger.json"), tmp_path)
    run(books, clock, 0, range(1, 2))
    assert sum(sums(ledger)) == ledger.wall_s == 1.0 + 3.0 + OTHER_SECONDS

    clock.now += 1000.0  # nothing runs
    books = observer(again := Ledger.load(ledger.path), tmp_path)
    trial = begin(books, clock, 0)
    books.on_trial_result(0, [], trial, epoch(1, 0.5, train_s=2.0, validate_s=1.0))  # told again
    clock.now += 3.0 + OTHER_SECONDS
    trial.last_result = epoch(2, 0.5, final=True, train_s=2.0, validate_s=1.0)
    books.on_trial_result(0, [], trial, trial.last_result)
    books.on_trial_complete(0, [], trial)
    assert sums(again) == (6.0, 2 * (1.0 + OTHER_SECONDS))
    assert sum(sums(again)) == again.wall_s


def test_when_time_is_up_trials_are_closed_and_confirming_runs_wait_for_a_resume(tmp_path: Path, clock: Clock) -> None:
    told: list[TrialRecord] = []
    books = observer(ledger := Ledger(tmp_path / "state/ledger.json"), tmp_path, tell_end=told.append)
    run(books, clock, 0, range(1, 2))
    run(books, clock, 0, range(1, 2), seed=1)
    begin(books, clock, 1)  # and has no epoch yet
    books.cut_off("the time budget was used up")
    assert told == [ledger.trials[0]]
    saved = Ledger.load(ledger.path)
    assert (saved.trials[0].state, saved.confirm_runs[0].state) == ("PRUNED", "RUNNING")
    assert (saved.trials[1].state, saved.trials[1].reason) == ("RUNNING", None)
    assert saved.trials[0].reason == "cut off after epoch 1 of 2: the time budget was used up"


def keep(folder: Path, record: TrialRecord, number: int, value: float) -> dict[str, Any]:
    """Put weights in place as a worker does that nobody listens to any more."""
    report = epoch(number, value)
    kept = folder / "state/trials" / record.key / f"best-{number}"
    shutil.rmtree(kept.parent, ignore_errors=True)
    kept.mkdir(parents=True)
    (kept / "t5ray-report.json").write_text(json.dumps(report))
    return report


@pytest.mark.parametrize("heard", [1, 3], ids=["a later epoch", "an earlier one, made again"])
def test_when_time_is_up_an_epoch_counts_whose_weights_are_there_but_whose_report_was_lost(
    tmp_path: Path, clock: Clock, heard: int
) -> None:
    """Its weights have taken the place of those that the books name."""
    told: list[TrialRecord] = []
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    books = observer(
        ledger := Ledger(tmp_path / "state/ledger.json"), tmp_path, 4, tell_end=told.append, tracking_uri=uri
    )
    trial = begin(books, clock, 0)
    for number in range(1, heard + 1):
        books.on_trial_result(0, [], trial, epoch(number, 0.5))
    kept = keep(tmp_path, ledger.trials[0], 2, 0.75)
    books.cut_off("the time budget was used up")
    (record,) = told
    assert (record.best_value, record.best_epoch, record.values) == (0.75, 2, [0.5, 0.75])
    assert record.reason == "cut off after epoch 2 of 4: the time budget was used up"
    assert Ledger.load(ledger.path).trials[0].reports[1].items() >= kept.items()
    assert (tmp_path / "state/trials" / record.key / "best-2").is_dir()
    books.tracker.close()
    curve = MlflowClient(uri).get_metric_history(record.mlflow_run_id, "accuracy")
    assert {(point.step, point.value) for point in curve} >= {(1, 0.5)}
    assert heard > 1 or (2, 0.75) in {(point.step, point.value) for point in curve}


def test_a_trial_stays_open_whose_books_lack_epochs_before_the_one_that_is_kept(tmp_path: Path, clock: Clock) -> None:
    """Books at a URI may be older than the weights there: the trial tells those epochs again when it goes on."""
    books = observer(ledger := Ledger(tmp_path / "state/ledger.json"), tmp_path, 4)
    trial = begin(books, clock, 0)
    books.on_trial_result(0, [], trial, epoch(1, 0.5))
    keep(tmp_path, ledger.trials[0], 3, 0.75)
    books.cut_off("the time budget was used up")
    assert (ledger.trials[0].state, ledger.trials[0].values) == ("RUNNING", [0.5])


def test_a_report_that_a_kill_cut_short_is_none(tmp_path: Path, clock: Clock) -> None:
    books = observer(ledger := Ledger(tmp_path / "state/ledger.json"), tmp_path, 4)
    trial = begin(books, clock, 0)
    books.on_trial_result(0, [], trial, epoch(1, 0.5))
    keep(tmp_path, ledger.trials[0], 2, 0.75)
    (tmp_path / "state/trials" / ledger.trials[0].key / "best-2/t5ray-report.json").write_text('{"epoch": 2, "val')
    books.cut_off("the time budget was used up")
    assert (ledger.trials[0].state, ledger.trials[0].values) == ("PRUNED", [0.5])


def test_a_storage_that_is_away_as_a_trial_is_closed_ends_no_search(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, tmp_path / "cache", remote="nowhere://bucket/runs/study")
    (workspace.trials / "0/best-8").mkdir(parents=True)
    with pytest.raises(ClusterError, match="must be reachable"):
        BestWeights(workspace.trials / "0", f"{workspace.remote_trials}/0").keep_from(8)
    workspace.leave_best("0", 8)
    assert (workspace.trials / "0/best-8").is_dir()


def test_weights_that_come_as_a_trial_is_closed_stay(tmp_path: Path, clock: Clock) -> None:
    """Those that the books name have gone for them."""
    books = observer(ledger := Ledger(tmp_path / "state/ledger.json"), tmp_path)
    trial = begin(books, clock, 0)
    trial.last_result = epoch(1, 0.5, final=True)
    books.on_trial_result(0, [], trial, trial.last_result)
    keep(tmp_path, ledger.trials[0], 2, 0.75)
    books.on_trial_complete(0, [], trial)
    assert (tmp_path / "state/trials" / ledger.trials[0].key / "best-2").is_dir()


def test_no_weights_go_that_the_books_at_the_storage_still_name(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, away = list[str](), [False]

    def upload(workspace: Workspace) -> None:
        if away[0]:
            raise ClusterError("the storage is away")
        done.append("books")

    monkeypatch.setattr(Workspace, "upload_state", upload)
    monkeypatch.setattr(Workspace, "drop_trial", lambda workspace, key: done.append(f"drop {key}"))
    monkeypatch.setattr(Workspace, "leave_best", lambda workspace, key, step: done.append(f"leave {key}"))
    books = observer(ledger := Ledger(tmp_path / "state/ledger.json"), tmp_path)
    for number, value in ((0, 0.5), (1, 0.6), (2, 0.7)):
        away[0] = number == 1
        trial = begin(books, clock, number)
        books.on_trial_result(0, [], trial, epoch(1, value, final=True))
        trial.last_result = epoch(1, value, final=True)
        books.on_trial_complete(0, [], trial)
    assert [record.state for record in ledger.trials.values()] == ["COMPLETE"] * 3
    assert done == ["books", "books", "leave 0", "books", "books", "drop 0", "drop 1", "leave 2"]


def fail(trial: Any, folder: Path, error: Exception) -> None:
    """Leave the error where Tune does."""
    (folder / "error.pkl").write_bytes(ray.cloudpickle.dumps(error))
    trial.pickled_error_file = str(folder / "error.pkl")


def test_of_a_process_that_died_for_good_the_last_line_is_the_cause(tmp_path: Path, clock: Clock) -> None:
    told: list[TrialRecord] = []
    books = observer(ledger := Ledger(tmp_path / "state/ledger.json"), tmp_path, tell_end=told.append)
    trial = begin(books, clock, 0)
    fail(trial, tmp_path, RuntimeError("Traceback:\n  some lines\nThe worker was killed: out of memory.\n"))
    books.on_trial_error(0, [], trial)
    saved = Ledger.load(ledger.path).trials[0]
    assert (saved.state, saved.reason) == ("FAIL", "The worker was killed: out of memory.")
    assert told == [ledger.trials[0]]


def test_of_what_ray_says_of_a_dead_process_only_what_it_knows_is_the_cause(tmp_path: Path, clock: Clock) -> None:
    """The words of Ray 2.60 on a process that was killed by SIGKILL."""
    died = (
        "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
        "Worker unexpectedly exits with a connection error code 2. End of file."
    )
    guesses = "(1) the process was killed by the OOM killer due to high memory usage, (2) ray stop --force was called"
    books = observer(ledger := Ledger(tmp_path / "state/ledger.json"), tmp_path)
    trial = begin(books, clock, 0)
    context = ActorDiedErrorContext(actor_id=bytes(16), error_message=f"{died} Some common causes include: {guesses}")
    fail(trial, tmp_path, ray.exceptions.ActorDiedError(cause=context))  # as Ray makes it
    books.on_trial_error(0, [], trial)
    assert ledger.trials[0].reason == f"the trial's process died: {died}"
    fail(trial, tmp_path, RuntimeError("word " * 200))
    books.on_trial_error(0, [], trial)
    assert str(ledger.trials[0].reason).endswith(" word …")
    assert len(str(ledger.trials[0].reason)) <= 500


def test_deaths_are_counted_anew_from_each_epoch_that_was_not_told_before(tmp_path: Path, clock: Clock) -> None:
    books = observer(Ledger(tmp_path / "state/ledger.json"), tmp_path)
    trial = begin(books, clock, 0)
    for number, died, left in ((1, 2, 0), (1, 1, 1), (2, 2, 0)):
        trial.run_metadata.num_failures = died
        books.on_trial_result(0, [], trial, epoch(number, 0.5))
        assert trial.run_metadata.num_failures == left


def test_tune_counts_the_deaths_of_a_trial_where_the_observer_resets_them() -> None:
    """It has no public place for that: a release that moves it must be noticed here."""
    trial = ray.tune.experiment.Trial("SlotTrainable", stub=True, max_failures=2)
    assert trial.num_failures == 0
    trial.run_metadata.num_failures = 3
    assert (trial.num_failures, trial.should_recover()) == (3, False)
    trial.run_metadata.num_failures = 0
    assert (trial.num_failures, trial.should_recover()) == (0, True)


def test_what_is_stopped_for_a_high_loss_is_said_to_be_behind(tmp_path: Path, clock: Clock) -> None:
    """Where less is better it is above the others."""
    books = observer(ledger := Ledger(tmp_path / "state/ledger.json", "min"), tmp_path)
    trial = begin(books, clock, 0)
    trial.last_result = epoch(1, 7.5)
    books.on_trial_result(0, [], trial, trial.last_result)
    books.on_trial_complete(0, [], trial)
    assert ledger.trials[0].reason == "stopped after epoch 1 of 2: too far behind the trials before it"


def test_rows_of_a_confirming_run_go_to_a_file_and_nowhere_else(tmp_path: Path, clock: Clock) -> None:
    books = observer(ledger := Ledger(tmp_path / "state/ledger.json"), tmp_path)
    trial = begin(books, clock, 3, seed=7)
    books.on_trial_result(0, [], trial, result := {**epoch(1, 0.5), "rows": {"predictions": ["seldom"]}})
    assert books.workspace.rows_of("3-seed7").read_text().split() == ["{", '"predictions":', "[", '"seldom"', "]", "}"]
    assert "rows" not in result
    assert "seldom" not in ledger.path.read_text()


class Killed(BaseException):
    """The driver is gone."""


@pytest.mark.parametrize(
    ("home", "name", "is_done"), [(Ledger, "save", False), (module, "log_epoch", False), (module, "log_epoch", True)]
)
def test_a_kill_around_an_epoch_neither_loses_nor_doubles_a_point(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, home: Any, name: str, is_done: bool
) -> None:
    """Killed before an epoch is in the books, before it is logged, and after that."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    books = observer(Ledger(tmp_path / "state/ledger.json"), tmp_path, tracking_uri=uri)
    trial = begin(books, clock, 0)
    books.on_trial_result(0, [], trial, epoch(1, 0.25))
    clock.now += 3.0
    done = getattr(home, name)

    def killed(*given: Any, **named: Any) -> None:
        if is_done:
            done(*given, **named)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(home, name, killed)
        with pytest.raises(Killed):
            books.on_trial_result(0, [], trial, epoch(2, 0.5))
    books.tracker.close()

    clock.now += 100.0
    again = observer(Ledger.load(tmp_path / "state/ledger.json"), tmp_path, tracking_uri=uri)
    trial = begin(again, clock, 0)
    for number, value in enumerate([0.25, 0.5, 0.75], start=1):
        clock.now += 3.0
        trial.last_result = epoch(number, value, final=number == 3)
        again.on_trial_result(0, [], trial, trial.last_result)
    again.on_trial_complete(0, [], trial)
    assert again.tracker.close() == []
    client = MlflowClient(uri)
    run_id = str(again.ledger.trials[0].mlflow_run_id)
    for name in ("accuracy", "best_accuracy"):
        history = client.get_metric_history(run_id, name)
        assert sorted((point.step, point.value) for point in history) == [(1, 0.25), (2, 0.5), (3, 0.75)]
