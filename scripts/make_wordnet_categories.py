"""Write the WordNet glosses of the demo: definitions of nouns beside the category they are filed under.

    apt-get install wordnet-base
    python scripts/make_wordnet_categories.py [OUTPUT] [--wordnet /usr/share/wordnet/data.noun]
                                                                     default: t5ray/demo/wordnet.jsonl

Comes in: WordNet 3.0's data.noun, whose lines are
    03325088 06 n 01 faucet 0 004 @ ... | a regulator for controlling the flow of a liquid from a reservoir; "..."
Goes out: JSON lines of
    text   the definition alone: what follows the bar, up to the first example in quotes
    label  the lexicographer category, noun.artifact -> "artifact", one of CATEGORIES
    split  train, validation or test
and WORDNET_LICENSE beside it: the notice that opens data.noun.

Every category gives the same number of definitions (to within one), 8,000 in all. Which ones, in which order and in
which split follows from the SHA-256 of the definition: nothing depends on the order of data.noun, and two runs give
equal bytes. A definition that occurs more than once in WordNet, under one category or several, is left out, so no text
lies in two splits; so are the few whose very definition quotes someone.
"""

import argparse
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

OUTPUT = Path(__file__).resolve().parents[1] / "t5ray" / "demo" / "wordnet.jsonl"
WORDNET = Path("/usr/share/wordnet/data.noun")
NUM_ROWS = 8_000
SHORTEST, LONGEST = 12, 160
"""Characters of a definition; shorter ones are often bare synonyms, and a few are very long."""

CATEGORIES = {
    "05": "animal",
    "06": "artifact",
    "08": "body",
    "10": "communication",
    "13": "food",
    "14": "group",
    "15": "location",
    "18": "person",
    "20": "plant",
    "21": "possession",
    "27": "substance",
    "28": "time",
}
"""Number of a lexicographer file -> label. Source: lexnames(5WN)."""


def read_definitions(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield (definition, label) for every synset of the CATEGORIES.

    Example:
        ["00007846 18 n 01 person 0 000 | a human being; \\"there was too much for one person to do\\""]
        -> ("a human being", "person")
    """
    for line in lines:
        head, bar, gloss = line.partition(" | ")
        label = CATEGORIES.get(head[9:11])
        if bar and label and not line.startswith(" "):
            yield strip_examples(gloss), label


def strip_examples(gloss: str) -> str:
    """Return a gloss up to its first example, which follows a semicolon and stands in quotes.

    Example:
        'a fruit; "an apple a day"; "a red apple"' -> 'a fruit'
    """
    return re.split(r';\s*"', gloss, maxsplit=1)[0].strip(" ;\n")


def digest(text: str) -> bytes:
    """Return the SHA-256 of a definition."""
    return hashlib.sha256(text.encode()).digest()


def split_of(text: str) -> str:
    """Put eight tenths of all texts into train, one into validation and one into test."""
    return {8: "validation", 9: "test"}.get(int.from_bytes(digest(text)[-8:]) % 10, "train")


def shares(num_rows: int) -> Mapping[str, int]:
    """Share rows out among the labels, the first of them taking one more where the division leaves a rest."""
    each, rest = divmod(num_rows, len(CATEGORIES))
    return {label: each + (i < rest) for i, label in enumerate(CATEGORIES.values())}


def choose(definitions: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Choose equally many definitions of each category, in the order of their hashes."""
    seen = Counter(text for text, _ in definitions)
    fitting = [
        (text, label)
        for text, label in definitions
        if seen[text] == 1 and SHORTEST <= len(text) <= LONGEST and '"' not in text
    ]
    left, chosen = dict(shares(NUM_ROWS)), []
    for text, label in sorted(fitting, key=lambda definition: digest(definition[0])):
        if left[label]:
            left[label] -= 1
            chosen.append((text, label))
    return chosen


def read_notice(lines: Iterable[str]) -> str:
    """Return the notice at the head of data.noun, without its line numbers."""
    notice = itertools.takewhile(lambda line: line.startswith("  "), lines)
    return "".join(re.sub(r"^ +\d+ ?", "", line).rstrip() + "\n" for line in notice)


def main() -> None:
    """Write the rows and the notice, and say how large they became."""
    parser = argparse.ArgumentParser(description="Write the WordNet glosses of the demo.")
    parser.add_argument("output", nargs="?", type=Path, default=OUTPUT, help="JSON lines file (default: %(default)s)")
    parser.add_argument("--wordnet", type=Path, default=WORDNET, help="WordNet 3.0's data.noun (default: %(default)s)")
    arguments = parser.parse_args()
    output: Path = arguments.output
    lines = arguments.wordnet.read_text(encoding="utf-8").splitlines(keepends=True)
    rows = [
        {"text": text, "label": label, "split": split_of(text)} for text, label in choose(list(read_definitions(lines)))
    ]
    output.write_bytes("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode())
    output.with_name("WORDNET_LICENSE").write_bytes(read_notice(lines).encode())
    sizes = Counter(row["split"] for row in rows)
    print(f"{output}: {len(rows)} rows, {len(CATEGORIES)} labels, {dict(sizes)}, {output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
