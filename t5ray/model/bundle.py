"""The bundle: a plain Hugging Face directory plus `t5ray.json`, all that scoring needs.

A bundle appears whole or not at all: it is written to a temporary directory, loaded back, its logits compared with
those of the model in memory, and only then renamed to its place.
"""

import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from transformers import GenerationConfig

from t5ray.config import DecodeConfig, Settings, TaskConfig
from t5ray.errors import ModelError
from t5ray.model.loading import LoadedModel, load_model

CARD = "t5ray.json"


class BundleCard(Settings):
    """The content of t5ray.json."""

    task: TaskConfig
    """How rows become inputs, and predictions are read back and judged."""
    decode: DecodeConfig
    """How predictions are generated; `max_new_tokens` is always set."""
    max_input_tokens: int = Field(ge=2)
    """Longest input in tokens with EOS; longer ones are cut, as in training."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Validation metrics of these weights."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Resolved settings of the run that made the weights."""
    base_model: str = ""
    """Model that was fine-tuned."""
    data_fingerprint: str = ""
    """Digest of the training, validation and test examples."""
    seeds: dict[str, int] = Field(default_factory=dict)
    """Every seed that was used, by what it seeds."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Versions of t5ray and the libraries that made the weights."""


def read_card(source: str | Path) -> BundleCard | None:
    """Read t5ray.json of a directory; None where the model is a plain one.

    Raises:
        ModelError: the file is there but broken.
    """
    path = Path(source) / CARD
    if not path.is_file():
        return None
    try:
        return BundleCard.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as exc:
        raise ModelError(f"{path}: must be the card of a bundle, but could not be read: {exc}") from exc


def save_weights(loaded: LoadedModel, target: Path) -> None:
    """Write model and tokenizer as a Hugging Face directory, whole or not at all; replaces an older one."""
    temporary = _beside(target)
    temporary.mkdir(parents=True)
    try:
        _write(loaded, temporary)
        _sync(temporary)
        _replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish(loaded: LoadedModel, card: BundleCard, target: Path) -> None:
    """Write a bundle from a model in memory, prove that it loads back equal, and move it to its place.

    Raises:
        ModelError: the logits of the reloaded model differ, or the disk refused.
    """
    temporary = _beside(target)
    try:
        temporary.mkdir(parents=True)
        loaded.model.generation_config = _generation_config(loaded, card.decode)
        _write(loaded, temporary)
        (temporary / CARD).write_text(card.model_dump_json(indent=1), encoding="utf-8")
        _check_reload(loaded, card, temporary)
        _sync(temporary)
        _replace(temporary, target)
    except OSError as exc:
        raise ModelError(f"{target}: the bundle must be writable, but: {exc}. Free space or choose --storage.") from exc
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(loaded: LoadedModel, folder: Path) -> None:
    """Write weights, configuration and tokenizer.

    transformers 5 notes `tie_word_embeddings: true` even for flan-T5 models, whose head is not tied; what it writes
    would be tied again, and ruined, by transformers 4. The truth goes into the file.
    """
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    head, embeddings = loaded.model.get_output_embeddings(), loaded.model.get_input_embeddings()
    config["tie_word_embeddings"] = head.weight is embeddings.weight
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")


def _generation_config(loaded: LoadedModel, decode: DecodeConfig) -> GenerationConfig:
    """Return settings with which plain `model.generate(**inputs)` decodes as the bundle does."""
    config = loaded.model.config
    return GenerationConfig(
        num_beams=decode.num_beams,
        length_penalty=decode.length_penalty if decode.num_beams > 1 else None,
        max_new_tokens=decode.max_new_tokens,
        do_sample=False,
        decoder_start_token_id=config.decoder_start_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )


@torch.no_grad()
def _check_reload(loaded: LoadedModel, card: BundleCard, folder: Path) -> None:
    """Compare the logits of the written model with those in memory on a probe text."""
    again = load_model(str(folder))
    probe = loaded.tokenizer(card.task.prefix + "probe 123", return_tensors="pt").input_ids
    was_training = loaded.model.training
    here = loaded.model.eval()(input_ids=probe.to(loaded.model.device), labels=probe.to(loaded.model.device)).logits
    there = again.model(input_ids=probe, labels=probe).logits
    loaded.model.train(was_training)
    if not torch.allclose(here.float().cpu(), there, rtol=1e-3, atol=1e-3):
        gap = (here.float().cpu() - there).abs().max().item()
        raise ModelError(f"{folder}: a reloaded bundle must give the same logits, but they differ by up to {gap:.3g}.")


def fingerprint(source: str | Path) -> str:
    """Return a digest of weights, tokenizer and card: equal digests predict equally.

    A hub id is represented by its name; a directory by the content of its files.
    """
    folder = Path(source)
    digest = hashlib.sha256()
    if not folder.is_dir():
        return hashlib.sha256(str(source).encode()).hexdigest()
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors", ".model", ".txt")):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def write_json(path: Path, value: object) -> None:
    """Write JSON, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")


def _replace(temporary: Path, target: Path) -> None:
    """Rename a finished directory to its place; an older one is moved away first and then removed."""
    if target.exists():
        old = _beside(target)
        target.rename(old)
        temporary.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        temporary.rename(target)


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
