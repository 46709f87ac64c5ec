"""Predictions from an engine that may fail: texts are halved until the guilty one is alone with its reason.

Comes in: texts. Goes out: for each its prediction, or why it has none. Must not know rows or parts.
"""

import os
import threading
from collections.abc import Sequence
from typing import Any

from t5ray.errors import ModelError
from t5ray.scoring.engines import Tally, TextEngine, TextPrediction

HOPELESS = 32
"""Texts in a row on which the engine failed, after which it is asked whether it can do anything at all."""
PROBE = "a"
"""What it is asked with: no text is easier."""
LOST_DEVICE = "AcceleratorError"
"""Class of what torch raises when a device is unusable for the rest of the process's life."""
LONGEST_REASON = 500


class Halving:
    """An engine, and how often in a row it failed."""

    def __init__(self, engine: TextEngine, name: str, *, scores: bool = False, all_scores: bool = False) -> None:
        """Take an engine.

        Args:
            name: how messages call the model.
            scores, all_scores: what is asked of the engine besides texts.
        """
        self._engine, self._name = engine, name
        self._scores, self._all_scores = scores, all_scores
        self._failed_in_a_row = 0
        self._tokenising = threading.Lock()  # what comes next is tokenised in other threads

    @property
    def max_input_tokens(self) -> int | None:
        """The engine's own."""
        return self._engine.max_input_tokens

    @property
    def tally(self) -> Tally:
        """The engine's own."""
        return self._engine.tally

    @property
    def call_rows(self) -> int:
        """The engine's own."""
        return self._engine.call_rows

    def num_tokens(self, texts: Sequence[str]) -> Sequence[int]:
        """Return the length of each text in tokens; 0 where there is no telling: `predict` then says why."""
        try:
            with self._tokenising:
                return list(self._engine.num_tokens(texts))
        except Exception:  # noqa: BLE001 (`predict` meets it again)
            middle = len(texts) // 2
            return [*self.num_tokens(texts[:middle]), *self.num_tokens(texts[middle:])] if middle else [0]

    def prepare(self, texts: Sequence[str]) -> Any:
        """Tokenise what `predict` will be asked for. None where that fails: `predict` then finds the guilty text."""
        try:
            return self._prepare(texts)
        except Exception:  # noqa: BLE001 (`predict` meets it again)
            return None

    def predict(self, texts: Sequence[str], prepared: Any = None) -> list[TextPrediction | str]:
        """Return the prediction of each text, or the reason why there is none.

        Args:
            prepared: what `prepare` said of these texts. None: they are tokenised now.
        Raises:
            ModelError: the engine fails on everything.
        """
        found = self._try(texts, prepared)
        if not isinstance(found, str):
            self._failed_in_a_row = 0
            return found
        if len(texts) > 1:
            middle = len(texts) // 2
            return self.predict(texts[:middle]) + self.predict(texts[middle:])
        self._failed_in_a_row += 1
        if self._failed_in_a_row % HOPELESS == 0:
            self._require_hope(found)
        return [found]

    def _try(self, texts: Sequence[str], prepared: Any = None) -> list[TextPrediction | str] | str:
        """Return what the engine says, or in words what it raised: the exception itself would hold on to all tensors.

        A device without memory for them must have it back before the halves are tried.
        """
        try:
            ready = self._prepare(texts) if prepared is None else prepared
            return list(self._engine.score(ready, scores=self._scores, all_scores=self._all_scores))
        except Exception as exc:  # noqa: BLE001 (whatever it is, it becomes the text of a row's `error`)
            if type(exc).__name__ == LOST_DEVICE:
                os._exit(1)  # only a new process can go on; the journal finds the row, as with any other death
            return " ".join(f"{type(exc).__name__}: {exc}".split())[:LONGEST_REASON]

    def _prepare(self, texts: Sequence[str]) -> Any:
        with self._tokenising:
            return self._engine.prepare(texts)

    def _require_hope(self, reason: str) -> None:
        """Ask whether the rows are to blame: the longest come first, and may all be too long.

        Raises:
            ModelError: not even the easiest text can be scored.
        """
        if isinstance(self._try([PROBE]), str):
            raise ModelError(
                f"{self._name}: the model must be able to score rows, but failed on {HOPELESS} in a row and on "
                f"the text {PROBE!r}. The last time: {reason}"
            )
