import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t5ray.config import DataConfig
from t5ray.data import EvaluationRows, Splits, read_examples, read_splits
from t5ray.errors import DataError
from tests.data.conftest import CLASSIFY, SUMMARIZE, WriteJsonl

Rows = list[dict[str, Any]]


def _rows(count: int, split: str | None = None, start: int = 0) -> Rows:
    column = {} if split is None else {"split": split}
    return [
        {"id": n, "text": f"text {n}", "label": "ab"[n % 2], "summary": f"summary {n}", **column}
        for n in range(start, start + count)
    ]


def _inputs(splits: Splits) -> dict[str, set[str]]:
    return {name: {e.inputs for e in getattr(splits, name)} for name in ("train", "validation", "test")}


def _sizes(splits: Splits) -> tuple[int, int, int]:
    return len(splits.train), len(splits.validation), len(splits.test)


@pytest.mark.parametrize(
    ("count", "sizes"), [(1000, (800, 100, 100)), (3, (1, 1, 1)), (7, (5, 1, 1)), (15, (11, 2, 2)), (104, (84, 10, 10))]
)
def test_sizes_without_a_split_column(write_jsonl: WriteJsonl, count: int, sizes: tuple[int, int, int]) -> None:
    splits = read_splits(DataConfig(path=write_jsonl("a.jsonl", _rows(count))), SUMMARIZE)
    assert _sizes(splits) == sizes
    assert len(set.union(*_inputs(splits).values())) == count
    assert not splits.has_split_column


def test_sizes_stay_exact_with_repeated_texts(write_jsonl: WriteJsonl) -> None:
    rows = [{"text": f"text {n // 4 if n < 400 else n}", "summary": str(n)} for n in range(1000)]
    splits = read_splits(DataConfig(path=write_jsonl("a.jsonl", rows)), SUMMARIZE)
    parts = _inputs(splits)
    assert _sizes(splits) == (800, 100, 100)
    assert (
        not parts["train"] & parts["test"] | parts["train"] & parts["validation"] | parts["validation"] & parts["test"]
    )


def test_the_seed_decides(write_jsonl: WriteJsonl) -> None:
    path = write_jsonl("a.jsonl", _rows(200))
    first, again, other = (read_splits(DataConfig(path=path, split_seed=seed), SUMMARIZE) for seed in (0, 0, 1))
    assert first == again
    assert _inputs(first) != _inputs(other)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 30), min_size=3, max_size=40).filter(lambda n: len(set(n)) > 2), st.randoms())
def test_order_of_rows_does_not_matter(write_jsonl: WriteJsonl, numbers: list[int], shuffler: random.Random) -> None:
    rows: Rows = [{"text": f"text {number}", "summary": str(place % 3)} for place, number in enumerate(numbers)]
    config = DataConfig(path=write_jsonl("a.jsonl", rows), max_train_rows=10)
    ordered = read_splits(config, SUMMARIZE)
    shuffler.shuffle(rows)
    write_jsonl("a.jsonl", rows)
    shuffled = read_splits(config, SUMMARIZE)
    for name in ("train", "validation", "test"):
        pairs = [sorted((e.inputs, e.references) for e in getattr(splits, name)) for splits in (ordered, shuffled)]
        assert pairs[0] == pairs[1]


@pytest.mark.parametrize("texts", [["a"], ["a", "b"], ["a", "b"] * 10])
def test_too_few_texts_to_split(write_jsonl: WriteJsonl, texts: list[str]) -> None:
    path = write_jsonl("a.jsonl", [{"text": text, "summary": "s"} for text in texts])
    with pytest.raises(DataError, match=f"at least 3 different input texts, but there is {len(set(texts))}"):
        read_splits(DataConfig(path=path), SUMMARIZE)


def test_split_column_is_obeyed(write_jsonl: WriteJsonl) -> None:
    rows = [*_rows(6, "train"), *_rows(2, "Dev", 6), *_rows(3, "test", 8)]
    splits = read_splits(DataConfig(path=write_jsonl("a.jsonl", rows)), CLASSIFY)
    assert [e.inputs for e in splits.validation] == ["classify: text 6", "classify: text 7"]
    assert [e.place for e in splits.test] == ["a.jsonl:9", "a.jsonl:10", "a.jsonl:11"]
    assert _sizes(splits) == (6, 2, 3)
    assert splits.has_split_column
    assert splits.task.labels == ("a", "b")
    assert splits.findings == ()


@pytest.mark.parametrize(
    ("given", "sizes"),
    [("validation", (90, 5, 10)), ("test", (90, 10, 5)), (None, (80, 10, 10))],
)
def test_missing_split_is_taken_out_of_train(
    write_jsonl: WriteJsonl, given: str | None, sizes: tuple[int, int, int]
) -> None:
    rows = _rows(100, "train") + (_rows(5, given, 100) if given else [])
    splits = read_splits(DataConfig(path=write_jsonl("a.jsonl", rows)), SUMMARIZE)
    assert _sizes(splits) == sizes
    taken = [
        f"names no {name} rows: 10 of 100 train rows were taken" for name in ("test", "validation") if name != given
    ]
    assert len(splits.findings) == len(taken)
    assert all(part in line for part, line in zip(taken, splits.findings, strict=True))


def test_a_column_that_says_train_throughout_splits_like_no_column(write_jsonl: WriteJsonl) -> None:
    named = read_splits(DataConfig(path=write_jsonl("a.jsonl", _rows(50, "train"))), SUMMARIZE)
    plain = read_splits(DataConfig(path=write_jsonl("b.jsonl", _rows(50))), SUMMARIZE)
    assert _inputs(named) == _inputs(plain)


def test_train_is_missing(write_jsonl: WriteJsonl) -> None:
    path = write_jsonl("a.jsonl", [*_rows(4, "test"), *_rows(2, "val", 4)])
    with pytest.raises(DataError, match="must say `train` in some rows, but holds only: 4 test, 2 validation"):
        read_splits(DataConfig(path=path), SUMMARIZE)


def test_the_same_text_in_train_and_test_is_reported(write_jsonl: WriteJsonl) -> None:
    rows = [*_rows(10, "train"), *_rows(4, "validation", 10), *_rows(5, "test", 7)]
    splits = read_splits(DataConfig(path=write_jsonl("a.jsonl", rows)), SUMMARIZE)
    assert [line.split(":")[0] for line in splits.findings] == [
        "3 of 5 test rows have an input text that is also in train"
    ]


def test_caps_choose_by_hash_and_are_nested(write_jsonl: WriteJsonl) -> None:
    path = write_jsonl("a.jsonl", _rows(500))
    whole, few, fewer = (
        read_splits(DataConfig(path=path, max_train_rows=rows, max_validation_rows=7, max_test_rows=5), SUMMARIZE)
        for rows in (None, 40, 20)
    )
    assert (_sizes(few), _sizes(fewer)) == ((40, 7, 5), (20, 7, 5))
    assert _inputs(fewer)["train"] < _inputs(few)["train"] < _inputs(whole)["train"]
    assert {e.place for e in few.train} != {f"a.jsonl:{n}" for n in range(1, 41)}  # not just the first rows


def test_label_that_train_does_not_have(write_jsonl: WriteJsonl) -> None:
    rows = [*_rows(4, "train"), *_rows(2, "val", 4), *_rows(2, "test", 6)]
    rows[5]["label"], rows[6]["label"] = "c", "d"
    with pytest.raises(DataError) as caught:
        read_splits(DataConfig(path=write_jsonl("a.jsonl", rows)), CLASSIFY)
    assert "2 rows cannot be used" in str(caught.value)
    assert "a.jsonl:6: label 'c' stands in validation, but must be one of the 2 labels of train" in str(caught.value)
    assert "a.jsonl:7: label 'd' stands in test" in str(caught.value)


def test_unknown_labels_and_bad_rows_are_shown_together(write_jsonl: WriteJsonl) -> None:
    rows = [*_rows(4, "train"), *_rows(2, "val", 4), *_rows(2, "test", 6)]
    rows[1]["label"], rows[6]["label"] = None, "d"
    with pytest.raises(DataError) as caught:
        read_splits(DataConfig(path=write_jsonl("a.jsonl", rows)), CLASSIFY)
    assert "a.jsonl:2: " in str(caught.value)
    assert "a.jsonl:7: label 'd'" in str(caught.value)


def test_bad_rows_are_skipped_counted_and_listed(write_jsonl: WriteJsonl) -> None:
    rows = [*_rows(30, "train"), *_rows(4, "val", 30), *_rows(4, "test", 34)]
    for row in rows[:12]:
        row["summary"] = row["label"] = None
    rows[35]["label"] = "only here"
    splits = read_splits(DataConfig(path=write_jsonl("a.jsonl", rows), skip_bad_rows=True), CLASSIFY)
    assert _sizes(splits) == (18, 4, 3)
    assert [line.split(": ")[0] for line in splits.skipped] == [f"a.jsonl:{n}" for n in [*range(1, 13), 36]]


def test_skipping_may_not_empty_a_split(write_jsonl: WriteJsonl) -> None:
    rows = [*_rows(4, "train"), *_rows(2, "val", 4), {"text": "x", "label": "c", "split": "test"}]
    path = write_jsonl("a.jsonl", rows)
    with pytest.raises(DataError, match=r"left out \(1\), test would be empty\..*a\.jsonl:7: label 'c'"):
        read_splits(DataConfig(path=path, skip_bad_rows=True), CLASSIFY)


def test_labels_that_the_task_lists_hold_for_train_too(write_jsonl: WriteJsonl) -> None:
    task = CLASSIFY.model_copy(update={"labels": ("a", "c")})
    rows = [*_rows(4, "train"), *_rows(1, "val", 4), *_rows(1, "test", 6)]
    with pytest.raises(
        DataError, match=r"a\.jsonl:2: label 'b' stands in train, but must be one of the 2 labels of the task"
    ):
        read_splits(DataConfig(path=write_jsonl("a.jsonl", rows)), task)


def test_labels_come_from_all_of_train_before_the_cap(write_jsonl: WriteJsonl) -> None:
    rows = [*_rows(40, "train"), *_rows(4, "val", 40), *_rows(4, "test", 44)]
    splits = read_splits(DataConfig(path=write_jsonl("a.jsonl", rows), max_train_rows=1), CLASSIFY)
    assert splits.task.labels == ("a", "b")


def test_fingerprint_follows_content_and_nothing_else(write_jsonl: WriteJsonl) -> None:
    rows = [*_rows(6, "train"), *_rows(2, "dev", 6), *_rows(2, "test", 8)]
    original = read_splits(DataConfig(path=write_jsonl("a.jsonl", rows)), SUMMARIZE).fingerprint
    assert read_splits(DataConfig(path=write_jsonl("b.jsonl", rows)), SUMMARIZE).fingerprint == original
    for number, column in [(0, "text"), (7, "summary"), (9, "summary")]:
        changed = [dict(row) for row in rows]
        changed[number][column] += "!"
        assert read_splits(DataConfig(path=write_jsonl("c.jsonl", changed)), SUMMARIZE).fingerprint != original
    moved = [dict(row) for row in rows]
    moved[5]["split"] = "dev"
    assert read_splits(DataConfig(path=write_jsonl("d.jsonl", moved)), SUMMARIZE).fingerprint != original


def _evaluated(rows: EvaluationRows) -> list[int]:
    assert [f"summarize: {record['text']}" for record in rows.records] == [e.inputs for e in rows.examples]
    return [record["id"] for record in rows.records]


@pytest.mark.parametrize(
    ("split", "ids"),
    [(None, [8, 9]), ("test", [8, 9]), ("validation", [6, 7]), ("train", list(range(6))), ("all", list(range(10)))],
)
def test_evaluation_takes_the_split_that_is_asked_for(
    write_jsonl: WriteJsonl, split: str | None, ids: list[int]
) -> None:
    path = write_jsonl("a.jsonl", [*_rows(6, "train"), *_rows(2, "dev", 6), *_rows(2, "test", 8)])
    rows = read_examples(DataConfig(path=path), SUMMARIZE, split)
    assert _evaluated(rows) == ids
    assert rows.split == (split or "test")


def test_evaluation_takes_all_rows_without_a_split_column(write_jsonl: WriteJsonl) -> None:
    rows = read_examples(DataConfig(path=write_jsonl("a.jsonl", _rows(2))), SUMMARIZE, None)
    assert (_evaluated(rows), rows.split) == ([0, 1], "all")


def test_evaluation_needs_no_train(write_jsonl: WriteJsonl) -> None:
    path = write_jsonl("a.jsonl", _rows(3, "test"))
    assert _evaluated(read_examples(DataConfig(path=path), SUMMARIZE, None)) == [0, 1, 2]


@pytest.mark.parametrize("column", [None, "train"])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_evaluation_sees_the_rows_that_training_gave_the_split(
    write_jsonl: WriteJsonl, column: str | None, split: str
) -> None:
    config = DataConfig(path=write_jsonl("a.jsonl", _rows(60, column)), split_seed=3, max_train_rows=20)
    assert read_examples(config, SUMMARIZE, split).examples == getattr(read_splits(config, SUMMARIZE), split)


def test_evaluation_of_a_split_that_cannot_be_made(write_jsonl: WriteJsonl) -> None:
    path = write_jsonl("a.jsonl", _rows(3, "validation"))
    with pytest.raises(DataError, match="must say `train` in some rows, but holds only: 3 validation"):
        read_examples(DataConfig(path=path), SUMMARIZE, "test")


def test_evaluation_rows_without_references(write_jsonl: WriteJsonl) -> None:
    rows = _rows(4)
    rows[2]["summary"] = None
    path = write_jsonl("a.jsonl", rows)
    with pytest.raises(DataError, match=r"1 row cannot be used:\n  a\.jsonl:3: "):
        read_examples(DataConfig(path=path), SUMMARIZE, None)
    skipping = read_examples(DataConfig(path=path, skip_bad_rows=True), SUMMARIZE, None)
    assert _evaluated(skipping) == [0, 1, 3]
    assert [line.split(": ")[0] for line in skipping.skipped] == ["a.jsonl:3"]
