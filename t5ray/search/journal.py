"""Optuna's study on disk: one file, one writer, every line a fact.

The search's own lock (`Workspace.held`) keeps other writers out, so Optuna's lock file, which a killed search would
leave behind to be waited for, is not used.
"""

from pathlib import Path

import optuna


class _NoLock:
    """Stands in for Optuna's lock."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def open_storage(path: str | Path) -> optuna.storages.BaseStorage:
    """Open the journal; a last line that a kill cut short is taken off."""
    _trim(Path(path))
    backend = optuna.storages.journal.JournalFileBackend(str(path), lock_obj=_NoLock())
    return optuna.storages.JournalStorage(backend)


def _trim(path: Path) -> None:
    content = path.read_bytes() if path.exists() else b""
    if content and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
