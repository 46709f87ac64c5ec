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
    check_weights,
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


Tensors = dict[str, torch.Tensor]


def rewritten(folder: Path, change: Callable[[Tensors], Tensors], *, says_tied: bool = True) -> str:
    """Change the weights of a checkpoint, and have its config.json say whether head and embeddings are one."""
    weights = change(load_file(folder / "model.safetensors"))
    save_file({name: weight.clone() for name, weight in weights.items()}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": says_tied}))
    return str(folder)


def without(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda weights: {name: weight for name, weight in weights.items() if not name.startswith(names)}


def with_head(weights: Tensors) -> Tensors:
    return {**weights, "lm_head.weight": 2 * weights["shared.weight"]}


LACKING: dict[str, tuple[Callable[[Tensors], Tensors], bool, str]] = {
    "decoder": (without("decoder."), True, r"decoder\.block\.0\.\S+ is missing, .* and 25 more\. Name a whole T5"),
    "layer": (without("decoder.block.1.layer.2.D"), True, r"wi\.weight is missing, \S+\.wo\.weight is missing\. Name"),
    "tied embeddings": (without("shared"), True, r"decoder\.embed_tokens\.weight is missing, .* and 1 more\. Name"),
    "head": (without(), False, r"lm_head\.weight is missing\. Name"),
    "embeddings": (
        lambda weights: without("shared")(with_head(weights)),
        False,
        r"shared\.weight is missing\. Name",
    ),
    "shape": (
        lambda weights: {**weights, "encoder.final_layer_norm.weight": torch.ones(16)},
        True,
        r"encoder\.final_layer_norm\.weight is \[16\], not \[32\]\. Name",
    ),
}


@pytest.mark.parametrize("lacks", LACKING)
@pytest.mark.parametrize("look", [load_model, lambda source: check_weights(Path(source))], ids=["load", "check"])
def test_weights_that_are_missing_are_named_and_none_are_made_up(
    tmp_path: Path, look: Callable[[str], object], lacks: str
) -> None:
    change, says_tied, message = LACKING[lacks]
    source = rewritten(make_tiny_t5(tmp_path / "model"), change, says_tied=says_tied)
    with pytest.raises(ModelError, match=f"must hold all that config.json describes, but .*{message}"):
        look(source)


OLD = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
WAYS: dict[str, tuple[Callable[[Tensors], Tensors], bool]] = {
    "embeddings by one name": (lambda weights: weights, True),
    "by another name": (lambda w: {n.replace("shared", "encoder.embed_tokens"): x for n, x in w.items()}, True),
    "as the head": (lambda w: {n.replace("shared", "lm_head"): x for n, x in w.items()}, True),
    "by all names": (
        lambda w: {**w, **{f"{part}.embed_tokens.weight": w["shared.weight"] for part in ("encoder", "decoder")}},
        True,
    ),
    "a key of old": (lambda weights: {**weights, OLD: torch.zeros(32, 4)}, True),
    "a head of its own": (with_head, False),
    "a head of its own, told to be tied": (with_head, True),
    "half precision": (lambda weights: {name: weight.bfloat16() for name, weight in weights.items()}, True),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_write_a_whole_model_loads(tmp_path: Path, way: str) -> None:
    change, says_tied = WAYS[way]
    folder = make_tiny_t5(tmp_path / "model")
    expected = load_file(folder / "model.safetensors")["shared.weight"]
    source = rewritten(folder, change, says_tied=says_tied)
    check_weights(folder)
    model = load_model(source).model
    scale = 2 if "own" in way else 1
    assert torch.allclose(model.get_input_embeddings().weight, expected, rtol=1e-2)
    assert torch.allclose(model.get_output_embeddings().weight, scale * expected, rtol=1e-2)


def test_weights_in_several_files_load_and_a_name_that_their_index_lacks_is_told(tmp_path: Path) -> None:
    folder = make_tiny_t5(tmp_path / "model")
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="30KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    found = load_model(str(folder)).model.state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in model.state_dict().items())
    check_weights(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    with pytest.raises(ModelError, match=r"but lm_head\.weight is missing"):
        load_model(str(folder))


def test_a_hub_models_weights_are_looked_at_where_they_were_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "models--someone--tiny" / "snapshots" / ("0" * 40)
    make_tiny_t5(snapshot)
    (tmp_path / "models--someone--tiny" / "refs").mkdir()
    (tmp_path / "models--someone--tiny" / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert load_model("someone/tiny").source == "someone/tiny"
    rewritten(snapshot, without(), says_tied=False)
    with pytest.raises(ModelError, match=r"someone/tiny: the weight files .* but lm_head\.weight is missing"):
        load_model("someone/tiny")


def test_a_tokenizer_larger_than_the_embeddings_is_refused(tmp_path: Path) -> None:
    folder = make_tiny_t5(tmp_path / "model")
    tokenizer = character_tokenizer()
    tokenizer.add_tokens(["more"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="must have a row for each token"):
        load_model(str(folder))


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
