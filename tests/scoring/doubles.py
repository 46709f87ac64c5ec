"""An engine that needs no model: it answers each text with the text in capitals."""

import faulthandler
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch

from t5ray.model.prediction import Prediction, Tally
from t5ray.scoring.engines import EngineSpec
from t5ray.scoring.predicting import Texts
from t5ray.scoring.scanning import scan
from t5ray.scoring.scorer import ScorerSpec
from t5ray.scoring.writing import Extras
from t5ray.text.tasks import BUILT_IN


@dataclass
class ShoutingEngine:
    """Fails on a batch with `bomb` in it, dies at `killer` and `fault`, and loses its device at `device`.

    Likewise it cannot tokenise `garbled`, and dies when it prepares `poison`.
    """

    call_rows: ClassVar[int] = 1024
    max_input_tokens: int | None = None
    tally: Tally = field(default_factory=Tally)
    batches: list[list[str]] = field(default_factory=list)

    def num_tokens(self, inputs: Sequence[str]) -> list[int]:
        if any("garbled" in text for text in inputs):
            raise ValueError("no tokens")
        return [len(text.split()) + 1 for text in inputs]

    def prepare(self, inputs: Sequence[str]) -> list[str]:
        self.num_tokens(inputs)
        if any("poison" in text for text in inputs):
            os.kill(os.getpid(), signal.SIGKILL)
        return list(inputs)

    def score(self, inputs: Sequence[str], *, scores: bool = False, all_scores: bool = False) -> list[Prediction]:
        self.batches.append(list(inputs))
        if any("bomb" in text for text in inputs):
            raise RuntimeError("boom")
        if any("killer" in text for text in inputs):
            os.kill(os.getpid(), signal.SIGKILL)
        if any("fault" in text for text in inputs):
            faulthandler.disable()  # pytest's, which would fill the console
            os.kill(os.getpid(), signal.SIGSEGV)
        if any("device" in text for text in inputs):
            raise torch.AcceleratorError("an illegal memory access was encountered")
        lengths = self.num_tokens(inputs)
        self.tally.real_tokens += sum(lengths)
        self.tally.padded_tokens += len(inputs) * max(lengths, default=0)
        return [
            Prediction(
                text.removeprefix("classify: ").upper(),
                len(text) / 100 if scores else None,
                hit_cap=len(text) > 40,
                input_cut=self.max_input_tokens is not None and length > self.max_input_tokens,
            )
            for text, length in zip(inputs, lengths, strict=True)
        ]


def spec_for(
    input_path: Path | str,
    output: Path,
    *,
    part_format: str = "jsonl",
    shard_rows: int = 4,
    scores: bool = False,
    refuse_long: bool = False,
) -> ScorerSpec:
    spec = ScorerSpec(
        engine=EngineSpec("shouting", None, "fp32", 1024),
        input=scan(str(input_path), shard_rows),
        texts=Texts(BUILT_IN["classify"], {}, refuse_long=refuse_long),
        output=output,
        part_format=part_format,
        extras=Extras(scores=scores),
    )
    spec.ledger.open()
    return spec


@dataclass
class SlowEngine(ShoutingEngine):
    """Takes its time and leaves its process id in a folder, so that a test can kill it in mid-shard."""

    folder: Path = Path()

    def score(self, inputs: Sequence[str], *, scores: bool = False, all_scores: bool = False) -> list[Prediction]:
        (self.folder / str(os.getpid())).touch()
        time.sleep(0.3)
        return super().score(inputs, scores=scores)


@dataclass(frozen=True)
class SlowSpec(EngineSpec):
    """Makes `SlowEngine`s; its source is the folder of process ids."""

    def load(self) -> SlowEngine:
        return SlowEngine(folder=Path(self.source))


@dataclass(frozen=True)
class ShoutingSpec(EngineSpec):
    """Makes `ShoutingEngine`s."""

    def load(self) -> ShoutingEngine:
        return ShoutingEngine()


@dataclass(frozen=True)
class DeadlySpec(EngineSpec):
    """Dies when it loads its model."""

    def load(self) -> ShoutingEngine:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("it lives")
