"""Small tasks and files that the tests of reading share."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from t5ray.config import TaskConfig

CLASSIFY = TaskConfig(
    name="classify", inputs="classify: {text}", targets="{label}", metrics=("accuracy",), closed_labels=True
)
SUMMARIZE = TaskConfig(name="summarize", inputs="summarize: {text}", targets="{summary}", metrics=("rougeL",))

WriteJsonl = Callable[[str, Iterable[Mapping[str, Any]]], str]


@pytest.fixture
def write_jsonl(tmp_path: Path) -> WriteJsonl:
    """Write records below the test's folder; return the path."""

    def write(name: str, records: Iterable[Mapping[str, Any]]) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return str(path)

    return write
