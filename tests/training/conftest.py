"""A small run: a task that a tiny T5 learns in seconds."""

from pathlib import Path
from typing import Any

import pytest

from t5ray.config import DataConfig, DecodeConfig, TaskConfig, TrainingConfig
from t5ray.data.rows import Example
from t5ray.data.splits import Splits
from t5ray.data.tokens import TokenisedData, tokenise
from t5ray.training.plan import RunPlan
from tests.tiny import character_tokenizer

TASK = TaskConfig(name="first", inputs="first: {text}", targets="{letter}", metrics=("exact_match",))
WORDS = [a + b + c for a in "abcdefgh" for b in "aeiou" for c in "klmn"]


def examples(words: list[str]) -> tuple[Example, ...]:
    return tuple(Example(f"first: {word}", (word[0],), f"words:{i}") for i, word in enumerate(words))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenisedData:
    """Words and their first letters: 128 rows to train on, 16 and 16 to judge."""
    train, rest = [w for i, w in enumerate(WORDS) if i % 5], WORDS[::5]  # every letter is in each part
    splits = Splits(examples(train), examples(rest[::2]), examples(rest[1::2]), TASK, "words", (), True)
    return tokenise(
        splits,
        character_tokenizer(),
        DataConfig(),
        tokenizer_fingerprint="characters",
        model_max_tokens=512,
        cache=tmp_path_factory.mktemp("cache"),
    )


def plan_in(folder: Path, **settings: Any) -> RunPlan:
    """A plan of three epochs of eight steps."""
    values = {"learning_rate": 3e-3, "batch_size": 16, "max_epochs": 3, "dropout": 0.1, "precision": "fp32"}
    return RunPlan(
        config=TrainingConfig.model_validate({**values, "warmup_share": 0.0, **settings}),
        decode=DecodeConfig(max_new_tokens=4),
        task=TASK,
        objective="exact_match",
        mode="max",
        folder=folder,
    )


@pytest.fixture
def plan(tmp_path: Path) -> RunPlan:
    return plan_in(tmp_path / "run")
