"""A linear layer's matrix, laid out once for the products of scoring.

On a CPU oneDNN multiplies bf16 in blocks. A plain matrix it lays out in blocks anew for each product, which counts
where the other factor has the few rows of a decoder's step; so the matrix is kept in blocks from the start.
torch.compile does so for CPUs, by the same operations of torch; where they are missing, matrices stay plain.
"""

from contextlib import suppress

import torch

ROWS = 64
"""Rows that the blocks are chosen for; products with more rows are as fast as with a plain matrix."""


class Linear:
    """A matrix for products [N, in] -> [N, out], without bias as all of T5's.

    In blocks it can be neither copied nor pickled.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        """Lay out a layer's matrix, [out, in], in the type of its products."""
        self.dtype, self.num_weights = weight.dtype, weight.numel()
        self._in_blocks = takes_blocks(weight)
        self._matrix = in_blocks(weight) if self._in_blocks else weight.t().contiguous()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the product with x, [N, in]."""
        if self._in_blocks:
            product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._matrix, None, "none", [], "")
            return product
        return x @ self._matrix

    def add_to(self, states: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Add the product with x to the residual stream, [N, out], in place."""
        if states.dtype == self.dtype and not self._in_blocks:
            return states.addmm_(x, self._matrix)
        return states.add_(self(x))


def takes_blocks(weight: torch.Tensor) -> bool:
    """Say whether a matrix is one that oneDNN takes in blocks, and this torch and this CPU can make them."""
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16:
        return False
    with suppress(AttributeError, RuntimeError):  # operations that are torch's own affair
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and callable(torch.ops.mkldnn._linear_pointwise)
    return False


def in_blocks(weight: torch.Tensor) -> torch.Tensor:
    """Return a matrix [out, in] in oneDNN's blocks, which nothing but its products can read."""
    found: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)
    return found
