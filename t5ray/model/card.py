"""The card of a bundle, `t5ray.json`: what scoring must know besides the weights. Imports no torch."""

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from t5ray.config import DecodeConfig, Settings, TaskConfig
from t5ray.errors import ModelError

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
