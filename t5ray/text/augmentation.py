"""Changed copies of training inputs: Easy Data Augmentation's four techniques, and back translations.

Comes in: a rendered input, which parts of it may change, and what must stay readable in them. Goes out: other inputs.
Labels never pass through here. Must not know files, tokens or models: back translations are made elsewhere.

The techniques, for a text of W words and a rate r (α in the paper), with n = max(1, int(r W)):

    synonym     n words that have synonyms each become a random one of theirs
    insertion   n times, a random synonym of a random word of the text goes to a random place
    swap        n times, two random words change places
    deletion    each word is left out with probability r; one word stays, whatever happens

Each copy is made by one technique. One with a number of copies of its own makes that many; those without share another
number, at which they take turns in an order that is random for the row.

Departures from the paper: case, punctuation and white space stay as they are, as T5 reads them; synonyms are single
words that share their most frequent sense with the word (the paper takes any sense); a copy that equals its row or an
earlier copy is left out; references that stand in the text stay there.

Source: Wei and Zou 2019, "EDA: Easy Data Augmentation Techniques for Boosting Performance on Text Classification
Tasks".
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from types import MappingProxyType
from typing import NamedTuple

from t5ray.config import AugmentationConfig
from t5ray.text.synonyms import synonyms_of

BACK_TRANSLATION = "back_translation"


@dataclass(frozen=True, slots=True)
class Augmentable:
    """What augmentation needs of a training row."""

    inputs: str
    """The encoder's text, prefix included."""
    spans: tuple[tuple[int, int], ...]
    """Start and end of the parts of `inputs` that may change, ascending: the values of its columns of text."""
    keep: tuple[str, ...] = ()
    """Texts that must survive in each part that holds them, such as the answer in its context."""
    translations: tuple[str | None, ...] = ()
    """Back translation of each part; None where there is none. Empty: none at all."""


class Copy(NamedTuple):
    """A changed input."""

    inputs: str
    technique: str


class Word(NamedTuple):
    """A word with what stands around it."""

    gap: str
    """White space before it."""
    text: str
    """The word and the punctuation that touches it."""
    is_kept: bool
    """True where it belongs to a text that must survive."""


Words = Sequence[Word]
Technique = Callable[[Words, float, Random], list[Word]]


def augmented(row: Augmentable, config: AugmentationConfig, seed: int) -> list[Copy]:
    """Return the changed copies of a row.

    They depend on the row's input, the settings and the seed alone: not on other rows, their order or the process. More
    copies of the same techniques hold the fewer; a technique's own copies are the same whatever the others make.

    Returns:
        At most `augment_copies`, each technique's own and one back translation; all differ from the row and from each
        other.
    """
    found: dict[str, Copy] = {}
    for copy in (*_word_copies(row, config, seed), *_back_translation(row, config, seed)):
        if copy.inputs != row.inputs:
            found.setdefault(copy.inputs, copy)
    return list(found.values())


def _word_copies(row: Augmentable, config: AugmentationConfig, seed: int) -> Iterator[Copy]:
    all_turns, rates = config.turns, config.word_rates
    parts = [split_words(row.inputs[start:end], row.keep) for start, end in row.spans] if all_turns else []
    for techniques, copies, is_shared in all_turns:
        random = Random(f"{seed}\n{row.inputs}" if is_shared else f"{seed}\n{techniques[0]}\n{row.inputs}")
        order = random.sample(techniques, len(techniques))
        for number in range(copies):
            name = order[number % len(order)]
            changed = [join_words(TECHNIQUES[name](part, rates[name], random)) for part in parts]
            yield Copy(_with_parts(row, changed), name)


def _back_translation(row: Augmentable, config: AugmentationConfig, seed: int) -> Iterator[Copy]:
    """Yield the back translation of the parts that have a usable one, for the share of rows that is asked for."""
    if not row.translations or Random(f"{seed}\n{BACK_TRANSLATION}\n{row.inputs}").random() >= (
        config.augment_back_translation_rate
    ):
        return
    originals = [row.inputs[start:end] for start, end in row.spans]
    pairs = zip(originals, row.translations, strict=True)
    parts = [new if new and _survive(row.keep, old, new) else old for old, new in pairs]
    yield Copy(_with_parts(row, parts), BACK_TRANSLATION)


def _survive(keep: Sequence[str], old: str, new: str) -> bool:
    return all(text in new for text in keep if text in old)


def _with_parts(row: Augmentable, parts: Sequence[str]) -> str:
    """Put other texts into the parts that may change."""
    pieces, position = [], 0
    for (start, end), part in zip(row.spans, parts, strict=True):
        pieces += [row.inputs[position:start], part]
        position = end
    return "".join((*pieces, row.inputs[position:]))


def split_words(text: str, keep: Sequence[str] = ()) -> list[Word]:
    """Cut a text at white space. The words that a text to keep touches are marked.

    Example:
        split_words("May 2021.", ["May"]) -> [Word(" ", "May", True), Word(" ", "2021.", False)]
    """
    ranges = [found for wanted in keep for found in _occurrences(wanted, text)]
    return [
        Word(match[1] or " ", match[2], any(start < match.end(2) and match.start(2) < end for start, end in ranges))
        for match in re.finditer(r"(\s*)(\S+)", text)
    ]


def _occurrences(wanted: str, text: str) -> list[tuple[int, int]]:
    """Return where a text stands in another as whole words or, where it nowhere does, at all."""
    literal = re.escape(wanted)
    return [m.span() for m in re.finditer(rf"(?<!\w){literal}(?!\w)", text)] or [
        m.span() for m in re.finditer(literal, text)
    ]


def join_words(words: Words) -> str:
    """Put words together again; white space before the first is left out."""
    return "".join(word.gap + word.text for word in words).lstrip()


def replace_synonyms(words: Words, rate: float, random: Random) -> list[Word]:
    """Replace some words that have synonyms."""
    able = [number for number, word in enumerate(words) if not word.is_kept and _synonyms(word.text)]
    changed = list(words)
    for number in random.sample(able, min(_count(rate, words), len(able))):
        word = words[number]
        changed[number] = word._replace(text=_in_place_of(word.text, random.choice(_synonyms(word.text))))
    return changed


def insert_synonyms(words: Words, rate: float, random: Random) -> list[Word]:
    """Put in synonyms of random words, never inside a text to keep."""
    able = [word.text for word in words if _synonyms(word.text)]
    places = [0, *(i for i in range(1, len(words)) if not (words[i - 1].is_kept and words[i].is_kept)), len(words)]
    changed = list(words)
    chosen = random.choices(places, k=_count(rate, words)) if able else []
    for place in sorted(chosen, reverse=True):  # from the end, so that earlier places stay where they are
        changed.insert(place, Word(" ", random.choice(_synonyms(random.choice(able))), is_kept=False))
    return changed


def delete_words(words: Words, rate: float, random: Random) -> list[Word]:
    """Leave out words; where all would go, a random one stays."""
    return [word for word in words if word.is_kept or random.random() >= rate] or [random.choice(words)]


def swap_words(words: Words, rate: float, random: Random) -> list[Word]:
    """Exchange words; the white space between them stays in place."""
    free = [number for number, word in enumerate(words) if not word.is_kept]
    changed = list(words)
    for _ in range(_count(rate, words) if len(free) > 1 else 0):
        i, j = random.sample(free, 2)
        changed[i], changed[j] = changed[i]._replace(text=changed[j].text), changed[j]._replace(text=changed[i].text)
    return changed


TECHNIQUES: Mapping[str, Technique] = MappingProxyType(
    {"synonym": replace_synonyms, "insertion": insert_synonyms, "deletion": delete_words, "swap": swap_words}
)


def _count(rate: float, words: Words) -> int:
    """Return n of the paper: the words that a technique touches."""
    return max(1, int(rate * len(words))) if rate else 0


def _core(text: str) -> str:
    """Return a word without the punctuation that touches it."""
    return re.sub(r"^\W+|\W+$", "", text)


@lru_cache(maxsize=1 << 16)
def _synonyms(text: str) -> tuple[str, ...]:
    return synonyms_of(_core(text).lower())


def _in_place_of(text: str, synonym: str) -> str:
    """Write a synonym as its word is written: in capitals, with punctuation.

    Example:
        _in_place_of("Car,", "auto") -> "Auto,"
    """
    core = _core(text)
    if core.isupper():
        synonym = synonym.upper()
    elif core[0].isupper():
        synonym = synonym.capitalize()
    return text.replace(core, synonym, 1)
