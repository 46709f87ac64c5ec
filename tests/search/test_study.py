"""What is refused before a search starts, and how many trials run at a time."""

import functools
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from t5ray.cluster import Cluster
from t5ray.config import ResourcesConfig, RunConfig, SearchSpace, TrainingConfig
from t5ray.errors import ClusterError, ConfigError
from t5ray.search import study
from t5ray.search.conclude import why_all_failed
from t5ray.search.confirm import Confirmation, num_missing
from t5ray.search.journal import open_storage
from t5ray.search.ledger import Ledger, TrialRecord
from t5ray.search.searcher import StudySearch
from t5ray.search.study import (
    budget_left_s,
    concurrency,
    most_runs,
    num_slots,
    open_ledger,
    require_disk,
    settle_cpus,
)
from t5ray.search.workspace import Workspace
from t5ray.training.prepare import prepare

SPACE = SearchSpace.model_validate({"parameters": {"learning_rate": {"loguniform": [1e-5, 1e-2]}}})


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
        (((8.0, 0.0, 24e9),), None, 4),  # 8 CPUs, but 6 GB each
        (((8.0, 0.0, 24e9),), 8, 8),  # it was said how many
        (((8.0, 0.0, 5e9),), None, 1),  # an estimate refuses nothing
        (((2.0, 0.0, 64e9), (8.0, 0.0, 13e9)), None, 4),
        (((8.0, 0.0, math.inf),), None, 8),
        (((8.0, 0.0),), None, 8),  # not known
    ],
)
def test_no_more_trials_run_than_memory_holds(
    nodes: tuple[tuple[float, ...], ...], asked: int | None, expected: int
) -> None:
    have = Cluster(len(nodes), sum(node[0] for node in nodes), 0.0, 0, None, started_here=True, nodes=nodes)
    assert concurrency(ResourcesConfig(), have, asked, 10, worker_bytes=6 * 10**9) == expected


def test_runs_that_confirm_take_no_more_than_there_is(words: Path, tiny_t5: Path, tmp_path: Path) -> None:
    """Two trials have had 4 of 8 CPUs each; what a resumed search has left are 6 runs to confirm them."""
    given = {"data": {"path": str(words)}, "task": "classify", "model": str(tiny_t5)}
    prepared = prepare(RunConfig.model_validate(given), tmp_path / "cache")
    ledger = Ledger(tmp_path / "l.json", target=2, confirm_seeds=[1, 2, 3])
    report = {"value": 0.5, "best_epoch": 1, "best_value": 0.5}
    ledger.trials = {n: TrialRecord(n, {"n": n}, "COMPLETE", reports=[report]) for n in range(2)}
    assert (num_slots(prepared, cluster(8), ledger), num_missing(ledger)) == (6, 6)
    shared = settle_cpus(prepared, cluster(8), ledger)
    assert (shared.cpus_per_worker, num_slots(shared, cluster(8), ledger)) == (4, 2)
    assert settle_cpus(prepared, cluster(16), ledger).cpus_per_worker == 4  # as before
    assert settle_cpus(prepared, cluster(2), ledger).cpus_per_worker == 1  # too few now
    ledger.cpus_per_worker = 4
    asked = prepared.config.model_copy(update={"resources": ResourcesConfig(cpus_per_worker=2)})
    assert settle_cpus(replace(prepared, config=asked, cpus_per_worker=2), cluster(8), ledger).cpus_per_worker == 2


@pytest.mark.parametrize(("asked", "expected"), [(8, 8), (20, 10), (1, 1), (None, 2)])
def test_on_a_cluster_that_may_grow_as_many_run_as_were_asked_for(asked: int | None, expected: int) -> None:
    have = Cluster(3, 5.0, 0.0, 0, None, started_here=False, nodes=((1.0, 0.0), (2.0, 0.0), (2.0, 0.0)))
    assert concurrency(ResourcesConfig(cpus_per_worker=2), have, asked, 10) == expected


def test_a_trial_larger_than_the_cluster_is_refused() -> None:
    with pytest.raises(ClusterError, match=r"needs 4 workers of 1 CPUs and 1 GPUs each, .* has 8 CPUs and 2 GPUs"):
        concurrency(ResourcesConfig(workers_per_trial=4, gpus_per_worker=1), cluster(8, 2), None, 10)


@pytest.mark.parametrize(
    ("nodes", "resources"),
    [(((4.0, 0.0),) * 4, {"cpus_per_worker": 8}), (((8.0, 1.0),) * 4, {"gpus_per_worker": 2})],
)
def test_a_worker_does_not_stretch_over_two_nodes(
    nodes: tuple[tuple[float, float], ...], resources: dict[str, int]
) -> None:
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
    monkeypatch.setattr(study, "free_bytes", lambda path: 14 * size)
    for model in ("google/tiny", str(tiny_t5)):
        # each trial has two best weights, and a state of weights and two moments; besides there are another state,
        # which is being written, and the best weights of all
        require_disk(model, TrainingConfig(), tmp_path, slots=2)
        with pytest.raises(ClusterError, match="must hold the checkpoints of 3 trials at a time"):
            require_disk(model, TrainingConfig(), tmp_path, slots=3)


def test_folders_are_not_mixed_up(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "a", tmp_path / "cache")
    with pytest.raises(ConfigError, match="must hold a search to go on with, but holds none"):
        open_ledger(workspace, resume=True, extend=None)
    open_ledger(workspace, resume=False, extend=None).save()
    with pytest.raises(ConfigError, match="Add --resume to go on with it"):
        open_ledger(workspace, resume=False, extend=None)
    assert open_ledger(workspace, resume=True, extend=None).trials == {}


def test_a_grid_that_has_run_whole_is_not_extended(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "a", tmp_path / "cache")
    ledger = open_ledger(workspace, resume=False, extend=None)
    assert ledger.settle_target(20, None, most=4) == 4
    ledger.trials = {n: TrialRecord(n, {}, "COMPLETE") for n in range(3)}
    ledger.save()
    extended = open_ledger(workspace, resume=False, extend=5)
    assert extended.settle_target(20, 5, most=4) == 4  # one is left
    extended.trials[3] = TrialRecord(3, {}, "COMPLETE")
    extended.save()
    with pytest.raises(ConfigError, match="--extend: the grid must have points left, but all 4 have run"):
        open_ledger(workspace, resume=False, extend=1)
    assert open_ledger(workspace, resume=True, extend=None).is_exhausted


def test_the_runs_of_an_extended_search_are_all_given_out(tmp_path: Path) -> None:
    """Four candidates were cut off after one seed; then three better trials come, and are confirmed, too."""
    ledger = Ledger(tmp_path / "l.json", confirm_seeds=[1, 2, 3])
    search = functools.partial(StudySearch, SPACE, ledger, first_points=[], seed=0)
    first = search(storage=open_storage(tmp_path / "journal"), num_trials=4)
    for number in range(4):
        first.suggest(f"trial {number}")
        end(first, f"trial {number}", ledger.trials[number], 0.1 * number)
    ledger.confirm_runs = [TrialRecord(n, ledger.trials[n].params, seed=1) for n in range(4)]
    for run in ledger.confirm_runs:
        run.reports, run.state = [{"value": 0.5, "best_epoch": 1, "best_value": 0.5}], "COMPLETE"
    ledger.settle_target(4, 3)
    again = search(storage=open_storage(tmp_path / "journal"), num_trials=7, confirmation=Confirmation(ledger))
    given = 0
    while isinstance(config := again.suggest(str(given)), dict):
        confirms = "seed" in config
        record = ledger.confirm_run(config["trial"], config["seed"]) if confirms else ledger.trials[config["trial"]]
        end(again, str(given), record, 0.9 + 0.01 * config["trial"])
        given += 1
    assert given == 3 + 3 * 3 + 4 * 2  # the trials, the new best on all seeds, the old ones on those that are left
    assert given <= most_runs(ledger)


def end(search: StudySearch, name: str, record: TrialRecord, value: float) -> None:
    record.reports = [{"epoch": 1, "value": value, "best_epoch": 1, "best_value": value}]
    record.state = "COMPLETE"
    search.on_trial_complete(name, {**record.reports[0], "final": True})


def test_a_time_budget_goes_on_after_an_interruption_and_begins_anew_once_it_was_used_up(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.json")
    assert budget_left_s(7200.0, ledger) == 7200.0
    assert budget_left_s(None, ledger) is None
    ledger.wall_s = 5000.0  # then its process was killed
    assert budget_left_s(7200.0, ledger) == 2200.0
    ledger.wall_s = 9000.0
    assert budget_left_s(7200.0, ledger) == 1.0  # Tune takes no time that is over
    ledger.budget_from_s = 9000.0
    assert budget_left_s(7200.0, ledger) == 7200.0


def test_causes_are_gathered(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.json")
    reasons = ["the loss is nan", "the loss is nan", "out of GPU memory"]
    ledger.trials = {n: TrialRecord(n, {}, "FAIL", reason) for n, reason in enumerate(reasons)}
    assert "all 3 failed: the loss is nan (trial 0, 1); out of GPU memory (trial 2)" in why_all_failed(ledger)


@pytest.mark.parametrize(
    ("reason", "mend"),
    [
        ("the loss must be finite, but is nan at step 3", "Lower the learning rates"),
        ("out of GPU memory: it must hold a row", "gradient_checkpointing=true"),
        ("cut off after epoch 0 of 3: the time budget was used up", "a longer --time-budget"),
        ("the trial's process died", "memory of the nodes"),
        ("something else", "Run python -m t5ray.doctor."),
    ],
)
def test_what_helps_goes_by_the_cause(tmp_path: Path, reason: str, mend: str) -> None:
    ledger = Ledger(tmp_path / "l.json")
    ledger.trials = {0: TrialRecord(0, {}, "FAIL", reason)}
    text = why_all_failed(ledger)
    assert mend in text
    assert ("learning rates" in text) == ("finite" in reason)


def test_trials_save_nothing_to_the_folder_that_only_the_driver_has(tmp_path: Path) -> None:
    found = study._run_config(str(tmp_path), None)  # type: ignore[arg-type]
    assert found.checkpoint_config.checkpoint_at_end is False
