"""A job on several nodes, one of which is lost."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import ray.cluster_utils

from t5ray.cluster import connect
from t5ray.scoring.job import run
from tests.scoring.test_job import parts, slow_job, undisturbed, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.long]


@pytest.fixture
def nodes() -> Iterator[ray.cluster_utils.Cluster]:
    """A head of one CPU and another node of one CPU."""
    found = ray.cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    found.add_node(num_cpus=1)
    yield found
    ray.shutdown()
    found.shutdown()


def test_a_lost_node_costs_the_time_of_its_shards_and_nothing_else(
    nodes: ray.cluster_utils.Cluster, tmp_path: Path
) -> None:
    job = slow_job(tmp_path, 300, "jsonl", workers=2)
    lost_at = list[int]()

    def lose_a_node() -> None:
        wait_for(lambda: len(list((tmp_path / "pids").iterdir())) == 2)  # both nodes score
        wait_for(lambda: len(job.spec.ledger.finished()) >= 10)
        lost_at.append(len(job.spec.ledger.finished()))
        nodes.remove_node(next(node for node in nodes.list_all_nodes() if not node.head), allow_graceful=False)

    thief = threading.Thread(target=lose_a_node)
    with connect(nodes.address) as cluster:
        assert (cluster.num_nodes, cluster.num_cpus) == (2, 2.0)
        thief.start()
        summary = run(job, cluster, lambda done, note="": None)
    thief.join()
    assert lost_at[0] < 60
    assert (summary.num_rows, summary.num_errors) == (300, 0)
    assert parts(tmp_path / "out") == undisturbed(job.spec)
    order = sorted(job.spec.input.shards, key=lambda shard: job.spec.ledger.part(shard.index).stat().st_mtime_ns)
    waited = [place - shard.index for place, shard in enumerate(order)]
    assert sum(places > 2 for places in waited) <= 1  # one shard was in the lost node's hands, and no other waited
