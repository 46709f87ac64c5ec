"""What a run has on disk at most, and that it cleans up behind a kill."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import T5ForConditionalGeneration

from t5ray.data.tokens import TokenisedData
from t5ray.training.checkpoint import SPARE, weights_in_state
from t5ray.training.plan import RunPlan
from tests.disk import HighWater
from tests.tiny import character_tokenizer, tiny_config
from tests.training.running import kept, run
from tests.training.test_best import judging


@pytest.mark.parametrize("shares_disk", [False, True])
@pytest.mark.parametrize(("every", "seconds"), [(None, None), (3, None), (3, 0.001)])
def test_a_run_has_a_best_and_a_last_checkpoint_and_each_once_more_while_it_is_replaced(
    tmp_path_factory: pytest.TempPathFactory,
    data: TokenisedData,
    plan: RunPlan,
    monkeypatch: pytest.MonkeyPatch,
    every: int | None,
    seconds: float | None,
    shares_disk: bool,
) -> None:
    wide = tmp_path_factory.mktemp("wide")
    T5ForConditionalGeneration(tiny_config(d_model=256)).save_pretrained(wide)
    character_tokenizer().save_pretrained(wide)
    found = HighWater()

    def looking(function: Callable[..., None]) -> Callable[..., None]:
        def look(*given: Any) -> None:
            function(*given)
            found.look(plan.folder.parent)

        return look

    # a state is whole, and the one before may still be there; what the disk has may make others go
    monkeypatch.setattr(torch, "save", looking(torch.save))
    monkeypatch.setattr(os, "fsync", looking(os.fsync))
    judging(monkeypatch, *(1 - 0.1 * number for number in range(9)))  # each evaluation is the best so far
    config = plan.config.model_copy(update={"evaluate_every_steps": every, "checkpoint_every_s": seconds})
    falling = replace(plan, objective="validation_loss", mode="min", config=config, shares_disk=shares_disk)
    reports, _ = run(wide, data, falling)
    assert [report["best_epoch"] for report in reports] == [1, 2, 3]
    assert (found.weights, found.states, found.whole) == (2, 2, 2)
    size = (wide / "model.safetensors").stat().st_size
    assert found.size_bytes <= 1.02 * (2 + 2 * weights_in_state(config)) * size  # numbers beside the tensors
    assert [path.name for path in plan.folder.iterdir()] == ["best-24"]


@pytest.mark.parametrize(
    ("shares_disk", "remote", "keeps"), [(True, None, True), (True, "memory://runs/0", False), (False, None, False)]
)
def test_only_where_the_command_can_delete_it_a_run_leaves_a_file_to_the_next(
    tmp_path: Path,
    data: TokenisedData,
    plan: RunPlan,
    tiny_t5: Path,
    shares_disk: bool,
    remote: str | None,
    keeps: bool,
) -> None:
    run(tiny_t5, data, replace(plan, shares_disk=shares_disk, remote=remote))
    assert (plan.folder.parent / SPARE).exists() == keeps


def test_what_a_kill_left_half_written_is_deleted(
    tmp_path: Path, data: TokenisedData, plan: RunPlan, tiny_t5: Path
) -> None:
    half = plan.folder / ".best-8.0123abcd.tmp"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    (plan.folder / ".last.pt.tmp").write_bytes(b"half")
    run(tiny_t5, data, plan)
    assert list(plan.folder.iterdir()) == [kept(plan.folder)]
