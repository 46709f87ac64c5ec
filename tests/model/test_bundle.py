"""A bundle loads with plain transformers, predicts the same there, and appears whole or not at all."""

import json
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from t5ray.config import DecodeConfig, TaskConfig
from t5ray.errors import ModelError
from t5ray.model.bundle import clear_leftovers, discard, draft_weights, publish, take_place
from t5ray.model.card import CARD, BundleCard, fingerprint, read_card
from t5ray.model.engine import Engine
from t5ray.model.loading import LoadedModel, load_model
from t5ray.model.predictor import decode_tokens
from tests.tiny import make_tiny_t5

TASK = TaskConfig(name="shout", inputs="shout: {text}", targets="{loud}", metrics=("exact_match",))
CARD_OF_TEST = BundleCard(task=TASK, decode=DecodeConfig(max_new_tokens=9, num_beams=2), max_input_tokens=40)


@pytest.fixture(params=[(False, True), (True, False)], ids=["tied relu", "untied gated"])
def published(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    gated, tied = request.param
    publish(load_model(str(make_tiny_t5(tmp_path / "base", gated=gated, tied=tied))), CARD_OF_TEST, tmp_path / "best")
    return tmp_path / "best"


def test_plain_transformers_gives_the_same_outputs_without_any_setting(published: Path) -> None:
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(published), AutoTokenizer.from_pretrained(published)
    texts = ["shout: hello there", "shout: b", "shout: 12 monkeys"]
    for text, prediction in zip(texts, Engine(str(published)).predict(texts), strict=True):
        output = model.generate(**tokenizer(text, return_tensors="pt"))
        assert tokenizer.decode(output[0], skip_special_tokens=True) == prediction.text


def test_plain_decoding_keeps_spaces_though_the_base_model_says_otherwise(tmp_path: Path) -> None:
    base = make_tiny_t5(tmp_path / "base")
    said = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps({**said, "clean_up_tokenization_spaces": True}))
    publish(load_model(str(base)), CARD_OF_TEST, tmp_path / "best")
    ids = AutoTokenizer.from_pretrained(base)("hello , world . do n't ?").input_ids
    assert AutoTokenizer.from_pretrained(base).decode(ids, skip_special_tokens=True) == "hello, world. don't?"
    found = AutoTokenizer.from_pretrained(tmp_path / "best").decode(ids, skip_special_tokens=True)
    assert found == "hello , world . do n't ?"
    assert decode_tokens(load_model(str(base)).tokenizer, torch.tensor([ids])) == [found]


def test_the_config_tells_whether_the_head_is_tied(published: Path) -> None:
    config = json.loads((published / "config.json").read_text())
    weights = AutoModelForSeq2SeqLM.from_pretrained(published)
    assert config["tie_word_embeddings"] == torch.equal(weights.lm_head.weight, weights.shared.weight)


def test_its_texts_end_with_a_line_break(published: Path) -> None:
    assert all((published / name).read_text().endswith("}\n") for name in ("config.json", "t5ray.json"))


def test_the_card_comes_back_as_it_was(published: Path) -> None:
    assert read_card(published) == CARD_OF_TEST


def test_nothing_but_the_bundle_is_left_behind(published: Path) -> None:
    assert sorted(p.name for p in published.parent.iterdir()) == ["base", "best"]


def test_a_model_whose_written_weights_differ_is_not_published(
    tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(str(tiny_t5))
    write = loaded.model.save_pretrained

    def write_other_weights(folder: Path, **more: Any) -> None:
        with torch.no_grad():
            loaded.model.shared.weight.add_(1.0)
        write(folder, **more)
        with torch.no_grad():
            loaded.model.shared.weight.sub_(1.0)

    monkeypatch.setattr(loaded.model, "save_pretrained", write_other_weights)
    with pytest.raises(ModelError, match="must give the same logits"):
        publish(loaded, CARD_OF_TEST, tmp_path / "best")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_the_weights_is_told_and_leaves_the_bundle_that_was_there(
    tiny_t5: Path, tmp_path: Path
) -> None:
    loaded = load_model(str(tiny_t5))
    publish(loaded, CARD_OF_TEST, tmp_path / "best")
    before = fingerprint(tmp_path / "best")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # bytes of a file
    try:
        with pytest.raises(ModelError, match=r"best: the bundle must be writable, but: .*Free space"):
            publish(loaded, CARD_OF_TEST, tmp_path / "best")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert fingerprint(tmp_path / "best") == before


def test_publishing_again_replaces_the_bundle(tiny_t5: Path, tmp_path: Path) -> None:
    loaded = load_model(str(tiny_t5))
    publish(loaded, CARD_OF_TEST, tmp_path / "best")
    publish(loaded, CARD_OF_TEST.model_copy(update={"max_input_tokens": 11}), tmp_path / "best")
    card = read_card(tmp_path / "best")
    assert card is not None
    assert card.max_input_tokens == 11


class Killed(BaseException):
    """Stands for a kill: nothing that catches errors catches it."""


@pytest.mark.parametrize("renames", [1, 2])
def test_a_kill_while_a_bundle_is_replaced_leaves_one_that_is_whole(
    tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    """The older one is moved away, then the newer one takes its place: the kill falls before either."""
    loaded, target, rename, done = load_model(str(tiny_t5)), tmp_path / "best", Path.rename, list[Path]()
    publish(loaded, CARD_OF_TEST, target)

    def rename_or_die(path: Path, to: Path) -> Path:
        if len(done) + 1 == renames:
            raise Killed
        done.append(path)
        return rename(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename_or_die)
        patch.setattr(shutil, "rmtree", lambda *given, **more: None)
        with pytest.raises(Killed):
            take_place(draft_weights(loaded, target), target)
    clear_leftovers(tmp_path, "best")
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert read_card(target) == CARD_OF_TEST  # the older one


def test_what_is_discarded_is_gone_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*given: Any, **more: Any) -> None:
        raise Killed

    (tmp_path / "best-8").mkdir()
    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(Killed):
        discard(tmp_path / "best-8")
    monkeypatch.undo()
    assert not (tmp_path / "best-8").exists()
    clear_leftovers(tmp_path, "best-*")
    assert list(tmp_path.iterdir()) == []
    discard(tmp_path / "best-8")  # by somebody else


def test_the_fingerprint_follows_weights_and_card(tmp_path: Path) -> None:
    one, other = make_tiny_t5(tmp_path / "one", seed=0), make_tiny_t5(tmp_path / "other", seed=1)
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(make_tiny_t5(tmp_path / "again", seed=0))
    before = fingerprint(one)
    (one / CARD).write_text(CARD_OF_TEST.model_dump_json())
    assert fingerprint(one) != before


def test_a_broken_card_is_named(tiny_t5: Path, tmp_path: Path) -> None:
    (tmp_path / CARD).write_text('{"task": 1}')
    with pytest.raises(ModelError, match=r"t5ray\.json: must be the card of a bundle"):
        read_card(tmp_path)
    assert read_card(tiny_t5) is None


def test_loaded_model_keeps_its_source(tiny_t5: Path) -> None:
    assert isinstance(load_model(str(tiny_t5)), LoadedModel)
    assert load_model(str(tiny_t5)).source == str(tiny_t5)
