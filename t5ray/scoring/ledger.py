"""What a job has finished, on disk beside its output.

    OUTPUT/part-00000.parquet            a shard's rows with their predictions; appears whole or not at all
    OUTPUT/_ledger/part-00000.json       its counts; written after the part, so a part with an entry is final
    OUTPUT/_ledger/input.json            where the input's shards begin, so that going on needs no second scan
    OUTPUT/_job.json                     fingerprint, state running or done, and at the end the counts of all
    OUTPUT/_lock                         held by the command that works on the folder, which it names

The rule of restart: a shard without an entry is pending. A part without an entry is written again, with the same bytes.
"""

import contextlib
import json
import os
import platform
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from t5ray.config.decode import DEFAULT_NEW_TOKENS
from t5ray.disk import sync
from t5ray.errors import ConfigError, DataError
from t5ray.locking import lock

JOB_FILE = "_job.json"
INPUT_FILE = "input.json"
LOCK_FILE = "_lock"
NAME_DIGITS = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """The counts of one finished shard. They add up, without the times of earlier attempts."""

    rows: int = 0
    errors: int = 0
    """Rows with an error and no prediction."""
    unusable: int = 0
    """Those of them that no try can score: the row itself must be mended."""
    capped: int = 0
    """Predictions that were cut at the token cap."""
    cut_inputs: int = 0
    """Inputs that were longer than the model takes, and were cut."""
    padded_tokens: int = 0
    """Input positions forwarded, padding included."""
    real_tokens: int = 0
    """Input positions that held a token."""
    seconds: float = 0.0
    """What a worker spent on it at last, from reading to the encoded part, without waiting for other shards."""
    earlier: tuple[tuple[float, float], ...] = ()
    """When the attempts before that began and ended, whose rows with errors were scored again. Unix seconds; 0 and 0
    of those whose entry was lost."""

    @property
    def num_attempts(self) -> int:
        """Count how often the shard was scored."""
        return 1 + len(self.earlier)

    def __add__(self, other: "Entry") -> "Entry":
        mine, theirs = asdict(self), asdict(other)
        return Entry(**{name: mine[name] + theirs[name] for name in mine if name != "earlier"})


@dataclass(frozen=True, slots=True)
class JobSummary:
    """What a job did, all its runs together."""

    num_rows: int
    """Rows in, and so rows out."""
    num_errors: int
    """Rows with an error instead of a prediction."""
    seconds: float
    rows_per_s: float
    """Rows per second of scoring, all workers together; start-up is not part of it, nor are pauses."""
    padding_share: float
    """Share of forwarded input positions that were padding."""
    capped_share: float
    """Share of predictions that were cut at the token cap."""
    cut_input_share: float = 0.0
    """Share of inputs that were longer than the model takes, and were cut."""
    max_new_tokens: int = DEFAULT_NEW_TOKENS
    """That cap."""
    num_unusable: int = 0
    """Of the rows with an error, those that no try can score."""
    has_references: bool = False
    """True where the rows hold what they can be judged by."""

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> "JobSummary":
        """Take it from a finished job's `_job.json`."""
        return cls(
            num_rows=record["rows_out"],
            num_errors=record["rows_with_error"],
            seconds=record["seconds"],
            rows_per_s=record["rows_per_s"],
            padding_share=record["padding_share"],
            capped_share=record["capped_share"],
            cut_input_share=record.get("cut_input_share", 0.0),
            max_new_tokens=record["fingerprint"]["decode"].get("max_new_tokens") or DEFAULT_NEW_TOKENS,
            num_unusable=record.get("rows_unusable", 0),
            has_references=record.get("has_references", False),
        )


@dataclass(frozen=True)
class Ledger:
    """The output folder of a job."""

    folder: Path
    part_format: str
    """Suffix of the parts."""
    num_shards: int

    def part(self, index: int) -> Path:
        """Return where the part of a shard is. Names sort in input order."""
        return self.folder / f"{self._stem(index)}.{self.part_format}"

    def entry_file(self, index: int) -> Path:
        """Return where the counts of a shard are."""
        return self.folder / "_ledger" / f"{self._stem(index)}.json"

    def _stem(self, index: int) -> str:
        return f"part-{index:0{max(NAME_DIGITS, len(str(self.num_shards - 1)))}d}"

    def open(self) -> None:
        """Make the folder and see that it can be written.

        Raises:
            DataError: it cannot.
        """
        with writing(self.folder):
            self.entry_file(0).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / LOCK_FILE).touch()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other drivers off the folder, and sweep it.

        Raises:
            ConfigError: another command works on the folder.
            DataError: the folder cannot be written.
        """
        self.open()
        with working_alone(self.folder):
            with writing(self.folder):
                self.sweep()
            yield

    def sweep(self) -> None:
        """Remove what killed writers left half-written."""
        for leftover in [*self.folder.glob(".*.tmp"), *self.entry_file(0).parent.glob(".*.tmp")]:
            leftover.unlink(missing_ok=True)

    def commit(self, index: int, part: bytes, entry: Entry) -> None:
        """Publish a part and then its entry.

        Raises:
            DataError: the disk refuses.
        """
        with writing(self.folder):
            with contextlib.suppress(FileNotFoundError):
                self.entry_file(index).unlink()  # of a part that is replaced: its counts no longer hold
                sync(self.entry_file(index).parent)
            write_atomically(self.part(index), part)
            write_atomically(self.entry_file(index), json.dumps(asdict(entry)).encode())

    def finished(self) -> dict[int, Entry]:
        """Return the entries of all finished shards."""
        indices = sorted(int(path.stem.removeprefix("part-")) for path in self.entry_file(0).parent.glob("part-*.json"))
        found = {index: self.read_entry(index) for index in indices if index < self.num_shards}
        return {index: entry for index, entry in found.items() if entry is not None}

    def scoring_seconds(self, finished: Mapping[int, Entry]) -> float:
        """Return for how long some worker scored: the attempts of all entries, overlaps counted once.

        Args:
            finished: what `finished` gave.
        """
        total, until = 0.0, 0.0
        for start, end in sorted(span for index, entry in finished.items() for span in self.attempts(index, entry)):
            total += max(0.0, end - max(start, until))
            until = max(until, end)
        return total

    def attempts(self, index: int, entry: Entry) -> tuple[tuple[float, float], ...]:
        """Return when each attempt at a finished shard began and ended: the last one as its entry was written."""
        ended = self.entry_file(index).stat().st_mtime
        return (*entry.earlier, (ended - entry.seconds, ended))

    def seconds_of_runs(self, record: Mapping[str, Any]) -> float:
        """Return what earlier runs took, by their record; of one that was killed since, up to its last finished part.

        A run writes the record when it begins, and once more when it ends by any means but a kill.
        """
        began = (self.folder / JOB_FILE).stat().st_mtime
        ends = (path.stat().st_mtime for path in self.entry_file(0).parent.glob("part-*.json"))
        return float(record["seconds"]) + max(0.0, max(ends, default=began) - began)

    def read_entry(self, index: int) -> Entry | None:
        """Return the counts of a finished shard; None where it is not finished."""
        path = self.entry_file(index)
        if not (path.exists() and self.part(index).exists()):
            return None
        found = json.loads(path.read_bytes())
        return Entry(**{**found, "earlier": tuple((start, end) for start, end in found.get("earlier", ()))})

    def remember_input(self, record: Mapping[str, Any]) -> None:
        """Keep what a scan of the input found."""
        with writing(self.folder):
            write_atomically(self._input_file, json.dumps(record).encode())

    def recall_input(self) -> dict[str, Any] | None:
        """Return what an earlier run's scan found; None where there was none."""
        try:
            record: dict[str, Any] = json.loads(self._input_file.read_bytes())
        except (OSError, ValueError):
            return None
        return record

    @property
    def _input_file(self) -> Path:
        return self.entry_file(0).with_name(INPUT_FILE)

    def write_job(self, job: Mapping[str, Any]) -> None:
        """Replace `_job.json`."""
        with writing(self.folder):
            write_atomically(self.folder / JOB_FILE, f"{json.dumps(job, indent=1, ensure_ascii=False)}\n".encode())


@contextmanager
def working_alone(folder: Path) -> Iterator[None]:
    """Keep every other command off an output folder, which is made where it does not exist.

    The kernel frees the lock with the process, however it ends. File systems without locks go unguarded.

    Raises:
        ConfigError: another command works on the folder.
        DataError: the folder cannot be written.
    """
    with contextlib.ExitStack() as kept:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            file = kept.enter_context((folder / LOCK_FILE).open("a+", encoding="utf-8"))
            if not lock(file):
                file.seek(0)
                raise ConfigError(
                    f"{folder}: one command at a time may work on an output, but another one does "
                    f"({file.read() or 'it does not say which'}). Wait for it, or stop it."
                )
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
        yield


def read_job(folder: Path) -> dict[str, Any] | None:
    """Return the content of a folder's `_job.json`; None where there is none.

    Raises:
        DataError: the file is there but broken.
    """
    path = folder / JOB_FILE
    try:
        job: dict[str, Any] = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as exc:
        raise DataError(f"{path}: must be what a scoring job wrote, but could not be read: {exc}.") from exc
    return job


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, whatever is killed meanwhile."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Translate what the disk raises."""
    try:
        yield
    except OSError as exc:
        raise DataError(
            f"{folder}: the output must be writable, but: {exc}. What was finished is kept: free space or mend the "
            "permissions, then run the same command again."
        ) from exc
