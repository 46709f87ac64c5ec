"""The count of operations against PyTorch's own counter over transformers' forward pass."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import T5Config, T5ForConditionalGeneration

from benchmarks.flops import forward_flops, training_flops


@pytest.mark.parametrize("feed_forward", ["relu", "gated-gelu"])
def test_forward_flops_are_those_that_pytorch_counts(feed_forward: str) -> None:
    config = T5Config(
        vocab_size=50,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=3,
        num_decoder_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        pad_token_id=0,
        feed_forward_proj=feed_forward,
    )
    model = T5ForConditionalGeneration._from_config(config, attn_implementation="eager").eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(input_ids=torch.ones(1, 7, dtype=torch.long), labels=torch.ones(1, 5, dtype=torch.long))
    assert forward_flops(model.config, 7, 5) == counter.get_total_flops()
    assert training_flops(model.config, [(7, 5), (7, 5)]) == 6 * counter.get_total_flops()
