"""Estimates against sums done by hand; the probe on a real Ray is in `test_probe_*`."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
import ray
from safetensors.torch import load_file

from t5ray.cluster import Cluster, Node
from t5ray.config import RunConfig, SearchSpace
from t5ray.search import preview
from t5ray.search.estimate import Left, estimate, expected_epochs, expected_rungs
from t5ray.search.finite import most_trials
from t5ray.search.ledger import Ledger, State, TrialRecord
from t5ray.search.preview import describe, foresee
from t5ray.training.plan import RunFailed
from t5ray.training.prepare import Prepared, prepare
from t5ray.training.probe import Probe
from t5ray.tune import main as tune
from tests.search.commands import arguments

CLUSTER = Cluster(1, 2.0, 0.0, 0, None, started_here=True)
Plan = Callable[..., Prepared]


def books(num_trials: int, num_seeds: int = 0) -> Ledger:
    return Ledger(Path("ledger.json"), target=num_trials, confirm_seeds=list(range(1, num_seeds + 1)))


def left(num_trials: int, max_epochs: int, num_seeds: int = 0) -> Left:
    return Left.of(books(num_trials, num_seeds), space(), max_epochs)


def records(*epochs: int, state: State = "COMPLETE") -> dict[int, TrialRecord]:
    """Trials that have run so many epochs, the later ones worse."""
    return {
        number: TrialRecord(
            number, {"dropout": number}, state, reports=[{"best_value": -number, "best_step": 1}] * count
        )
        for number, count in enumerate(epochs)
    }


def space(**scheduler: object) -> SearchSpace:
    parameters = {"learning_rate": {"loguniform": [1e-5, 1e-2]}}
    return SearchSpace.model_validate({"parameters": parameters, "scheduler": {"name": "asha", **scheduler}})


@pytest.fixture
def plan(words: Path, tiny_t5: Path, tmp_path: Path) -> Plan:
    """128 training and 16 validation rows of words."""

    def make(**settings: object) -> Prepared:
        given = {"data": {"path": str(words)}, "task": "classify", "model": str(tiny_t5), "storage": str(tmp_path)}
        return prepare(RunConfig.model_validate({**given, **settings}), tmp_path / "cache")

    return make


@pytest.mark.parametrize(
    ("num_trials", "max_epochs", "rungs", "epochs"),
    [
        (9, 9, [(1, 9), (3, 3)], 9 * 1 + 3 * 2 + 1 * 6),
        (27, 9, [(1, 27), (3, 9)], 27 * 1 + 9 * 2 + 3 * 6),
        (1, 9, [(1, 1), (3, 1)], 9),
        (5, 1, [], 5),
    ],
)
def test_expected_trials_and_epochs(
    num_trials: int, max_epochs: int, rungs: list[tuple[int, int]], epochs: int
) -> None:
    assert expected_rungs(space(), num_trials, max_epochs) == rungs
    assert expected_epochs(space(), num_trials, max_epochs) == epochs


def test_without_stopping_every_trial_runs_every_epoch() -> None:
    assert expected_epochs(space(name="none"), 7, 5) == 35


def test_brackets_share_the_trials() -> None:
    # Hyperband's brackets over epochs 1 and 3 of 9 hold 3, 2 and 1 rungs: e^3, e^2 and e^1 parts of the trials
    spread = space(brackets=3)
    parts = [math.exp(3), math.exp(2), math.exp(1)]
    first, second, third = (100 * part / sum(parts) for part in parts)
    assert expected_rungs(spread, 100, 9) == [(1, round(first)), (3, round(first / 3 + second))]
    epochs = first * (1 + 2 / 3 + 6 / 9) + second * (3 + 6 / 3) + third * 9
    assert expected_epochs(spread, 100, 9) == round(epochs)


@pytest.mark.parametrize(
    ("settings", "copies"),
    [
        ({"augment_copies": 2, "augment_swap_rate": 0.1}, 2),
        ({"augment_copies": 2, "augment_swap_rate": 0.1, "augment_swap_copies": 3}, 3),
        ({"augment_swap_rate": 0.1, "augment_swap_copies": 3, "augment_deletion_rate": 0.1}, 3 + 1),
    ],
)
def test_copies_of_rows_make_more_steps(plan: Plan, settings: dict[str, float], copies: int) -> None:
    augmented = {**settings, "batch_size": 16, "max_epochs": 1}
    prepared = plan(training=augmented, search={"num_trials": 1})
    steps = -(-(1 + copies) * len(prepared.data.train) // 16)
    found = estimate(prepared, left(1, 1), 1, Probe(load_s=0.0, step_s=1.0, validate_row_s=0.0))
    assert found.epoch_s == steps
    assert any(
        line.startswith(f"per trial    {steps} steps") for line in describe(prepared, space(), CLUSTER, books(1))
    )


def test_an_estimate_is_the_sum_of_its_parts(plan: Plan) -> None:
    prepared = plan(training={"max_epochs": 9, "batch_size": 16})
    rows = len(prepared.data.train)
    found = estimate(prepared, left(9, 9, 2), 2, Probe(load_s=5.0, step_s=0.5, validate_row_s=0.25))
    epoch_s = 0.5 * -(-rows // 16) + 0.25 * len(prepared.data.validation)
    assert found.epoch_s == pytest.approx(epoch_s)
    assert found.search_s == pytest.approx(5 + epoch_s * 21 / 2)
    assert found.confirm_s == pytest.approx(epoch_s * 9 * (4 * 2) / 2)  # the best three and the default, two seeds


def test_no_search_is_shorter_than_its_longest_trial(plan: Plan) -> None:
    prepared = plan(training={"max_epochs": 9}, search={"num_trials": 3, "confirm_seeds": 0})
    found = estimate(prepared, left(3, 9), 64, Probe(load_s=0.0, step_s=1.0, validate_row_s=0.0))
    assert found.search_s == pytest.approx(9 * found.epoch_s)
    assert found.confirm_s == 0


FORESEEN = Probe(load_s=0.0, step_s=1.0, validate_row_s=0.0)


@pytest.fixture
def foreseen(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Foresees 9 trials of up to 9 epochs of 8 s, two at a time: 21 epochs in 84 s, or all 81 in 324 s."""
    monkeypatch.setattr(preview, "_measure", lambda *_: [FORESEEN])

    def foresee_with(seeds: int = 0, spent_s: float = 0.0, **search: object) -> list[str]:
        prepared = plan(training={"max_epochs": 9, "batch_size": 16}, search={"num_trials": 9, **search})
        assert len(prepared.data.train) == 8 * 16
        ledger = books(9, seeds)
        ledger.wall_s = spent_s
        found = [*describe(prepared, space(), CLUSTER, ledger), *foresee(prepared, space(), CLUSTER, ledger)]
        return [line for line in found if line.split("  ")[0] in ("estimate", "at most", "ends", "time budget")]

    return foresee_with


def test_the_bound_without_pruning_stands_beside_the_estimate(
    plan: Plan, foreseen: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    estimated, bound = foreseen()
    assert estimated.endswith("8.0 s an epoch; 1 min 24 s for some 21 of 81 epochs")
    assert bound == "at most      81 epochs in 5 min 24 s, if nothing is pruned: ASHA keeps trials that tie"
    _, bound = foreseen(seeds=1)
    assert bound.startswith("at most      81 epochs in 5 min 24 s before the best are confirmed, if ")
    unpruned = foresee(plan(training={"max_epochs": 9}), space(name="none"), CLUSTER, books(9))
    assert not any(line.startswith("at most") for line in unpruned)


@pytest.mark.parametrize(
    ("budget_s", "seeds", "ends"),
    [
        (330, 0, "with its last run, before the time budget is used up"),
        (300, 0, "with its last run as estimated, but by the time budget if nothing is pruned"),
        (60, 0, "by the time budget, while trials still run"),
        (300, 1, "with its last run as estimated, but by the time budget if nothing is pruned"),
        (200, 1, "by the time budget, while the best are confirmed"),  # 84 s and 4 runs of 72 s, two at a time
    ],
)
def test_the_time_budget_is_named_and_what_comes_end(
    foreseen: Callable[..., list[str]], budget_s: int, seeds: int, ends: str
) -> None:
    named, *_, last = foreseen(seeds, time_budget_s=budget_s)
    assert named.startswith(f"time budget  {budget_s // 60} min {budget_s % 60:02d} s for trials")
    assert last == f"ends         {ends}"


def test_an_interrupted_search_has_the_rest_of_its_time_budget(foreseen: Callable[..., list[str]]) -> None:
    named, *_, last = foreseen(time_budget_s=120, spent_s=90.0)
    assert named == "time budget  2 min 00 s, 30.0 s of it left, for trials and the runs that confirm the best"
    assert last == "ends         by the time budget, while trials still run"


def test_what_is_left_of_an_extended_search() -> None:
    """Without a scheduler every trial runs whole."""
    ledger = books(7)
    ledger.trials = records(8, 8, 8, 8)
    found = Left.of(ledger, space(name="none"), 8)
    assert found == Left(expected=3 * 8, trials=3 * 8, longest=8, confirm=0)


def test_what_is_left_of_an_interrupted_search() -> None:
    """One of four trials has ended, two were cut off after epochs 5 and 2 of 8, one is to come."""
    ledger = books(4)
    ledger.trials = {**records(8, 5, 2, state="RUNNING"), **records(8)}
    assert Left.of(ledger, space(name="none"), 8) == Left(expected=3 + 6 + 8, trials=3 + 6 + 8, longest=8, confirm=0)
    ledger.target = 3
    assert Left.of(ledger, space(name="none"), 8) == Left(expected=3 + 6, trials=3 + 6, longest=6, confirm=0)


def test_what_is_left_to_confirm() -> None:
    """The default is among the best three, on two seeds: one run has ended, another was cut off after epoch 3 of 8."""
    ledger = books(4, 2)
    ledger.trials = records(8, 8, 8, 8)
    ledger.confirm_runs = [
        TrialRecord(0, {}, "COMPLETE", reports=[{"best_value": 0.5}] * 8, seed=1),
        TrialRecord(1, {}, "RUNNING", reports=[{"best_value": 0.5}] * 3, seed=1),
    ]
    assert Left.of(ledger, space(), 8) == Left(expected=0, trials=0, longest=0, confirm=(3 * 2 - 1) * 8 - 3)


def test_of_a_search_with_nothing_left_no_probe_is_made(plan: Plan) -> None:
    ledger = books(2)
    ledger.trials = records(8, 8)
    (line,) = foresee(plan(training={"max_epochs": 8}), space(), CLUSTER, ledger)
    assert line == "estimate     nothing is left to train: the winner is judged on test"


def test_evaluations_within_epochs_and_shared_validation_count(plan: Plan) -> None:
    training = {"batch_size": 16, "evaluate_every_steps": 3, "max_epochs": 1}
    prepared = plan(training=training, resources={"workers_per_trial": 2}, search={"num_trials": 1})
    steps = -(-len(prepared.data.train) // 16)
    found = estimate(prepared, left(1, 1), 1, Probe(load_s=0.0, step_s=0.0, validate_row_s=1.0))
    assert found.epoch_s == pytest.approx(-(-steps // 3) * len(prepared.data.validation) / 2)


def test_the_plan_says_what_memory_there_is_and_where_it_is_too_little(plan: Plan) -> None:
    def described(cluster: Cluster, **search: object) -> list[str]:
        prepared = plan(training={"max_epochs": 9}, search={"num_trials": 9, **search})
        return describe(replace(prepared, worker_bytes=3 * 2**30), space(), cluster, books(9))

    roomy, narrow = (replace(CLUSTER, nodes=(Node(2, 0, memory * 2.0**30),)) for memory in (6, 5))
    assert described(roomy)[0] == (
        "trials       9 (2 at a time: each needs 1 CPU and about 3.0 GiB of memory for 1 worker, "
        "the cluster has 2 CPUs and 6.0 GiB), up to 9 epochs each"
    )
    assert described(narrow)[0].startswith("trials       9 (1 at a time")
    warning = "note         2 trials at a time may take 6.0 GiB of memory, but there are 5.0 GiB."
    assert [line.startswith(warning) for line in described(narrow, max_concurrent=2)].count(True) == 1
    for cluster, search in ((roomy, {}), (narrow, {}), (CLUSTER, {"max_concurrent": 2})):
        assert not any("may take" in line for line in described(cluster, **search))


def test_the_plan_says_what_would_run(plan: Plan, tiny_t5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "free_bytes", lambda path: 3 * 2**30)
    prepared = plan(training={"max_epochs": 9, "batch_size": 16}, search={"num_trials": 9})
    lines = describe(prepared, space(), CLUSTER, books(9, 3))
    assert lines[0] == (
        "trials       9 (2 at a time: each needs 1 CPU for 1 worker, the cluster has 2 CPUs), up to 9 epochs each"
    )
    steps = 9 * -(-len(prepared.data.train) // 16)
    assert (
        f"per trial    {steps} steps and {9 * prepared.data.train.num_tokens:,} tokens, where it runs to its end"
        in lines
    )
    assert "rung         after epoch 3: about 3 trials arrive" in lines
    assert "confirm      the best 3 and the default again on 3 fresh seeds: 12 full runs at most" in lines
    # 2 slots of best weights and a state of weights and 2 moments, one of either that is written, the best of all: 13
    needed = 13 * 4 * sum(tensor.numel() for tensor in load_file(tiny_t5 / "model.safetensors").values()) / 2**20
    assert lines[-1] == f"disk         {needed:.1f} MiB for checkpoints at most, of 3.0 GiB free"


def test_a_probe_that_fails_or_finds_no_room_is_told(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(prepared: Prepared, together: int) -> list[Probe]:
        raise RunFailed("out of GPU memory")

    monkeypatch.setattr(preview, "_measure", fails)
    prepared = plan()
    (line,) = foresee(prepared, space(), CLUSTER, books(10))
    assert line == "probe        the default settings cannot train: out of GPU memory"
    monkeypatch.setattr(preview, "_measure", lambda prepared, together: [])
    assert foresee(prepared, space(), CLUSTER, books(10)) == [
        "probe        none: the cluster had no room for it within 10 min 00 s"
    ]


@pytest.mark.parametrize("kind", [ray.exceptions.OutOfMemoryError, ray.exceptions.WorkerCrashedError])
def test_a_probe_whose_process_is_killed_for_its_memory_is_told(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def get(done: list[Any]) -> list[Probe]:
        raise kind("the node ran low on memory")

    task = SimpleNamespace(remote=lambda *given: None)
    stand_in = SimpleNamespace(
        remote=lambda **given: lambda function: task,
        put=lambda data: data,
        wait=lambda running, **given: (running, []),
        get=get,
        exceptions=ray.exceptions,
    )
    monkeypatch.setattr(preview, "ray", stand_in)
    (line,) = foresee(plan(), space(), CLUSTER, books(10))
    assert line.startswith("probe        the default settings cannot train: its process died, as it does where memory")


@pytest.mark.integration
def test_preview_measures_and_leaves_nothing(
    local_ray: None, words: Path, tiny_t5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "space.yaml").write_text("parameters: {learning_rate: {loguniform: [1.0e-4, 1.0e-2]}}\n")
    flags = {"data": words, "task": "classify", "model": tiny_t5, "search-space": tmp_path / "space.yaml"}
    flags |= {"storage": tmp_path / "runs", "tracking-uri": "none", "name": "words"}
    assert tune([*(w for k, v in flags.items() for w in (f"--{k}", str(v))), "--preview"]) == 0
    *_, probe, estimated, bound, following, command = capsys.readouterr().out.splitlines()
    assert probe.startswith("probe        ")
    assert probe.endswith("; 2 at a time")
    assert estimated.startswith("estimate     about ")
    assert bound.startswith("at most      30 epochs in ")
    assert (following, "--preview" in command) == ("Next:", False)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["cache"]


@pytest.fixture
def four_trials(
    words: Path, tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, dict[str, bytes]]]:
    """Previews a search of four whole trials in the working directory; gives the exit code and what its folder has."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("t5ray.cluster.connect", lambda *_, **__: nullcontext(CLUSTER))
    monkeypatch.setattr(preview, "_measure", lambda *_: [Probe(load_s=1.0, step_s=1.0, validate_row_s=0.0)])
    Path("space.yaml").write_text(
        "parameters: {learning_rate: {loguniform: [1.0e-4, 1.0e-2]}}\nscheduler: {name: none}\n"
    )
    folder = tmp_path / "runs/words"
    (folder / "state").mkdir(parents=True)
    ledger = Ledger(folder / "state/ledger.json", target=4, trials=records(8, 8, 8, 8), finished=True)
    ledger.identity = {"search seed": "0"}
    ledger.save()

    def previewed(*given: str, **flags: object) -> tuple[int, dict[str, bytes]]:
        all_flags = {"storage": "runs", "num-trials": 4, "confirm-seeds": 0, **flags}
        code = tune([*arguments(words, tiny_t5, **{"max-epochs": 8, **all_flags}), *given, "--preview"])
        held = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return code, held

    return previewed


Previewed = Callable[..., tuple[int, dict[str, bytes]]]


def test_a_preview_foresees_what_extending_would_run(
    four_trials: Previewed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, held = four_trials("--extend", "3")
    shown = capsys.readouterr().out
    assert code == 0
    assert "trials       7, 4 of them ended (2 at a time: " in shown
    assert " for some 24 of 24 epochs" in shown
    assert shown.rstrip().endswith("--extend 3")
    assert list(held) == [str(tmp_path / "runs/words/state/ledger.json")]
    assert Ledger.load(tmp_path / "runs/words/state/ledger.json").target == 4


def test_a_preview_foresees_what_resuming_would_run(
    four_trials: Previewed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = four_trials("--resume")
    assert code == 0
    finished = "runs/words: this search is finished; nothing would be trained again. --extend N adds trials."
    assert finished in capsys.readouterr().out
    code, _ = four_trials("--resume", **{"num-trials": 6})
    shown = capsys.readouterr().out
    assert (code, "trials       6, 4 of them ended" in shown, " for some 16 of 16 epochs" in shown) == (0, True, True)


@pytest.mark.parametrize(
    ("given", "flags", "message"),
    [
        ((), {}, "runs/words: must be a new folder, but holds a search already."),
        (("--resume",), {"name": "other"}, "runs/other: must hold a search to go on with, but holds none"),
        (("--extend", "1"), {"seed": 5}, "search.seed: was 0, now 5"),
    ],
)
def test_a_preview_refuses_what_the_command_would(
    four_trials: Previewed,
    capsys: pytest.CaptureFixture[str],
    given: tuple[str, ...],
    flags: dict[str, object],
    message: str,
) -> None:
    code, _ = four_trials(*given, **flags)
    assert code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_preview_of_a_search_at_a_uri_asks_there(
    four_trials: Previewed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where another machine has gone on with it, too: what lies here is older, and stays."""
    bucket = fsspec.filesystem("memory")
    there, here = tmp_path / "runs/words/state/ledger.json", tmp_path / "t5ray_runs/words/state/ledger.json"
    newer = Ledger.load(there)
    newer.wall_s = 60.0
    newer.save()
    bucket.pipe(f"/{tmp_path.name}/words/saved/ledger.json", there.read_bytes())
    here.parent.mkdir(parents=True)
    Ledger(here, target=1, trials=records(8), finished=True, wall_s=10.0).save()
    before = here.read_bytes()
    code, _ = four_trials("--extend", "3", storage=f"memory://{tmp_path.name}")
    assert (code, "trials       7, 4 of them ended" in capsys.readouterr().out) == (0, True)
    assert [path.name for path in here.parent.iterdir()] == ["ledger.json"]
    assert here.read_bytes() == before
    assert bucket.find(f"/{tmp_path.name}") == [f"/{tmp_path.name}/words/saved/ledger.json"]


def test_the_plan_notes_a_parameter_that_changes_nothing(plan: Plan) -> None:
    found = SearchSpace.model_validate({"parameters": {"momentum": {"uniform": [0.5, 0.9]}}})
    (note,) = (line for line in describe(plan(), found, CLUSTER, books(10)) if line.startswith("note"))
    assert note.split(maxsplit=1)[1].startswith("momentum changes nothing in any trial: it needs optimizer=sgd.")
    plain = describe(plan(training={"optimizer": "sgd"}), found, CLUSTER, books(10))
    assert not any(line.startswith("note") for line in plain)


def test_a_point_outside_the_space_is_noted(plan: Plan) -> None:
    given = {"parameters": {"batch_size": {"int": [8, 64]}}, "start_from": [{"batch_size": 16}, {"batch_size": 128}]}
    lines = describe(plan(), SearchSpace.model_validate(given), CLUSTER, books(9))
    (note,) = (line for line in lines if line.startswith("note"))
    assert note.startswith("note         point 2 of start_from lies outside the space with batch_size=128: it is run")


def test_the_plan_of_an_extended_search_counts_all_its_trials(plan: Plan) -> None:
    extended = books(13)
    extended.trials = {n: TrialRecord(n, {}, "COMPLETE") for n in range(12)}
    lines = describe(plan(training={"max_epochs": 9}, search={"num_trials": 5}), space(), CLUSTER, extended)
    assert lines[0].startswith("trials       13, 12 of them ended (1 at a time: ")  # one is left: one slot is enough
    assert "rung         after epoch 1: about 13 trials arrive" in lines


def test_the_plan_of_a_grid_has_no_more_trials_than_points(plan: Plan) -> None:
    grid = SearchSpace.model_validate(
        {
            "parameters": {"batch_size": {"choice": [16, 32]}, "dropout": {"choice": [0.0, 0.1]}},
            "sampler": {"name": "grid"},
        }
    )
    prepared, found = plan(search={"num_trials": 20}), books(0)
    found.settle_target(20, most_trials(grid, prepared, found))
    lines = describe(prepared, grid, CLUSTER, found)
    assert lines[0].startswith("trials       4 (2 at a time: ")
