"""What a run keeps on disk: the best weights, and the states to go on from.

    FOLDER/best/             Hugging Face directory of the best evaluation so far
    FOLDER/last.pt           weights, optimizer, random states and history as last saved
    FOLDER/last-but-one.pt   the state before

Each appears whole or not at all, and states are checked against their checksums when they are read: a damaged one falls
back to the one before. While a state is written, the last one is the only other: at most two are on disk, and
one of them is always whole. They are read with `weights_only`, so that nothing in them is executed.
"""

import logging
import os
import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from t5ray.cluster import download_file, is_there
from t5ray.config import TrainingConfig
from t5ray.model.bundle import clear_leftovers, save_weights
from t5ray.model.loading import LoadedModel

BEST, LAST, BEFORE_LAST = "best", "last.pt", "last-but-one.pt"
MOMENTS = {"adamw": 2, "adam": 2, "sgd": 1, "adafactor": 0}
"""Tensors of the size of the weights that an optimizer keeps."""
log = logging.getLogger(__name__)


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
    best_step: int = 0
    """Optimizer steps behind the best weights."""
    reports: list[dict[str, Any]] = field(default_factory=list)
    """One report per finished epoch, as sent."""
    inside: dict[str, Any] | None = None
    """What the epoch that was cut off has gathered so far; None between epochs."""

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """Every evaluation of the finished epochs."""
        return [found for report in self.reports for found in report["evaluations"]]


def save_best(folder: Path, loaded: LoadedModel, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write the weights of the best epoch: the model's own, or those given."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(loaded, folder / BEST, weights)


def save_last(folder: Path, state: dict[str, Any], progress: Progress) -> None:
    """Write everything that the rest of the run depends on; the state before stays beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{LAST}.tmp"
    (folder / BEFORE_LAST).unlink(missing_ok=True)
    with temporary.open("wb") as file:
        torch.save({**state, "progress": vars(progress)}, file)
        os.fsync(file.fileno())
    if (folder / LAST).exists():
        (folder / LAST).replace(folder / BEFORE_LAST)
    temporary.replace(folder / LAST)


def load_last(folder: Path) -> tuple[dict[str, Any], Progress] | None:
    """Read the last whole state; None where there is none."""
    for name in (LAST, BEFORE_LAST):
        state = _read(folder / name)
        if state is not None:
            return state, Progress(**state.pop("progress"))
    return None


def fetch_last(folder: Path, remote: str) -> None:
    """Copy the last state here from a URI, where that holds one and the folder none."""
    known = any((folder / name).exists() for name in (LAST, BEFORE_LAST))
    if not known and is_there(f"{remote}/{LAST}"):
        download_file(f"{remote}/{LAST}", folder / LAST)


def sweep(folder: Path) -> None:
    """Delete what a kill left half written."""
    clear_leftovers(folder / BEST)
    (folder / f".{LAST}.tmp").unlink(missing_ok=True)


def drop_last(folder: Path) -> None:
    """Delete the states of a run that has ended."""
    for name in (LAST, BEFORE_LAST, f".{LAST}.tmp"):
        (folder / name).unlink(missing_ok=True)


def weights_on_disk(config: TrainingConfig) -> int:
    """Return how many times the weights a run may have on disk at once: two best, two states."""
    state = 1 + MOMENTS[config.optimizer] + (config.ema_decay > 0)
    return 2 + 2 * state


def random_state() -> dict[str, torch.Tensor | None]:
    """Return the state of this worker's generators."""
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: dict[str, torch.Tensor | None]) -> None:
    """Put this worker's generators where they were."""
    if state["cpu"] is not None:
        torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load itself does not look at the checksums
            damaged = archive.testzip()
        if damaged is None:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return state
    except (zipfile.BadZipFile, RuntimeError, EOFError, OSError, pickle.UnpicklingError) as exc:
        damaged = str(exc)
    log.warning("%s: a saved state must be whole, but is damaged (%s). Going on from the one before.", path, damaged)
    return None
