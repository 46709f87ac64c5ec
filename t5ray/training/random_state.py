"""Save and restore a worker's random state, as its saved states keep it."""

import torch


def random_state() -> dict[str, torch.Tensor | None]:
    """Return the state of this worker's generators."""
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if _uses_gpu() else None,
    }


def set_random_state(state: dict[str, torch.Tensor | None]) -> None:
    """Put this worker's generators where they were."""
    if state["cpu"] is not None:
        torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and _uses_gpu():
        torch.cuda.set_rng_state(state["cuda"])


def _uses_gpu() -> bool:
    """Say whether this process computes on a GPU; one that trains on a CPU must not open any."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
