"""A linear layer's matrix, laid out once for the products of scoring, and what follows them at once.

On a CPU oneDNN multiplies in blocks, and a matrix may be kept in blocks from the start. In bf16 a plain one is laid out
in blocks anew for each product, which counts where the other factor has the few rows of a decoder's step. In fp32
MKL multiplies plain ones well; large matrices, which a step reads from memory, are faster in blocks on some CPUs.
torch.compile does so for CPUs, by the same operations of torch; where they are missing, matrices stay plain. In bf16
those operations also activate or multiply a product before it is rounded, and before it leaves the cache.
"""

import platform
from contextlib import suppress

import torch

from t5ray.model.decoding.activations import activation as activation_named

FUSED = {"gelu_new": ("gelu", "tanh"), "gelu": ("gelu", "none"), "relu": ("relu", ""), "silu": ("swish", "")}
"""Activations that oneDNN's products have, by transformers' names -> oneDNN's name and the form."""
X86 = ("x86_64", "AMD64")
"""Machines on which products in fp32 were tried both ways."""
LEAST_NUMBERS = 2**19
"""Of a matrix in fp32: a call of oneDNN's takes some microseconds more, which smaller products do not make up."""
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
        self._fuses = self._in_blocks and weight.dtype == torch.bfloat16  # in fp32 its GELU is slower than torch's
        self._matrix = in_blocks(weight) if self._in_blocks else weight.t().contiguous()
        fused = FUSED.get(activation or "") if self._fuses else None
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

    def into(self, out: torch.Tensor, x: torch.Tensor) -> None:
        """Write the product with x into room for it, [N, out], rows of which may lie apart; without activation."""
        if self._in_blocks:
            out.copy_(self(x))
        else:
            torch.mm(x, self._matrix, out=out)

    def scaled(self, x: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """Return the product with x, times factors [N, out] that may be overwritten; for layers without activation."""
        if self._fuses:
            product: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, factors, self._matrix, None, "mul")
            return product
        return factors.mul_(self(x))

    def add_to(self, states: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Add the product with x to the residual stream, [N, out], in place; for layers without activation."""
        if states.dtype == self.dtype and not self._in_blocks:
            return states.addmm_(x, self._matrix)
        return states.add_(self(x))


def takes_blocks(weight: torch.Tensor) -> bool:
    """Say whether a matrix is one that oneDNN takes in blocks, and this torch and this CPU can make them."""
    if weight.device.type != "cpu":
        return False
    with suppress(AttributeError, RuntimeError):  # operations that are torch's own affair
        operations = torch.ops.mkldnn
        if weight.dtype == torch.bfloat16:
            has_type = bool(operations._is_mkldnn_bf16_supported())
        else:
            is_large = weight.dtype == torch.float32 and weight.numel() >= LEAST_NUMBERS
            has_type = is_large and platform.machine() in X86
        return has_type and callable(operations._linear_pointwise)
    return False


def in_blocks(weight: torch.Tensor) -> torch.Tensor:
    """Return a matrix [out, in] in oneDNN's blocks, which nothing but its products can read."""
    found: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)
    return found
