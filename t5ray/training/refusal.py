"""What becomes of a run whose disk takes no more: it is cut off, to go on once there is room again, and fails nothing.

Libraries that write files raise errors of their own in the place of the system's, or on top of it.
"""

import errno
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from t5ray.disk import FULL
from t5ray.errors import StorageError

REFUSED = (*FULL, errno.EROFS, errno.EIO, errno.ESTALE)
"""Causes that are no fault of the run: the next one would meet them as well."""
RUST = re.compile(r"\(os error (\d+)\)")
"""How safetensors and tokenizers say which error of the system it was."""


@contextmanager
def taken_by_disk(folder: Path, size_bytes: Callable[[], int]) -> Iterator[None]:
    """Let a disk that refuses what is written cut the run off, and not fail it.

    Args:
        size_bytes: asked only then: what is being written takes.
    Raises:
        StorageError: the disk of the folder is full, or cannot be written any more.
    """
    try:
        yield
    except Exception as exc:
        found = refusal_in(exc)
        if found is None:
            raise
        needed = f"{math.ceil(size_bytes() / 2**20):,} MiB"
        mend = f"free at least {needed} there" if found.errno in FULL else "let it be written again"
        raise StorageError(
            f"{folder}: the disk must take checkpoints, of which the next one needs {needed}, but: {found}. "
            f"What was saved is kept: {mend}, then give the same command with --resume."
        ) from exc


def refusal_in(exc: BaseException) -> OSError | None:
    """Return the disk's refusal that an error is, says or came from; None where there is none."""
    cause: BaseException | None = exc
    while cause is not None:
        said = RUST.search(str(cause))
        code = cause.errno if isinstance(cause, OSError) else int(said[1]) if said else None
        if code in REFUSED:
            return cause if isinstance(cause, OSError) else OSError(code, str(cause))
        cause = cause.__cause__ or cause.__context__
    return None


def tensor_bytes(value: object) -> int:
    """Return what the tensors in nested dicts and sequences take, those that share their memory once."""
    return sum(_sizes(value).values())


def _sizes(value: object) -> dict[int, int]:
    if isinstance(value, torch.Tensor):
        return {value.data_ptr(): value.nbytes}
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return {pointer: size for part in parts for pointer, size in _sizes(part).items()}
