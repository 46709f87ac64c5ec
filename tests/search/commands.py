"""Searches as a user starts them: arguments and results."""

import json
from pathlib import Path
from typing import Any

SPACE = """
parameters:
  learning_rate: {loguniform: [1.0e-4, 1.0e-2]}
  batch_size: {choice: [16, 32]}
"""


def arguments(words: Path, model: Path, **flags: Any) -> list[str]:
    """Return the arguments of a small search in the working directory, which holds space.yaml."""
    given = {"data": words, "task": "classify", "model": model, "search-space": "space.yaml", "num-trials": 5}
    given |= {"max-epochs": 3, "name": "words", "storage": "runs", "confirm-seeds": 0, **flags}
    return [word for flag, value in given.items() for word in (f"--{flag}", str(value))]


def result(folder: Path, name: str = "words") -> dict[str, Any]:
    """Return search.json."""
    content: dict[str, Any] = json.loads((folder / "runs" / name / "search.json").read_text())
    return content
