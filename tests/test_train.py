"""A single run: what it writes, how it is refused, interrupted and resumed."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import boto3
import fsspec
import mlflow
import pytest
from moto.server import ThreadedMotoServer
from transformers import AutoModelForSeq2SeqLM

from t5ray.cluster import Cluster
from t5ray.model.optim import learning_rate_at
from t5ray.tracking import MemoryTracker, NoTracker
from t5ray.train import main
from t5ray.training.curves import log_epoch
from t5ray.training.mailbox import Message

DATA = Path(__file__).parent / "texts" / "tickets.csv"
EPOCHS = 3


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def arguments(storage: Path, model: Path, *more: str, name: str = "finished", data: Path = DATA) -> list[str]:
    named = {"data": data, "task": "classify", "model": model, "storage": storage, "name": name, "tracking-uri": "none"}
    flags = [word for flag, value in named.items() for word in (f"--{flag}", str(value))]
    columns = ["--column", "text=subject", "--column", "label=team", "--max-epochs", str(EPOCHS)]
    settings = {"batch_size": 8, "learning_rate": 1e-2, "dropout": 0.0, "precision": "fp32"}
    sets = [word for field, value in settings.items() for word in ("--set", f"training.{field}={value}")]
    return [*flags, *columns, *sets, *more]


@pytest.fixture(scope="module")
def finished(local_ray: None, storage: Path, tiny_t5: Path) -> dict[str, Any]:
    """A run that went through; its train.json."""
    assert main(arguments(storage, tiny_t5)) == 0
    return record_of(storage / "finished")


def record_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "train.json").read_text())
    return content


def course(record: Mapping[str, Any], *fields: str) -> list[list[float]]:
    return [[epoch[field] for field in fields] for epoch in record["epochs"]]


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the test fail where the command asks for Ray."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the command must not ask for Ray")

    monkeypatch.setattr("t5ray.cluster.connect", refuse)


@pytest.fixture
def small_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command believe in a Ray of two CPUs that it started."""
    cluster = Cluster(1, 2.0, 0.0, 2**30, None, started_here=True)
    monkeypatch.setattr("t5ray.cluster.connect", lambda *_, **__: nullcontext(cluster))
    monkeypatch.setattr("ray.put", lambda value: value)


@pytest.mark.integration
def test_a_run_leaves_its_bundle_and_its_record(finished: dict[str, Any], storage: Path) -> None:
    assert set(finished) == {"name", "metric", "best_epoch", "best_value", "test", "epochs", "config", "versions"}
    assert (finished["name"], finished["metric"]) == ("finished", "accuracy")
    assert course(finished, "epoch", "step") == [[1, 3], [2, 6], [3, 9]]  # 24 rows, 8 a step
    values = [epoch["value"] for epoch in finished["epochs"]]
    assert finished["best_value"] == max(values)
    assert finished["best_epoch"] == values.index(max(values)) + 1
    assert [epoch["final"] for epoch in finished["epochs"]] == [False, False, True]
    assert set(finished["test"]) >= {"accuracy", "macro_f1", "loss"}
    assert finished["config"]["training"]["learning_rate"] == 1e-2
    assert set(finished["versions"]) >= {"t5ray", "torch", "transformers", "ray"}
    assert {path.name for path in (storage / "finished").iterdir()} == {"best", "train.json", "config.yaml"}
    assert (storage / "finished" / "train.json").read_text().endswith("}\n")
    AutoModelForSeq2SeqLM.from_pretrained(storage / "finished" / "best")


@pytest.mark.integration
def test_the_saved_settings_give_the_same_run_again(
    finished: dict[str, Any], storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(storage / "finished" / "config.yaml")
    assert main(["--config", file, "--name", "again", "--preview"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "3 steps of 8 rows" in shown
    assert shown.endswith(f"Next: train python -m t5ray.train --config {file} --name again")


@pytest.mark.integration
def test_a_finished_run_is_never_trained_again(
    finished: dict[str, Any], storage: Path, tiny_t5: Path, no_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(storage, tiny_t5, "--resume")) == 0
    assert f"{storage}/finished: this run is finished; nothing was trained again." in capsys.readouterr().out
    assert main(arguments(storage, tiny_t5)) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert f"{storage}/finished: must be a new folder, but holds a finished run. Choose another --name." in message
    assert record_of(storage / "finished") == finished


@pytest.mark.long
@pytest.mark.integration
def test_two_workers_give_the_run_of_one(finished: dict[str, Any], storage: Path, tiny_t5: Path) -> None:
    assert main(arguments(storage, tiny_t5, "--workers-per-trial", "2", name="two")) == 0
    shared = record_of(storage / "two")
    assert shared["config"]["resources"]["workers_per_trial"] == 2
    for fields in (("train_loss", "validation_loss"), ("value", "step")):
        pairs = zip(course(shared, *fields), course(finished, *fields), strict=True)
        assert all(found == pytest.approx(expected, rel=1e-3) for found, expected in pairs)
    assert shared["test"]["loss"] == pytest.approx(finished["test"]["loss"], rel=1e-3)


@pytest.mark.integration
def test_an_interrupted_run_goes_on_and_ends_as_if_nothing_had_been(
    finished: dict[str, Any],
    storage: Path,
    tiny_t5: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def press_ctrl_c(tracker: object, run_id: str, report: dict[str, Any], objective: str, **_: Any) -> None:
        if report["epoch"] == 2:
            raise KeyboardInterrupt

    given = arguments(storage, tiny_t5, name="interrupted")
    with monkeypatch.context() as patch:
        patch.setattr("t5ray.training.run.log_epoch", press_ctrl_c)
        assert main(given) == 130
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err
    (line,) = [line for line in shown.out.splitlines() if "Go on with: " in line]
    assert line.startswith("Interrupted. Go on with: python -m t5ray.train --data ")
    assert line.endswith(" --name interrupted --resume")
    assert not (storage / "interrupted" / "best").exists()
    assert list((storage / "interrupted/state").glob("*/last.pt"))  # of the first epoch
    assert main(given) == 2
    assert "holds an interrupted run. Add --resume, or choose another --name." in " ".join(
        capsys.readouterr().err.split()
    )

    trained = []
    monkeypatch.setattr("t5ray.training.run.log_epoch", lambda *args, **_: trained.append(args[2]))
    assert main([*given, "--resume"]) == 0
    resumed = record_of(storage / "interrupted")
    fields = ("epoch", "step", "value", "train_loss", "validation_loss")
    assert course(resumed, *fields) == course(finished, *fields)
    assert resumed["test"] == finished["test"]
    assert [report["epoch"] for report in trained] == [2, 3]  # the second may have been cut off
    assert not (storage / "interrupted" / "state").exists()


@pytest.mark.integration
def test_a_run_goes_on_from_nothing_that_another_one_left(
    finished: dict[str, Any], storage: Path, tiny_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press_ctrl_c(tracker: object, run_id: str, report: dict[str, Any], objective: str, **_: Any) -> None:
        if report["epoch"] == 2:
            raise KeyboardInterrupt

    other = arguments(storage, tiny_t5, "--set", "training.learning_rate=1e-4", name="again")
    with monkeypatch.context() as patch:
        patch.setattr("t5ray.training.run.log_epoch", press_ctrl_c)
        assert main(other) == 130
    (storage / "again/state/run.json").unlink()  # as where the book lay on another machine
    assert main(arguments(storage, tiny_t5, name="again")) == 0
    fields = ("epoch", "step", "value", "train_loss", "validation_loss")
    assert course(record_of(storage / "again"), *fields) == course(finished, *fields)


@pytest.mark.parametrize("where", ["slot.Slot.settle", "run.judge_on_test"])
def test_what_was_trained_is_not_lost_when_the_end_is_cut_off(
    where: str,
    tmp_path: Path,
    tiny_t5: Path,
    small_cluster: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ray.get", lambda value: value)
    given = arguments(tmp_path, tiny_t5)
    with monkeypatch.context() as patched:
        patched.setattr(f"t5ray.training.{where}", cut_off)
        assert main(given) == 130
    epochs = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    pattern = r"epoch {} of 3: accuracy 0\.\d{{4}}, validation loss \d\.\d{{4}}, training loss \d\.\d{{4}}"
    assert all(re.fullmatch(pattern.format(n), line) for n, line in enumerate(epochs, start=1))
    assert len(epochs) == 3
    assert not (tmp_path / "finished/train.json").exists()

    def train(*_: object, **__: object) -> None:
        raise AssertionError("nothing must be trained again")

    monkeypatch.setattr("t5ray.training.run.Slot", train)
    assert main([*given, "--resume"]) == 0
    assert course(record_of(tmp_path / "finished"), "epoch", "step") == [[1, 3], [2, 6], [3, 9]]
    assert not (tmp_path / "finished/state").exists()


def test_more_workers_than_the_machine_has_are_refused(
    small_cluster: None, tmp_path: Path, tiny_t5: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tmp_path, tiny_t5, "--workers-per-trial", "3")) == 6
    assert "needs 3 workers of 1 CPU and 0 GPUs each, and the cluster has 2 CPUs" in " ".join(
        capsys.readouterr().err.split()
    )
    assert not (tmp_path / "finished").exists()


@pytest.mark.parametrize(
    ("asked", "lower"),
    [
        (["--gpus-per-worker", "1"], "--gpus-per-worker"),
        (["--set", "resources.cpus_per_worker=3"], "resources.cpus_per_worker"),
        (["--workers-per-trial", "3"], "--workers-per-trial"),
        (["--workers-per-trial", "2", "--gpus-per-worker", "0.5"], "--workers-per-trial or --gpus-per-worker"),
    ],
)
def test_a_preview_refuses_what_the_run_would(
    small_cluster: None,
    tmp_path: Path,
    tiny_t5: Path,
    capsys: pytest.CaptureFixture[str],
    asked: list[str],
    lower: str,
) -> None:
    refused = [main(arguments(tmp_path, tiny_t5, *asked, *preview)) for preview in ([], ["--preview"])]
    said = " ".join(capsys.readouterr().err.split()).split("cluster error: ")[1:]
    assert refused == [6, 6]
    assert said[0].strip() == said[1].strip()
    assert f"the cluster has 2 CPUs and 0 GPUs. Lower {lower}, or join a larger Ray" in said[0]


class InterruptedSlot:
    """A group of workers whose user presses Ctrl-C before its first report."""

    def __init__(self, spec: object) -> None:
        self.spec = spec

    def start(self, plan: object) -> None: ...

    def next_message(self, on_tick: object) -> Message:
        raise KeyboardInterrupt

    def close(self) -> None: ...


def in_memory(monkeypatch: pytest.MonkeyPatch) -> MemoryTracker:
    """Have commands track their runs in a tracker that is looked into."""
    tracker = MemoryTracker()
    monkeypatch.setattr("t5ray.tracking.open_tracker", lambda *_, **__: tracker)
    return tracker


def test_an_interrupted_run_stays_one_run_in_mlflow(
    small_cluster: None, tmp_path: Path, tiny_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = in_memory(monkeypatch)
    monkeypatch.setattr("t5ray.training.run.Slot", InterruptedSlot)
    given = arguments(tmp_path, tiny_t5)
    assert main(given) == 130
    (run,) = tracker.runs.values()
    assert (run.name, run.status) == ("finished", "KILLED")
    assert main([*given, "--resume"]) == 130
    (again,) = tracker.runs.values()
    assert again is run
    assert run.status == "KILLED"


class AwaySlot(InterruptedSlot):
    """A group of workers whose storage stays away."""

    def next_message(self, on_tick: object) -> Message:
        return Message(failure="s3://b: the storage must be reachable, but: ExpiredToken.", away=True)


def test_a_run_whose_storage_stays_away_is_not_over(
    small_cluster: None,
    tmp_path: Path,
    tiny_t5: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tracker = in_memory(monkeypatch)
    monkeypatch.setattr("t5ray.training.run.Slot", AwaySlot)
    assert main(arguments(tmp_path, tiny_t5)) == 6
    assert "s3://b: the storage must be reachable, but: ExpiredToken." in " ".join(capsys.readouterr().err.split())
    (run,) = tracker.runs.values()
    assert run.status == "KILLED"  # and not FAILED
    assert (tmp_path / "finished/state/run.json").exists()


class Killed(Exception):
    """The command dies."""


class ShortSlot(InterruptedSlot):
    """A group of workers that reports two epochs."""

    def __init__(self, spec: object) -> None:
        self.heard = 0

    def next_message(self, on_tick: object) -> Message:
        self.heard += 1
        report = dict.fromkeys(("validation_loss", "train_loss", "tokens_per_s", "padding_share", "hit_cap"), 0.5)
        point = {"step": 4 * self.heard, "loss": 0.5}
        told = {"epoch": self.heard, "final": self.heard == 2, "metrics": {}, "best_value": 0.5, "history": [point]}
        return Message(report={**report, **told, "best_epoch": 1, "value": 0.5, "early_stopped": False})

    def decide(self, epoch: int, *, go_on: bool) -> None: ...

    def settle(self) -> None: ...


@pytest.mark.parametrize("is_done", [False, True])
def test_an_epoch_is_one_point_of_its_curves_wherever_the_command_was_killed(
    small_cluster: None, tmp_path: Path, tiny_t5: Path, monkeypatch: pytest.MonkeyPatch, is_done: bool
) -> None:
    """Before its second epoch was logged, and after that."""

    def be_killed(*args: Any, **given: Any) -> None:
        if args[2]["epoch"] == 2:
            if is_done:
                log_epoch(*args, **given)
            raise Killed
        log_epoch(*args, **given)

    def conclude(*_: object) -> None:
        raise Killed

    monkeypatch.setattr("ray.put", lambda value: value)
    monkeypatch.setattr("t5ray.training.run.Slot", ShortSlot)
    monkeypatch.setattr("t5ray.training.run._conclude", conclude)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    given = arguments(tmp_path, tiny_t5, "--tracking-uri", uri)
    with monkeypatch.context() as patched:
        patched.setattr("t5ray.training.run.log_epoch", be_killed)
        with pytest.raises(Killed):
            main(given)
    with pytest.raises(Killed):
        main([*given, "--resume"])
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("t5ray").experiment_id])
    for name, steps in (("validation_loss", [1, 2]), ("loss", [4, 8])):
        assert sorted(point.step for point in client.get_metric_history(run.info.run_id, name)) == steps


def test_the_best_so_far_is_a_curve_and_test_metrics_are_not(
    small_cluster: None, tmp_path: Path, tiny_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = in_memory(monkeypatch)
    monkeypatch.setattr("t5ray.training.run.Slot", ShortSlot)
    monkeypatch.setattr("t5ray.training.run.publish_best", lambda *_: None)
    monkeypatch.setattr("t5ray.training.run.judge_on_test", lambda *_: {"accuracy": 0.25})
    assert main(arguments(tmp_path, tiny_t5)) == 0
    (run,) = tracker.runs.values()
    assert run.curves["best_accuracy"] == [(1, 0.5), (2, 0.5)]
    assert (run.status, run.metrics) == ("FINISHED", {"test_accuracy": 0.25})


def test_an_interrupted_run_goes_on_as_it_began_or_not_at_all(
    small_cluster: None,
    tmp_path: Path,
    tiny_t5: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("t5ray.training.run.Slot", InterruptedSlot)
    given = arguments(tmp_path, tiny_t5)
    assert main(given) == 130
    assert main([*given, "--resume", "--set", "training.batch_size=4"]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "a run must go on with what it began with, but these differ: training.batch_size: was 8, now 4." in message


@pytest.fixture
def shown_next(
    small_cluster: None,
    tmp_path: Path,
    tiny_t5: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> list[str]:
    """The lines after `Next:` at the end of a run in a folder with a space in its name, tracked nowhere."""
    monkeypatch.setattr(
        "t5ray.training.run.run_once", lambda *_, **__: {"metric": "accuracy", "best_value": 0.5, "best_epoch": 2}
    )
    assert main(arguments(tmp_path / "my runs", tiny_t5)) == 0
    before, _, after = capsys.readouterr().out.partition("Next:\n")
    assert f"accuracy 0.5000 in epoch 2. Bundle: {tmp_path}/my runs/finished/best\n" in before
    return after.splitlines()


def test_the_commands_to_type_next_can_be_typed(shown_next: list[str], tmp_path: Path) -> None:
    judge, score = (shlex.split(line) for line in shown_next if " python -m " in line)
    bundle = f"{tmp_path}/my runs/finished/best"
    assert judge[:7] == ["judge", "it", "python", "-m", "t5ray.evaluate", "--model", bundle]
    assert score[:7] == ["score", "rows", "python", "-m", "t5ray.predict", "--model", bundle]
    assert "--column" not in judge  # the bundle knows how columns were renamed


class Away(NoTracker):
    """As a tracker whose server went away before the model was sent."""

    def close(self) -> list[str]:
        return ["MLflow did not answer. Not sent: 1 model."]


@pytest.mark.parametrize(("tracker", "is_registered"), [(NoTracker(), True), (Away(), False)])
def test_the_end_says_what_was_registered_and_how_it_is_used(
    small_cluster: None,
    tmp_path: Path,
    tiny_t5: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tracker: NoTracker,
    is_registered: bool,
) -> None:
    monkeypatch.setattr("t5ray.tracking.open_tracker", lambda *_, **__: tracker)
    monkeypatch.setattr(
        "t5ray.training.run.run_once", lambda *_, **__: {"metric": "accuracy", "best_value": 0.5, "best_epoch": 2}
    )
    uri = f"sqlite:///{tmp_path}/m.db"
    assert main([*arguments(tmp_path, tiny_t5), "--tracking-uri", uri, "--register", "tickets"]) == 0
    shown = capsys.readouterr().out
    line = f"in epoch 2. Registered in MLflow as tickets, alias champion. Bundle: {tmp_path}/finished/best"
    command = (
        "predict --model models:/tickets@champion --input ROWS.jsonl "
        "--output tickets-champion-predictions --tracking-uri"
    )
    assert (line in shown) == is_registered
    assert (f"{command} {uri}" in shown) == is_registered
    assert ("Not sent: 1 model." in shown) != is_registered


@pytest.mark.parametrize(("share", "is_told"), [(0.0, True), (0.1, False)])
def test_a_model_that_says_no_label_at_all_is_told_with_what_to_do(
    small_cluster: None,
    tmp_path: Path,
    tiny_t5: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    share: float,
    is_told: bool,
) -> None:
    found = {
        "metric": "accuracy",
        "best_value": 0.0,
        "best_epoch": 1,
        "test": {"accuracy": 0.0, "known_label_share": share},
    }
    monkeypatch.setattr("t5ray.training.run.run_once", lambda *_, **__: found)
    assert main(arguments(tmp_path, tiny_t5)) == 0
    line = (
        "No output on test was one of the task's labels: the model has not learnt the task yet. Train for more epochs"
    )
    assert (line in capsys.readouterr().out) == is_told


class CutOff(NoTracker):
    """As a tracker whose last sending Ctrl-C ends."""

    was_interrupted = True


@pytest.mark.parametrize("is_finished", [False, True])
def test_a_run_whose_last_sending_was_cut_off_can_be_resumed(
    small_cluster: None, tmp_path: Path, tiny_t5: Path, monkeypatch: pytest.MonkeyPatch, is_finished: bool
) -> None:
    found = {"metric": "accuracy", "best_value": 0.5, "best_epoch": 1, "test": {"accuracy": 0.5}}
    monkeypatch.setattr("t5ray.training.run.run_once", lambda *_, **__: found)
    monkeypatch.setattr("t5ray.tracking.open_tracker", lambda *_, **__: CutOff())
    if is_finished:
        (tmp_path / "finished").mkdir()
        for name in ("train.json", "mlflow_outbox.jsonl"):
            (tmp_path / "finished" / name).write_text("{}")
    assert main(arguments(tmp_path, tiny_t5, *["--resume"] * is_finished)) == 130


@pytest.mark.parametrize(
    ("more", "is_kept"), [([], True), (["--workers-per-trial", "2"], False), (["--address", "10.0.0.1:6379"], False)]
)
def test_freed_memory_is_kept_where_this_process_trains(
    tmp_path: Path, tiny_t5: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], is_kept: bool
) -> None:
    calls: list[str] = []
    monkeypatch.setattr("t5ray.heap.keep_freed_memory", lambda: calls.append("kept"))
    monkeypatch.setattr("t5ray.train._train", lambda *_, **__: len(calls))
    assert main([*arguments(tmp_path, tiny_t5), *more]) == int(is_kept)


def test_what_leads_nowhere_is_not_shown(shown_next: list[str]) -> None:
    assert [line.split()[0] for line in shown_next] == ["judge", "score"]  # no tracking, nothing to compare


def test_resuming_what_never_began_is_refused(
    tmp_path: Path, tiny_t5: Path, no_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tmp_path, tiny_t5, "--resume")) == 2
    message = " ".join(capsys.readouterr().err.split())
    expected = "must hold an interrupted run to go on with, but holds none. Correct --name, or leave out --resume."
    assert f"{tmp_path}/finished: {expected}" in message


def test_data_that_are_mended_may_use_the_name_again(tmp_path: Path, tiny_t5: Path, no_ray: None) -> None:
    data = tmp_path / "rows.csv"
    data.write_text("subject,team\nNo light,\nNo signal,network\n")
    assert main(arguments(tmp_path, tiny_t5, data=data)) == 3
    data.write_text(DATA.read_text())
    with pytest.raises(AssertionError, match="must not ask for Ray"):
        main(arguments(tmp_path, tiny_t5, data=data))


def test_preview_shows_the_plan_and_runs_nothing(
    small_cluster: None,
    tmp_path: Path,
    tiny_t5: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a preview trains nothing and tells MLflow nothing")

    monkeypatch.setattr("t5ray.training.run.Slot", refuse)
    monkeypatch.setattr("t5ray.tracking.open_tracker", refuse)
    assert main(arguments(tmp_path, tiny_t5, "--preview")) == 0
    shown = capsys.readouterr().out
    assert "24 training, 3 validation, 3 test rows" in shown
    assert re.search(r"3 steps of 8 rows, [\d,]+ tokens; 3 epochs", shown)
    assert "reused" not in shown
    assert not (tmp_path / "finished").exists()
    assert main(arguments(tmp_path, tiny_t5, "--preview")) == 0
    assert "tokens reused" in capsys.readouterr().out


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An S3 server on loopback with the bucket `t5ray-runs`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    boto3.client("s3").create_bucket(Bucket="t5ray-runs")
    yield
    server.stop()


@pytest.mark.parametrize("scheme", ["memory", "s3"])
def test_a_run_at_a_uri_goes_on_where_the_local_folder_is_gone(
    s3: None, small_cluster: None, tmp_path: Path, tiny_t5: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    def press_ctrl_c(tracker: object, run_id: str, report: dict[str, Any], objective: str, **_: Any) -> None:
        if report["epoch"] == 2:
            raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ray.get", lambda value: value)
    bucket, top = fsspec.core.url_to_fs(f"{scheme}://t5ray-runs")
    given = arguments(tmp_path, tiny_t5, "--storage", f"{scheme}://t5ray-runs")
    with monkeypatch.context() as patch:
        patch.setattr("t5ray.training.run.log_epoch", press_ctrl_c)
        assert main(given) == 130
    (book,) = bucket.glob(f"{top}/finished/state/run.json")
    (state,) = {path.rstrip("/") for path in bucket.ls(f"{top}/finished/state", detail=False)} - {book}
    kept = {Path(path).name for path in bucket.ls(state, detail=False)}
    weights = {name for name in kept if name.startswith("best-")}
    assert weights
    assert kept - weights == {"last.pt", "last_logged"}
    assert main(given) == 2  # an interrupted run is there
    shutil.rmtree(tmp_path / "t5ray_runs/finished")
    steps: list[int] = []

    def note(step: int, *rest: Any) -> float:
        steps.append(step)
        return learning_rate_at(step, *rest)

    monkeypatch.setattr("t5ray.training.loop.learning_rate_at", note)
    assert main([*given, "--resume"]) == 0
    assert min(steps) >= 3  # the first epoch came back from the bucket
    record = json.loads(bucket.cat(f"{top}/finished/train.json"))
    assert [epoch["epoch"] for epoch in record["epochs"]] == [1, 2, 3]
    kept = {Path(path).name for path in bucket.ls(f"{top}/finished", detail=False)}
    assert kept == {"best", "train.json", "config.yaml"}

    shutil.rmtree(tmp_path / "t5ray_runs/finished")
    assert main(given) == 2
    assert main([*given, "--resume"]) == 0  # and trains nothing


def test_resuming_a_finished_run_sends_what_mlflow_missed(tmp_path: Path, tiny_t5: Path, no_ray: None) -> None:
    folder = tmp_path / "finished"
    folder.mkdir()
    (folder / "train.json").write_text("{}")
    (folder / "state").mkdir()
    (folder / "state/reports.json").write_text("[]")  # a kill came before it was deleted
    body = {"name": "finished", "parent": None, "params": {"dropout": "0.1"}, "tags": {}}
    event = {"kind": "start", "run": "unsent-" + "0" * 32, "time_ms": 1_700_000_000_000, "body": body}
    (folder / "mlflow_outbox.jsonl").write_text(json.dumps(event) + "\n")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    before = sorted(tmp_path.rglob("*"))
    assert main(arguments(tmp_path, tiny_t5, "--tracking-uri", uri, "--resume", "--preview")) == 0
    assert sorted(tmp_path.rglob("*")) == before  # a preview sends nothing
    assert main(arguments(tmp_path, tiny_t5, "--tracking-uri", uri, "--resume")) == 0
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("t5ray").experiment_id])
    assert (run.info.run_name, run.data.params) == ("finished", {"dropout": "0.1"})
    assert [path.name for path in folder.iterdir()] == ["train.json"]


def test_resuming_a_finished_run_ends_what_the_storage_refused(
    tmp_path: Path, tiny_t5: Path, no_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bucket, top = fsspec.core.url_to_fs(f"memory://{tmp_path.name}")
    folder = tmp_path / "t5ray_runs/finished"
    (folder / "state").mkdir(parents=True)
    (folder / "train.json").write_text("{}")
    bucket.pipe(f"{top}/finished/state/last.pt", b"state")
    assert main(arguments(tmp_path, tiny_t5, "--storage", f"memory://{tmp_path.name}", "--resume")) == 0
    assert [Path(path).name for path in bucket.find(f"{top}/finished")] == ["train.json"]
    assert [path.name for path in folder.iterdir()] == ["train.json"]
