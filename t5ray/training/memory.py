"""What becomes of a run whose GPU's memory is too small."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from t5ray.training.plan import RunFailed

MORE_MEMORY = (
    "Lower training.micro_batch_size, set training.gradient_checkpointing, or give a worker more of a GPU "
    "(--gpus-per-worker)"
)
"""What a run that trains can do about it."""


@contextmanager
def within_memory(mend: str) -> Iterator[None]:
    """Let memory that runs out fail the run, and not the worker.

    Args:
        mend: what to do about it.
    Raises:
        RunFailed: the GPU's memory ran out; its `__cause__` is torch's error.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as exc:
        raise RunFailed(f"out of GPU memory: {exc}. {mend}") from exc
