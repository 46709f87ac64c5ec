"""Ray's head dies under a command that has joined it: one paragraph, the command that goes on, and exit code 6."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import ray.cluster_utils

pytestmark = [pytest.mark.integration, pytest.mark.long]
PATIENCE_S = 25
"""Instead of Ray's 60 s without a head."""


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[ray.cluster_utils.Cluster]:
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", str(PATIENCE_S))
    found = ray.cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield found
    found.shutdown()


@pytest.mark.parametrize(
    ("victim", "told"),
    [
        ("raylet", "Ray's own processes must live as long as the command, but `raylet` died"),
        ("gcs_server", "Ray's head must live as long as the command, but {address} has not answered for 10 s."),
    ],
)
def test_a_head_that_dies_is_said_with_the_command_that_goes_on(
    head: ray.cluster_utils.Cluster, tmp_path: Path, words: Path, tiny_t5: Path, victim: str, told: str
) -> None:
    address = head.address
    flags = {"data": words, "task": "classify", "model": tiny_t5, "storage": tmp_path / "runs", "name": "words"}
    flags |= {"max-epochs": 400, "tracking-uri": "none", "address": address}
    given = [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
    process = subprocess.Popen(
        [sys.executable, "-m", "t5ray.tune", *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )
    _wait_for_work(process, tmp_path / "runs/words")
    head.head_node.kill_raylet() if victim == "raylet" else head.head_node.kill_gcs_server()
    shown = process.communicate(timeout=PATIENCE_S + 30)[0]
    assert process.returncode == 6, shown
    assert "Traceback" not in shown, shown
    assert f"cluster error: {told.format(address=address)}" in shown
    again = [word for flag, value in flags.items() if flag != "name" for word in (f"--{flag}", str(value))]
    assert shown.splitlines()[-1] == (
        f"Go on with: {shlex.join(['python', '-m', 't5ray.tune', *again, '--name', 'words', '--resume'])}"
    )


def _wait_for_work(process: "subprocess.Popen[str]", folder: Path) -> None:
    """Wait until the first weights are saved."""
    deadline = time.monotonic() + 120
    while not list(folder.rglob("*.safetensors")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.2)
