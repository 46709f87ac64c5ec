"""What a worker is at, on disk, so that a successor knows what killed it.

A worker that dies without a Python exception (out of memory, a fault in native code) cannot say why. So before each
slice of a shard it notes the slice. Its successor counts the death against that slice. A slice that saw `LIMIT` deaths
is halved, its pieces are halved at the first death, and a single row that saw `LIMIT` is the guilty one. What comes
before and after the slices (a `Stage`) is noted likewise; no row is to blame for it, so it ends the job when it goes on
killing.

At first a worker may be at several shards, and at several things of one. Then each of these shards has notes, and a
death tells nothing but that there was one: the successor does one thing at a time, and counts. The notes double as
progress.

    OUTPUT/_progress/part-00000.json
        {"done": rows, "trying": a stage, "start:stop of all" or nothing, "is_alone": was nothing else tried beside it,
         "deaths": {what was tried: count}, "survived": was any slice scored}
"""

import contextlib
import json
import shutil
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from t5ray.errors import ClusterError
from t5ray.scoring.ledger import writing

LIMIT = 2
"""Deaths that a slice or a row is given: the first may be somebody's kill -9."""
MOST_DEATHS_IN_VAIN = 22
"""Deaths on a shard of which nothing was ever scored, after which no row is to blame. One bad row of 4,096 takes 15
after the one that tells nothing."""
MOST_DEATHS = 200
"""Deaths on a shard after which scoring the rest of it costs too many workers."""

MOST_STAGE_DEATHS = 5
"""Deaths on a shard at one of its stages that may be somebody's kill -9; the model is loaded again after each."""

BESIDE = "beside others"
"""What a death is counted against where a worker may have been at several things."""

Slice = tuple[int, int]
"""Places in the order of scoring: start, stop."""


class Stage(StrEnum):
    """What a worker does for a shard besides scoring slices of it. The values complete "a worker died ..."."""

    LOAD = "while it loaded the model"
    READ = "while it read the rows"
    WRITE = "while it wrote the part"


MENDS = {
    Stage.LOAD: "Give workers more memory (fewer --workers), or take a smaller model.",
    Stage.READ: "Give workers more memory (fewer --workers), or cut the input smaller: shard_rows, row groups, files.",
    Stage.WRITE: "Give workers more memory (fewer --workers), or set a smaller shard_rows in another --output.",
}


class Journal:
    """The notes on one shard."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._deaths: dict[str, int] = {}
        self._done = 0
        self._survived = False
        self._num_rows = 0
        self.is_alone = True
        """Whether the worker does nothing else beside what is noted from now on."""
        if path.exists():
            self._count_death(_read_notes(path))

    def _count_death(self, notes: dict[str, object]) -> None:
        deaths, trying = notes["deaths"], notes["trying"]
        assert isinstance(deaths, dict)
        assert isinstance(trying, str)
        tried = trying if notes["is_alone"] else BESIDE
        self._deaths = {**deaths, tried: deaths.get(tried, 0) + 1} if trying else deaths
        self._survived = bool(notes["survived"])

    @property
    def num_deaths(self) -> int:
        """Workers that died while they were at this shard, and maybe at others too."""
        return sum(self._deaths.values())

    def require_hope(self) -> None:
        """Refuse a shard on which too many workers died for it to be the fault of rows.

        Raises:
            ClusterError: so many did, in all or at one stage.
        """
        name, telling = self._path.stem, self.num_deaths - self._deaths.get(BESIDE, 0)
        for stage in Stage:
            if (deaths := self._deaths.get(stage, 0)) >= MOST_STAGE_DEATHS:
                raise ClusterError(
                    f"{name}: a worker must live through a shard, but {deaths} died {stage} (out of memory, or a fault "
                    f"in native code). {MENDS[stage]}"
                )
        if telling > (MOST_DEATHS if self._survived else MOST_DEATHS_IN_VAIN):
            raise ClusterError(
                f"{name}: a worker must live through a shard, but {telling} died on it. "
                "Give workers more memory: fewer --workers, or smaller --batch-tokens."
            )

    def slices(self, num_rows: int, size: int) -> list[tuple[Slice, bool]]:
        """Return what to score in turn, and whether it is a single row that is known to kill.

        Deaths count as long as there are as many rows: of others, other rows stand at a slice's places.

        Example:
            5 rows, size 4, no deaths -> (0, 4) False, (4, 5) False
        """
        self._num_rows = num_rows
        parts = [(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]
        return [piece for part in parts for piece in self._split(part, LIMIT)]

    def _split(self, part: Slice, limit: int) -> Iterator[tuple[Slice, bool]]:
        start, stop = part
        is_single = stop - start == 1
        guilty = self._deaths.get(self._name(part), 0) >= (LIMIT if is_single else limit)
        if not guilty or is_single:
            yield part, guilty
            return
        middle = (start + stop) // 2
        yield from self._split((start, middle), 1)
        yield from self._split((middle, stop), 1)

    @contextlib.contextmanager
    def at(self, stage: Stage) -> Iterator[None]:
        """Note that a stage begins now, and then that it is over: a death from there on is none of this shard's.

        Not so after an error, which ends the job.

        Raises:
            DataError: the disk refuses.
        """
        self._note(stage)
        yield
        self._note("")

    def begin(self, part: Slice) -> None:
        """Note that a slice is tried now, one of those that `slices` told.

        Raises:
            DataError: the disk refuses.
        """
        self._note(self._name(part))
        self._done += part[1] - part[0]

    def _note(self, trying: str) -> None:
        self._survived = self._survived or self._done > 0
        notes = {
            "done": self._done,
            "trying": trying,
            "is_alone": self.is_alone,
            "deaths": self._deaths,
            "survived": self._survived,
        }
        with writing(self._path.parent.parent):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text(json.dumps(notes), encoding="utf-8")
            temporary.replace(self._path)

    def close(self) -> None:
        """Forget the notes: the shard is committed.

        Raises:
            DataError: the disk refuses.
        """
        with writing(self._path.parent.parent):
            self._path.unlink(missing_ok=True)

    def _name(self, part: Slice) -> str:
        return f"{part[0]}:{part[1]} of {self._num_rows}"


def _read_notes(path: Path) -> dict[str, object]:
    """Return what a dead worker left; of notes that its node lost with its power, that there was a death."""
    try:
        notes: dict[str, object] = json.loads(path.read_bytes())
    except ValueError:
        return {"deaths": {}, "trying": "something", "is_alone": False, "survived": False}
    return notes


def journal_file(output: Path, part: Path) -> Path:
    """Return where the notes on a part are."""
    return output / "_progress" / f"{part.stem}.json"


def rows_under_way(output: Path) -> int:
    """Return how many rows of unfinished shards are scored already, as far as the notes can be read."""
    done = 0
    with contextlib.suppress(OSError):  # of a share that does not answer for a while
        for path in (output / "_progress").glob("*.json"):
            with contextlib.suppress(OSError):  # likewise, or the shard is committed meanwhile
                done += int(json.loads(path.read_bytes())["done"])
    return done


def forget_all(output: Path) -> None:
    """Remove all notes: deaths under an earlier driver may have been that driver's."""
    shutil.rmtree(output / "_progress", ignore_errors=True)
