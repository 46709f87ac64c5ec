"""Whatever was heard last of a run, the weights of which it told are there."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from t5ray.data.tokens import TokenisedData
from t5ray.model.loading import load_model
from t5ray.storage import upload_file
from t5ray.training import checkpoint, loop
from t5ray.training.best import BestWeights, best_name
from t5ray.training.checkpoint import BEFORE_LAST, LAST, StateWriter, drop_last
from t5ray.training.group import Group
from t5ray.training.plan import Pulse, RunPlan
from t5ray.training.trainee import made_ready
from t5ray.training.validation import Validation
from tests.training.running import Together, Weights, run
from tests.training.test_resume import cut_off_at


def judging(monkeypatch: pytest.MonkeyPatch, *losses: float) -> None:
    """Let validation find these losses, one after the other."""
    found: Iterator[float] = iter(losses)
    monkeypatch.setattr(loop, "validate", lambda *_, **__: Validation(next(found), {"exact_match": 0.5}, 0.0))


def train(
    model: Path, data: TokenisedData, plan: RunPlan, answers: dict[int, bool | None]
) -> list[tuple[Any, Weights]]:
    """Train until an answer ends it, and return each report with the weights at that time; a missing answer: a kill."""
    loaded, told = load_model(str(model)), list[tuple[Any, Weights]]()

    def report(found: dict[str, Any]) -> bool | None:
        told.append((found, {name: weight.clone() for name, weight in loaded.model.state_dict().items()}))
        if found["epoch"] not in answers:
            raise KeyboardInterrupt
        return answers[found["epoch"]]

    plan = replace(plan, objective="validation_loss", mode="min")
    with suppress(KeyboardInterrupt):
        loop.fine_tune(loaded, data, plan, group=Group(), report=report, tick=lambda _: None)
    return told


def hold(plan: RunPlan, step: int, expected: Weights) -> bool:
    """Say whether the weights of a step are these."""
    found = AutoModelForSeq2SeqLM.from_pretrained(plan.folder / best_name(step)).state_dict()
    return all(torch.equal(found[name], expected[name]) for name in expected)


def steps(plan: RunPlan) -> list[str]:
    return sorted(path.name for path in plan.folder.glob("best-*"))


@pytest.mark.parametrize("answers", [{1: True}, {1: True, 2: None}], ids=["killed", "nobody listens"])
def test_weights_that_a_report_named_stay_while_better_ones_are_not_heard_of(
    tiny_t5: Path,
    data: TokenisedData,
    plan: RunPlan,
    monkeypatch: pytest.MonkeyPatch,
    answers: dict[int, bool | None],
) -> None:
    judging(monkeypatch, 0.5, 0.4)
    (first, weights), (second, better) = train(tiny_t5, data, plan, answers)
    assert (first["best_step"], second["best_step"]) == (8, 16)
    assert steps(plan) == ["best-16", "best-8"]
    assert hold(plan, 8, weights)
    assert hold(plan, 16, better)


def test_weights_that_a_state_names_stay_until_the_disk_has_the_next(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that goes down in that moment goes on from the state before."""
    judging(monkeypatch, 0.5, 0.4, 0.3)
    named = list[bool]()

    def sync(path: Path) -> None:
        before = plan.folder / BEFORE_LAST
        if path.name == LAST and before.exists():
            best = torch.load(before, weights_only=True)["progress"]["best_step"]
            named.append((plan.folder / best_name(best)).is_dir())

    monkeypatch.setattr(checkpoint, "sync", sync)
    train(tiny_t5, data, plan, {1: True, 2: True, 3: True})
    assert named == [True]  # none is saved at the end of a run
    assert steps(plan) == ["best-24"]


@pytest.mark.parametrize("remote", [None, "memory://uploaded"])
def test_weights_that_no_state_names_go_while_the_run_goes_on(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, monkeypatch: pytest.MonkeyPatch, remote: str | None
) -> None:
    """They go when the state after them is where it belongs, and only then."""
    judging(monkeypatch, 0.5, 0.4, 0.3)
    copied = list[list[str]]()

    def noting(source: Path, target: str) -> None:
        upload_file(source, target)
        copied.append(steps(plan))

    def tick(pulse: Pulse) -> None:
        while pulse.step == 17 and steps(plan) != ["best-16"]:  # the first step of epoch 3; a test has a time limit
            time.sleep(0.01)

    monkeypatch.setattr(loop, "upload_file", noting)
    plan = replace(plan, objective="validation_loss", mode="min", remote=remote)
    run(tiny_t5, data, plan, tick=tick)
    assert copied == ([["best-8"], ["best-16", "best-8"]] if remote else [])


def test_no_report_is_told_while_a_state_lands(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer may be that the run's files are deleted, or given to another run."""
    judging(monkeypatch, 0.5, 0.6, 0.7)  # no better weights, which wait as well
    landing, told = list[Path](), list[list[Path]]()

    def slowly(path: Path) -> None:
        landing.append(path)
        time.sleep(1.0)  # an epoch takes less
        landing.remove(path)

    def note(found: dict[str, Any]) -> bool:
        told.append(list(landing))
        return True

    monkeypatch.setattr(checkpoint, "sync", slowly)
    run(tiny_t5, data, replace(plan, objective="validation_loss", mode="min"), report=note)
    assert told == [[], [], []]


@pytest.mark.parametrize("seconds", [None, 1e-9])
def test_so_do_they_within_an_epoch(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, monkeypatch: pytest.MonkeyPatch, seconds: float | None
) -> None:
    """Also where a state within it names better ones."""
    judging(monkeypatch, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)  # at 3, 6, 8 and 11, 14, 16
    settings = {"evaluate_every_steps": 3, "checkpoint_every_s": seconds}
    often = replace(plan, config=plan.config.model_copy(update=settings))
    (_, weights), _ = train(tiny_t5, data, often, {1: True})
    assert steps(plan) == ["best-16", "best-8"]
    assert hold(plan, 8, weights)


def test_an_epoch_that_was_better_the_first_time_only_takes_no_weights_away(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hardware that is not deterministic: epoch 2 is made again after a kill, and is then worse than epoch 1."""
    judging(monkeypatch, 0.5, 0.4)
    (_, weights), _ = train(tiny_t5, data, plan, {1: True})
    judging(monkeypatch, 0.6, 0.7)
    *_, (last, _) = train(tiny_t5, data, plan, {1: True, 2: True, 3: True})
    assert (last["best_epoch"], last["best_step"], last["best_value"]) == (1, 8, 0.5)
    assert steps(plan) == ["best-8"]
    assert hold(plan, 8, weights)


def test_a_state_whose_best_weights_are_gone_takes_the_next_for_the_best(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    judging(monkeypatch, 0.5, 0.4, 0.45)
    train(tiny_t5, data, plan, {1: True, 2: True})
    assert steps(plan) == ["best-16"]
    (plan.folder / LAST).unlink()
    assert (plan.folder / BEFORE_LAST).exists()  # of epoch 1, whose weights epoch 2's have replaced
    judging(monkeypatch, 0.55, 0.6)
    *_, (last, _) = train(tiny_t5, data, plan, {1: True, 2: True, 3: True})
    assert (last["best_epoch"], last["best_step"], last["best_value"]) == (2, 16, 0.55)
    assert steps(plan) == ["best-16"]


def test_at_a_uri_there_is_what_is_here(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    remote = f"memory://{tmp_path.name}/best"
    there = fsspec.filesystem("memory")

    def kept_there() -> list[str]:
        return sorted(path.rpartition("/")[2] for path in there.ls(f"/{tmp_path.name}/best", detail=False))

    plan = replace(plan, remote=remote)
    judging(monkeypatch, 0.5, 0.4, 0.3)
    train(tiny_t5, data, plan, {1: True, 2: True})
    assert kept_there() == ["best-16", "best-24", "last.pt"]
    assert BestWeights(tmp_path / "another node", remote).hold(16)
    assert not BestWeights(tmp_path / "another node", remote).hold(8)
    judging(monkeypatch, 0.3)
    train(tiny_t5, data, plan, {1: True, 2: True, 3: False})
    assert kept_there() == ["best-24"]


@pytest.mark.parametrize(
    ("answers", "there"),
    [
        ({1: True, 2: True, 3: True}, []),
        ({1: True, 2: False}, []),
        ({1: True, 2: None}, ["best-16", "best-8", LAST]),
        ({1: True, 2: True, 3: None}, ["best-16", "best-24", LAST]),
    ],
    ids=["at the end", "stopped", "nobody listens", "nobody listens at the end"],
)
def test_a_run_at_a_uri_that_is_over_leaves_nothing_on_its_node(
    tiny_t5: Path,
    data: TokenisedData,
    plan: RunPlan,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    answers: dict[int, bool | None],
    there: list[str],
) -> None:
    """The command deletes on its own disk and at the URI only, where a run of which it has not heard the end stays."""
    plan = replace(plan, remote=f"memory://{tmp_path.name}/over", shares_disk=True)
    judging(monkeypatch, 0.5, 0.4, 0.3)
    train(tiny_t5, data, plan, answers)
    assert not plan.folder.exists()
    bucket = fsspec.filesystem("memory")
    kept = {path.rpartition("/")[2] for path in bucket.ls(f"/{tmp_path.name}/over", detail=False)}
    assert kept >= set(there)
    assert BestWeights(plan.folder, plan.remote).hold(8 * len(answers))


def test_what_else_lies_in_the_folder_stays(tiny_t5: Path, data: TokenisedData, plan: RunPlan, tmp_path: Path) -> None:
    """A single run keeps its books there, where the command works on the same machine."""
    plan.folder.mkdir()
    (plan.folder / "lock").touch()
    run(tiny_t5, data, replace(plan, remote=f"memory://{tmp_path.name}/books"))
    assert [path.name for path in plan.folder.iterdir()] == ["lock"]


def test_no_worker_of_a_run_that_is_over_leaves_anything_and_the_first_waits_for_the_others(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """When it has left, the command may fetch the weights into a folder that others still tidy."""
    plan = replace(plan, remote=f"memory://{tmp_path.name}/group")
    with pytest.raises(KeyboardInterrupt):
        run(tiny_t5, data, plan, tick=cut_off_at(12))
    models = [load_model(str(tiny_t5)) for _ in range(2)]
    nodes, meet, said = [tmp_path / "first", tmp_path / "second"], threading.Barrier(2), dict[int, Any]()

    def late(folder: Path, *given: Any, **more: Any) -> None:
        time.sleep(0.5 if folder == nodes[1] else 0)
        drop_last(folder, *given, **more)

    def finish(rank: int) -> list[Path]:
        mine = replace(plan, folder=nodes[rank])
        with made_ready(models[rank], plan.config, Group()) as trainee, StateWriter(nodes[rank]) as states:
            loop._Run(trainee, data, mine, Together(rank, meet, said), states, lambda _: True, lambda _: None).go()
        loop._leave_node(mine, Together(rank, meet, said))
        return [node for node in nodes if node.exists()]

    monkeypatch.setattr(loop, "drop_last", late)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(finish, range(2))) == [[], []]
