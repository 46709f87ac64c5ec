"""What a scorer needs of an engine, and how a worker makes one.

Comes in: an `EngineSpec`, which travels. Goes out: a `TextEngine`. Must not know rows or tasks, nor import torch before
a worker loads its model.
"""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from t5ray.config import DecodeConfig
from t5ray.errors import ModelError


class TextPrediction(Protocol):
    """One prediction of an engine: `model.prediction.Prediction`, which says what each member is."""

    @property
    def text(self) -> str: ...  # noqa: D102
    @property
    def score(self) -> float | None: ...  # noqa: D102
    @property
    def hit_cap(self) -> bool: ...  # noqa: D102
    @property
    def input_cut(self) -> bool: ...  # noqa: D102
    @property
    def texts(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def label_scores(self) -> Mapping[str, float] | None: ...  # noqa: D102


class Tally(Protocol):
    """Tokens that an engine forwarded so far."""

    @property
    def padded_tokens(self) -> int: ...  # noqa: D102
    @property
    def real_tokens(self) -> int: ...  # noqa: D102


class TextEngine(Protocol):
    """What a scorer needs of `model.engine.Engine`, which says what each member is."""

    @property
    def max_input_tokens(self) -> int | None: ...  # noqa: D102
    @property
    def tally(self) -> Tally: ...  # noqa: D102
    @property
    def call_rows(self) -> int: ...  # noqa: D102

    def num_tokens(self, inputs: Sequence[str]) -> Sequence[int]: ...  # noqa: D102
    def prepare(self, inputs: Sequence[str]) -> Any: ...  # noqa: D102
    def score(  # noqa: D102
        self, prepared: Any, *, scores: bool = False, all_scores: bool = False
    ) -> Sequence[TextPrediction]: ...


@dataclass(frozen=True)
class EngineSpec:
    """How a worker makes its engine."""

    source: str
    """Directory or hub id, the same on every node."""
    decode: DecodeConfig | None
    precision: str
    batch_tokens: int
    origin: str = ""
    """URI that a worker fetches the model from where `source` is on another node's disk."""
    labels: tuple[str, ...] = ()
    """The closed set that predictions are taken from; empty generates."""
    engine: str = "torch"
    dtype: Literal["float32", "int8"] = "float32"
    """Weights of ctranslate2."""
    commit: str = ""
    """What a hub id must still stand for when a worker loads it."""
    gpus: float = 0.0
    """GPUs of a worker; with none it computes on the CPU."""

    def load(self) -> TextEngine:
        """Load the model.

        Raises:
            ModelError: it cannot be loaded.
        """
        # Idle OpenMP threads spin, and on cores that others use too they spin while those wait: 2 threads on 2 busy
        # cores took 8 times as long as with this, which libgomp reads once, when torch loads it.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        engine = self._load(self._local_source())
        self._require_commit()
        return engine

    def _load(self, source: str) -> TextEngine:
        from t5ray.model.numeric import device_with

        common: dict[str, Any] = {
            "decode": self.decode,
            "labels": self.labels,
            "batch_tokens": self.batch_tokens,
            "device": device_with(self.gpus),
        }
        if self.engine == "ctranslate2":
            from t5ray.model.ctranslate import CTranslateEngine

            return CTranslateEngine(source, dtype=self.dtype, **common)
        from t5ray.model.engine import Engine

        return Engine(source, precision=self.precision, **common)

    def _require_commit(self) -> None:
        """Refuse a hub id that was moved since the job was planned: rows of unlike weights must not mix.

        Raises:
            ModelError: it was.
        """
        if not self.commit:
            return
        from t5ray.model.loading import commit_of

        if (found := commit_of(self.source)) != self.commit:
            raise ModelError(
                f"{self.source}: the model must not change while it scores, but its commit was {self.commit[:12]} and "
                f"is {found[:12]} now. Score with the new one into another --output."
            )

    def _local_source(self) -> str:
        """Return where the model is on this node.

        Raises:
            ModelError: it is on another node's disk only, or the URI has another one by now.
        """
        source = Path(self.source)
        if source.is_dir() or not source.is_absolute():
            return self.source
        if not self.origin:
            raise ModelError(
                f"{source}: the model must lie where every node can read it, but {platform.node()} cannot. Put it on "
                "a share, or give its address in an object store."
            )
        from t5ray.scoring.fetching import fetch_uri

        found = fetch_uri(self.origin)
        if found.name != source.name:
            raise ModelError(f"{self.origin}: the model must not change while it scores, but it did. Start again.")
        return str(found)
