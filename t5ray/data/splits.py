"""Rows -> train, validation and test.

Comes in: data settings and a task. Goes out: `Splits` for training and searching, or the rows of one split for
evaluation. How a row gets its split:

    the data have a `split` column    it is obeyed; where validation or test is missing, a tenth of the train rows
                                      (rounded half up, at least 1) is taken out of train by the rule below
    they have none                    all rows count as train, and both parts are taken out of it: 80/10/10

Rule: input texts, prefix included, are hashed with the seed; the texts of the lowest hashes become test, the next ones
validation. So the order of rows does not matter, and rows of the same input text stay together.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from t5ray.config import DataConfig, TaskConfig
from t5ray.data.partition import carve, choose, digest_texts, tenth
from t5ray.data.rows import Example, Problems, Rows, data_path, read_rows
from t5ray.errors import DataError
from t5ray.text.tasks import collect_labels

CARVED = ("test", "validation")
"""What can be taken out of train, in this order."""


@dataclass(frozen=True)
class Splits:
    """Examples for one study: train and validation steer it, test is for the winner alone."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    task: TaskConfig
    """The task, its labels filled from train where they are closed."""
    fingerprint: str
    """Digest of all inputs and references of the three splits, in order."""
    skipped: tuple[str, ...]
    """One sentence for each row that was left out on request."""
    has_split_column: bool
    """True where the data name the split of their rows."""
    findings: tuple[str, ...] = ()
    """What a user should know though it stops nothing: texts in train and test, files not read, parts carved out."""


@dataclass(frozen=True)
class EvaluationRows:
    """Rows to judge predictions on. `examples` and `records` run in parallel."""

    examples: tuple[Example, ...]
    records: tuple[Mapping[str, Any], ...]
    """The rows as the data hold them."""
    split: str
    """train, validation, test, or all."""
    fingerprint: str
    """Digest of all inputs and references, in order."""
    skipped: tuple[str, ...]
    """One sentence for each row that was left out on request."""
    findings: tuple[str, ...] = ()
    """What a user should know though it stops nothing."""


def read_splits(config: DataConfig, task: TaskConfig) -> Splits:
    """Read the data and cut them into train, validation and test.

    The caps `max_*_rows` choose by hash, so a smaller cap takes some of the rows of a larger one.

    Raises:
        ConfigError: `path` is not set, or `columns` renames a column that the task does not have.
        DataError: a file or column is unusable, or rows are and may not be skipped (all are named together): no
            input or target, an unknown split, a closed label that train does not have.
    """
    problems = Problems(data_path(config), config.skip_bad_rows)
    rows = read_rows(config, task, problems)
    if "train" not in rows.splits:  # without train there is no telling which labels are known
        problems.stop()
    numbers, findings = _divide(rows, config.split_seed, problems.where)
    findings = [*rows.findings, *findings, *_leaks(rows, numbers)]
    origin = "of the task" if task.labels else "of train"
    task = _with_labels(task, [rows.examples[number] for number in numbers["train"]])
    numbers = _known_labels(rows.examples, numbers, task, problems, origin)
    problems.stop()
    _require_rows(numbers, problems)
    parts = {split: _capped(rows.examples, numbers[split], split, config) for split in numbers}
    examples = {split: tuple(rows.examples[number] for number in part) for split, part in parts.items()}
    return Splits(
        **examples,
        task=task,
        fingerprint=fingerprint(examples["train"], examples["validation"], examples["test"]),
        skipped=tuple(problems.lines),
        has_split_column=rows.has_split_column,
        findings=tuple(findings),
    )


def read_examples(config: DataConfig, task: TaskConfig, split: str | None) -> EvaluationRows:
    """Read the rows that a model is judged on.

    A split that the data do not name is taken out of them by the same rule as in training, so `test` of the same data
    with the same seed are the rows that training did not see.

    Args:
        split: train, validation, test or all. None: test where the data have a `split` column, else all. Texts that
            are in train, too, are reported where a split is asked for; where none is, the caller is to leave them out.
    Raises:
        ConfigError: `path` is not set, or `columns` renames a column that the task does not have.
        DataError: as in `read_splits`, but labels are not checked; or there is no such split.
    """
    problems = Problems(data_path(config), config.skip_bad_rows)
    rows = read_rows(config, task, problems, keep_records=True)
    problems.stop()
    asked = split or ("test" if rows.has_split_column else "all")
    findings = list(rows.findings)
    if asked == "all":
        chosen: Sequence[int] = range(len(rows.examples))
    elif asked in rows.splits and asked != "train":
        chosen = _named(rows, asked)
        if split is not None:
            findings += _leaks(rows, {"train": _named(rows, "train"), asked: chosen})
    else:
        numbers, carved = _divide(rows, config.split_seed, problems.where)
        chosen, findings = numbers[asked], findings + carved
    chosen = _capped(rows.examples, chosen, asked, config)
    examples = tuple(rows.examples[number] for number in chosen)
    return EvaluationRows(
        examples=examples,
        records=tuple(rows.records[number] for number in chosen),
        split=asked,
        fingerprint=fingerprint(examples),
        skipped=tuple(problems.lines),
        findings=tuple(findings),
    )


def fingerprint(*parts: Sequence[Example]) -> str:
    """Return a digest of the inputs and references of each part, in order. Places do not count."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}\n".encode())
        for example in part:
            texts = (example.inputs, *example.references)
            digest.update("".join(f"{len(text)}:{text}" for text in (str(len(texts)), *texts)).encode())
    return digest.hexdigest()


def _named(rows: Rows, split: str) -> list[int]:
    return [number for number, name in enumerate(rows.splits) if name == split]


def _divide(rows: Rows, seed: int, where: str) -> tuple[dict[str, Sequence[int]], list[str]]:
    """Return the row numbers of each split, and a sentence for each part that a given split column lacked."""
    if not rows.has_split_column:
        return _carve_out(rows.examples, list(range(len(rows.examples))), CARVED, seed, where), []
    given: dict[str, Sequence[int]] = {name: _named(rows, name) for name in ("train", *CARVED)}
    if not given["train"]:
        counts = ", ".join(f"{len(part)} {name}" for name, part in given.items() if part)
        raise DataError(f"{where}: the `split` column must say `train` in some rows, but holds only: {counts}.")
    missing = [name for name in CARVED if not given[name]]
    carved = _carve_out(rows.examples, given["train"], missing, seed, where) if missing else {}
    findings = [
        f"{where}: the `split` column names no {name} rows: {len(carved[name])} of {len(given['train'])} train rows "
        "were taken for it, chosen by hash."
        for name in missing
    ]
    return {**given, **carved}, findings


def _carve_out(
    examples: Sequence[Example], train: Sequence[int], missing: Sequence[str], seed: int, where: str
) -> dict[str, Sequence[int]]:
    """Take a tenth of the train rows for each missing split; return these and what is left of train."""
    digests = digest_texts((examples[number].inputs for number in train), seed)
    num_texts = len(np.unique(digests))
    if num_texts <= len(missing):
        raise DataError(
            f"{where}: making {' and '.join(missing)} out of train needs at least {len(missing) + 1} different input "
            f"texts, but there is {num_texts}. Add rows, or a `split` column."
        )
    taken = carve(digests, [tenth(len(train))] * len(missing))
    numbers = np.asarray(train)
    parts: dict[str, Sequence[int]] = {name: numbers[part].tolist() for name, part in zip(missing, taken, strict=True)}
    return {"train": np.delete(numbers, np.concatenate(taken)).tolist(), **parts}


def _leaks(rows: Rows, numbers: Mapping[str, Sequence[int]]) -> list[str]:
    """Report input texts of a given split column that stand in train and in another split."""
    if not rows.has_split_column:
        return []
    texts = {rows.examples[number].inputs for number in numbers["train"]}
    asked = [name for name in CARVED if name in numbers]
    leaks = {name: sum(rows.examples[number].inputs in texts for number in numbers[name]) for name in asked}
    return [
        f"{count} of {len(numbers[name])} {name} rows have an input text that is also in train: "
        "their score says nothing about new text."
        for name, count in leaks.items()
        if count
    ]


def _with_labels(task: TaskConfig, train: Iterable[Example]) -> TaskConfig:
    """Fill the labels of a task from all of train, before any cap on its rows."""
    if not task.closed_labels or task.labels:
        return task
    return task.model_copy(update={"labels": collect_labels(example.references for example in train)})


def _known_labels(
    examples: Sequence[Example],
    numbers: Mapping[str, Sequence[int]],
    task: TaskConfig,
    problems: Problems,
    origin: str,
) -> dict[str, Sequence[int]]:
    """Keep the rows whose label the task knows; the others are problems."""
    if not task.closed_labels:
        return dict(numbers)
    labels = set(task.labels)
    kept: dict[str, Sequence[int]] = {}
    for split, part in numbers.items():
        kept[split] = [number for number in part if not labels.isdisjoint(examples[number].references)]
        for number in sorted(set(part).difference(kept[split])):
            example = examples[number]
            label = example.references[0]
            problems.add(
                example.place,
                f"label {label!r} stands in {split}, but must be one of the {len(labels)} labels {origin}",
            )
    return kept


def _require_rows(numbers: Mapping[str, Sequence[int]], problems: Problems) -> None:
    empty = [split for split, part in numbers.items() if not part]
    if empty:
        raise DataError(
            f"{problems.where}: each split must keep rows, but with unusable rows left out ({problems.count}), "
            f"{' and '.join(empty)} would be empty. Mend them; the first is {problems.lines[0]}."
        )


def _capped(examples: Sequence[Example], numbers: Sequence[int], split: str, config: DataConfig) -> Sequence[int]:
    """Choose at most `max_<split>_rows` of a split's rows, by hash."""
    limit = getattr(config, f"max_{split}_rows", None)
    if limit is None or limit >= len(numbers):
        return numbers
    digests = digest_texts((examples[number].inputs for number in numbers), config.split_seed)
    ties = digest_texts(("\0".join(examples[number].references) for number in numbers), config.split_seed)
    return [numbers[row] for row in choose(digests, ties, limit)]
