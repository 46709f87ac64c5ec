"""What can and cannot be loaded, and what the user is told."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM

from t5ray.errors import ModelError
from t5ray.model.loading import (
    initialise,
    is_bare,
    load_config,
    load_model,
    load_tokenizer,
    model_max_tokens,
    num_parameters,
    tokenizer_fingerprint,
)
from t5ray.model.numeric import set_dropout
from tests.tiny import character_tokenizer, make_tiny_t5, tiny_config


def test_a_missing_directory_is_named() -> None:
    with pytest.raises(ModelError, match="no/such/model: the directory of a model must be there, but is not"):
        load_model("no/such/model")


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match="model_type must be one of t5, mt5, umt5, but got 'bert'"):
        load_model(str(tmp_path))


def test_broken_weights_are_named(tmp_path: Path) -> None:
    folder = make_tiny_t5(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match="its weights could not be read"):
        load_model(str(folder))


def test_pickled_weights_are_never_loaded(tmp_path: Path) -> None:
    folder = make_tiny_t5(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="its weights could not be read"):
        load_model(str(folder))


def test_a_tokenizer_larger_than_the_embeddings_is_refused(tmp_path: Path) -> None:
    folder = make_tiny_t5(tmp_path / "model")
    tokenizer = character_tokenizer()
    tokenizer.add_tokens(["more"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="must have a row for each token"):
        load_model(str(folder))


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


def test_model_max_tokens_reads_what_the_model_says() -> None:
    tokenizer, config = character_tokenizer(), tiny_config()
    assert model_max_tokens(config, tokenizer) == 512
    tokenizer.model_max_length = int(1e30)
    assert model_max_tokens(config, tokenizer) is None


def test_the_tokenizer_fingerprint_follows_the_vocabulary() -> None:
    one, other = character_tokenizer(), character_tokenizer()
    assert tokenizer_fingerprint(one) == tokenizer_fingerprint(other)
    other.add_tokens(["new"])
    assert tokenizer_fingerprint(one) != tokenizer_fingerprint(other)


def test_dropout_reaches_every_place(tiny_t5: Path) -> None:
    model = load_model(str(tiny_t5)).model.train()
    set_dropout(model, 0.0)
    inputs = {"input_ids": torch.tensor([[5, 6, 1]]), "labels": torch.tensor([[7, 1]])}
    assert torch.equal(model(**inputs).logits, model(**inputs).logits)
    set_dropout(model, 0.5)
    assert not torch.equal(model(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize(("kind", "tied"), [("t5", True), ("t5", False), ("mt5", False)])
def test_parameters_are_counted_without_the_weights(tmp_path: Path, kind: str, tied: bool) -> None:
    folder = make_tiny_t5(tmp_path, tied=tied)
    (folder / "config.json").write_text((folder / "config.json").read_text().replace('"t5"', f'"{kind}"'))
    tensors = load_file(folder / "model.safetensors")
    if not tied:  # a head of its own, as in checkpoints of flan-T5 and mT5
        tensors["lm_head.weight"] = torch.rand_like(tensors["shared.weight"])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    expected = sum(tensor.numel() for tensor in tensors.values())
    assert sum(p.numel() for p in load_model(str(folder)).model.parameters()) == expected
    (folder / "model.safetensors").unlink()
    assert num_parameters(str(folder)) == expected


@pytest.mark.parametrize("load", [load_config, load_tokenizer, load_model])
def test_a_hub_that_does_not_answer_is_asked_once(
    load: Callable[[str], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wait(_: float) -> None:
        raise AssertionError("the user must not wait for a second try")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", wait)
    with pytest.raises(
        ModelError, match=r"^nobody/none: must be .* be reached, .*: .*Connection refused\. Check the sp"
    ):
        load("nobody/none")
    assert caplog.messages == []
