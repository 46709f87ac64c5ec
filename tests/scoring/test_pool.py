"""How many scorers a cluster gets, and of what size."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5ray.cluster import Cluster, Node
from t5ray.errors import ClusterError
from t5ray.scoring.pool import BLOCK_SHARDS, MANY_BLOCKS, SLOWER, Pool, blocks_of, pool_for
from tests.scoring.plans import settings, small


def of_nodes(*nodes: Node) -> Cluster:
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    return replace(small(num_cpus=cpus, num_gpus=gpus, num_nodes=len(nodes)), nodes=nodes)


def test_the_pool_fills_the_machine_but_not_more() -> None:
    assert pool_for(settings(), small(), 100) == Pool(4, 4, 2.0, 0.0)
    assert pool_for(settings(), small(), 1) == Pool(1, 1, 8.0, 0.0)
    assert pool_for(settings(workers=3), small(), 100) == Pool(3, 3, 2.0, 0.0)
    assert pool_for(settings(workers=16), small(num_cpus=2.0), 100) == Pool(16, 16, 0.12, 0.0)
    assert pool_for(settings(), of_nodes(*[Node(8.0, 0.0)] * 4), 1) == Pool(1, 1, 8.0, 0.0)
    assert pool_for(settings(), small(num_gpus=4.0), 100) == Pool(4, 4, 2.0, 1.0)
    assert pool_for(settings(gpus_per_worker=0.5), small(num_gpus=1.0), 100) == Pool(2, 2, 4.0, 0.5)


UNLIKE: dict[str, tuple[dict[str, object], tuple[Node, ...], int, Pool]] = {
    "a GPU beside one CPU": ({}, (Node(4.0, 0.0), Node(1.0, 1.0)), 10, Pool(1, 1, 1.0, 1.0)),
    "a GPU beside half a CPU": ({}, (Node(4.0, 0.0), Node(0.5, 1.0)), 10, Pool(1, 1, 0.5, 1.0)),
    "one shard": ({}, (Node(16.0, 0.0), Node(8.0, 1.0), Node(8.0, 1.0)), 1, Pool(1, 1, 8.0, 1.0)),
    "more GPUs on one node": ({}, (Node(8.0, 4.0), Node(8.0, 1.0)), 99, Pool(5, 5, 2.0, 1.0)),
    "more workers than GPUs yet": ({"workers": 8}, (Node(2.0, 0.0), Node(8.0, 1.0)), 99, Pool(8, 8, 8.0, 1.0)),
    "large shares of a GPU": ({"gpus_per_worker": 0.6}, (Node(8.0, 2.0),), 99, Pool(2, 2, 4.0, 0.6)),
    "more CPUs on one node": ({}, (Node(3.0, 0.0), Node(9.0, 0.0)), 99, Pool(5, 5, 2.0, 0.0)),
    "nodes of one CPU": ({}, (Node(1.0, 0.0),) * 4, 99, Pool(4, 4, 1.0, 0.0)),
    "a head larger than the workers": ({}, (Node(2.0, 0.0), *[Node(1.0, 0.0)] * 20), 99, Pool(22, 22, 1.0, 0.0)),
    "half of the CPUs on the head": ({}, (Node(16.0, 0.0), *[Node(1.0, 0.0)] * 16), 99, Pool(32, 32, 1.0, 0.0)),
    "a head smaller than the workers": ({}, (Node(1.0, 0.0), Node(64.0, 0.0)), 99, Pool(32, 32, 2.0, 0.0)),
    "few shards for a large head": ({}, (Node(2.0, 0.0), *[Node(1.0, 0.0)] * 20), 3, Pool(3, 3, 1.0, 0.0)),
    "nodes of half a CPU": ({}, (Node(0.5, 0.0),) * 8, 99, Pool(8, 8, 0.5, 0.0)),
    "shares of a GPU, one beside one CPU": (
        {"gpus_per_worker": 0.5},
        (Node(16.0, 1.0), Node(1.0, 1.0)),
        99,
        Pool(4, 4, 0.5, 0.5),
    ),
    "a head without CPUs": ({}, (Node(0.0, 0.0), Node(4.0, 0.0)), 99, Pool(2, 2, 2.0, 0.0)),
}


@pytest.mark.parametrize("case", UNLIKE)
def test_a_worker_fits_a_node_where_nodes_are_unlike(case: str) -> None:
    given, nodes, num_shards, expected = UNLIKE[case]
    assert pool_for(settings(**given), replace(of_nodes(*nodes), started_here=False), num_shards) == expected


def test_a_pool_that_cannot_fit_is_refused_where_nothing_can_join() -> None:
    with pytest.raises(
        ClusterError,
        match=r"--workers 3: all scorers must fit, but with 4 CPUs and 1 GPU each 2 of them do: "
        r"there are 8 CPUs and 2 GPUs\. Use fewer",
    ):
        pool_for(settings(workers=3, gpus_per_worker=1), small(num_gpus=2.0), 100)


@pytest.mark.parametrize("asked", [{"gpus_per_worker": 1}, {"gpus_per_worker": 1, "workers": 3}])
def test_a_pool_waits_for_nodes_that_may_still_join_and_asks_for_what_any_of_them_has(asked: dict[str, int]) -> None:
    joined = replace(of_nodes(Node(16.0, 0.0)), started_here=False)
    found = pool_for(settings(**asked), joined, 1)
    assert (found.cpus, found.gpus) == (1.0, 1.0)
    assert found.waits == "waiting for a node with 1 CPU and 1 GPU: there are 16 CPUs and 0 GPUs"


def test_a_pool_may_scale_and_share_cpus() -> None:
    assert pool_for(settings(workers="2,8"), small(), 100) == Pool(2, 8, 1.0, 0.0)
    assert pool_for(settings(workers=[2, 8]), small(), 4) == Pool(2, 4, 2.0, 0.0)
    assert pool_for(settings(workers=2, cpus_per_worker=0.5), small(), 100) == Pool(2, 2, 0.5, 0.0)
    assert pool_for(settings(cpus_per_worker=4), small(), 100) == Pool(2, 2, 4.0, 0.0)
    assert pool_for(settings(workers=7), small(num_cpus=2.0), 100).cpus * 7 <= 2
    with pytest.raises(
        ClusterError, match="--workers 3: all scorers must fit, but with 4 CPUs and 0 GPUs each 2 of them"
    ):
        pool_for(settings(workers=3, cpus_per_worker=4), small(), 100)
    strategy = pool_for(settings(workers="2,8"), small(), 100).strategy
    assert (strategy.min_size, strategy.max_size, strategy.max_tasks_in_flight_per_actor) == (2, 8, 1)


def test_the_cpus_of_a_worker_do_not_depend_on_how_much_is_left() -> None:
    assert pool_for(settings(), small(), 100, 1) == Pool(1, 1, 2.0, 0.0)
    assert pool_for(settings(workers="2,8"), small(), 100, 3) == Pool(2, 3, 1.0, 0.0)
    assert pool_for(settings(workers=3), small(), 2, 1) == Pool(1, 1, 4.0, 0.0)


@given(num_shards=st.integers(0, 3000), workers=st.integers(1, 300))
def test_blocks_hold_all_shards_in_order_and_the_last_ones_leave_nobody_waiting_long(
    num_shards: int, workers: int
) -> None:
    blocks = list(blocks_of(range(num_shards), workers))
    assert [shard for block in blocks for shard in block] == list(range(num_shards))
    sizes, left = [len(block) for block in blocks], num_shards
    assert sizes == sorted(sizes, reverse=True)
    for size in sizes:
        assert 1 <= size <= BLOCK_SHARDS
        assert workers == 1 or size == 1 or size * SLOWER <= left / workers  # no more than this part of an equal share
        left -= size
    assert len(blocks) >= min(workers, num_shards)


def test_a_worker_alone_is_handed_as_much_as_a_block_holds() -> None:
    assert [len(block) for block in blocks_of(range(20), 1)] == [BLOCK_SHARDS, BLOCK_SHARDS, 4]


def test_a_few_workers_are_handed_blocks_that_shrink_to_one() -> None:
    sizes = [len(block) for block in blocks_of(range(50), 2)]
    assert sizes == [3, *[2] * 8, *[1] * 31]


def test_a_huge_job_has_larger_blocks_and_single_shards_at_its_end_all_the_same() -> None:
    sizes = [len(block) for block in blocks_of(range(1_000_000), 100)]
    assert sizes[0] == 1_000_000 / MANY_BLOCKS
    assert len(sizes) < 4 * MANY_BLOCKS
    assert sizes[-800:] == [1] * 800
