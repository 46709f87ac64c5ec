"""Saved states: that none is lost, and that no damage to one is taken for a state."""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from t5ray.data.tokens import TokenisedData
from t5ray.disk import sync
from t5ray.errors import StorageError
from t5ray.locking import lock
from t5ray.model.loading import load_model
from t5ray.training import checkpoint, loop
from t5ray.training.checkpoint import BEFORE_LAST, LAST, Progress, StateWriter, drop_last, load_last, sweep
from t5ray.training.group import Group
from t5ray.training.plan import RunPlan
from t5ray.training.trainee import made_ready
from tests.training.running import Together, run
from tests.training.test_resume import cut_off_at, flipped, half

Damage = Callable[[Path], None]


def save(folder: Path, step: int, damage: Damage | None = None) -> None:
    with StateWriter(folder) as states:
        states.save({"weights": torch.full((1000,), float(step))}, Progress(step=step))
    if damage is not None:
        damage(folder / LAST)


def flat(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a run's state, each by its place."""
    moments = state["optimizer"]["state"]
    return {
        **state["weights"],
        **{f"{index} {name}": value for index, found in moments.items() for name, value in found.items()},
    }


def step_of(folder: Path) -> int | None:
    found = load_last(folder)
    return None if found is None else found[1].step


def killed_between_two_renames(folder: Path) -> None:
    save(folder, 8)
    (folder / LAST).rename(folder / BEFORE_LAST)


def test_workers_of_one_node_read_what_a_kill_between_two_renames_left(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tiny_t5, data, plan, tick=cut_off_at(12))
    (plan.folder / LAST).rename(plan.folder / BEFORE_LAST)

    def late(folder: Path, **given: Any) -> int:
        time.sleep(0.3)
        return sweep(folder, **given)

    monkeypatch.setattr(loop, "sweep", late)
    meet, said = threading.Barrier(2), dict[int, Any]()
    models = [load_model(str(tiny_t5)) for _ in range(2)]

    def restored(rank: int) -> int:
        group = Together(rank, meet, said)
        with made_ready(models[rank], plan.config, Group()) as trainee, StateWriter(plan.folder) as states:
            return loop._Run(trainee, data, plan, group, states, lambda _: True, lambda _: None).progress.step

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(restored, range(2))) == [8, 8]


def test_runs_side_by_side_write_their_states_by_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spare, unfinished = set[int](), set[int]()

    def slow(function: Callable[..., None]) -> Callable[..., None]:
        def slowly(*given: Any) -> None:
            function(*given)
            time.sleep(0.01)
            spare.add(sum(path.name != LAST for path in tmp_path.rglob("*.pt*")))
            unfinished.add(len(list(tmp_path.glob("*/.last.pt.tmp"))))

        return slowly

    def save_often(name: str, *, shares_disk: bool) -> None:
        with StateWriter(tmp_path / name, shares_disk=shares_disk, keeps_spare=True) as states:
            for step in range(10):
                states.save({"weights": torch.full((1000,), float(step))}, Progress(step=step))

    monkeypatch.setattr(torch, "save", slow(torch.save))
    monkeypatch.setattr(checkpoint, "sync", slow(sync))
    for shares_disk in (True, False):
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(save_often, name, shares_disk=shares_disk) for name in ("one", "two")]:
                done.result()
        if shares_disk:
            assert max(spare) == 1  # from the first byte that is written until the state before has gone
        assert (max(unfinished) == 1) == shares_disk
        assert [step_of(tmp_path / name) for name in ("one", "two")] == [9, 9]


@pytest.mark.parametrize(("shares_disk", "kept"), [(True, {LAST}), (False, {LAST, BEFORE_LAST})])
def test_the_state_before_stays_until_the_disk_has_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shares_disk: bool, kept: set[str]
) -> None:
    may_land = threading.Event()
    monkeypatch.setattr(checkpoint, "sync", lambda path: may_land.wait(60))
    with StateWriter(tmp_path, shares_disk=shares_disk) as states:
        may_land.set()
        states.save({}, Progress(step=8))
        states.wait()
        may_land.clear()
        states.save({}, Progress(step=16))  # returns although it has not landed
        assert step_of(tmp_path) == 16
        half(tmp_path / LAST)  # as a power cut would leave it
        assert step_of(tmp_path) == 8
        may_land.set()
        states.wait()
        assert {path.name for path in tmp_path.iterdir()} == kept


@pytest.mark.parametrize("shares_disk", [True, False])
def test_a_state_is_written_into_the_file_of_one_that_is_wanted_no_more(tmp_path: Path, shares_disk: bool) -> None:
    """Also where that was longer, and by a run that has just begun."""

    def save_one(name: str, step: int, numbers: int) -> Path:
        with StateWriter(tmp_path / name, shares_disk=shares_disk, keeps_spare=True) as states:
            states.save({"weights": torch.full((numbers,), float(step))}, Progress(step=step))
        found = load_last(tmp_path / name)
        assert found is not None
        assert (found[1].step, found[0]["weights"].tolist()) == (step, [float(step)] * numbers)
        witness = tmp_path / f"witness-{name}-{step}"
        witness.hardlink_to(tmp_path / name / LAST)  # keeps what was deleted from being made again under its number
        return witness

    files = [save_one("one", step, numbers) for step, numbers in ((1, 1000), (2, 1000), (3, 10), (4, 1000))]
    assert [files[2].samefile(files[0]), files[3].samefile(files[1]), files[1].samefile(files[0])] == [
        True,
        True,
        False,
    ]
    if shares_disk:
        assert save_one("two", 1, 500).samefile(files[2])
        drop_last(tmp_path / "one", keeps_spare=True)
        assert list((tmp_path / "one").iterdir()) == []
        assert save_one("two", 2, 500).samefile(files[3])


def test_what_was_read_of_a_state_does_not_change_when_its_file_is_written_over(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tiny_t5, data, plan, tick=cut_off_at(12))
    found, config = load_last(plan.folder), plan.config
    assert found is not None
    with made_ready(load_model(str(tiny_t5)), config, Group()) as trainee:
        trainee.load_state(found[0])
        before = {name: value.clone() for name, value in flat(trainee.state()).items()}
        size = (plan.folder / LAST).stat().st_size
        with (plan.folder / LAST).open("r+b") as file:
            file.write(b"\xff" * size)
        after = flat(trainee.state())
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert len(before) > 2 * sum(1 for _ in trainee.loaded.model.parameters())


@pytest.mark.parametrize(("shares_disk", "kept"), [(True, {LAST}), (False, {LAST, BEFORE_LAST})])
def test_what_a_kill_left_is_on_the_disk_before_another_state_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shares_disk: bool, kept: set[str]
) -> None:
    for step in (8, 16):
        save(tmp_path, step)
    synced = list[tuple[str, set[str]]]()
    monkeypatch.setattr(
        checkpoint, "sync", lambda path: synced.append((path.name, {each.name for each in tmp_path.iterdir()}))
    )
    assert sweep(tmp_path, shares_disk=shares_disk) == 16
    assert synced == [(name, {LAST, BEFORE_LAST}) for name in (LAST, tmp_path.name)]
    assert {path.name for path in tmp_path.iterdir()} == kept


@pytest.mark.parametrize("later", [StateWriter.wait, lambda states: states.save({}, Progress(step=16))])
def test_a_state_that_the_disk_did_not_take_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: Callable[[StateWriter], None]
) -> None:
    def refused(path: Path) -> None:
        raise OSError(5, "Input/output error")

    with StateWriter(tmp_path / "trials/one", shares_disk=True) as states:
        states.save({}, Progress(step=4))
        states.wait()
        monkeypatch.setattr(checkpoint, "sync", refused)
        states.save({}, Progress(step=8))
        told = rf"{tmp_path}/trials/one: .*Input/output error\. .*let it be written again, then .* with --resume\."
        with pytest.raises(StorageError, match=told):
            later(states)
        assert step_of(tmp_path / "trials/one") == 4
        with (tmp_path / ".trials.turn").open("a") as file:
            assert lock(file)  # the others may go on


@pytest.mark.parametrize("damage", [half, flipped])
def test_a_kill_while_the_next_state_is_written_loses_none_where_the_last_one_is_damaged(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, monkeypatch: pytest.MonkeyPatch, damage: Damage
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tiny_t5, data, plan, tick=cut_off_at(20))
    damage(plan.folder / LAST)

    def killed(*given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    often = replace(plan, config=plan.config.model_copy(update={"checkpoint_every_s": 1e-9}))
    with pytest.raises(KeyboardInterrupt):
        run(tiny_t5, data, often)
    assert step_of(plan.folder) == 8


def test_damage_to_the_archive_s_directory_is_told_from_a_state(tmp_path: Path) -> None:
    save(tmp_path, 8)
    whole = (tmp_path / LAST).read_bytes()
    directory = whole.index(b"PK\x01\x02")
    places = random.Random(0).sample(range(directory, len(whole)), 200)
    for place in places:
        (tmp_path / LAST).write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        assert step_of(tmp_path) in (8, None), place
    for length in range(len(whole) - 60, len(whole)):
        (tmp_path / LAST).write_bytes(whole[:length])
        assert step_of(tmp_path) is None
    assert sweep(tmp_path) == -1
    assert list(tmp_path.iterdir()) == []
