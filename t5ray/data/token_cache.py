"""The files behind tokenised data: a folder of .npy files and `meta.json` per entry.

Comes in: chunks of token ids. Goes out: memory-mapped arrays. An entry is built under another name and renamed, so it
is there whole or not at all; a checksum per array finds entries that were damaged later. Must not know tokenizers.
"""

import errno
import json
import shutil
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "validation", "test")
ARRAYS = ("input_ids", "input_offsets", "labels", "label_offsets")

TokenIds = NDArray[np.int32]
Offsets = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TokenisedSplit:
    """Token ids of N rows, laid end to end.

    The arrays are plain `ndarray` views of memory-mapped files. With pickle protocol 5 they travel out of band, so
    `ray.put` copies them into the object store once and every reader shares that copy. A `np.memmap` itself would be
    pickled in band, as a subclass, and copied twice.
    """

    input_ids: TokenIds
    """int32 [sum of S], each row ending in EOS"""
    input_offsets: Offsets
    """int64 [N + 1]: row i is input_ids[input_offsets[i]:input_offsets[i + 1]]"""
    labels: TokenIds
    """int32 [sum of T], each row ending in EOS"""
    label_offsets: Offsets
    """int64 [N + 1]"""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.input_offsets) - 1

    @property
    def num_tokens(self) -> int:
        """Input and target tokens of all rows."""
        return len(self.input_ids) + len(self.labels)

    @property
    def input_lengths(self) -> Offsets:
        """int64 [N]: tokens of each input, with EOS."""
        return np.diff(self.input_offsets)

    @property
    def label_lengths(self) -> Offsets:
        """int64 [N]: tokens of each target, with EOS."""
        return np.diff(self.label_offsets)


@dataclass(frozen=True)
class Chunk:
    """Token ids of some texts, laid end to end."""

    ids: TokenIds
    lengths: Offsets

    def cut(self, max_tokens: int) -> "Chunk":
        """Cut each text to a length; its last token, EOS, stays last.

        Example:
            [5, 6, 7, 1] cut to 3 -> [5, 6, 1]
        """
        lengths = np.minimum(self.lengths, max_tokens)
        if (lengths == self.lengths).all():
            return self
        ends = np.cumsum(self.lengths)
        from_start = np.arange(len(self.ids)) - np.repeat(ends - self.lengths, self.lengths)
        keep = from_start < np.repeat(lengths - 1, self.lengths)
        keep[ends - 1] = True
        return Chunk(self.ids[keep], lengths)


@dataclass(frozen=True)
class Meta:
    """Content of meta.json: figures of `TokenisedData`, and a checksum per array."""

    max_input_tokens: int
    max_target_tokens: int
    truncated_inputs: float
    truncated_targets: float
    checksums: dict[str, int] = field(default_factory=dict)
    """CRC-32 by file stem; filled by `save_entry`."""


@dataclass(frozen=True)
class Entry:
    """A cache entry in use."""

    splits: dict[str, TokenisedSplit]
    meta: Meta


def save_entry(
    place: Path, inputs: Mapping[str, Sequence[Chunk]], targets: Mapping[str, Sequence[Chunk]], meta: Meta
) -> Entry:
    """Write an entry beside its place, open it, and move it there.

    It is opened before the move: whatever another process then does to the place, these arrays stay readable.

    Args:
        inputs: by split; cut to `meta.max_input_tokens` on the way.
        targets: by split; cut to `meta.max_target_tokens`.
    Raises:
        OSError: the folder cannot be written.
    """
    temporary = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
    temporary.mkdir(parents=True)
    try:
        for split in SPLITS:
            _write(temporary, split, ("input_ids", "input_offsets"), inputs[split], meta.max_input_tokens)
            _write(temporary, split, ("labels", "label_offsets"), targets[split], meta.max_target_tokens)
        checksums = {path.stem: _checksum(_map(path)) for path in temporary.glob("*.npy")}
        text = json.dumps(asdict(replace(meta, checksums=checksums)), indent=1)
        (temporary / "meta.json").write_text(text, encoding="utf-8")
        entry = open_entry(temporary)
        assert entry is not None, f"{temporary} was written a moment ago"
        _publish(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return entry


def _publish(temporary: Path, place: Path) -> None:
    """Move a new entry to its place, unless another process was faster."""
    try:
        temporary.rename(place)
    except OSError as exc:
        if exc.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def _write(folder: Path, split: str, names: tuple[str, str], chunks: Sequence[Chunk], max_tokens: int) -> None:
    """Write the ids and offsets of one side of a split, cut to a length, a chunk at a time."""
    ids_name, offsets_name = names
    lengths = np.concatenate([np.zeros(1, np.int64), *(np.minimum(chunk.lengths, max_tokens) for chunk in chunks)])
    offsets = np.cumsum(lengths)
    np.save(folder / f"{split}-{offsets_name}.npy", offsets)
    ids = np.lib.format.open_memmap(folder / f"{split}-{ids_name}.npy", "w+", np.int32, (int(offsets[-1]),))
    start = 0
    for chunk in chunks:
        cut = chunk.cut(max_tokens)
        ids[start : start + len(cut.ids)] = cut.ids
        start += len(cut.ids)
    ids.flush()


def _map(path: Path) -> NDArray[Any]:
    """Open one array without reading it."""
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _checksum(array: NDArray[Any]) -> int:
    return zlib.crc32(array.data)


def open_entry(place: Path) -> Entry | None:
    """Open an entry; None where there is none, or not a whole one."""
    try:
        meta = Meta(**json.loads((place / "meta.json").read_text(encoding="utf-8")))
        arrays = {f"{split}-{name}": _map(place / f"{split}-{name}.npy") for split in SPLITS for name in ARRAYS}
    except (OSError, EOFError, ValueError, TypeError):  # all that a damaged file can cause
        return None
    if {name: _checksum(array) for name, array in arrays.items()} != meta.checksums:
        return None
    splits = {split: TokenisedSplit(**{name: arrays[f"{split}-{name}"] for name in ARRAYS}) for split in SPLITS}
    return Entry(splits, meta)
