"""From a worker's failure to what Optuna and the ledger hear of it, without a Ray."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import ray
import torch

from t5ray.config import RunConfig, SearchSpace
from t5ray.errors import StorageError
from t5ray.model.loading import load_model
from t5ray.search import study
from t5ray.search.journal import open_storage
from t5ray.search.ledger import Ledger, TrialRecord
from t5ray.search.searcher import StudySearch
from t5ray.search.study import trial_spec
from t5ray.search.trainable import SlotTrainable, TrialSpec
from t5ray.search.workspace import Workspace
from t5ray.training import loop
from t5ray.training.group import Group
from t5ray.training.mailbox import Job, Mailbox, Message
from t5ray.training.plan import RunPlan
from t5ray.training.prepare import prepare
from t5ray.training.worker import _do
from tests.search.events import tune_trial
from tests.search.test_observer import observer
from tests.training.conftest import plan_in

SPACE = SearchSpace.model_validate({"parameters": {"learning_rate": {"loguniform": [1e-4, 1e-2]}}})


class HereSlot:
    """A slot whose worker is the caller: for runs that fail before their first report."""

    def __init__(self, model: Path, data: Any) -> None:
        self.model, self.data, self.mailbox = model, data, Mailbox()

    def start(self, plan: RunPlan) -> None:
        job = Job(1, plan)
        self.mailbox.submit(job)
        _do(job, load_model(str(self.model)), self.data, Group(), self.mailbox)

    def next_message(self) -> Message:
        message = self.mailbox.next_message(1, 0, wait_s=0)
        assert message is not None
        return message


class ToldSlot:
    """A slot that says what it is told to."""

    def __init__(self, *messages: Message) -> None:
        self.messages, self.decided = list(messages), list[int]()

    def decide(self, epoch: int, *, go_on: bool) -> None:
        self.decided.append(epoch)

    def next_message(self) -> Message:
        return self.messages.pop(0)


def test_judging_the_rows_of_a_run_that_confirms_counts_as_validation(tmp_path: Path) -> None:
    report = {"epoch": 1, "final": True, "validate_s": 2.0}
    rows = {"predictions": ["x"], "losses": [], "tokens": []}
    trainable = SlotTrainable.__new__(SlotTrainable)
    trainable.plan, trainable.reported = replace(plan_in(tmp_path), judge_rows=True), None
    trainable.slot = ToldSlot(Message(report=report), Message(rows=rows, judge_s=5.0))  # type: ignore[assignment]
    found = trainable.step()
    assert (found["validate_s"], found["rows"], found["done"]) == (7.0, rows, True)


def test_the_cause_of_a_failed_trial_holds_no_password(tmp_path: Path) -> None:
    trainable = SlotTrainable.__new__(SlotTrainable)
    trainable.plan, trainable.reported = plan_in(tmp_path), None
    trainable.slot = ToldSlot(Message(failure="ftp://me:hunter2@host/x is away"))  # type: ignore[assignment]
    assert trainable.step() == {"done": True, "failure": "ftp://***@host/x is away"}


def test_a_storage_that_is_away_is_no_failure_of_the_trial(tmp_path: Path) -> None:
    trainable = SlotTrainable.__new__(SlotTrainable)
    trainable.plan, trainable.reported = plan_in(tmp_path), None
    trainable.slot = ToldSlot(Message(failure="s3://b: ExpiredToken", away=True))  # type: ignore[assignment]
    told = trainable.step()
    books = observer(ledger := Ledger(tmp_path / "state/ledger.json"), tmp_path)
    ledger.trials[0] = TrialRecord(0, {})
    books.on_trial_start(0, [], tune_trial(0))
    with pytest.raises(StorageError, match="ExpiredToken"):  # which ends Tune's run
        books.on_trial_result(0, [], tune_trial(0), told)
    assert books.away == "s3://b: ExpiredToken"
    saved = Ledger.load(ledger.path).trials[0]
    assert (saved.state, saved.reason) == ("RUNNING", None)


def spec_of(storage: str, words: Path, model: Path) -> TrialSpec:
    given = {"model": str(model), "task": "classify", "data": {"path": str(words)}, "name": "words"}
    config = RunConfig.model_validate({**given, "storage": storage})
    workspace = Workspace.of(config)
    return trial_spec(prepare(config, workspace.cache), workspace, str(workspace.folder))


@pytest.mark.parametrize(("storage", "remote"), [("runs", None), ("memory://bucket/runs", "memory://bucket/runs")])
def test_trials_of_a_search_at_a_uri_keep_the_states_to_go_on_from_there(
    tmp_path: Path, words: Path, tiny_t5: Path, monkeypatch: pytest.MonkeyPatch, storage: str, remote: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray, "put", lambda value: value)
    plan = spec_of(storage, words, tiny_t5).plan_for("3-seed7.0b77d3e4", {}, seed=7)
    assert plan.remote == (remote and f"{remote}/words/state/trials/3-seed7.0b77d3e4")


def test_a_trial_of_several_workers_is_begun_again_by_tune_alone(
    tmp_path: Path, words: Path, tiny_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its slot would begin it again as often, each time that Tune does."""
    monkeypatch.setattr(ray, "put", lambda value: value)
    assert spec_of(str(tmp_path), words, tiny_t5).slot.restarts == 0
    assert study._run_config(str(tmp_path), None).failure_config.max_failures == 2  # type: ignore[arg-type]


def test_a_trial_takes_up_nothing_of_one_that_only_a_lost_driver_knew(
    tmp_path: Path, words: Path, tiny_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger at the URI is older: the next trial has the number of the lost one, but other parameters."""
    monkeypatch.setattr(ray, "put", lambda value: value)
    spec, folders = spec_of(str(tmp_path), words, tiny_t5), list[Path]()
    for name, seed in (("lost", 0), ("resumed", 1)):  # another seed stands in for other trials that have ended
        ledger = Ledger(tmp_path / f"{name}.json", key="a" * 32)
        storage = open_storage(tmp_path / name)
        search = StudySearch(SPACE, ledger, storage=storage, first_points=[], num_trials=2, seed=seed)
        config = search.suggest("a")
        assert isinstance(config, dict)
        folders.append(spec.plan_for(config["key"], config["params"]).folder)
        assert folders[-1].name == ledger.trials[0].key  # where the driver looks for its weights
    assert folders[0] != folders[1]


def test_out_of_gpu_memory_is_told_as_a_failure_with_its_cause(
    tmp_path: Path, words: Path, tiny_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(*given: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(ray, "put", lambda value: value)
    monkeypatch.setattr(loop, "optimizer_step", run_out)
    trainable = object.__new__(SlotTrainable)
    trainable.spec = spec_of(str(tmp_path), words, tiny_t5)
    trainable.slot = HereSlot(tiny_t5, trainable.spec.slot.data)  # type: ignore[assignment]
    books = observer(Ledger(tmp_path / "state/ledger.json"), tmp_path)
    search = StudySearch(
        SPACE,
        books.ledger,
        storage=open_storage(tmp_path / "journal"),
        first_points=[{"learning_rate": 3e-4}],
        num_trials=2,
        seed=0,
    )
    config = search.suggest("a")
    assert isinstance(config, dict)
    trial = tune_trial(0, params=config["params"])
    books.on_trial_start(0, [], trial)
    trainable._begin(config)
    trial.last_result = trainable.step()
    books.on_trial_result(0, [], trial, trial.last_result)
    search.on_trial_complete("a", trial.last_result)
    books.on_trial_complete(0, [], trial)

    record = books.ledger.trials[0]
    cause = str(record.reason)
    assert cause.startswith("out of GPU memory: CUDA out of memory. Tried to allocate 2.00 GiB. Lower training.micro_")
    assert (record.state, record.best_value) == ("FAIL", None)
    (told,) = optuna.load_study(study_name="t5ray", storage=open_storage(tmp_path / "journal")).trials
    assert (told.state.name, told.value, told.user_attrs) == ("FAIL", None, {"cause": cause})
    assert isinstance(search.suggest("b"), dict)  # the search goes on
