"""Synonyms of English words, from the shipped table. scripts/make_synonyms.py says how it is made.

Comes in: a word. Goes out: the words that may stand in its place.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("synonyms.txt")
"""One set of synonyms a line. Derived from WordNet 3.0, whose notice lies beside it."""


def synonyms_of(word: str) -> tuple[str, ...]:
    """Return the synonyms of a word in small letters, sorted; empty for names, stop words and unknown words.

    Example:
        synonyms_of("car") -> ("auto", "automobile", "motorcar")
    """
    return tuple(other for other in _sets().get(word, ()) if other != word)


@cache
def _sets() -> Mapping[str, tuple[str, ...]]:
    """Return word -> its set. Read at the first use: 27,000 words in some 20 ms."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    return {word: words for words in (tuple(line.split()) for line in lines) for word in words}
