"""A full disk cuts a run off, to go on where it was once there is room again. /dev/full refuses as a full disk does."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from transformers import T5ForConditionalGeneration

from t5ray.data.tokens import TokenisedData
from t5ray.errors import StorageError
from t5ray.model.loading import load_model
from t5ray.training.checkpoint import SPARE
from t5ray.training.group import Group
from t5ray.training.mailbox import Job, Mailbox, Message
from t5ray.training.plan import RunPlan
from t5ray.training.refusal import refusal_in, taken_by_disk, tensor_bytes
from t5ray.training.worker import _do
from tests.training.running import curves, run

MIB = torch.zeros(2**18)
FULL = Path("/dev/full")


def write_state() -> None:
    with FULL.open("wb") as file:
        torch.save({"weights": MIB}, file)


def write_weights() -> None:  # the words of safetensors on a full file system; /dev/full itself it would replace
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def write_vocabulary() -> None:  # likewise, of tokenizers
    raise Exception("No space left on device (os error 28)")


def write_text() -> None:
    FULL.write_text("{}")


@pytest.mark.parametrize("write", [write_state, write_weights, write_vocabulary, write_text])
def test_every_way_of_writing_says_that_the_disk_is_full(tmp_path: Path, write: Callable[[], None]) -> None:
    told = rf"^{tmp_path}: .*needs 1 MiB, but: .*No space left.*: free at least 1 MiB there, then .* with --resume\.$"
    with pytest.raises(StorageError, match=told), taken_by_disk(tmp_path, lambda: tensor_bytes([{"w": MIB}])):
        write()


@pytest.mark.parametrize(
    "code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOENT, errno.EACCES, errno.EFBIG]
)
def test_what_another_run_would_not_meet_is_the_run_s_own(code: int) -> None:
    found = refusal_in(OSError(code, os.strerror(code)))
    assert (found is not None) == (code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO))
    assert refusal_in(RuntimeError(f"the loss is nan at step {code}")) is None


def test_tensors_that_share_their_memory_are_written_once() -> None:
    assert tensor_bytes({"a": MIB, "b": [MIB, torch.zeros(3)], "step": 4}) == 2**20 + 12


def no_room_for_states(plan: RunPlan, _: pytest.MonkeyPatch) -> None:
    plan.folder.parent.mkdir(parents=True)
    (plan.folder.parent / SPARE).symlink_to(FULL)  # the first state is written into it


def no_room_for_weights(_: RunPlan, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(T5ForConditionalGeneration, "save_pretrained", lambda *_, **__: write_weights())


@pytest.mark.parametrize(("fill", "epochs_told"), [(no_room_for_states, 1), (no_room_for_weights, 0)])
def test_a_run_whose_disk_is_full_is_told_to_go_on_later_and_does(
    tiny_t5: Path,
    data: TokenisedData,
    plan: RunPlan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fill: Callable[[RunPlan, pytest.MonkeyPatch], None],
    epochs_told: int,
) -> None:
    expected = curves(run(tiny_t5, data, replace(plan, folder=tmp_path / "undisturbed"))[0])
    plan = replace(plan, folder=tmp_path / "trials/one", shares_disk=True)
    box = Mailbox()
    box.submit(Job(1, plan))
    box.decide(1, 1, True)
    with monkeypatch.context() as patch:
        fill(plan, patch)
        _do(Job(1, plan), load_model(str(tiny_t5)), data, Group(), box)
    heard: list[Any] = [box.next_message(1, index, wait_s=0) for index in range(epochs_told + 1)]
    assert [isinstance(message, Message) and message.away for message in heard] == [False] * epochs_told + [True]
    assert str(heard[-1].failure).startswith(f"{plan.folder}: the disk must take checkpoints")
    assert {path.name for path in plan.folder.glob("*")} <= {"best-8"}  # nothing half written
    assert curves(run(tiny_t5, data, plan)[0]) == expected
