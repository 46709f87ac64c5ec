"""A run keeps one set of best weights with its epoch's report: cut off at any moment, it goes on as if it were not."""

import shutil
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
from fsspec.implementations.memory import MemoryFileSystem
from transformers import AutoModelForSeq2SeqLM

from t5ray.data.tokens import TokenisedData
from t5ray.model.loading import load_model
from t5ray.training import checkpoint, loop
from t5ray.training.best import REPORT, BestWeights, best_name
from t5ray.training.checkpoint import BEFORE_LAST, LAST, StateWriter, drop_last
from t5ray.training.group import Group
from t5ray.training.plan import RunPlan
from t5ray.training.trainee import made_ready
from t5ray.training.validation import Validation
from tests.training.running import Together, Weights, run
from tests.training.test_resume import cut_off_at, same, told


def judging(monkeypatch: pytest.MonkeyPatch, *losses: float) -> None:
    """Let validation find these losses, one after the other."""
    found: Iterator[float] = iter(losses)
    monkeypatch.setattr(loop, "validate", lambda *_, **__: Validation(next(found), {"exact_match": 0.5}, 0.0))


def train(
    model: Path, data: TokenisedData, plan: RunPlan, answers: dict[int, bool | None]
) -> list[tuple[Any, Weights]]:
    """Train until an answer ends it, and return each report with the weights at that time; a missing answer: a kill."""
    loaded, heard = load_model(str(model)), list[tuple[Any, Weights]]()

    def report(found: dict[str, Any]) -> bool | None:
        heard.append((found, {name: weight.clone() for name, weight in loaded.model.state_dict().items()}))
        if found["epoch"] not in answers:
            raise KeyboardInterrupt
        return answers[found["epoch"]]

    plan = replace(plan, objective="validation_loss", mode="min")
    with suppress(KeyboardInterrupt):
        loop.fine_tune(loaded, data, plan, group=Group(), report=report, tick=lambda _: None)
    return heard


def hold(plan: RunPlan, step: int, expected: Weights) -> bool:
    """Say whether the weights of a step are these."""
    return same(load_weights(plan.folder / best_name(step)), expected)


def load_weights(folder: Path) -> Weights:
    weights: Weights = AutoModelForSeq2SeqLM.from_pretrained(folder).state_dict()
    return weights


def steps(plan: RunPlan) -> list[str]:
    return sorted(path.name for path in plan.folder.glob("best-*"))


@pytest.mark.parametrize("answers", [{1: True}, {1: True, 2: None}], ids=["killed", "nobody listens"])
def test_better_weights_take_the_place_of_those_before_with_what_is_told_of_them(
    tiny_t5: Path,
    data: TokenisedData,
    plan: RunPlan,
    monkeypatch: pytest.MonkeyPatch,
    answers: dict[int, bool | None],
) -> None:
    judging(monkeypatch, 0.5, 0.4)
    (first, _), (second, better) = train(tiny_t5, data, plan, answers)
    assert (first["best_step"], second["best_step"]) == (8, 16)
    assert steps(plan) == ["best-16"]
    assert hold(plan, 16, better)
    assert BestWeights(plan.folder).report() == second


def test_no_two_are_whole_while_one_takes_the_place_of_the_other(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, rename = set[tuple[str, ...]](), Path.rename

    def looking(path: Path, target: Path) -> Path:
        seen.add(tuple(steps(plan)))
        done = rename(path, target)
        seen.add(tuple(steps(plan)))
        return done

    monkeypatch.setattr(Path, "rename", looking)
    judging(monkeypatch, 0.5, 0.4, 0.6)
    train(tiny_t5, data, plan, {1: True, 2: True, 3: True})
    assert seen == {(), ("best-8",), ("best-16",)}


class Plug:
    """Counts what is done to weights, and kills the run before or amid one of these; a kill tidies nothing."""

    def __init__(self) -> None:
        self.done, self.last, self.gone = 0, -1, False

    def pull(self, path: str | Path) -> bool:
        if "best-" not in str(path).rpartition("/run")[2]:
            return True
        if self.done == self.last and not self.gone:
            self.gone = True
            raise KeyboardInterrupt
        self.done += not self.gone
        return not self.gone

    def here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Count renames and deletions on this disk; of the latter one comes when one file is left."""
        rename, rmtree = Path.rename, shutil.rmtree

        def deleting(path: Path, **given: Any) -> None:
            if self.pull(path):
                first, *rest = [*sorted(path.rglob("*.safetensors")), path]
                for part in (first, *rest):
                    if part.is_file():
                        part.unlink()
                    elif self.pull(path):
                        rmtree(part, **given)

        monkeypatch.setattr(Path, "rename", lambda path, target: rename(path, target) if self.pull(path) else None)
        monkeypatch.setattr(shutil, "rmtree", deleting)

    def there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Count files that come to a URI, and deletions; no file is half there."""
        for name in ("put_file", "rm", "rm_file"):
            found = getattr(MemoryFileSystem, name)

            def counted(own: Any, path: Any, *given: Any, function: Any = found, **more: Any) -> Any:
                touched = given[0] if function.__name__ == "put_file" else path
                return function(own, path, *given, **more) if self.pull(touched) else None

            monkeypatch.setattr(MemoryFileSystem, name, counted)


@pytest.mark.parametrize("shares_disk", [True, False], ids=["of a search", "alone"])
def test_a_kill_at_any_moment_of_that_changes_nothing_of_what_the_run_tells(
    tiny_t5: Path,
    data: TokenisedData,
    plan: RunPlan,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    shares_disk: bool,
) -> None:
    config = plan.config.model_copy(update={"max_epochs": 2})
    plan = replace(plan, objective="validation_loss", mode="min", shares_disk=shares_disk, config=config)
    plug = Plug()
    plug.here(monkeypatch)
    expected, _ = run(tiny_t5, data, replace(plan, folder=tmp_path / "whole/run"))
    best = load_weights(tmp_path / "whole/run/best-16")
    moments = plug.done
    assert moments > 5  # two are put in place, one of them where another was, which is deleted
    for moment in range(moments):
        killed = replace(plan, folder=tmp_path / f"{moment}/run")
        plug.done, plug.last = 0, moment
        with suppress(KeyboardInterrupt):
            run(tiny_t5, data, killed)
        assert plug.gone
        plug.last, plug.gone = -1, False
        found, _ = run(tiny_t5, data, killed)
        assert told(found) == told(expected)
        assert [path.name for path in killed.folder.iterdir()] == ["best-16"]
        assert same(load_weights(killed.folder / "best-16"), best)


@pytest.mark.parametrize("node", ["run", "another/run"], ids=["the same node", "another node"])
def test_neither_does_a_kill_as_they_come_to_a_uri(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, node: str
) -> None:
    """A node that is killed leaves what it had, and may be the one that goes on later."""
    config = plan.config.model_copy(update={"max_epochs": 2})
    plan = replace(plan, objective="validation_loss", mode="min", config=config)
    plug = Plug()
    plug.there(monkeypatch)
    expected, _ = run(tiny_t5, data, replace(plan, remote=f"memory://{tmp_path.name}/whole/run"))
    there = fsspec.filesystem("memory")
    moments = plug.done
    assert moments > 12
    for moment in range(moments):
        remote = f"/{tmp_path.name}/{moment}/run"
        first = replace(plan, folder=tmp_path / f"{moment}/run", remote=f"memory:/{remote}")
        plug.done, plug.last = 0, moment
        with suppress(KeyboardInterrupt):
            run(tiny_t5, data, first)
        assert plug.gone
        plug.last, plug.gone = -1, False
        found, _ = run(tiny_t5, data, replace(first, folder=tmp_path / f"{moment}/{node}"))
        assert told(found) == told(expected)
        assert {path.rpartition("/")[2] for path in there.ls(remote, detail=False)} == {"best-16"}
        assert there.exists(f"{remote}/best-16/model.safetensors")


def test_what_another_node_has_kept_goes_for_nothing_that_lies_here(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Killed here in epoch 2, and there when epoch 2's weights were kept and told of: the books may name those."""
    plan = replace(plan, remote=f"memory://{tmp_path.name}/run", objective="validation_loss", mode="min")
    with pytest.raises(KeyboardInterrupt):
        run(tiny_t5, data, plan, tick=cut_off_at(12))
    assert steps(plan) == ["best-8"]
    train(tiny_t5, data, replace(plan, folder=tmp_path / "another"), {1: True})
    with pytest.raises(KeyboardInterrupt):
        run(tiny_t5, data, plan, tick=cut_off_at(12))
    kept = BestWeights(tmp_path / "driver", plan.remote)
    assert kept.hold(16)
    assert not kept.hold(8)


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


@pytest.mark.parametrize("seconds", [None, 1e-9], ids=["", "with states"])
@pytest.mark.parametrize("setting", [{}, {"lora_rank": 4, "ema_decay": 0.5}], ids=["plain", "adapted"])
def test_within_an_epoch_better_weights_wait_in_memory_and_in_its_states(
    tiny_t5: Path,
    data: TokenisedData,
    plan: RunPlan,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    seconds: float | None,
    setting: dict[str, Any],
) -> None:
    losses = [0.9, 0.8, 0.7, 0.6, 0.5, 0.55]  # at 3, 6, 8 and 11, 14, 16
    settings = {"evaluate_every_steps": 3, "checkpoint_every_s": seconds, "max_epochs": 2, **setting}
    often = replace(plan, config=plan.config.model_copy(update=settings), objective="validation_loss", mode="min")
    judging(monkeypatch, *losses)
    whole = replace(often, folder=tmp_path / "whole")
    expected, _ = run(tiny_t5, data, whole)
    judging(monkeypatch, *losses[:5], *(losses[5:] if seconds else losses[3:]))
    with suppress(KeyboardInterrupt):
        run(tiny_t5, data, often, tick=cut_off_at(16))  # of which there is no state yet
    assert steps(often) == ["best-8"]
    found, _ = run(tiny_t5, data, often)
    assert told(found) == told(expected)
    assert found[-1]["best_step"] == 14
    assert same(load_weights(often.folder / "best-14"), load_weights(whole.folder / "best-14"))
    assert steps(often) == ["best-14"]


@pytest.mark.parametrize("again", [0.6, 0.3], ids=["worse", "better"])
def test_an_epoch_whose_weights_are_kept_is_told_as_it_was_when_it_is_trained_again(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, monkeypatch: pytest.MonkeyPatch, again: float
) -> None:
    """On hardware that is not deterministic it may be another one after a kill."""
    judging(monkeypatch, 0.5, 0.4)
    *_, (first, weights) = train(tiny_t5, data, plan, {1: True})
    judging(monkeypatch, again, 0.7)
    *_, (second, _), (last, _) = train(tiny_t5, data, plan, {1: True, 2: True, 3: True})
    assert second == first
    assert (last["best_epoch"], last["best_step"], last["best_value"]) == (2, 16, 0.4)
    assert steps(plan) == ["best-16"]
    assert hold(plan, 16, weights)


def test_patience_does_not_end_such_an_epoch_before_its_time(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first time it went on to its end."""
    settings = {"evaluate_every_steps": 3, "early_stopping_patience": 2}
    patient = replace(plan, config=plan.config.model_copy(update=settings))
    judging(monkeypatch, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
    train(tiny_t5, data, patient, {1: True})
    judging(monkeypatch, 0.8, 0.8, 0.8, 0.3, 0.3, 0.3)
    found = [report for report, _ in train(tiny_t5, data, patient, {1: True, 2: True, 3: True})]
    assert [(report["epoch"], report["step"], report["final"]) for report in found] == [
        (1, 8, False),
        (2, 16, False),
        (3, 24, True),
    ]


def test_all_workers_of_a_run_take_over_what_is_kept(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = replace(plan, config=plan.config.model_copy(update={"evaluate_every_steps": 3}))
    judging(monkeypatch, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
    (_, first), (_, _) = ((report, report) for report, _ in train(tiny_t5, data, often, {1: True}))
    best = BestWeights(often.folder).report()
    models, meet, said = [load_model(str(tiny_t5)) for _ in range(2)], threading.Barrier(2), dict[int, Any]()
    losses = {0: iter([0.8] * 6), 1: iter([0.8] * 6)}
    monkeypatch.setattr(
        loop, "validate", lambda *_, group, **__: Validation(next(losses[group.rank]), {"exact_match": 0.5}, 0.0)
    )
    again = replace(often, objective="validation_loss", mode="min")

    def finish(rank: int) -> Any:
        group = Together(rank, meet, said)
        with made_ready(models[rank], plan.config, Group()) as trainee, StateWriter(plan.folder) as states:
            progress, _ = loop._Run(trainee, data, again, group, states, lambda _: True, lambda _: None).go()
        return progress

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(finish, range(2))
    assert one.reports[0] == other.reports[0] == first
    assert one.reports[1] == other.reports[1] == best
    assert (one.best_step, other.best_step) == (16, 16)
    assert steps(plan) == ["best-16"]


@pytest.mark.parametrize(("reported", "best"), [(True, 0.4), (False, 0.55)])
def test_a_state_whose_best_weights_are_gone_takes_those_that_are_there_or_the_next_for_the_best(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, monkeypatch: pytest.MonkeyPatch, reported: bool, best: float
) -> None:
    judging(monkeypatch, 0.5, 0.4, 0.45)
    train(tiny_t5, data, plan, {1: True, 2: True})
    assert steps(plan) == ["best-16"]
    (plan.folder / LAST).unlink()
    assert (plan.folder / BEFORE_LAST).exists()  # of epoch 1, whose weights epoch 2's have replaced
    if not reported:
        (plan.folder / "best-16" / REPORT).unlink()
    judging(monkeypatch, 0.55, 0.6)
    *_, (last, _) = train(tiny_t5, data, plan, {1: True, 2: True, 3: True})
    assert (last["best_epoch"], last["best_step"], last["best_value"]) == (2, 16, best)
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
    assert kept_there() == ["best-24", "last.pt"]
    assert BestWeights(tmp_path / "another node", remote).hold(24)
    assert not BestWeights(tmp_path / "another node", remote).hold(16)
    judging(monkeypatch, 0.3)
    train(tiny_t5, data, plan, {1: True, 2: True, 3: False})
    assert kept_there() == ["best-24"]


@pytest.mark.parametrize(
    ("answers", "there"),
    [
        ({1: True, 2: True, 3: True}, []),
        ({1: True, 2: False}, []),
        ({1: True, 2: None}, ["best-16", LAST]),
        ({1: True, 2: True, 3: None}, ["best-24", LAST]),
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
