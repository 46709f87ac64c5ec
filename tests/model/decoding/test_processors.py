"""Processors work where the scores are: on a GPU, too, which torch pretends to have."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from t5ray.config import DecodeConfig
from t5ray.model.decoding.processors import make_processor


@pytest.mark.parametrize("name", ["cpu", "cuda:0"])
def test_the_end_is_forbidden_where_the_scores_are(name: str) -> None:
    device = torch.device(name)
    with FakeTensorMode(allow_non_fake_inputs=True):
        process = make_processor(DecodeConfig(max_new_tokens=8, min_new_tokens=3), 1, device)
        assert process is not None
        scores = process(torch.zeros(2, 65, device=device), torch.zeros(2, 1, dtype=torch.int64, device=device))
    assert scores.device == device
