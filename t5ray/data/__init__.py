"""Rows -> splits -> tokens, once, shared by all trials.

    sources.py  path, glob, folder, URI -> files      partition.py    hash of a text -> its split
    formats.py  file -> rows with their place         splits.py       train, validation, test; rows to evaluate
    hub.py      hf:NAME -> rows                       tokens.py       token ids under a content fingerprint
    rows.py     rows -> examples and problems         token_cache.py  its files
    batches.py  token-budget batches                  cells.py        Arrow's cells, some without a value
    augmented.py  training rows with their changed copies

Comes in: data settings, a task, a tokenizer. Goes out: examples, memory-mapped token ids. Must not know models or Ray.
"""

from t5ray.data.rows import Example
from t5ray.data.splits import EvaluationRows, Splits, fingerprint, read_examples, read_splits
from t5ray.data.tokens import TokenisedData, TokenisedSplit, Tokenizer, tokenise

__all__ = [
    "EvaluationRows",
    "Example",
    "Splits",
    "TokenisedData",
    "TokenisedSplit",
    "Tokenizer",
    "fingerprint",
    "read_examples",
    "read_splits",
    "tokenise",
]
