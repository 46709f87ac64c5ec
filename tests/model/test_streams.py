"""Rows shared out to threads: each comes back in its place, and says what it would alone."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from t5ray.config import DecodeConfig
from t5ray.model.engine import Engine
from t5ray.model.streams import num_streams, share_out
from tests.tiny import make_tiny_t5

TEXTS = [f"{number} bottles of {name}" for number in range(20) for name in ("beer", "elderflower wine", "ink")]


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_share_out_example() -> None:
    seen: list[list[int]] = []
    together = threading.Barrier(2, timeout=60)

    def negate(numbers: Sequence[int]) -> list[int]:
        seen.append(list(numbers))
        together.wait()
        return [-number for number in numbers]

    assert share_out(negate, [9, 7, 4, 2, 1], 2) == [-9, -7, -4, -2, -1]
    assert sorted(seen) == [[7, 2], [9, 4, 1]]


def test_torchs_threads_are_shared_out_and_given_back() -> None:
    assert share_out(lambda items: [torch.get_num_threads() for _ in items], [0, 0], 2) == [1, 1]
    assert torch.get_num_threads() == 2
    with pytest.raises(ZeroDivisionError):
        share_out(lambda items: [1 // item for item in items], [0, 0], 2)
    assert torch.get_num_threads() == 2


def test_few_rows_and_small_models_are_not_shared_out() -> None:
    assert num_streams(1000, 10**8) == 2
    assert num_streams(40, 10**8) == 1
    assert num_streams(1000, 10**5) == 1


@pytest.mark.parametrize("labels", [(), ("red", "reddish", "blue")])
def test_shared_out_rows_get_the_predictions_of_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: tuple[str, ...]
) -> None:
    folder = make_tiny_t5(tmp_path / "model")
    engine = Engine(str(folder), decode=DecodeConfig(max_new_tokens=9), labels=labels)
    alone = engine.predict(TEXTS, scores=True)
    tokens = engine.tally.real_tokens
    monkeypatch.setattr("t5ray.model.streams.SMALL_MODEL", 0)
    shared = engine.predict(TEXTS, scores=True)
    assert [one.text for one in shared] == [one.text for one in alone]
    assert [one.score for one in shared] == pytest.approx([one.score for one in alone], rel=1e-4)
    assert engine.tally.real_tokens == 2 * tokens
