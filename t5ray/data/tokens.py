"""Examples -> token ids, once per (examples, tokenizer, lengths), kept on disk and opened memory-mapped.

Comes in: `Splits` and a transformers fast tokenizer. Goes out: flat arrays with offsets. The task is part of the key
through the rendered texts. Must not know models, nor what the files look like (`token_cache.py`).
"""

import hashlib
import itertools
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from t5ray.config import DataConfig
from t5ray.data.rows import Example
from t5ray.data.splits import Splits
from t5ray.data.token_cache import SPLITS, Chunk, Entry, Meta, TokenisedSplit, open_entry, save_entry
from t5ray.errors import DataError, ModelError

CACHE_FORMAT = 1
"""Part of the key: raise it when the arrays change their meaning."""
CHUNK_TEXTS = 4096
"""Texts given to the tokenizer at once."""
PERCENTILE = 99
"""Default lengths hold the inputs and targets of this share of the training rows whole."""
__all__ = ["TokenisedData", "TokenisedSplit", "Tokenizer", "tokenise"]


class Tokenizer(Protocol):
    """What is used of a transformers fast tokenizer."""

    @property
    def eos_token_id(self) -> int | None:
        """Id of the end-of-sequence token."""

    def __call__(self, text: list[str], **options: Any) -> Any:
        """Return an object whose `input_ids` hold one list of ids per text."""


@dataclass(frozen=True, eq=False)
class TokenisedData:
    """What training needs of the data."""

    train: TokenisedSplit
    validation: TokenisedSplit
    test: TokenisedSplit
    validation_references: tuple[tuple[str, ...], ...]
    """Texts that count as right, per row."""
    test_references: tuple[tuple[str, ...], ...]
    max_input_tokens: int
    """Longest input, in tokens with EOS; longer ones are cut to it."""
    max_target_tokens: int
    """Longest target, likewise."""
    truncated_inputs: float
    """Share of rows, of all splits, whose input was cut."""
    truncated_targets: float
    """Share of rows, of all splits, whose target was cut."""
    fingerprint: str
    """Key of the cache entry: changes with examples, tokenizer and lengths."""
    reused: bool
    """True where an entry of the cache was opened and nothing was tokenised."""

    def without_test(self) -> "TokenisedData":
        """Return the same without test rows: what is handed to training, so that nothing can be chosen by them."""
        ids, offsets = np.zeros(0, np.int32), np.zeros(1, np.int64)
        return replace(self, test=TokenisedSplit(ids, offsets, ids, offsets), test_references=())


def tokenise(
    splits: Splits,
    tokenizer: Tokenizer,
    config: DataConfig,
    *,
    tokenizer_fingerprint: str,
    model_max_tokens: int | None,
    cache: Path,
) -> TokenisedData:
    """Tokenise all splits, or open what an earlier call left in the cache.

    Of several references the first becomes the labels. Lengths that the settings leave open are the 99th percentile
    of the train split, at most `model_max_tokens`; labels of a closed set are never cut.

    Args:
        tokenizer_fingerprint: digest of everything that decides how text becomes tokens.
        model_max_tokens: longest input the model is made for, in tokens with EOS. None: no limit known.
        cache: parent of the cache entries; made if missing. Several processes may share it.
    Raises:
        ModelError: the tokenizer does not end texts with its EOS token.
        DataError: the cache cannot be written.
    """
    key = _key(splits, config, tokenizer_fingerprint, model_max_tokens)
    place = cache / key
    entry = open_entry(place)
    reused = entry is not None
    if entry is None:
        try:
            shutil.rmtree(place, ignore_errors=True)  # a damaged entry would stand in the way of the new one
            entry = _build(splits, tokenizer, config, model_max_tokens, place)
        except OSError as exc:
            raise DataError(f"{cache}: the token cache must be writable, but writing failed: {exc}.") from exc
    return TokenisedData(
        **entry.splits,
        validation_references=tuple(example.references for example in splits.validation),
        test_references=tuple(example.references for example in splits.test),
        max_input_tokens=entry.meta.max_input_tokens,
        max_target_tokens=entry.meta.max_target_tokens,
        truncated_inputs=entry.meta.truncated_inputs,
        truncated_targets=entry.meta.truncated_targets,
        fingerprint=key,
        reused=reused,
    )


def _key(splits: Splits, config: DataConfig, tokenizer_fingerprint: str, model_max_tokens: int | None) -> str:
    parts = {
        "format": CACHE_FORMAT,
        "examples": splits.fingerprint,
        "tokenizer": tokenizer_fingerprint,
        "closed_labels": splits.task.closed_labels,
        "max_input_tokens": config.max_input_tokens,
        "max_target_tokens": config.max_target_tokens,
        "model_max_tokens": model_max_tokens,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def tokenise_texts(texts: Iterator[str], tokenizer: Tokenizer) -> list[Chunk]:
    """Tokenise texts, each with EOS, uncut.

    Raises:
        ModelError: the tokenizer does not end texts with its EOS token.
    """
    chunks = []
    while batch := list(itertools.islice(texts, CHUNK_TEXTS)):
        rows = tokenizer(
            batch, add_special_tokens=True, return_attention_mask=False, return_token_type_ids=False, verbose=False
        ).input_ids
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        ids = np.fromiter(itertools.chain.from_iterable(rows), np.int32, int(lengths.sum()))
        if not lengths.all() or (ids[np.cumsum(lengths) - 1] != tokenizer.eos_token_id).any():
            raise ModelError(
                f"The tokenizer must end every text with its EOS token, id {tokenizer.eos_token_id}, as T5's do, but "
                f"does not: {batch[0][:60]!r} gives {rows[0][:20]}. Use the tokenizer that belongs to the model."
            )
        chunks.append(Chunk(ids, lengths))
    return chunks


def _default_length(train: Sequence[Chunk], percentile: float, model_max_tokens: int | None) -> int:
    lengths = np.concatenate([chunk.lengths for chunk in train])
    length = int(np.percentile(lengths, percentile, method="higher"))
    return max(2, length if model_max_tokens is None else min(length, model_max_tokens))


def _truncated_share(splits: Mapping[str, Sequence[Chunk]], max_tokens: int) -> float:
    lengths = np.concatenate([chunk.lengths for chunks in splits.values() for chunk in chunks])
    return float(np.mean(lengths > max_tokens))


def _build(
    splits: Splits, tokenizer: Tokenizer, config: DataConfig, model_max_tokens: int | None, place: Path
) -> Entry:
    rows: dict[str, Sequence[Example]] = {name: getattr(splits, name) for name in SPLITS}
    inputs = {name: tokenise_texts((e.inputs for e in part), tokenizer) for name, part in rows.items()}
    targets = {name: tokenise_texts((e.references[0] for e in part), tokenizer) for name, part in rows.items()}
    max_input_tokens = config.max_input_tokens or _default_length(inputs["train"], PERCENTILE, model_max_tokens)
    share = 100 if splits.task.closed_labels else PERCENTILE  # a label that is cut is another label
    max_target_tokens = config.max_target_tokens or _default_length(targets["train"], share, model_max_tokens)
    meta = Meta(
        max_input_tokens=max_input_tokens,
        max_target_tokens=max_target_tokens,
        truncated_inputs=_truncated_share(inputs, max_input_tokens),
        truncated_targets=_truncated_share(targets, max_target_tokens),
    )
    return save_entry(place, inputs, targets, meta)
