"""What a run keeps on disk: the best weights, and the state to go on from.

    FOLDER/best/        Hugging Face directory of the best epoch so far
    FOLDER/last.pt      weights, optimizer, random state and history after the last finished epoch

Each appears whole or not at all. `last.pt` is read with `weights_only`, so that nothing in it is executed.
"""

import os
import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from t5ray.model.bundle import save_weights
from t5ray.model.loading import LoadedModel

BEST, LAST, BEFORE_LAST = "best", "last.pt", "last-but-one.pt"


@dataclass
class Progress:
    """How far a run is. Plain values only: it is saved with the weights."""

    epoch: int = 0
    """Epochs finished."""
    step: int = 0
    """Optimizer steps finished."""
    best_epoch: int = 0
    """Epoch with the best objective, counted from 1; 0 before the first."""
    best_value: float | None = None
    """Objective of that epoch."""
    reports: list[dict[str, Any]] = field(default_factory=list)
    """One report per finished epoch, as sent."""


def save_best(folder: Path, loaded: LoadedModel) -> None:
    """Write the weights of the best epoch."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(loaded, folder / BEST)


def save_last(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write everything that the next epoch depends on; the state before stays beside it until the next time."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{LAST}.tmp"
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "cuda_random": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "progress": vars(progress),
    }
    with temporary.open("wb") as file:
        torch.save(state, file)
        os.fsync(file.fileno())
    if (folder / LAST).exists():
        (folder / LAST).replace(folder / BEFORE_LAST)
    temporary.replace(folder / LAST)
    (folder / BEFORE_LAST).unlink(missing_ok=True)


def load_last(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Progress | None:
    """Restore the last whole state into model and optimizer; None where there is none that can be read."""
    for name in (LAST, BEFORE_LAST):
        state = _read(folder / name)
        if state is None:
            continue
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        if state["cuda_random"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda_random"])
        return Progress(**state["progress"])
    return None


def drop_last(folder: Path) -> None:
    """Delete the state of a run that has ended."""
    for name in (LAST, BEFORE_LAST, f".{LAST}.tmp"):
        (folder / name).unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file() or not zipfile.is_zipfile(path):  # half written: its directory, at the end, is missing
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError):  # damaged: fall back to the one before
        return None
    return state
