"""A run that is cut off anywhere goes on from its last whole state and ends with the bits of an undisturbed one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from t5ray.data.tokens import TokenisedData
from t5ray.training.checkpoint import BEFORE_LAST, LAST, load_last
from t5ray.training.plan import Pulse, RunPlan
from tests.training.running import Weights, curves, go_on, kept, run

EVERYTHING = {
    "optimizer": "adafactor",
    "ema_decay": 0.9,
    "freeze_embeddings": True,
    "layer_decay": 0.8,
    "evaluate_every_steps": 3,
    "label_smoothing": 0.1,
    "schedule": "cosine",
    "warmup_steps": 4,
}


def cut_off_at(step: int) -> Callable[[Pulse], None]:
    def pull_the_plug(pulse: Pulse) -> None:
        if pulse.step == step:
            raise KeyboardInterrupt

    return pull_the_plug


def told(reports: list[dict[str, Any]]) -> list[Any]:
    """What must come out the same: all but seconds and memory."""
    fields = ("epoch", "step", "value", "best_step", "best_value", "final", "evaluations")
    points = [[(p["step"], p["loss"], p["grad_norm"], p["learning_rate"]) for p in r["history"]] for r in reports]
    return [[r[name] for name in fields] for r in reports] + points + curves(reports)


def same(one: Weights, other: Weights) -> bool:
    return all(torch.equal(one[name], other[name]) for name in other)


ADAPTED = {"lora_rank": 4, "lora_dropout": 0.2, "ema_decay": 0.5, "freeze_layers": 1}
PURE = {"precision": "bf16_pure", "ema_decay": 0.5}


@pytest.mark.parametrize("settings", [{}, EVERYTHING, ADAPTED, PURE], ids=["plain", "everything", "adapted", "pure"])
def test_cut_off_at_any_step_a_run_ends_with_the_bits_of_an_undisturbed_one(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, tmp_path: Path, settings: dict[str, Any]
) -> None:
    plan = replace(plan, config=plan.config.model_copy(update={"max_epochs": 2, **settings}))
    undisturbed, weights = run(tiny_t5, data, plan)
    often = replace(
        plan, folder=tmp_path / "cut-off", config=plan.config.model_copy(update={"checkpoint_every_s": 1e-9})
    )
    for step in (1, 5, 8, 9, 14):
        with pytest.raises(KeyboardInterrupt):
            run(tiny_t5, data, often, tick=cut_off_at(step))
    saved = load_last(often.folder)
    assert saved is not None
    assert saved[1].step == 13  # the step that was cut off is not in it
    resumed, again = run(tiny_t5, data, often)
    assert told(resumed) == told(undisturbed)
    assert same(weights, again)
    one, other = (kept(folder) / "model.safetensors" for folder in (often.folder, plan.folder))
    assert one.read_bytes() == other.read_bytes()


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lost(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [half, flipped, lost])
def test_a_damaged_state_falls_back_to_the_one_before(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    undisturbed, weights = run(tiny_t5, data, plan)
    cut_off = replace(plan, folder=tmp_path / "cut-off")
    with pytest.raises(KeyboardInterrupt):
        run(tiny_t5, data, cut_off, tick=cut_off_at(20))
    assert {LAST, BEFORE_LAST} <= {path.name for path in cut_off.folder.iterdir()}
    damage(cut_off.folder / LAST)
    saved = load_last(cut_off.folder)
    assert saved is not None
    assert saved[1].epoch == 1
    resumed, again = run(tiny_t5, data, cut_off)
    assert told(resumed) == told(undisturbed)
    assert same(weights, again)


@pytest.mark.parametrize("shares_disk", [False, True])
def test_with_all_states_damaged_a_run_begins_anew(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, tmp_path: Path, shares_disk: bool
) -> None:
    cut_off = replace(plan, folder=tmp_path / "cut-off", shares_disk=shares_disk)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_t5, data, cut_off, tick=cut_off_at(20))
    for state in cut_off.folder.glob("*.pt"):
        half(state)
    assert load_last(cut_off.folder) is None
    assert told(run(tiny_t5, data, cut_off)[0]) == told(run(tiny_t5, data, plan)[0])


def test_what_was_told_before_is_told_again_and_not_trained_again(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan
) -> None:
    def crash(pulse: Pulse) -> None:
        if pulse.step > 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny_t5, data, plan, tick=crash)
    steps: list[int] = []
    reports, _ = run(tiny_t5, data, plan, go_on, lambda pulse: steps.append(pulse.step))
    assert [report["epoch"] for report in reports] == [1, 2, 3]
    assert steps == list(range(17, 25))


def test_a_run_that_nobody_listens_to_any_more_leaves_its_state(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan
) -> None:
    def leave_in_two(report: dict[str, Any]) -> bool | None:
        return True if report["epoch"] < 2 else None

    run(tiny_t5, data, plan, leave_in_two)
    assert (plan.folder / LAST).exists()
    steps: list[int] = []
    reports, _ = run(tiny_t5, data, plan, tick=lambda pulse: steps.append(pulse.step))
    assert [report["epoch"] for report in reports] == [1, 2, 3]
    assert steps == list(range(9, 25))  # the first epoch of 8 steps is not trained again


def test_a_state_is_written_only_for_a_run_that_goes_on(tiny_t5: Path, data: TokenisedData, plan: RunPlan) -> None:
    found: list[bool] = []

    def stop_after_two(report: dict[str, Any]) -> bool:
        found.append((plan.folder / "last.pt").exists())
        return len(found) < 2

    reports, _ = run(tiny_t5, data, plan, stop_after_two)
    assert found == [False, True]  # none is written before the answer; the second is that of epoch 1
    assert [report["save_s"] > 0 for report in reports] == [True, True]


def test_a_run_with_a_uri_goes_on_where_its_folder_is_gone(
    tiny_t5: Path, data: TokenisedData, plan: RunPlan, tmp_path: Path
) -> None:
    undisturbed, weights = run(tiny_t5, data, plan)
    remote = f"memory://{tmp_path.name}/0"
    moved = replace(plan, folder=tmp_path / "one node", remote=remote)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_t5, data, moved, tick=cut_off_at(20))
    steps: list[int] = []
    there = replace(moved, folder=tmp_path / "another node")
    resumed, again = run(tiny_t5, data, there, tick=lambda pulse: steps.append(pulse.step))
    assert steps == list(range(17, 25))
    assert told(resumed) == told(undisturbed)
    assert same(weights, again)
