"""The workers of a run, seen from one of them."""

from typing import Any

import pytest
import torch.distributed as dist

from t5ray.training.group import Group


def test_what_is_gathered_is_of_every_worker_whatever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def two_workers(parts: list[Any], value: Any) -> None:
        parts[:] = [value, None]

    group = Group()
    group.size = 2
    monkeypatch.setattr(dist, "all_gather_object", two_workers)
    assert group.gather("first") == ["first", None]
