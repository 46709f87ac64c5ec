"""Engines that fail on some texts, or on all."""

import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from t5ray.errors import ModelError
from t5ray.model.prediction import Prediction
from t5ray.scoring.engines import TextPrediction
from t5ray.scoring.halving import HOPELESS, PROBE, Halving
from tests.scoring.doubles import ShoutingEngine


def said(found: Sequence[TextPrediction | str]) -> list[str]:
    return [one if isinstance(one, str) else one.text for one in found]


def test_the_guilty_text_is_alone_with_its_reason() -> None:
    engine = ShoutingEngine()
    found = Halving(engine, "m").predict(["a", "b", "bomb", "c"])
    assert said(found) == ["A", "B", "RuntimeError: boom", "C"]
    assert engine.batches == [["a", "b", "bomb", "c"], ["a", "b"], ["bomb", "c"], ["bomb"], ["c"]]


class OneAtATime(ShoutingEngine):
    """Tokenises one call's texts at a time: fast tokenizers refuse to be used by two threads at once."""

    busy = threading.Lock()

    def num_tokens(self, inputs: Sequence[str]) -> list[int]:
        if not self.busy.acquire(blocking=False):
            raise RuntimeError("Already borrowed")
        time.sleep(0.02)
        self.busy.release()
        return super().num_tokens(inputs)


def test_texts_are_tokenised_by_one_thread_at_a_time() -> None:
    halving = Halving(OneAtATime(), "m")
    with ThreadPoolExecutor(4) as pool:
        prepared = list(pool.map(halving.prepare, [["a"]] * 4))
        lengths = list(pool.map(halving.num_tokens, [["a"]] * 4))
    assert prepared == [["a"]] * 4
    assert lengths == [[2]] * 4


class TightEngine(ShoutingEngine):
    """Has memory for the tensors of a few texts once, as long as nobody holds on to those of an earlier call."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room, self._tensors = room, list[weakref.ref[np.ndarray]]()

    def score(self, inputs: Sequence[str], *, scores: bool = False, all_scores: bool = False) -> list[Prediction]:
        held = sum(len(tensor) for ref in self._tensors if (tensor := ref()) is not None)
        tensor = np.zeros(len(inputs))
        self._tensors.append(weakref.ref(tensor))
        if held + len(inputs) > self._room:
            raise MemoryError(f"{held} in use")
        return super().score(inputs)


def test_the_memory_of_a_failed_batch_is_free_when_its_halves_are_tried() -> None:
    texts = [f"row {number}" for number in range(16)]
    assert said(Halving(TightEngine(room=4), "m").predict(texts)) == [text.upper() for text in texts]


def test_rows_in_a_row_may_fail_as_long_as_the_engine_can_do_anything() -> None:
    engine = ShoutingEngine()
    found = said(Halving(engine, "m").predict(["bomb"] * (2 * HOPELESS) + ["fine"]))
    assert found == ["RuntimeError: boom"] * (2 * HOPELESS) + ["FINE"]
    assert engine.batches.count([PROBE]) == 2


class BrokenEngine(ShoutingEngine):
    """Fails on everything."""

    def score(self, inputs: Sequence[str], *, scores: bool = False, all_scores: bool = False) -> list[Prediction]:
        self.batches.append(list(inputs))
        raise RuntimeError("no kernel image")


def test_an_engine_that_fails_on_everything_ends_the_job() -> None:
    engine = BrokenEngine()
    halving = Halving(engine, "topics/best")
    assert said(halving.predict(["a"] * (HOPELESS - 1))) == ["RuntimeError: no kernel image"] * (HOPELESS - 1)
    with pytest.raises(
        ModelError,
        match=f"topics/best: the model must be able to score rows, but failed on {HOPELESS} in a row and on the text "
        f"'{PROBE}'. The last time: RuntimeError: no kernel image",
    ):
        halving.predict(["a"])


def test_a_text_that_is_scored_ends_the_row_of_failures() -> None:
    engine = ShoutingEngine()
    halving = Halving(engine, "m")
    for _ in range(3):
        halving.predict(["bomb"] * (HOPELESS - 1))
        assert said(halving.predict(["fine"])) == ["FINE"]
    assert [PROBE] not in engine.batches
