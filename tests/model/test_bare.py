"""A model without weights gets random ones, once."""

from pathlib import Path

import torch
from transformers import AutoModelForSeq2SeqLM

from t5ray.model.bare import initialise, is_bare
from tests.tiny import character_tokenizer, tiny_config


def test_initialise_makes_seeded_weights_once(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    character_tokenizer().save_pretrained(bare)
    tiny_config().save_pretrained(bare)
    assert is_bare(str(bare))
    one, again = initialise(bare, tmp_path / "cache", seed=1), initialise(bare, tmp_path / "cache", seed=1)
    other = initialise(bare, tmp_path / "cache", seed=2)
    assert one == again != other
    weights = [AutoModelForSeq2SeqLM.from_pretrained(folder).shared.weight for folder in (one, other)]
    assert not torch.equal(*weights)
    assert not is_bare(str(one))
