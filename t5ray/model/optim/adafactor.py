"""Adafactor (Shazeer & Stern 2018), each matrix block by block: what lies between reading and writing stays in cache.

But for rounding the updates are those of `transformers.optimization.Adafactor`, each of whose operations is a pass over
the whole matrix. Here its gradient is read three times, its weights once, and nothing of its size is held besides.

torch's own Adafactor always multiplies steps by the size of their matrix, and caps its rate at 1/sqrt(step): T5's
constant 1e-3 (Raffel et al. 2020) cannot be said with it.

Comes in: gradients in fp32. Must not know schedules: relative steps are a learning rate like any other.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch

CPU_BLOCK, GPU_BLOCK = 1 << 18, 1 << 24
"""Numbers that are worked on at once: what a core's cache holds; what keeps a GPU busy."""
TINY = 1e-30
"""What is added to squared gradients (epsilon 1)."""
SMALLEST_SCALE = 1e-3
"""The least size that a matrix is taken to have where steps follow it (epsilon 2)."""
CLIP = 1.0
"""The largest root mean square of an update, before it is multiplied by the learning rate (d)."""
DECAY = 0.8
"""The older a squared gradient, the less it counts: step t keeps 1 - t^-0.8 of those before."""


class Adafactor(torch.optim.Optimizer):
    """Steps of the gradient over the root of a factored average of its squares.

    Matrices keep a row and a column of averages, vectors one number each. While `grad_scale`, a tensor of one number,
    is set, gradients are divided by it as they are read; torch's fused rules have the same.
    """

    grad_scale: torch.Tensor

    def __init__(self, groups: Any, lr: float, *, scale_parameter: bool = False) -> None:
        """Make the rule; `scale_parameter` multiplies steps by the root mean square of the matrix they change."""
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0, "scale_parameter": scale_parameter})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group)

    def _update(self, weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        state["step"] = state.get("step", 0) + 1
        newest = math.pow(state["step"], -DECAY)
        rate = group["lr"]
        if group["scale_parameter"]:
            rate = rate * _rms(weight).clamp(min=SMALLEST_SCALE)
        scale = 1 / getattr(self, "grad_scale", torch.ones((), device=weight.device))
        keep = 1 - group["weight_decay"] * rate
        if weight.ndim < 2:
            gradient = gradient * scale
            update = gradient * _averaged(state, "exp_avg_sq", gradient.square() + TINY, newest).rsqrt()
            weight.mul_(keep).sub_(update * (rate / (_rms(update) / CLIP).clamp(min=1.0)))
            return
        by_row, by_column = _mean_squares(gradient, scale)
        by_row = _averaged(state, "exp_avg_sq_row", by_row, newest)
        by_column = _averaged(state, "exp_avg_sq_col", by_column, newest)
        rows, columns = (by_row / by_row.mean()).rsqrt().mul_(scale).unsqueeze(1), by_column.rsqrt()
        squares = torch.zeros((), device=weight.device)
        for part in _blocks(weight):
            update = (gradient[part] * rows[part]).mul_(columns).flatten()
            squares += update.dot(update)
        rows *= rate / ((squares / weight.numel()).sqrt() / CLIP).clamp(min=1.0)
        for part in _blocks(weight):
            block = weight[part]
            if group["weight_decay"]:
                block.mul_(keep)
            block.addcmul_(gradient[part] * rows[part], columns, value=-1)


def _mean_squares(gradient: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean square of each row, and of each column, of a gradient times a scale."""
    by_row = torch.empty(len(gradient), device=gradient.device)
    by_column = torch.zeros(gradient.shape[1], device=gradient.device)
    for part in _blocks(gradient):
        squares = gradient[part].square()
        torch.sum(squares, 1, out=by_row[part])
        by_column += squares.sum(0)
    squared = scale.square()
    return by_row.mul_(squared / gradient.shape[1]).add_(TINY), by_column.mul_(squared / len(gradient)).add_(TINY)


def _averaged(state: dict[str, Any], name: str, new: torch.Tensor, weight: float) -> torch.Tensor:
    """Move an average towards new values and return it; at first it is these."""
    average: torch.Tensor = state.setdefault(name, torch.zeros_like(new))
    return average.lerp_(new, weight)


def _rms(tensor: torch.Tensor) -> torch.Tensor:
    norm: torch.Tensor = torch.linalg.vector_norm(tensor)
    return norm / math.sqrt(tensor.numel())


def _blocks(matrix: torch.Tensor) -> Iterator[slice]:
    """Yield the rows of each block."""
    rows = max(1, (CPU_BLOCK if matrix.device.type == "cpu" else GPU_BLOCK) // matrix.shape[1])
    return (slice(start, start + rows) for start in range(0, len(matrix), rows))
