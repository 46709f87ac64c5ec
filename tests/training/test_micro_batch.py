"""What fits the memory is found by trying, the same on all workers, and changes nothing but how steps are cut."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from t5ray.data.batches import Limit
from t5ray.data.tokens import TokenisedData, TokenisedSplit
from t5ray.model import packed
from t5ray.model.loading import LoadedModel, load_model
from t5ray.training import micro_batch, step
from t5ray.training.group import Group
from t5ray.training.loop import fine_tune
from t5ray.training.plan import RunFailed, RunPlan
from t5ray.training.trainee import made_ready
from tests.data.test_batches import split_of
from tests.training.conftest import plan_in
from tests.training.running import curves, run

Attempts = list[tuple[int, int]]
"""Rows and input tokens of each."""


def test_on_cpus_tokens_are_limited_without_a_trial(tiny_t5: Path, data: TokenisedData, plan: RunPlan) -> None:
    with made_ready(load_model(str(tiny_t5)), plan.config, Group()) as trainee:
        limit = micro_batch.row_limit(trainee, data.train, plan.config, Group())
    assert [limit(tokens) for tokens in (16, 512, 5000)] == [4096 // 16, 4096 // 512, 1]


@contextmanager
def memory_for(tokens: int) -> Iterator[Attempts]:
    """A device that runs out of memory above so many padded input tokens; what was forwarded on it."""
    real, attempts = packed.summed_loss, Attempts()

    def limited(forward: Any, input_ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        attempts.append(tuple(input_ids.shape))  # type: ignore[arg-type]
        loss = real(forward, input_ids, *rest)
        if input_ids.numel() > tokens:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return loss

    with (
        mock.patch.object(step, "summed_loss", limited),
        mock.patch.object(micro_batch, "_can_run_out", return_value=True),
    ):
        yield attempts


def split_with(lengths: list[int]) -> TokenisedSplit:
    """Rows of so many tokens, one of them the target's."""
    return split_of([[5] * (n - 1) for n in lengths], [[6]] * len(lengths))


def limit_for(loaded: LoadedModel, split: TokenisedSplit, plan: RunPlan) -> Limit:
    with made_ready(loaded, plan.config, Group()) as trainee:
        return micro_batch.row_limit(trainee, split, plan.config, Group())


def test_rows_are_halved_until_they_fit_in_each_class_of_lengths(tiny_t5: Path, plan: RunPlan) -> None:
    split = split_with([20, 30, 70, 101, 201])
    with memory_for(450) as attempts:
        limit = limit_for(load_model(str(tiny_t5)), split, plan)
    # at most 16 rows a step: 29 tokens: 16 would be 464; 100: 8 would be 800; 200: 4 would be 800
    assert [limit(tokens) for tokens in (1, 20, 64, 65, 101, 128, 129, 201)] == [8, 8, 8, 4, 4, 4, 2, 2]
    tried = [(16, 29), (8, 29), (8, 29), (8, 100), (4, 100), (4, 100), (4, 200), (2, 200), (2, 200)]
    assert attempts == tried  # what fits is run twice: the second time beside gradients


def test_rows_of_long_targets_are_tried_before_longer_rows_of_short_ones(tiny_t5: Path, plan: RunPlan) -> None:
    split = split_of([[5] * 50, [5] * 10], [[6] * 9, [6] * 48])  # 59 and 58 tokens in all
    with memory_for(10_000) as attempts:
        limit_for(load_model(str(tiny_t5)), split, plan_in(plan.folder, batch_size=1))
    assert attempts[0] == (1, 10)


def test_a_small_batch_needs_no_halving(tiny_t5: Path, tmp_path: Path) -> None:
    split = split_with([20, 30, 70, 101, 201])
    with memory_for(10_000):
        assert limit_for(load_model(str(tiny_t5)), split, plan_in(tmp_path, batch_size=5))(201) == 5
        few = plan_in(tmp_path, batch_size=5, micro_batch_size=2)
        assert limit_for(load_model(str(tiny_t5)), split, few)(201) == 2


def test_what_fits_is_remembered_with_the_model(tiny_t5: Path, plan: RunPlan) -> None:
    loaded, split = load_model(str(tiny_t5)), split_with([20, 101])
    with memory_for(450) as attempts:
        first = limit_for(loaded, split, plan)
        tried = len(attempts)
        again = limit_for(loaded, split, plan)
        assert len(attempts) == tried
        assert [again(n) for n in (20, 101)] == [first(n) for n in (20, 101)] == [16, 4]
        limit_for(loaded, split_with([20, 110]), plan)  # another length
        assert len(attempts) > tried


@pytest.mark.parametrize("setting", [{"label_smoothing": 0.1}, {"lora_dropout": 0.1}, {"dropout": 0.0}])
def test_what_takes_other_memory_is_tried_again(tiny_t5: Path, tmp_path: Path, setting: dict[str, float]) -> None:
    loaded, split = load_model(str(tiny_t5)), split_with([20, 101])
    with memory_for(450) as attempts:
        limit_for(loaded, split, plan_in(tmp_path, lora_rank=2))
        tried = len(attempts)
        limit_for(loaded, split, plan_in(tmp_path, lora_rank=2, **setting))
        assert len(attempts) > tried


@pytest.mark.parametrize("name", ["dropout", "lora_dropout", "label_smoothing"])
def test_what_takes_the_same_memory_at_every_value_is_tried_once(tiny_t5: Path, tmp_path: Path, name: str) -> None:
    loaded, split = load_model(str(tiny_t5)), split_with([20])
    with memory_for(450) as attempts:
        limit_for(loaded, split, plan_in(tmp_path, lora_rank=2, **{name: 0.1}))
        tried = len(attempts)
        limit_for(loaded, split, plan_in(tmp_path, lora_rank=2, **{name: 0.2}))
        assert len(attempts) == tried > 0


def test_a_row_that_fits_nowhere_ends_the_run(tiny_t5: Path, plan: RunPlan) -> None:
    message = "out of GPU memory: it must hold a row of 101 tokens, but does not on some worker"
    with memory_for(99), pytest.raises(RunFailed, match=message):
        limit_for(load_model(str(tiny_t5)), split_with([20, 101]), plan)


def test_trying_leaves_no_trace(tiny_t5: Path, data: TokenisedData, plan: RunPlan, tmp_path: Path) -> None:
    """Where all rows fit, a run that tried has the bits of one that did not."""
    plain, weights = run(tiny_t5, data, plan)
    with memory_for(10_000) as attempts:
        tried, again = run(tiny_t5, data, replace(plan, folder=tmp_path / "tried"))
    assert attempts[0][0] == 16
    assert curves(tried) == curves(plain)
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_losses_do_not_depend_on_what_fits(tiny_t5: Path, data: TokenisedData, plan: RunPlan, tmp_path: Path) -> None:
    still = replace(plan, config=plan.config.model_copy(update={"dropout": 0.0}))
    whole, _ = run(tiny_t5, data, still)
    with memory_for(60) as attempts:
        parts, _ = run(tiny_t5, data, replace(still, folder=tmp_path / "parts"))
    assert max(rows for rows, _ in attempts[3:]) <= 5
    torch.testing.assert_close(torch.tensor(curves(parts)), torch.tensor(curves(whole)), rtol=1e-3, atol=1e-6)


def _worker(rank: int, store: str, model: str, data: TokenisedData, plan: RunPlan, out: str) -> None:
    """Be one of two workers, of which the second has less memory."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    reports: list[dict[str, Any]] = []

    def report(told: dict[str, Any]) -> bool:
        reports.append(told)
        return True

    with memory_for(10_000 if rank == 0 else 60) as attempts:
        fine_tune(load_model(model), data, plan, group=Group(), report=report, tick=lambda pulse: None)
    Path(f"{out}/{rank}").write_text(json.dumps([curves(reports), attempts]), encoding="utf-8")
    dist.destroy_process_group()


def test_workers_agree_on_what_fits_the_smallest(tiny_t5: Path, data: TokenisedData, tmp_path: Path) -> None:
    plan = plan_in(tmp_path / "two", dropout=0.0, max_epochs=1)
    args = (str(tmp_path / "store"), str(tiny_t5), data, plan, str(tmp_path))
    start_processes(_worker, args, nprocs=2)  # type: ignore[no-untyped-call]
    (told, roomy), (_, tight) = (json.loads((tmp_path / str(rank)).read_text(encoding="utf-8")) for rank in (0, 1))
    assert roomy[:2] == [[8, 11]] * 2  # half of 16 rows fit the first worker, but not the second
    assert max(rows for rows, _ in roomy[4:]) == max(rows for rows, _ in tight[3:]) == 4
    alone, _ = run(tiny_t5, data, plan_in(tmp_path / "alone", dropout=0.0, max_epochs=1))
    torch.testing.assert_close(torch.tensor(told), torch.tensor(curves(alone)), rtol=1e-3, atol=1e-6)
