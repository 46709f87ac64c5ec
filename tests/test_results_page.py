"""docs/results.md names every key of the result files, and no other."""

import ast
import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from t5ray.model.card import BundleCard
from t5ray.scoring import evaluation, job
from t5ray.search import result
from t5ray.search.ledger import TrialRecord
from t5ray.training import run
from t5ray.training.plan import EpochReport

PAGE = (Path(__file__).parents[1] / "docs" / "results.md").read_text(encoding="utf-8")


def told(start: str) -> set[str]:
    """Return the keys of the first table after some words."""
    table = PAGE.partition(start)[2].partition("|---|---|\n")[2].partition("\n\n")[0]
    return {key for line in table.splitlines() for key in re.findall(r"`(\w+)`", line.split(" | ")[0])}


def written(*functions: Callable[..., Any]) -> set[str]:
    """Return the keys of the largest dict that each function spells out."""
    found: set[str] = set()
    for function in functions:
        dicts = [node for node in ast.walk(ast.parse(inspect.getsource(function))) if isinstance(node, ast.Dict)]
        largest = max(dicts, key=lambda node: len(node.keys))
        found |= {str(key.value) for key in largest.keys if isinstance(key, ast.Constant)}
    return found


@pytest.mark.parametrize(
    ("start", "keys"),
    [
        ("## search.json", written(result.summary)),
        ("A trial:", set(TrialRecord(0, {}).public())),
        ("## train.json", written(run._conclude)),
        ("An epoch's report:", {field.name for field in fields(EpochReport)}),
        ("## _job.json", written(job._opening_record, job._counts)),
        ("## metrics.json", written(evaluation._metrics) | {"model", "data", "split", "predictions"}),
        ("## The bundle: t5ray.json", set(BundleCard.model_fields)),
    ],
)
def test_every_key_is_told(start: str, keys: set[str]) -> None:
    assert told(start) == keys
