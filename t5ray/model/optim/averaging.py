"""An exponential moving average of the trained weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class WeightAverage:
    """Follows the trained parameters of a model, `average = d * average + (1 - d) * weight` after each step.

    `d` is `decay`, but at most (1 + steps) / (10 + steps), so that short runs are not held at their start.
    Source: Polyak & Juditsky 1992; the bound is that of TensorFlow's `ExponentialMovingAverage(num_updates=...)`.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Begin at the weights as they are."""
        self.decay, self.steps = decay, 0
        self._live = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.values = [parameter.detach().clone() for parameter in self._live]

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights after a step in."""
        self.steps += 1
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.values, [parameter.detach() for parameter in self._live], 1 - keep)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average into the model; afterwards the weights are back, bit by bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for average, parameter in zip(self.values, self._live, strict=True):
            weight = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(weight)
