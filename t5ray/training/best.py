"""The best weights of a run: in its folder, and at the storage URI where there is one.

    FOLDER/best-STEP/    Hugging Face directory of the weights after that optimizer step

A report names its best step, and the weights that it names stay until a later report has been answered and the state
after it is saved. So what was heard last of a run can be published, at whatever moment the run was cut off: better
weights, of which nobody has heard, lie beside it. Only worker 0 writes.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from t5ray.errors import ClusterError
from t5ray.model.bundle import discard, save_weights
from t5ray.model.loading import LoadedModel
from t5ray.storage import DOWNLOAD, download_dir, is_there, names_in, remove_dir, upload_dir
from t5ray.training.patience import patiently
from t5ray.training.refusal import taken_by_disk, tensor_bytes

NAME = re.compile(r"best-(\d+)")


def best_name(step: int) -> str:
    """Return the name of the directory of a step's weights."""
    return f"best-{step}"


@dataclass
class BestWeights:
    """What is kept of one run."""

    folder: Path
    remote: str | None = None
    """URI that they are copied to."""
    told_best_step: int = 0
    """Best step of the last report that was answered."""

    def save(self, loaded: LoadedModel, step: int, weights: Mapping[str, torch.Tensor] | None = None) -> None:
        """Write the model's own weights, or those given, beside the ones that a report names.

        Raises:
            StorageError: the disk, or the storage URI, does not take them.
        """
        self._drop(lambda known: self.told_best_step < known < step)  # of this epoch: no report will name these
        with taken_by_disk(self.folder, lambda: tensor_bytes(weights or loaded.model.state_dict())):
            self.folder.mkdir(parents=True, exist_ok=True)
            save_weights(loaded, self.folder / best_name(step), weights)
        if self.remote is not None:
            patiently(upload_dir, self.folder / best_name(step), f"{self.remote}/{best_name(step)}")

    def hold(self, step: int) -> bool:
        """Say whether the weights of a step are there."""
        if (self.folder / best_name(step)).is_dir():
            return True
        return self.remote is not None and patiently(is_there, f"{self.remote}/{best_name(step)}")

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

    def keep(self, step: int, *, until: float = math.inf) -> None:
        """Delete all weights but those of a step; later ones than `until` are of an attempt that was heard of."""
        self._drop(lambda known: known != step and known <= until)

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
        if self.remote is not None:
            with suppress(ClusterError):  # what is left there costs space; no run is worth ending for it
                for name in _matching(names_in(self.remote), unneeded):
                    remove_dir(f"{self.remote}/{name}")

    def _drop_here(self, unneeded: Callable[[int], bool]) -> None:
        for name in _matching([path.name for path in self.folder.glob("best-*")], unneeded):
            discard(self.folder / name)


def _matching(names: list[str], wanted: Callable[[int], bool]) -> list[str]:
    found = ((name, NAME.fullmatch(name)) for name in names)
    return [name for name, match in found if match is not None and wanted(int(match[1]))]
