"""How many CPUs the workers of a run are given, and what is said where there are too few or more."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from t5ray.cluster import Cluster
from t5ray.config import RunConfig
from t5ray.errors import ClusterError
from t5ray.training.prepare import Prepared, prepare
from t5ray.training.room import SHARED, require_room, shared_out, unused_gpus

OWN = Cluster(1, 8.0, 0.0, 0, None, started_here=True)
JOINED = replace(OWN, started_here=False)


def prepared(words: Path, model: Path, cache: Path, resources: dict[str, Any]) -> Prepared:
    given = {"data": {"path": str(words)}, "task": "classify", "model": str(model), "resources": resources}
    return prepare(RunConfig.model_validate(given), cache)


@pytest.mark.parametrize(
    ("resources", "cluster", "runs", "cpus"),
    [
        ({}, OWN, 1, 8),  # nobody else is given this machine
        ({}, OWN, 3, 2),
        ({}, OWN, 8, 1),
        ({"workers_per_trial": 3}, OWN, 1, 2),
        ({"workers_per_trial": 16}, OWN, 1, 1),  # too many; `require_room` says so
        ({"cpus_per_worker": 3}, OWN, 1, 3),
        ({"gpus_per_worker": 0.5}, replace(OWN, num_gpus=1.0), 1, 1),
        ({}, JOINED, 1, 1),
        ({"cpus_per_worker": 3}, JOINED, 1, 3),
    ],
)
def test_workers_share_a_machine_that_is_theirs(
    words: Path, tiny_t5: Path, tmp_path: Path, resources: dict[str, Any], cluster: Cluster, runs: int, cpus: int
) -> None:
    given = prepared(words, tiny_t5, tmp_path, resources)
    found = shared_out(given, cluster, runs)
    assert found.cpus_per_worker == cpus
    assert found.config == given.config  # what is saved of it must fit other machines


@pytest.mark.parametrize(
    ("resources", "cluster", "lines"),
    [
        ({}, OWN, []),
        ({}, JOINED, [SHARED]),
        ({"cpus_per_worker": 1}, JOINED, []),
        ({"workers_per_trial": 8}, JOINED, []),  # all that there are
        ({"workers_per_trial": 9}, JOINED, ["The run needs 9 workers of 1 CPU and 0 GPUs each, and the cluster has"]),
    ],
)
def test_what_a_run_is_told_of_its_room(
    words: Path, tiny_t5: Path, tmp_path: Path, resources: dict[str, Any], cluster: Cluster, lines: list[str]
) -> None:
    found = require_room(shared_out(prepared(words, tiny_t5, tmp_path, resources), cluster), cluster)
    assert len(found) == len(lines)
    assert all(line.startswith(start) for line, start in zip(found, lines, strict=True))


def test_more_workers_than_the_machine_has_cpus_are_refused(words: Path, tiny_t5: Path, tmp_path: Path) -> None:
    given = shared_out(prepared(words, tiny_t5, tmp_path, {"workers_per_trial": 9}), OWN)
    with pytest.raises(ClusterError, match=r"needs 9 workers of 1 CPU .* has 8 CPUs and 0 GPUs"):
        require_room(given, OWN)


@pytest.mark.parametrize(
    ("resources", "gpus", "said"),
    [
        ({}, 2.0, ["Training is on CPUs; of 2 GPUs none is used without --gpus-per-worker 1."]),
        ({"gpus_per_worker": 0.5}, 2.0, []),
        ({}, 0.0, []),
    ],
)
def test_who_trains_on_cpus_beside_gpus_is_told(
    words: Path, tiny_t5: Path, tmp_path: Path, resources: dict[str, Any], gpus: float, said: list[str]
) -> None:
    assert unused_gpus(prepared(words, tiny_t5, tmp_path, resources), replace(OWN, num_gpus=gpus)) == said
