"""The best weights of a run: in its folder, and at the storage URI where there is one.

    FOLDER/best-STEP/                     Hugging Face directory of the weights after that optimizer step
    FOLDER/best-STEP/t5ray-report.json    the report of their epoch

They take the place of those before them when their epoch is over, before anybody hears of it. A run that is cut off in
between finds weights that its state does not name, and books that were closed in between find an epoch that they have
not heard of; the report tells both what these weights are. At a URI it comes last and goes first, so that weights
without it are not whole. Only worker 0 writes.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from t5ray.disk import sync
from t5ray.errors import ClusterError
from t5ray.model.bundle import discard, draft_weights, take_place
from t5ray.model.card import write_json
from t5ray.model.loading import LoadedModel
from t5ray.storage import DOWNLOAD, download_dir, is_there, names_in, read_remote, remove_dir, replace_remote
from t5ray.training.patience import patiently
from t5ray.training.refusal import taken_by_disk, tensor_bytes

NAME = re.compile(r"best-(\d+)")
REPORT = "t5ray-report.json"
NOTE_BYTES = 2**20
"""More than a report takes."""


def best_name(step: int) -> str:
    """Return the name of the directory of a step's weights."""
    return f"best-{step}"


@dataclass
class BestWeights:
    """What is kept of one run."""

    folder: Path
    remote: str | None = None
    """URI that they are copied to."""

    def draft(self, loaded: LoadedModel, step: int, weights: Mapping[str, torch.Tensor] | None = None) -> Path:
        """Write the model's own weights, or those given, beside the ones that are kept, and return where.

        Raises:
            StorageError: the disk does not take them.
        """
        with taken_by_disk(self.folder, lambda: tensor_bytes(weights or loaded.model.state_dict())):
            return draft_weights(loaded, self.folder / best_name(step), weights)

    def put(self, draft: Path, step: int, report: Mapping[str, Any]) -> None:
        """Let weights take the place of the older ones here, with the report of their epoch.

        Raises:
            StorageError: the disk does not take them.
        """
        with taken_by_disk(self.folder, lambda: NOTE_BYTES):
            write_json(draft / REPORT, report)
            sync(draft)
            older = [self.folder / name for name in self._names_here(lambda known: True)]
            take_place(draft, self.folder / best_name(step), older)

    def send(self, step: int) -> None:
        """Let weights that are here take the place of the older ones at the URI, where there is one.

        Raises:
            StorageError: it does not take them.
        """
        if self.remote is not None:
            patiently(replace_remote, self.folder / best_name(step), f"{self.remote}/{best_name(step)}", key=REPORT)
            self._drop_there(lambda known: known != step)

    def hold(self, step: int) -> bool:
        """Say whether the weights of a step are there: at the URI, if there is one, as what is here may be older.

        Raises:
            ClusterError: the storage does not say.
        """
        if self.remote is not None:
            return is_there(f"{self.remote}/{best_name(step)}/{REPORT}")
        return (self.folder / best_name(step)).is_dir()

    def report(self) -> dict[str, Any] | None:
        """Return the report of the newest weights that are there, at the URI if there is one; None: none are whole.

        Raises:
            ClusterError: the storage does not say.
        """
        where = self.remote or str(self.folder)
        for step in sorted(_steps(names_in(where)), reverse=True):
            content = read_remote(f"{where}/{best_name(step)}/{REPORT}")
            with suppress(ValueError):  # cut short: a kill as it was copied
                if content is not None:
                    found: dict[str, Any] = json.loads(content)
                    return found
        return None

    @contextmanager
    def opened(self, step: int) -> Iterator[Path]:
        """Give the directory of a step's weights; where there is a URI, a copy from there, which goes afterwards.

        What lies here already may be older: a run that went on at another node may have made that step again.
        """
        if self.remote is None:
            yield self.folder / best_name(step)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=DOWNLOAD, dir=self.folder, ignore_cleanup_errors=True) as copy:
            patiently(download_dir, f"{self.remote}/{best_name(step)}", Path(copy))
            yield Path(copy)
        self._leave_no_empty_folder()

    def keep(self, step: int) -> None:
        """Delete all weights but those of a step."""
        self._drop(lambda known: known != step)

    def keep_from(self, step: int) -> None:
        """Delete weights of earlier steps, where those of this one are there.

        A worker that nobody listens to any more may put later ones in their place at this very moment.

        Raises:
            ClusterError: the storage does not say what is there.
        """
        if self.hold(step):
            self._drop(lambda known: known < step)

    def leave(self) -> None:
        """Delete here what lies at the URI, where there is one, and the folder if nothing else is in it."""
        if self.remote is not None:
            self._drop_here(lambda known: True)
            self._leave_no_empty_folder()

    def _leave_no_empty_folder(self) -> None:
        with suppress(OSError):
            self.folder.rmdir()

    def _drop(self, unneeded: Callable[[int], bool]) -> None:
        self._drop_here(unneeded)
        self._drop_there(unneeded)

    def _drop_there(self, unneeded: Callable[[int], bool]) -> None:
        """Delete weights at the URI, their reports first: what is half deleted is not whole."""
        with suppress(ClusterError):  # what is left there costs space; no run is worth ending for it
            for step in filter(unneeded, _steps(names_in(self.remote)) if self.remote is not None else ()):
                for name in (f"{best_name(step)}/{REPORT}", best_name(step)):
                    remove_dir(f"{self.remote}/{name}")

    def _drop_here(self, unneeded: Callable[[int], bool]) -> None:
        for name in self._names_here(unneeded):
            discard(self.folder / name)

    def _names_here(self, wanted: Callable[[int], bool]) -> list[str]:
        return [best_name(step) for step in filter(wanted, _steps(path.name for path in self.folder.glob("best-*")))]


def _steps(names: Iterable[str]) -> list[int]:
    return [int(match[1]) for match in map(NAME.fullmatch, names) if match is not None]
