"""Rows that wait for a place in the decoder, encoded as they are needed."""

from collections.abc import Iterable, Iterator

from t5ray.model.decoding.encoder import Encoded


class Waiting:
    """Encoded rows in their order."""

    def __init__(self, encoded: Iterable[Encoded]) -> None:
        """Take encoder states; none is asked for before its first row is."""
        self._chunks = iter(encoded)
        self._chunk: Encoded | None = None
        self._taken = 0
        self._advance()

    def __bool__(self) -> bool:
        """Say whether a row is left."""
        return self._chunk is not None

    @property
    def longest(self) -> int:
        """Tokens of the longest row that is left; rows come longest first."""
        return 0 if self._chunk is None else int(self._chunk.lengths[self._taken])

    def take(self, most: int) -> Iterator[Encoded]:
        """Yield the next rows in parts, `most` in all, fewer where no more are left."""
        while most and self._chunk is not None:
            part = self._chunk.part(slice(self._taken, self._taken + most))
            count = len(part.lengths)
            self._taken, most = self._taken + count, most - count
            if self._taken == len(self._chunk.lengths):
                self._advance()
            yield part

    def _advance(self) -> None:
        self._chunk, self._taken = next(self._chunks, None), 0
