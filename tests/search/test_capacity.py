"""How many trials run at a time, with how many CPUs, and what a disk must hold."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from t5ray.cluster import Cluster, Node
from t5ray.config import ResourcesConfig, RunConfig, TrainingConfig
from t5ray.errors import ClusterError
from t5ray.search import capacity
from t5ray.search.capacity import checkpoint_bytes, concurrency, num_slots, require_disk, settle_cpus
from t5ray.search.confirm import num_missing
from t5ray.search.ledger import Ledger, TrialRecord
from t5ray.training.footprint import costliest
from t5ray.training.prepare import prepare


def cluster(cpus: float, gpus: float = 0.0) -> Cluster:
    return Cluster(1, cpus, gpus, 0, None, started_here=True)


@pytest.mark.parametrize(
    ("resources", "have", "asked", "num_trials", "expected"),
    [
        ({}, cluster(2), None, 10, 2),
        ({}, cluster(8), 3, 10, 3),
        ({}, cluster(8), None, 5, 5),
        ({"workers_per_trial": 3}, cluster(8), None, 10, 2),
        ({"cpus_per_worker": 4}, cluster(8), None, 10, 2),
        ({"gpus_per_worker": 1}, cluster(64, 4), None, 10, 4),
        ({"gpus_per_worker": 0.5}, cluster(64, 1), None, 10, 2),
        ({"gpus_per_worker": 0.6}, cluster(64, 2), None, 10, 2),  # not 3: no share stretches over two GPUs
        ({"gpus_per_worker": 2}, cluster(64, 5), None, 10, 2),
        ({"gpus_per_worker": 0.1}, cluster(64, 0.3), None, 10, 3),  # 0.3 / 0.1 is a little below 3 in floats
    ],
)
def test_concurrency(
    resources: dict[str, float], have: Cluster, asked: int | None, num_trials: int, expected: int
) -> None:
    assert concurrency(ResourcesConfig.model_validate(resources), have, asked, num_trials) == expected


@pytest.mark.parametrize(
    ("nodes", "asked", "expected"),
    [
        ((Node(8, 0, 24e9),), None, 4),  # 8 CPUs, but 6 GB each
        ((Node(8, 0, 24e9),), 8, 8),  # it was said how many
        ((Node(8, 0, 5e9),), None, 1),  # an estimate refuses nothing
        ((Node(2, 0, 64e9), Node(8, 0, 13e9)), None, 4),
        ((Node(8, 0),), None, 8),  # not known
    ],
)
def test_no_more_trials_run_than_memory_holds(nodes: tuple[Node, ...], asked: int | None, expected: int) -> None:
    have = Cluster(len(nodes), sum(node.cpus for node in nodes), 0.0, 0, None, started_here=True, nodes=nodes)
    assert concurrency(ResourcesConfig(), have, asked, 10, worker_bytes=6 * 10**9) == expected


def test_runs_that_confirm_take_no_more_than_there_is(words: Path, tiny_t5: Path, tmp_path: Path) -> None:
    """Two trials have had 4 of 8 CPUs each; what a resumed search has left are 6 runs to confirm them."""
    given = {"data": {"path": str(words)}, "task": "classify", "model": str(tiny_t5)}
    prepared = prepare(RunConfig.model_validate(given), tmp_path / "cache")
    ledger = Ledger(tmp_path / "l.json", target=2, confirm_seeds=[1, 2, 3])
    report = {"value": 0.5, "best_epoch": 1, "best_value": 0.5}
    ledger.trials = {n: TrialRecord(n, {"n": n}, "COMPLETE", reports=[report]) for n in range(2)}
    assert (num_slots(prepared, cluster(8), ledger), num_missing(ledger)) == (6, 6)
    ledger.target = 3  # one more, then the runs that confirm all three
    assert (num_slots(prepared, cluster(8), ledger), num_slots(prepared, cluster(64), ledger)) == (8, 9)
    ledger.target = 2
    shared = settle_cpus(prepared, cluster(8), ledger)
    assert (shared.cpus_per_worker, num_slots(shared, cluster(8), ledger)) == (4, 2)
    assert settle_cpus(prepared, cluster(16), ledger).cpus_per_worker == 4  # as before
    assert settle_cpus(prepared, cluster(2), ledger).cpus_per_worker == 1  # too few now
    ledger.cpus_per_worker = 4
    asked = prepared.config.model_copy(update={"resources": ResourcesConfig(cpus_per_worker=2)})
    assert settle_cpus(replace(prepared, config=asked, cpus_per_worker=2), cluster(8), ledger).cpus_per_worker == 2


@pytest.mark.parametrize(("asked", "expected"), [(8, 8), (20, 10), (1, 1), (None, 2)])
def test_on_a_cluster_that_may_grow_as_many_run_as_were_asked_for(asked: int | None, expected: int) -> None:
    have = Cluster(3, 5.0, 0.0, 0, None, started_here=False, nodes=(Node(1, 0), Node(2, 0), Node(2, 0)))
    assert concurrency(ResourcesConfig(cpus_per_worker=2), have, asked, 10) == expected


def test_a_trial_larger_than_the_cluster_is_refused() -> None:
    with pytest.raises(ClusterError, match=r"needs 4 workers of 1 CPU and 1 GPU each, .* has 8 CPUs and 2 GPUs"):
        concurrency(ResourcesConfig(workers_per_trial=4, gpus_per_worker=1), cluster(8, 2), None, 10)


@pytest.mark.parametrize(
    ("nodes", "resources"),
    [((Node(4, 0),) * 4, {"cpus_per_worker": 8}), ((Node(8, 1),) * 4, {"gpus_per_worker": 2})],
)
def test_a_worker_does_not_stretch_over_two_nodes(nodes: tuple[Node, ...], resources: dict[str, int]) -> None:
    cpus, gpus = (sum(node[i] for node in nodes) for i in (0, 1))
    have = Cluster(4, cpus, gpus, 0, None, started_here=False, nodes=nodes)
    with pytest.raises(ClusterError, match="on 4 nodes"):
        concurrency(ResourcesConfig.model_validate(resources), have, None, 10)
    whole = ResourcesConfig.model_validate({name: value // 2 for name, value in resources.items()})
    assert concurrency(whole, have, None, 10) == 4


def test_a_disk_that_cannot_hold_the_checkpoints_is_refused(
    tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model by its hub id, with its weights in half precision, or not here yet: trials keep them in fp32."""
    size = 4 * sum(tensor.numel() for tensor in load_file(tiny_t5 / "model.safetensors").values())
    snapshot = tmp_path / "models--google--tiny/snapshots/1234"
    snapshot.mkdir(parents=True)
    shutil.copy(tiny_t5 / "config.json", snapshot)
    (tmp_path / "models--google--tiny/refs").mkdir()
    (tmp_path / "models--google--tiny/refs/main").write_text("1234")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(capacity, "free_bytes", lambda path: 13 * size)
    for model in ("google/tiny", str(tiny_t5)):
        # each trial has its best weights, and a state of weights and two moments; besides there are another state and
        # other weights, one of which is being written, and the best weights of all
        require_disk(model, TrainingConfig(), tmp_path, slots=2)
        with pytest.raises(ClusterError, match="must hold the checkpoints of 3 trials at a time"):
            require_disk(model, TrainingConfig(), tmp_path, slots=3)


def test_what_an_earlier_session_has_on_disk_makes_room_for_the_rest(
    tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = checkpoint_bytes(str(tiny_t5), TrainingConfig(), slots=1)
    (tmp_path / "3/best-8").mkdir(parents=True)
    (tmp_path / "3/best-8/model.safetensors").write_bytes(b"0" * 1000)
    (tmp_path / "3/last.pt").write_bytes(b"0" * 3000)
    monkeypatch.setattr(capacity, "free_bytes", lambda path: needed - 4000)
    require_disk(str(tiny_t5), TrainingConfig(), tmp_path, slots=1)
    (tmp_path / "3/last.pt").unlink()
    with pytest.raises(ClusterError, match="must hold the checkpoints of 1 trial at a time"):
        require_disk(str(tiny_t5), TrainingConfig(), tmp_path, slots=1)


@pytest.mark.parametrize(
    ("given", "varied", "times"),
    [
        ({"preset": "t5-adafactor"}, ["optimizer"], 9),  # a state of weights and two moments; ...
        ({"preset": "t5-adafactor"}, ["learning_rate"], 4),  # ... a state of weights alone
        ({}, ["preset"], 9),
        ({"optimizer": "adafactor"}, ["preset"], 4),  # what was given wins over the preset
        ({"optimizer": "sgd"}, [], 6),
        ({}, ["ema_decay"], 11),
        ({"evaluate_every_steps": 5}, [], 9),
        ({"evaluate_every_steps": 5, "checkpoint_every_s": 60}, [], 11),  # with a copy of the best in its states
    ],
)
def test_the_costliest_of_what_a_search_varies_counts(
    tiny_t5: Path, given: dict[str, str | int], varied: list[str], times: int
) -> None:
    """For one trial at a time: its best weights and the best of all, its state and the one that is being written.

    Beside a large state that is wanted no more, better weights may be written.
    """
    size = 4 * sum(tensor.numel() for tensor in load_file(tiny_t5 / "model.safetensors").values())
    training = costliest(TrainingConfig.model_validate(given), varied)
    assert checkpoint_bytes(str(tiny_t5), training, slots=1) == times * size
