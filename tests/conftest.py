"""Fixtures for every room."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny random T5 and a character tokenizer."""
    from tests.tiny import make_tiny_t5

    return make_tiny_t5(tmp_path_factory.mktemp("tiny-t5"))
