"""A folder for trials of the storage, which leaves no trace."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from t5ray.storage import is_uri, local_path, remove_dir


@contextmanager
def scratch_in(storage: str) -> Iterator[str]:
    """Give the address of a new folder in a storage, to be made by who writes there; then remove it.

    Folders above it go as well where they were not there before.

    Raises:
        ClusterError: what was written cannot be removed.
    """
    root = storage.rstrip("/") if is_uri(storage) else str(local_path(storage).absolute())
    made = [] if is_uri(root) else [path for path in (Path(root), *Path(root).parents) if not path.exists()]
    target = f"{root}/.doctor-{uuid.uuid4().hex}"
    try:
        yield target
    finally:
        remove_dir(target)
        for folder in made:
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()
