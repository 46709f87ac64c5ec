"""A real `mlflow server` on loopback that tests kill and start again."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


class Server:
    """`mlflow server` with its database in a folder."""

    def __init__(self, folder: Path, database: str = "server.db") -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.uri = f"http://127.0.0.1:{free.getsockname()[1]}"
        self._folder = folder
        self._database = database
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        host, port = self.uri.removeprefix("http://").split(":")
        command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", port, "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self._folder}/{self._database}"]
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # a third of the start is for workers of jobs
        self._process = subprocess.Popen(
            command,
            cwd=self._folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline_s = time.monotonic() + 90
        while not self._is_up():
            assert time.monotonic() < deadline_s, "mlflow server did not start"
            time.sleep(0.2)

    def _is_up(self) -> bool:
        try:
            return self.get("/health") == b"OK"
        except (urllib.error.URLError, OSError):
            return False

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.uri + path, timeout=5) as answer:
            content: bytes = answer.read()
            return content

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def runs_of(server: Server, experiment: str) -> dict[str, Any]:
    """Return name -> run of an experiment, as the server tells."""
    from mlflow import MlflowClient

    client = MlflowClient(server.uri)
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    assert len({run.info.run_name for run in runs}) == len(runs)
    return {run.info.run_name: run for run in runs}
