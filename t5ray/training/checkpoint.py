"""What a run keeps on disk: the best weights, and the states to go on from.

    FOLDER/best-STEP/        Hugging Face directory of the best weights so far: see best.py
    FOLDER/last.pt           weights, optimizer, random states and history as last saved
    FOLDER/last-but-one.pt   the state before, of a run that has the disk to itself

    .spare.pt                beside the folders of a search's runs: a file to write the next state into

Each appears whole or not at all, and states are checked against their checksums when they are read: a damaged one falls
back to the one before, or to the beginning where there is none. The state before goes when the disk has the new one:
at most two are on disk, and one of them is always whole. Runs of a search keep one state each, and write theirs
by turns, so that there is one more than there are runs. They are read with `weights_only`, so that nothing in them is
executed.
"""

import logging
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from t5ray.config import TrainingConfig
from t5ray.disk import sync
from t5ray.errors import ClusterError
from t5ray.locking import turn
from t5ray.model.bundle import clear_leftovers
from t5ray.storage import remove_dir
from t5ray.training.refusal import taken_by_disk, tensor_bytes

LAST, BEFORE_LAST, UNFINISHED, SPARE = "last.pt", "last-but-one.pt", ".last.pt.tmp", ".spare.pt"
MOMENTS = {"adamw": 2, "adam": 2, "sgd": 1, "adafactor": 0}
"""Tensors of the size of the weights that an optimizer keeps."""
DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, pickle.UnpicklingError),
    *(RuntimeError, EOFError, OSError, ValueError, LookupError, OverflowError),
)
"""What reading a damaged file raises: the directory of the archive may be hit, or what it says of names and sizes."""
LARGE = 3
"""Weights in a state, from which on another set of weights matters little besides."""
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

    def forget_best(self) -> None:
        """Let the next evaluation be the best so far."""
        self.best_epoch, self.best_value, self.best_step = 0, None, 0


class StateWriter:
    """Writes everything that the rest of a run depends on, while the run goes on as far as that is safe.

    A state is whole for other processes when `save` returns: no kill takes it. That it is on the disk itself, in case
    the machine goes down, is waited for by a thread; the state before stays until then. After that its file is written
    over: making a gigabyte of new pages takes longer than filling them, several times so on virtual machines.
    """

    def __init__(self, folder: Path, *, shares_disk: bool = False, keeps_spare: bool = False) -> None:
        """Write nothing yet.

        Args:
            shares_disk: runs whose folders lie side by side wait for each other, and the state before goes; otherwise
                it stays beside the new one.
            keeps_spare: where it goes, its file stays, for the next of those runs' states to be written into.
        """
        self.folder, self.shares_disk = folder, shares_disk
        self._keeps_spare = keeps_spare
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="t5ray-state")
        self._landing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def save(self, state: dict[str, Any], progress: Progress, then: Callable[[], object] = lambda: None) -> None:
        """Write a state, after the one before has reached the disk.

        Args:
            then: called by the thread when the disk has it.
        Raises:
            StorageError: the disk did not take it, or the one before.
        """
        self.wait()
        folder, temporary = self.folder, self.folder / UNFINISHED
        with taken_by_disk(folder, lambda: tensor_bytes(state)), ExitStack() as ours:
            folder.mkdir(parents=True, exist_ok=True)
            if self.shares_disk:
                ours.enter_context(turn_of(folder))
            ours.callback(temporary.unlink, missing_ok=True)
            with suppress(FileNotFoundError):  # its pages are in memory and its blocks on disk: new ones take longer
                self._spare.replace(temporary)
            with temporary.open("r+b" if temporary.exists() else "wb") as file:
                torch.save({**state, "progress": vars(progress)}, file)
                file.truncate()
            if (folder / LAST).exists():
                (folder / LAST).replace(folder / BEFORE_LAST)
            temporary.replace(folder / LAST)
            handed_over = ours.pop_all()
        try:
            self._landing = self._thread.submit(self._land, handed_over, then)
        except BaseException:
            handed_over.close()
            raise

    def wait(self) -> None:
        """Wait until what was written is on the disk. Raises StorageError where it is not, and what `then` raises."""
        landing, self._landing = self._landing, None
        if landing is not None:
            landing.result()

    def _land(self, ours: ExitStack, then: Callable[[], object]) -> None:
        last, before = self.folder / LAST, self.folder / BEFORE_LAST
        with taken_by_disk(self.folder, lambda: last.stat().st_size), ours:
            try:
                sync(last)
                sync(self.folder)
            except OSError:
                if before.exists():  # the newer one may be whole in memory only
                    before.replace(last)
                raise
            if self.shares_disk and self._keeps_spare and before.exists():
                before.replace(self._spare)
            elif self.shares_disk:
                before.unlink(missing_ok=True)
        then()  # the next run has its turn meanwhile

    @property
    def _spare(self) -> Path:
        """A state that is wanted no more, whose file the next one is written into."""
        return spare_of(self.folder) if self.shares_disk else self.folder / BEFORE_LAST


def turn_of(folder: Path) -> AbstractContextManager[None]:
    """Be the only one of the runs whose folders lie side by side that has one state more on disk.

    That holds where the file system knows locks, turns come in time, and no run is killed in its own: it deletes what
    it left when it goes on. Others must not, as locks of some network file systems end at the node.
    """
    runs = folder.parent
    return turn(runs.with_name(f".{runs.name}.turn"))


def load_last(folder: Path) -> tuple[dict[str, Any], Progress] | None:
    """Read the last whole state; None where there is none."""
    for name in (LAST, BEFORE_LAST):
        state = read_state(folder / name)
        if state is not None:
            return state, Progress(**state.pop("progress"))
    return None


def sweep(folder: Path, *, shares_disk: bool = False) -> int:
    """Delete what a kill left half written, let last.pt be the newest whole state, and return its step; -1: none is.

    A damaged one must not stay: the next save would take it for whole, and delete the one that is. Nor must one that
    the disk does not have yet, for the same reason.

    Args:
        shares_disk: as of `StateWriter`: no other state stays.
    """
    clear_unfinished(folder)
    for name in (LAST, BEFORE_LAST):
        state = read_state(folder / name)
        if state is not None:
            (folder / name).replace(folder / LAST)
            sync(folder / LAST)
            sync(folder)
            if shares_disk:
                (folder / BEFORE_LAST).unlink(missing_ok=True)
            return int(state["progress"]["step"])
    drop_last(folder)
    return -1


def clear_unfinished(folder: Path) -> None:
    """Delete what a kill left half written."""
    clear_leftovers(folder, "best-*")
    (folder / UNFINISHED).unlink(missing_ok=True)


def spare_of(folder: Path) -> Path:
    """Return the state, if any, whose file the next one of runs whose folders lie side by side is written into."""
    return folder.parent / SPARE


def drop_last(folder: Path, remote: str | None = None, *, keeps_spare: bool = False) -> None:
    """Delete the states of a run that has ended, here and at its URI.

    Args:
        keeps_spare: leave the last one's file to the next state of the runs whose folders lie side by side.
    """
    if keeps_spare:
        with suppress(FileNotFoundError):
            (folder / LAST).replace(spare_of(folder))
    for name in (LAST, BEFORE_LAST, UNFINISHED):
        (folder / name).unlink(missing_ok=True)
    if remote is not None:
        with suppress(ClusterError):  # what is left there costs space only
            remove_dir(f"{remote}/{LAST}")


def weights_updated(config: TrainingConfig) -> int:
    """Return how many times the weights a step updates."""
    return 1 + MOMENTS[config.optimizer] + (config.ema_decay > 0)


def weights_in_state(config: TrainingConfig) -> int:
    """Return how many times the weights a saved state takes; a copy of the best may be in it."""
    copy = config.evaluate_every_steps is not None and config.checkpoint_every_s is not None
    return weights_updated(config) + copy


def leaves_spare(config: TrainingConfig) -> bool:
    """Say whether the file of a state that goes may stay while the best weights are written.

    With a large state there is room for both in what a search may have on disk, which is counted in such states; a
    small one is soon written anew.
    """
    return weights_in_state(config) >= LARGE


def read_state(path: Path) -> dict[str, Any] | None:
    """Read a state; None where there is none, or a damaged one, which is warned of."""
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load itself does not look at the checksums
            damaged = archive.testzip()
        if damaged is None:
            # mapped, for a sharded run copies no more than its part of it
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            return state
    except DAMAGE as exc:
        damaged = str(exc)
    log.warning(
        "%s: a saved state must be whole, but is damaged (%s). Going on from the one before, or anew.", path, damaged
    )
    return None
