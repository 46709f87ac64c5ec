"""Searches whose tracking server goes away: training goes on, and nothing is lost for good."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tracking.server import Server, runs_of

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(400)]

SPACE = "parameters: {learning_rate: {loguniform: [1.0e-4, 1.0e-2]}}\nscheduler: {name: none}\n"


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def command(tmp_path: Path, words: Path, tiny_t5: Path, server: Server) -> list[str]:
    (tmp_path / "space.yaml").write_text(SPACE)
    flags = {"data": words, "task": "classify", "model": tiny_t5, "search-space": tmp_path / "space.yaml"}
    flags |= {"num-trials": 2, "max-epochs": 40, "max-concurrent": 1, "confirm-seeds": 0}
    flags |= {"storage": tmp_path / "runs", "name": "words", "tracking-uri": server.uri, "register": "kinds"}
    return [sys.executable, "-m", "t5ray.tune", *(w for k, v in flags.items() for w in (f"--{k}", str(v)))]


def start(command: list[str]) -> "subprocess.Popen[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def wait_for_epochs(folder: Path, count: int, process: "subprocess.Popen[str]") -> None:
    """Wait until that many epochs have been reported."""
    ledger = folder / "runs/words/state/ledger.json"
    _wait(lambda: ledger.exists() and _num_epochs(ledger) >= count, process)


def _num_epochs(ledger: Path) -> int:
    return sum(len(trial["reports"]) for trial in json.loads(ledger.read_text())["trials"])


def _wait(true: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline_s = time.monotonic() + 120
    while not true():
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def require_everything(server: Server, folder: Path) -> None:
    """Compare what the server holds with search.json."""
    from mlflow import MlflowClient

    found: dict[str, Any] = json.loads((folder / "runs/words/search.json").read_text())
    runs, client = runs_of(server, "t5ray"), MlflowClient(server.uri)
    assert set(runs) == {"words", "trial 0", "trial 1"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for trial in found["trials"]:
        run = runs[f"trial {trial['trial']}"]
        assert trial["mlflow_run_id"] == run.info.run_id
        assert run.data.params == {name: str(value) for name, value in trial["params"].items()}
        history = client.get_metric_history(run.info.run_id, "accuracy")
        assert sorted((m.step, m.value) for m in history) == list(enumerate(trial["values"], start=1))
        assert run.data.metrics["best_accuracy"] == trial["best_value"]
        assert run.data.tags["mlflow.parentRunId"] == runs["words"].info.run_id
    files = {file.path for file in client.list_artifacts(runs["words"].info.run_id)}
    assert files == {"report.html", "search.json"}
    report = Path(client.download_artifacts(runs["words"].info.run_id, "report.html")).read_text()
    assert all(f'{found["runs_url"]}{trial["mlflow_run_id"]}"' in report for trial in found["trials"])
    ledger = json.loads((folder / "runs/words/state/ledger.json").read_text())
    assert [trial["mlflow_run_id"] for trial in ledger["trials"]] == [t["mlflow_run_id"] for t in found["trials"]]
    winner = runs[f"trial {found['best']['trial']}"].info.run_id
    assert client.get_model_version_by_alias("kinds", "champion").run_id == winner


def test_a_server_that_comes_back_gets_what_it_missed(server: Server, command: list[str], tmp_path: Path) -> None:
    process = start([*command, "--max-epochs", "150"])  # long enough for the server to start again
    wait_for_epochs(tmp_path, 3, process)
    server.kill()
    wait_for_epochs(tmp_path, 20, process)
    server.start()
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "did not answer" not in output
    require_everything(server, tmp_path)


def test_a_server_that_stays_away_gets_it_by_the_same_command_with_resume(
    server: Server, command: list[str], tmp_path: Path
) -> None:
    process = start(command)
    wait_for_epochs(tmp_path, 3, process)
    server.kill()
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output  # the search itself is whole
    told = " ".join(output.split())
    assert "did not answer ([Errno 111] Connection refused). Not sent: trial 0 (metrics of step" in told
    assert "trial 1 (start, metrics of step" in told
    assert f"files {tmp_path}/runs/words/report.html" in told
    assert f"model {tmp_path}/runs/words/best" in told
    assert "The same command with --resume sends it." in told

    server.start()
    again = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "this search is finished; nothing was trained again" in again.stdout
    assert "Not sent" not in again.stdout
    require_everything(server, tmp_path)
    assert not (tmp_path / "runs/words/state/mlflow_outbox.jsonl").exists()
