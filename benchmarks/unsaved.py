"""Runs of the loop that write nothing: a benchmark that judges the last weights needs no gigabyte of states."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from t5ray.training.best import BestWeights
from t5ray.training.checkpoint import StateWriter
from t5ray.training.trainee import Trainee


@contextmanager
def unsaved() -> Iterator[None]:
    """Let `fine_tune` keep neither states nor best weights."""
    with (
        mock.patch.object(StateWriter, "save"),
        mock.patch.object(BestWeights, "draft", return_value=Path("unwritten")),
        mock.patch.object(BestWeights, "put"),
        mock.patch.object(Trainee, "state", return_value={}),
    ):
        yield
