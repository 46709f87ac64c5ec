"""On a cluster that grows and shrinks, a search asks for the nodes it needs, for no more, and gives them back.

Nodes are processes of this machine: Ray's fake provider, under Ray's own autoscaler.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray
from ray._private import ray_constants
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider

from tests.search.commands import SPACE, arguments, result

pytestmark = [pytest.mark.integration, pytest.mark.cluster]
NUM_CONCURRENT = 2
"""Trials at a time; of two workers each, so that each fills a node of two CPUs."""
COMMANDS = (
    *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands"),
)
"""What Ray wants of every cluster, and these nodes do not run."""


def configuration(port: int) -> dict[str, object]:
    """Return a cluster of a head without CPUs, and up to four nodes of two."""
    module = (
        f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}"  # by its name it lacks a file in wheels
    )
    provider = {"type": "external", "module": module, "use_node_id_as_ip": True, "head_node_id": FAKE_HEAD_NODE_ID}
    provider |= {"disable_node_updaters": True, "disable_launch_config_check": True, "launch_multiple": True}
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    node = {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 4}
    return {
        "cluster_name": "fake",
        "provider": {**provider, "gcs_address": f"127.0.0.1:{port}"},
        "available_node_types": {"ray.head.default": head, "node": node},
        "head_node_type": "ray.head.default",
        "max_workers": 4,
        "upscaling_speed": 8,
        "idle_timeout_minutes": 0.1,
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        **{name: [] for name in COMMANDS},
    }


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Ray with its autoscaler, and one node so far: the head. All of it listens on the loopback."""
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)  # or Ray makes an outer address of 127.0.0.1
    monkeypatch.setenv(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    (tmp_path / "cluster.json").write_text(json.dumps(configuration(port)))
    command = ["start", "--head", "--block", f"--port={port}", "--num-cpus=0", "--include-dashboard=false"]
    command += ["--node-ip-address=127.0.0.1", f"--autoscaling-config={tmp_path}/cluster.json"]
    env = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_enable_autoscaler_v2": "1"}
    env |= {"RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID}
    with (tmp_path / "ray.log").open("w") as log:
        head = subprocess.Popen(
            [str(Path(sys.executable).with_name("ray")), *command], env={**os.environ, **env}, stdout=log, stderr=log
        )
        try:
            yield f"127.0.0.1:{port}"
        finally:
            ray.shutdown()
            family = [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]
            for process in family:
                process.kill()
            psutil.wait_procs(family)
            head.wait()


def num_nodes() -> int:
    """Return how many nodes there are besides the head."""
    return len([node for node in ray.nodes() if node["Alive"]]) - 1


def connect(address: str, log: Path) -> None:
    deadline = time.monotonic() + 120
    while "Ray runtime started" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(1)
    while True:
        try:
            ray.init(address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError):
            assert time.monotonic() < deadline
            time.sleep(1)
        else:
            return


def test_a_search_takes_the_nodes_it_needs_and_gives_them_back(
    address: str, tmp_path: Path, words: Path, tiny_t5: Path
) -> None:
    connect(address, tmp_path / "ray.log")
    assert num_nodes() == 0
    (tmp_path / "space.yaml").write_text(SPACE)
    given = arguments(words, tiny_t5, **{"max-concurrent": NUM_CONCURRENT, "workers-per-trial": 2, "num-trials": 4})
    printed, seen = tmp_path / "tune.log", set[int]()
    with printed.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "t5ray.tune", *given, "--tracking-uri", "none", "--address", address],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=log,
            stderr=log,
        )
        while process.poll() is None:
            seen.add(num_nodes())
            time.sleep(0.5)
    assert process.returncode == 0, printed.read_text()
    assert max(seen) == NUM_CONCURRENT
    assert {trial["state"] for trial in result(tmp_path)["trials"]} <= {"COMPLETE", "PRUNED"}
    deadline = time.monotonic() + 120
    while num_nodes():
        assert time.monotonic() < deadline, f"{num_nodes()} nodes were not given back"
        time.sleep(1)
