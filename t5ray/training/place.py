"""Where a run or a search keeps what: in a folder here and, for a storage URI, there as well.

With a URI (`s3://bucket/runs`) the command works in a local folder of the same name and copies results to the URI;
workers copy the weights that they keep themselves, since the command may not see their disks.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from t5ray.config import CACHE, RunConfig
from t5ray.errors import ClusterError
from t5ray.locking import lock
from t5ray.model.card import CARD, ENTRY
from t5ray.sessions import folder_of
from t5ray.storage import is_there, is_uri, read_remote, replace_remote, upload_file

OUTBOX = "mlflow_outbox.jsonl"
TRIES = 100
"""How often a folder may vanish while it is made, since another command deletes it; then it can never be made."""


@dataclass(frozen=True)
class Place:
    """The folders of one named run or search."""

    folder: Path
    cache: Path
    """Tokenised data, shared by all runs of the storage."""
    remote: str | None = None
    """URI of the run, where the storage is one."""

    @classmethod
    def of(cls, config: RunConfig) -> Self:
        """Return the place of a named run."""
        remote = f"{config.storage.rstrip('/')}/{config.name}" if is_uri(config.storage) else None
        storage = folder_of(config.storage)
        return cls(storage / str(config.name), storage / CACHE, remote)

    @property
    def shown(self) -> str:
        """The place as the user named it."""
        return self.remote or str(self.folder)

    @property
    def best(self) -> Path:
        """The bundle."""
        return self.folder / "best"

    @property
    def outbox(self) -> Path:
        """What could not be sent to MLflow yet."""
        return self.folder / OUTBOX

    def holds(self, *names: str) -> bool:
        """Say whether any of these files is there, here or at the URI."""
        if any((self.folder / name).exists() for name in names):
            return True
        return self.remote is not None and any(is_there(f"{self.remote}/{name}") for name in names)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep every other process from working in this folder; a killed one lets go of it by itself.

        Raises:
            ClusterError: another process works here, or the folder cannot be written.
        """
        with self._locked():
            try:
                yield
            finally:
                self._leave_no_empty_folder()

    def _locked(self) -> IO[str]:
        """Return the locked file: the one that lies there, not one that was deleted while we waited to lock it."""
        path, tries = self.folder / "state" / "lock", 0
        while True:
            tries += 1
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = path.open("w")
            except OSError as exc:
                if isinstance(exc, FileNotFoundError) and tries < TRIES:  # deleted between the two
                    continue
                raise ClusterError(
                    f"{self.folder}: --storage must be writable, but: {exc}. Choose another one."
                ) from exc
            if not lock(file):
                file.close()
                raise ClusterError(
                    f"{self.folder}: one process at a time must work here, but another one still does. "
                    "Wait for its end, end it, or choose another --name."
                )
            with suppress(FileNotFoundError):
                if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                    return file
            file.close()

    def _leave_no_empty_folder(self) -> None:
        """Delete what a command made that was refused before it kept anything: its name is still free."""
        state = self.folder / "state"
        if [path for path in state.rglob("*") if path.is_file()] == [state / "lock"]:
            shutil.rmtree(state, ignore_errors=True)
            with suppress(OSError):
                self.folder.rmdir()

    def upload(self) -> None:
        """Copy results to the storage URI, where the storage is one.

        Raises:
            ClusterError: the storage refuses.
        """
        if self.remote is None:
            return
        if self.best.exists() and not self._is_uploaded(self.best, f"{self.remote}/best"):
            replace_remote(self.best, f"{self.remote}/best", key=ENTRY)
        for part in self.folder.iterdir():  # after the bundle that they speak of
            if part.is_file() and part != self.outbox:
                upload_file(part, self.remote)

    @staticmethod
    def _is_uploaded(bundle: Path, remote: str) -> bool:
        """Say whether the whole bundle is there: its config came last, and its card has its run and figures."""
        return all(read_remote(f"{remote}/{name}") == (bundle / name).read_bytes() for name in (ENTRY, CARD))
