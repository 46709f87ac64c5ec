"""Every node of a Ray is asked. Two nodes in one machine: what differs between them is what Ray is told they have."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import ray.cluster_utils

from t5ray import doctor
from t5ray.config import TrackingConfig
from t5ray.doctor import main
from t5ray.health import checks
from t5ray.health.node import FROM_DRIVER, NodeReport, Questions, examine
from t5ray.health.survey import _data_of, _read_back, must_reach, read_clock


def test_a_clock_is_compared_with_the_middle_of_the_shortest_round_trip() -> None:
    here = itertools.chain([100.0, 104.0], [200.0, 200.5], *([300.0 + i, 302.0 + i] for i in range(3)))
    there = iter([112.0, 210.25, 311.0, 312.0, 313.0])  # ten seconds ahead
    clock = read_clock(lambda: next(there), lambda: next(here))
    assert (clock.ahead_s, clock.uncertainty_s) == (10.0, 0.25)


@pytest.fixture
def report(tmp_path: Path) -> NodeReport:
    """What a node says that reached the storage, or what it took for it."""
    (tmp_path / FROM_DRIVER).write_text("nonce")
    return examine(Questions("here", "id0", str(tmp_path), str(tmp_path), "nonce"))


def test_what_a_node_wrote_must_be_what_the_driver_reads(report: NodeReport, tmp_path: Path) -> None:
    assert _read_back(report, str(tmp_path), "nonce") == report
    (tmp_path / "id0").write_text("nonce of another")
    assert "other bytes than the node wrote" in _read_back(report, str(tmp_path), "nonce").storage
    (tmp_path / "id0").unlink()
    assert "the driver does not find what the node wrote" in _read_back(report, str(tmp_path), "nonce").storage


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://10.0.0.10:5000", True),
        ("postgresql://me:pw@db.internal/mlflow", True),
        ("databricks", True),
        ("http://127.0.0.1:5000", False),
        ("http://localhost:5000", False),
        ("http://[::1]:5000", False),
        ("sqlite:///mlflow.db", False),
        ("none", False),
    ],
)
def test_nodes_need_reach_what_is_no_node_s_own(uri: str, expected: bool) -> None:
    assert must_reach(TrackingConfig(uri=uri)) == expected


def test_data_is_named_as_nodes_have_to_find_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert _data_of("file:///shared/rows.jsonl") == "/shared/rows.jsonl"
    assert _data_of("rows.jsonl") == f"{tmp_path}/rows.jsonl"
    assert _data_of("s3://bucket/rows.jsonl") == "s3://bucket/rows.jsonl"
    assert _data_of("hf:imdb") is None


@pytest.fixture
def nodes() -> Iterator[ray.cluster_utils.Cluster]:
    """A head, and a node that claims a GPU and has a small object store."""
    args = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 600 * 2**20}
    found = ray.cluster_utils.Cluster(initialize_head=True, head_node_args=args)
    found.add_node(num_cpus=1, num_gpus=1, object_store_memory=100 * 2**20)
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.mark.integration
def test_doctor_asks_every_node(
    nodes: ray.cluster_utils.Cluster,
    tmp_path: Path,
    words: Path,
    tiny_t5: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for module in (doctor, checks):
        monkeypatch.setattr(module, "ENOUGH_DISK_BYTES", 2**20)
    monkeypatch.setattr(doctor, "ENOUGH_MEMORY_BYTES", 2**20)
    flags = ["--storage", str(tmp_path / "runs"), "--tracking-uri", "none", "--data", str(words)]
    assert main(["--cluster", "--address", nodes.address, "--model", str(tiny_t5), *flags]) == 6
    out = capsys.readouterr().out
    shown = {line.split()[1]: line for line in out.split("The nodes:")[1].splitlines() if line[:4] in ("pass", "FAIL")}
    assert list(shown) == list(checks.CHECKS)
    assert {name for name, line in shown.items() if line.startswith("FAIL")} == {"gpus", "objects"}
    assert "2 nodes answered" in shown["nodes"]
    assert "Ray gives out 1 GPU, but torch sees 0" in shown["gpus"]
    assert "holds 0.1 GiB" in shown["objects"]
    assert "2 of 21 checks failed." in out
    assert not (tmp_path / "runs").exists()
