"""The engine against transformers' generate on a real T5, whose directory or hub id is in T5RAY_TEST_MODEL.

Random tiny models spread their logits; a trained one has near ties, long inputs and a vocabulary of 32,128.
"""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from t5ray.config import DecodeConfig
from t5ray.model.engine import Engine

MODEL = os.environ.get("T5RAY_TEST_MODEL", "")
FOLDER = Path(__file__).parents[1] / "texts"
PREFIXES = ("summarize: ", "translate English to German: ", "Is this good or bad? ")
CAP = 24
BATCH = 16

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.long,
    pytest.mark.skipif(not MODEL, reason="set T5RAY_TEST_MODEL to the directory or hub id of a real T5 to run this"),
]


def texts() -> list[str]:
    """Return some hundred inputs from the tests' own texts."""
    return [prefix + text for number, text in enumerate(_own_texts()) for prefix in PREFIXES[: 2 + number % 2]]


def _own_texts() -> Iterator[str]:
    for name in ("questions.jsonl", "summaries.jsonl"):
        for line in (FOLDER / name).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            yield row["text"] if "text" in row else f"{row['context']} {row['question']}"
    for name, column, delimiter in (("reviews.csv", "review", ","), ("sentences.tsv", "source", "\t")):
        with (FOLDER / name).open(encoding="utf-8", newline="") as file:
            yield from (row[column] for row in csv.DictReader(file, delimiter=delimiter))


@pytest.mark.parametrize("beams", [1, 4])
def test_every_text_is_generates(beams: int) -> None:
    inputs = texts()
    assert len(inputs) > 200
    engine = Engine(MODEL, decode=DecodeConfig(max_new_tokens=CAP, num_beams=beams), device=torch.device("cpu"))
    found = [prediction.text for prediction in engine.predict(inputs)]
    tokenizer, model = AutoTokenizer.from_pretrained(MODEL), AutoModelForSeq2SeqLM.from_pretrained(MODEL).eval()
    expected: list[str] = []
    for start in range(0, len(inputs), BATCH):
        batch = tokenizer(inputs[start : start + BATCH], return_tensors="pt", padding=True)
        output = model.generate(**batch, max_new_tokens=CAP, num_beams=beams, do_sample=False)
        expected += tokenizer.batch_decode(output, skip_special_tokens=True)
    assert found == expected
