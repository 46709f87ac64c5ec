"""The embedded WordNet glosses: definitions alone, labelled as WordNet files them, and WordNet's notice beside them."""

import json
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from t5ray.demo import wordnet_data

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "make_wordnet_categories.py"
WORDNET = Path("/usr/share/wordnet/data.noun")
# Lines of WordNet 3.0's data.noun, pointers shortened.
LINES = [
    "  1 This software and database is being provided to you, the LICENSEE, by  \n",
    "  2 \n",
    "  10 database and its documentation for any purpose and without fee or | royalty is hereby granted  \n",
    '00007846 03 n 06 person 0 individual 0 001 @ 00004475 n 0000 | a human being; "there was too much to do"  \n',
    "10787470 18 n 02 woman 0 adult_female 0 001 @ 09605289 n 0000 | an adult female person (as opposed to a man); "
    '"the woman kept house while the man hunted"  \n',
    "07739125 13 n 01 apple 0 001 @ 07705931 n 0000 | fruit with red or yellow or green skin and sweet to tart crisp "
    "whitish flesh  \n",
]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    return [json.loads(line) for line in wordnet_data().read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_sizes(rows: list[dict[str, str]]) -> None:
    labels = Counter(row["label"] for row in rows)
    assert len(rows) == 8000
    assert len(labels) == 12
    assert max(labels.values()) - min(labels.values()) <= 1
    assert wordnet_data().stat().st_size <= 1_000_000
    shares = Counter(row["split"] for row in rows)
    assert 0.78 < shares["train"] / 8000 < 0.82
    assert min(shares["validation"], shares["test"]) > 700


def test_no_text_occurs_twice(rows: list[dict[str, str]]) -> None:
    assert len({row["text"] for row in rows}) == len(rows)


def test_examples_in_quotes_are_gone(rows: list[dict[str, str]]) -> None:
    assert not [row for row in rows if '"' in row["text"] or row["text"] != row["text"].strip()]


def test_known_definitions_have_the_known_label(rows: list[dict[str, str]]) -> None:
    label_of = {row["text"]: row["label"] for row in rows}
    assert label_of["the arch of the foot"] == "body"
    assert label_of["a unit of spoken language larger than a phoneme"] == "communication"
    assert label_of["a radioactive isotope of cesium used in radiation therapy"] == "substance"


def test_definitions_are_read_from_lines_of_wordnet(script: dict[str, Any]) -> None:
    assert list(script["read_definitions"](LINES)) == [
        ("an adult female person (as opposed to a man)", "person"),
        ("fruit with red or yellow or green skin and sweet to tart crisp whitish flesh", "food"),
    ]


@pytest.mark.parametrize(
    ("gloss", "definition"),
    [
        ('a fruit; "an apple a day"; "a red apple"  \n', "a fruit"),
        ('progress (as in "make strides"); "they made strides"', 'progress (as in "make strides")'),
        ("the first month; 31 days", "the first month; 31 days"),
    ],
)
def test_a_gloss_ends_at_its_first_example(script: dict[str, Any], gloss: str, definition: str) -> None:
    assert script["strip_examples"](gloss) == definition


def test_the_notices_stand_beside_the_data() -> None:
    notice = wordnet_data().with_name("WORDNET_LICENSE").read_text(encoding="utf-8")
    assert notice.startswith(
        "This software and database is being provided to you, the LICENSEE, by\nPrinceton University"
    )
    claim = "WordNet 3.0 Copyright 2006 by Princeton University."
    assert claim in notice
    assert claim in (ROOT / "NOTICE").read_text(encoding="utf-8")


@pytest.mark.skipif(not WORDNET.exists(), reason="needs Debian's wordnet-base")
def test_the_script_gives_the_shipped_bytes_every_time(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        output = tmp_path / name / "wordnet.jsonl"
        subprocess.run([sys.executable, str(SCRIPT), str(output)], check=True, capture_output=True)
        assert output.read_bytes() == wordnet_data().read_bytes()
        notice = wordnet_data().with_name("WORDNET_LICENSE")
        assert output.with_name("WORDNET_LICENSE").read_bytes() == notice.read_bytes()
