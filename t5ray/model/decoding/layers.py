"""What encoder and decoder share: the norm and the feed-forward part, over states [N, D] of N tokens."""

import torch
from torch.nn import functional

from t5ray.model.decoding.weights import FeedForward, T5Weights

BYTES_AT_ONCE = 2**20
"""What lies between the products of a feed-forward part on a CPU, by thread, so that it stays in cache."""
LEAST_ROWS = 64
"""Rows that products take at once all the same."""


def norm(states: torch.Tensor, weight: torch.Tensor, model: T5Weights) -> torch.Tensor:
    """Return root-mean-square normed states, in the type of the matrix products."""
    if states.device.type != "cpu":
        return functional.rms_norm(states, weight.shape, weight, float(model.eps)).to(model.dtype)
    # torch's own is five passes over memory there, this is three
    lengths = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
    inverse = torch.addcmul(model.eps, lengths, lengths, value=1 / states.shape[-1]).rsqrt_()
    return (states * inverse).mul_(weight).to(model.dtype)


def feed_forward(states: torch.Tensor, part: FeedForward, model: T5Weights) -> torch.Tensor:
    """Add a feed-forward part to the states, in place."""
    if states.device.type != "cpu":
        return _feed_forward(states, part, model)
    most = max(LEAST_ROWS, BYTES_AT_ONCE // (part.wi.num_outputs * model.dtype.itemsize))
    for rows in torch.split(states, most * torch.get_num_threads()):
        _feed_forward(rows, part, model)
    return states


def _feed_forward(states: torch.Tensor, part: FeedForward, model: T5Weights) -> torch.Tensor:
    normed = norm(states, part.norm, model)
    inner = part.wi(normed)
    if part.gate is not None:
        inner = part.gate.scaled(normed, inner)
    return part.wo.add_to(states, inner)
