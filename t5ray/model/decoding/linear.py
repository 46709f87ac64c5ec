"""A linear layer's matrix, laid out once for the products of scoring, and what follows them at once.

On a CPU oneDNN multiplies bf16 in blocks. A plain matrix it lays out in blocks anew for each product, which counts
where the other factor has the few rows of a decoder's step; so the matrix is kept in blocks from the start.
torch.compile does so for CPUs, by the same operations of torch; where they are missing, matrices stay plain. Those
operations also activate or multiply a product before it is rounded, and before it leaves the cache.
"""

from contextlib import suppress

import torch

from t5ray.model.decoding.activations import activation as activation_named

FUSED = {"gelu_new": ("gelu", "tanh"), "gelu": ("gelu", "none"), "relu": ("relu", ""), "silu": ("swish", "")}
"""Activations that oneDNN's products have, by transformers' names -> oneDNN's name and the form."""
ROWS = 64
"""Rows that the blocks are chosen for; products with more rows are as fast as with a plain matrix."""


class Linear:
    """A matrix for products [N, in] -> [N, out], without bias as all of T5's; an activation may follow them.

    In blocks it can be neither copied nor pickled.
    """

    def __init__(self, weight: torch.Tensor, *, activation: str | None = None) -> None:
        """Lay out a layer's matrix, [out, in], in the type of its products.

        Args:
            activation: of the products, by its name in transformers. None leaves them as they are.
        """
        self.dtype, self.num_weights, self.num_outputs = weight.dtype, weight.numel(), len(weight)
        self._in_blocks = takes_blocks(weight)
        self._matrix = in_blocks(weight) if self._in_blocks else weight.t().contiguous()
        fused = FUSED.get(activation or "") if self._in_blocks else None
        self._fused = fused or ("none", "")
        self._activation = activation_named(activation) if activation is not None and fused is None else None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the product with x, [N, in], activated."""
        if self._in_blocks:
            name, form = self._fused
            product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._matrix, None, name, [], form)
        else:
            product = x @ self._matrix
        return self._activation(product) if self._activation else product

    def scaled(self, x: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """Return the product with x, times factors [N, out] that may be overwritten; for layers without activation."""
        if self._in_blocks:
            product: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, factors, self._matrix, None, "mul")
            return product
        return factors.mul_(x @ self._matrix)

    def add_to(self, states: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Add the product with x to the residual stream, [N, out], in place; for layers without activation."""
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
