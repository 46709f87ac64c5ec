"""The shipped table of synonyms: made from WordNet by its script, and its notice beside it."""

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from t5ray.demo import wordnet_data
from t5ray.text.synonyms import TABLE, synonyms_of

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "make_synonyms.py"
WORDNET = Path("/usr/share/wordnet")
# Lines of WordNet 3.0, pointers shortened.
CAR = (
    "02958343 06 n 05 car 0 auto 0 automobile 0 machine 6 motorcar 0 001 @ 03791235 n 0000 | a motor vehicle with four "
    'wheels; "he needs a car to get to work"  '
)
FATHEAD = "10076224 18 n 03 fathead 0 goof 0 fool 0 001 @ 10100000 n 0000 ;u 07157273 n 0200 | a fool  "
LAME = "01018788 00 s 05 crippled 0 halt(p) 0 halting 0 lame 0 game 0 000 | disabled in the feet or legs  "


@pytest.fixture(scope="module")
def sets() -> list[list[str]]:
    return [line.split() for line in TABLE.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize(
    ("word", "synonyms"),
    [
        (
            "car",
            ("auto", "automobile", "motorcar"),
        ),  # WordNet 3.0's synset 02958343, less machine: mostly another thing
        ("build", ("construct",)),
        ("large", ("big",)),
        ("game", ()),  # alone in its most frequent sense
        ("the", ()),
        ("Paris", ()),
        ("xyzzy", ()),
    ],
)
def test_known_words_have_wordnet_s_synonyms(word: str, synonyms: tuple[str, ...]) -> None:
    assert synonyms_of(word) == synonyms


def test_every_word_is_in_one_set_of_plain_words(sets: list[list[str]]) -> None:
    words = [word for line in sets for word in line]
    assert len(set(words)) == len(words) > 20_000
    assert all(word.isascii() and word.isalpha() and word.islower() and len(word) > 2 for word in words)
    assert not ENGLISH_STOP_WORDS.intersection(words)
    assert all(len(line) > 1 and line == sorted(line) for line in sets)
    assert sets == sorted(sets)


def test_synonymy_goes_both_ways() -> None:
    assert all("car" in synonyms_of(word) for word in synonyms_of("car"))


def test_the_table_is_small_and_its_notice_lies_beside_it() -> None:
    assert TABLE.stat().st_size < 400_000
    notice = TABLE.with_name("WORDNET_LICENSE").read_bytes()
    assert notice == wordnet_data().with_name("WORDNET_LICENSE").read_bytes()
    assert "t5ray/text/synonyms.txt" in (ROOT / "NOTICE").read_text(encoding="utf-8")
    assert "t5ray/text/WORDNET_LICENSE" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_script_reads_synsets(script: dict[str, Any]) -> None:
    fields = [next(script["body"]([line])) for line in (CAR, FATHEAD, LAME)]
    read = [script["synset_words"](line) for line in fields]
    assert read == [
        ["car", "auto", "automobile", "machine", "motorcar"],
        ["fathead", "fool"],  # goof is marked as slang
        ["crippled", "halt", "halting", "lame", "game"],
    ]


def test_the_script_reads_first_senses_and_their_counts(script: dict[str, Any]) -> None:
    senses = dict(
        script["first_senses"]("noun", ["auto n 1 5 @ ~ %p ; + 1 1 02958343  ", "Rome n 1 1 @ 1 0 08806897  "])
    )
    assert senses == {"auto": script["Sense"]("noun", "02958343")}
    assert script["first_counts"](["game%1:04:00:: 1 38", "game%1:04:03:: 2 26"]) == {("game", "1"): 38}


@pytest.mark.skipif(not WORDNET.exists(), reason="needs Debian's wordnet-base")
def test_the_script_gives_the_shipped_bytes(tmp_path: Path) -> None:
    output = tmp_path / "synonyms.txt"
    subprocess.run([sys.executable, str(SCRIPT), str(output)], check=True, capture_output=True)
    assert output.read_bytes() == TABLE.read_bytes()
    assert output.with_name("WORDNET_LICENSE").read_bytes() == TABLE.with_name("WORDNET_LICENSE").read_bytes()
