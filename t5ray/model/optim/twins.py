"""Training in pure bf16: a model computes with bf16 twins of its parameters, which themselves stay as they are.

Its own fp32 parameters are the master weights: the optimizer, the moving average, saved states and bundles see only
these. Without them an update of less than 1/512 of a weight would be rounded away (Micikevicius et al. 2018, 3.1).

Comes in: a model and its optimizer. Must not know data, workers or files.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class Twins:
    """The bf16 copies of all parameters of a model, tied where these are; gradients are theirs."""

    def __init__(self, model: nn.Module) -> None:
        """Make the copies, on the device of the parameters; the model does not have them yet."""
        self._places = [
            (module, name, parameter)
            for module in model.modules()
            for name, parameter in module.named_parameters(recurse=False)
        ]
        self._pairs = {id(master): (master, _twin_of(master)) for _, _, master in self._places}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model compute with the twins; afterwards it has its own parameters."""
        self._put(twins=True)
        try:
            yield
        finally:
            self._put(twins=False)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Within `in_place`, let the model have its own parameters; afterwards the twins are back, refreshed."""
        self._put(twins=False)
        try:
            yield
        finally:
            self.refresh()
            self._put(twins=True)

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Hand each step's gradients on to the parameters that an optimizer updates, and the outcome back."""
        optimizer.register_step_pre_hook(self._hand_gradients_on)
        optimizer.register_step_post_hook(self._take_step_over)

    @torch.no_grad()
    def refresh(self) -> None:
        """Round the parameters' values to the twins'."""
        for master, twin in self._pairs.values():
            twin.copy_(master)

    def _hand_gradients_on(self, *_: Any) -> None:
        for master, twin in self._pairs.values():
            if twin.grad is not None:
                master.grad, twin.grad = twin.grad.to(master.dtype), None  # one by one: not all exist twice

    def _take_step_over(self, *_: Any) -> None:
        for master, _twin in self._pairs.values():
            master.grad = None
        self.refresh()

    def _put(self, *, twins: bool) -> None:
        for module, name, master in self._places:
            setattr(module, name, self._pairs[id(master)][1] if twins else master)


def _twin_of(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().to(torch.bfloat16, copy=True), requires_grad=parameter.requires_grad)
