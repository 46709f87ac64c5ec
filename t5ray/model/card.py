"""The card of a bundle, `t5ray.json`: what scoring must know besides the weights. Imports no torch."""

import hashlib
import json
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from t5ray.config import DecodeConfig, Settings, TaskConfig
from t5ray.disk import sync
from t5ray.errors import ModelError, nearest

CARD = "t5ray.json"
ENTRY = "config.json"
"""Nobody takes a folder without it for a model."""
SEEN = "seen.npy"
"""Beside the card: digests of the input texts that training and its validation saw, so that nobody judges on them."""
LOADED = (
    *(ENTRY, "generation_config.json", "*.safetensors", "*.safetensors.index.json", "adapter_config.json"),
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "*.model", "vocab.*", "merges.txt"),
)
"""Patterns of the files that transformers reads of a model and its tokenizer."""
BEST = "best"
"""The bundle in the folder of a run or search."""
REGISTRY_SCHEMES = ("models:/", "runs:/")
"""How MLflow's names of models begin."""


class BundleCard(Settings):
    """The content of t5ray.json."""

    task: TaskConfig
    """How rows become inputs, and predictions are read back and judged."""
    decode: DecodeConfig
    """How predictions are generated; `max_new_tokens` is always set."""
    max_input_tokens: int = Field(ge=2)
    """Longest input in tokens with EOS; longer ones are cut, as in training."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Column the task looks for -> column of the data that it was trained on."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the scores of closed labels before they become probabilities; fitted on validation."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Validation metrics of these weights."""
    run: dict[str, Any] = Field(default_factory=dict)
    """Run of a search that made the weights, as `best` of search.json names it; empty for a run of train."""
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

    @property
    def labels(self) -> tuple[str, ...]:
        """The closed set that predictions are taken from; empty for a task that generates."""
        return self.decode.answers or (self.task.labels if self.task.closed_labels else ())

    def temperature_of(self, labels: Sequence[str]) -> float:
        """Return what the scores of labels are divided by: it was fitted for the card's own, others have none."""
        return self.temperature if tuple(labels) == self.labels else 1.0


def require_model(source: str) -> None:
    """Refuse a directory that is not there or holds a run, before anybody looks for a hub model of that name.

    Raises:
        ModelError: the text is that of a path, and no model is there.
    """
    folder = Path(source)
    if source.startswith(REGISTRY_SCHEMES):
        raise ModelError(
            f"{source}: must be a directory or a Hugging Face id; only predict and evaluate take MLflow's names of "
            "models. Name the directory of the bundle."
        )
    if folder.is_dir() and not (folder / ENTRY).exists() and (folder / BEST / ENTRY).is_file():
        bundle = folder / BEST
        raise ModelError(f"{source}: must hold a model, but holds a run, whose bundle is {bundle}. Use {bundle}.")
    if is_path(source) and not folder.is_dir():
        parent = folder.parent
        near = nearest(folder.name, (p.name for p in parent.iterdir())) if parent.is_dir() else None
        found = "it is a file" if folder.exists() else "is not"
        mend = f"Did you mean `{near}`?" if near else "Check the path."
        raise ModelError(f"{source}: the directory of a model must be there, but {found}. {mend}")


def is_path(source: str) -> bool:
    """Say whether the name of a model is that of a directory, and not a hub id such as `t5-small` or `google/t5-base`.

    Example:
        is_path("./t5-small"), is_path("runs/topics/best") -> (True, True)
    """
    if "://" in source or source.startswith(REGISTRY_SCHEMES):
        return False
    inside = Path(source).parent
    return source.startswith((".", "/", "~")) or source.count("/") > 1 or (inside != Path() and inside.is_dir())


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


def fingerprint(source: str | Path, commit: str = "") -> str:
    """Return a digest of weights, tokenizer, decode settings and card: equal digests predict equally.

    A directory is represented by the content of what is loaded of it, whatever else lies there, a hub id by its name
    and commit.

    Args:
        commit: what `model.loading.commit_of` says of a hub id, which is empty for a directory.
    """
    return _fingerprint(source, commit, (*LOADED, CARD))


def loaded_fingerprint(source: str) -> str:
    """Return the same without the card: equal digests train equally."""
    return _fingerprint(source, "", LOADED)


def _fingerprint(source: str | Path, commit: str, patterns: Iterable[str]) -> str:
    folder = Path(source)
    if not folder.is_dir():
        return hashlib.sha256(f"{source}@{commit}".encode()).hexdigest()
    return _digest(p for p in folder.iterdir() if any(p.match(pattern) for pattern in patterns))


def _digest(paths: Iterable[Path]) -> str:
    """Return a digest of files, by their names and content."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def write_json(path: Path, value: object) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, f"{json.dumps(value, indent=1, ensure_ascii=False)}\n")


def write_text(path: Path, text: str) -> None:
    """Write a text, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    temporary.write_text(text, encoding="utf-8")
    sync(temporary)
    temporary.replace(path)
