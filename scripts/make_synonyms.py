"""Write the table of English synonyms that augmentation draws from.

    apt-get install wordnet-base
    python scripts/make_synonyms.py [OUTPUT] [--wordnet /usr/share/wordnet]      default: t5ray/text/synonyms.txt

Comes in: WordNet 3.0's index.POS, data.POS and cntlist.rev, POS being noun, verb, adj and adv.
Goes out: one line per set of synonyms, words and lines sorted, and WORDNET_LICENSE beside it: the notice that opens
data.noun.

    auto automobile car motorcar

Words are synonyms if their most frequent sense is the same. Which sense that is follows from the tag counts of
cntlist.rev over the first sense of each part of speech; among equals a noun comes before a verb, an adjective and an
adverb. So a word is in one set at most, and "game", which is seldom an adjective, does not become "lame". Left out are
names (capital letters), words of less than three letters, stop words (scikit-learn's list), and words that WordNet
marks with a domain of usage in that sense: slang, slurs, archaisms, trade names.
"""

import argparse
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

OUTPUT = Path(__file__).resolve().parents[1] / "t5ray" / "text" / "synonyms.txt"
WORDNET = Path("/usr/share/wordnet")
PARTS = {"noun": "1", "verb": "2", "adj": "35", "adv": "4"}
"""Part of speech -> its digits in a sense key; 5 is a satellite adjective. Source: senseidx(5WN)."""
USAGE = ";u"
"""Pointer to a domain of usage. Source: wninput(5WN)."""


@dataclass(frozen=True)
class Sense:
    """The first sense of a word in one part of speech."""

    part: str
    offset: str
    """Where its synset stands in data.POS."""


def is_plain(word: str) -> bool:
    """Say whether augmentation may replace this word, or put it in."""
    return re.fullmatch(r"[a-z]{3,}", word) is not None and word not in ENGLISH_STOP_WORDS


def body(lines: Iterable[str]) -> Iterator[list[str]]:
    """Yield the fields of each line below the notice."""
    return (line.split(" | ")[0].split() for line in lines if not line.startswith(" "))


def first_senses(part: str, lines: Iterable[str]) -> Iterator[tuple[str, Sense]]:
    """Yield each plain word of an index file and its first sense.

    Example:
        ["auto n 1 5 @ ~ %p ; + 1 1 02958343"] -> ("auto", Sense("noun", "02958343"))
    """
    for fields in body(lines):
        word, num_pointers = fields[0], int(fields[3])
        if is_plain(word):
            yield word, Sense(part, fields[6 + num_pointers])


def first_counts(lines: Iterable[str]) -> Mapping[tuple[str, str], int]:
    """Return (word, digit of its part of speech) -> how often its first sense was tagged.

    Example:
        ["game%1:04:00:: 1 38", "game%1:04:03:: 2 26"] -> {("game", "1"): 38}
    """
    counts = {}
    for line in lines:
        key, number, count = line.split()
        word, _, rest = key.partition("%")
        if number == "1":
            counts[word, rest[0]] = int(count)
    return counts


def synset_words(fields: Sequence[str]) -> list[str]:
    """Return the plain words of a synset that have no domain of usage.

    Example:
        "02958343 06 n 03 car 0 auto 0 motorcar 0 001 @ 03791235 n 0000" -> ["car", "auto", "motorcar"]
    """
    num_words = int(fields[3], 16)
    words = [re.sub(r"\(\w+\)$", "", word) for word in fields[4 : 4 + 2 * num_words : 2]]
    pointers = fields[5 + 2 * num_words :]
    marked = set[int]()
    for symbol, ends in zip(pointers[0::4], pointers[3::4], strict=False):
        if symbol == USAGE:
            source = int(ends[:2], 16)  # counted from 1; 0 means every word
            marked |= {source} if source else set(range(1, num_words + 1))
    return [word for number, word in enumerate(words, start=1) if is_plain(word) and number not in marked]


def main_senses(wordnet: Path) -> Mapping[str, Sense]:
    """Return the most frequent sense of each plain word."""
    counts = first_counts(read(wordnet / "cntlist.rev"))
    best: dict[str, tuple[int, Sense]] = {}
    for part, digits in PARTS.items():
        for word, sense in first_senses(part, read(wordnet / f"index.{part}")):
            count = max(counts.get((word, digit), 0) for digit in digits)
            if word not in best or count > best[word][0]:
                best[word] = count, sense
    return {word: sense for word, (_, sense) in best.items()}


def synonyms(wordnet: Path) -> Iterator[list[str]]:
    """Yield each set of at least two words whose most frequent sense is the same, sorted."""
    senses = main_senses(wordnet)
    for part in PARTS:
        for fields in body(read(wordnet / f"data.{part}")):
            words = {word for word in synset_words(fields) if senses.get(word) == Sense(part, fields[0])}
            if len(words) > 1:
                yield sorted(words)


def read(path: Path) -> list[str]:
    """Return the lines of a file."""
    return path.read_text(encoding="utf-8").splitlines()


def read_notice(lines: Iterable[str]) -> str:
    """Return the notice at the head of data.noun, without its line numbers."""
    notice = itertools.takewhile(lambda line: line.startswith("  "), lines)
    return "".join(re.sub(r"^ +\d+ ?", "", line).rstrip() + "\n" for line in notice)


def main() -> None:
    """Write the table and the notice, and say how large it became."""
    parser = argparse.ArgumentParser(description="Write the table of synonyms that augmentation draws from.")
    parser.add_argument("output", nargs="?", type=Path, default=OUTPUT, help="table (default: %(default)s)")
    parser.add_argument("--wordnet", type=Path, default=WORDNET, help="WordNet 3.0's folder (default: %(default)s)")
    arguments = parser.parse_args()
    output: Path = arguments.output
    table = sorted(synonyms(arguments.wordnet))
    output.write_bytes("".join(f"{' '.join(words)}\n" for words in table).encode())
    output.with_name("WORDNET_LICENSE").write_bytes(read_notice(read(arguments.wordnet / "data.noun")).encode())
    print(f"{output}: {sum(map(len, table))} words in {len(table)} sets, {output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
