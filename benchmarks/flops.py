"""What a T5 has to multiply, and how fast this machine multiplies: numbers in, numbers out.

Only matrix products count, two operations to a multiplication and addition; training takes three times the forward pass
(each product has two in its gradient), as in Chowdhery et al. 2022 (PaLM), appendix B.
"""

import time
from collections.abc import Iterable
from typing import Any

import torch

TRIES = 12
SIDE = {"cpu": 1536, "cuda": 8192}
"""Rows and columns of the product that is timed."""


def training_flops(config: Any, lengths: Iterable[tuple[int, int]]) -> float:
    """Return the operations of one pass over rows in training, padding left out.

    Args:
        config: of a transformers T5.
        lengths: source and target tokens of each row.
    """
    return 3 * sum(forward_flops(config, source, target) for source, target in lengths)


def forward_flops(config: Any, source: int, target: int) -> float:
    """Return the operations of one row's forward pass; causal attention counts whole, as it is computed."""
    inner = config.num_heads * config.d_kv
    feed_forward = (3 if config.is_gated_act else 2) * config.d_model * config.d_ff
    projection = config.d_model * inner
    encoder = source * (4 * projection + feed_forward) + 2 * source**2 * inner
    own = target * (4 * projection) + 2 * target**2 * inner
    cross = (2 * target + 2 * source) * projection + 2 * source * target * inner
    decoder = own + cross + target * feed_forward
    head = target * config.d_model * config.vocab_size
    return float(2 * (config.num_layers * encoder + config.num_decoder_layers * decoder + head))


def machine_flops(device: torch.device, precision: str) -> float:
    """Measure the operations per second of a large square product, in fp32 or bf16; the best of some tries.

    Where bf16 is emulated that takes a minute.
    """
    side, dtype = SIDE[device.type], {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    left, right = torch.randn(2, side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(TRIES):
        started = time.perf_counter()
        float((left @ right)[0, 0])  # waits for a GPU
        best = min(best, time.perf_counter() - started)
    return float(2 * side**3 / best)
