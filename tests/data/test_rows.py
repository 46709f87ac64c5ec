from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from t5ray.config import DataConfig, TaskConfig
from t5ray.data.rows import Example, Problems, Rows, read_rows
from t5ray.errors import ConfigError, DataError
from tests.data.conftest import CLASSIFY, SUMMARIZE, WriteJsonl

TRANSLATE = TaskConfig(
    name="translate",
    inputs="translate {source_language} to {target_language}: {source}",
    targets="{target}",
    metrics=("chrf",),
)


def _read(path: str, task: TaskConfig = CLASSIFY, *, keep_records: bool = False, **columns: str) -> Rows:
    problems = Problems(path, may_skip=False)
    rows = read_rows(DataConfig(path=path, columns=columns), task, problems, keep_records=keep_records)
    problems.stop()
    return rows


def test_examples_have_texts_and_place(write_jsonl: WriteJsonl) -> None:
    path = write_jsonl("topics.jsonl", [{"text": "a game", "label": "games"}, {"text": "a shell", "label": "shells"}])
    assert _read(path).examples == [
        Example("classify: a game", ("games",), "topics.jsonl:1"),
        Example("classify: a shell", ("shells",), "topics.jsonl:2"),
    ]


def test_several_references(write_jsonl: WriteJsonl) -> None:
    task = TaskConfig(name="answer", inputs="question: {question}", targets="{answer}", metrics=("token_f1",))
    path = write_jsonl("qa.jsonl", [{"question": "who?", "answer": ["Ada", "Ada Lovelace"]}])
    assert _read(path, task).examples[0].references == ("Ada", "Ada Lovelace")


def test_formats_mix_where_columns_agree(tmp_path: Path, write_jsonl: WriteJsonl) -> None:
    write_jsonl("rows/a.jsonl", [{"text": "one", "label": "x"}])
    (tmp_path / "rows" / "b.csv").write_text("label,text\ny,two\n")
    (tmp_path / "rows" / "c.tsv").write_text("text\tlabel\nthree\tz\n")
    pq.write_table(pa.table({"text": ["four"], "label": ["w"]}), tmp_path / "rows" / "d.parquet")
    assert [(e.inputs, e.references[0], e.place) for e in _read(str(tmp_path / "rows")).examples] == [
        ("classify: one", "x", "a.jsonl:1"),
        ("classify: two", "y", "b.csv:2"),
        ("classify: three", "z", "c.tsv:2"),
        ("classify: four", "w", "d.parquet row 1"),
    ]


def test_uri() -> None:
    fsspec.filesystem("memory").pipe("/rows/a.csv", b"text,label\none,x\n")
    assert _read("memory://rows/a.csv").examples == [Example("classify: one", ("x",), "a.csv:2")]


def test_renamed_columns(write_jsonl: WriteJsonl) -> None:
    path = write_jsonl("a.jsonl", [{"body": "one", "label": "x", "fold": "dev", "split": "nonsense"}])
    rows = _read(path, text="body", split="fold")
    assert (rows.examples[0].inputs, rows.splits) == ("classify: one", ["validation"])


def test_language_columns_win_over_the_task(write_jsonl: WriteJsonl) -> None:
    rows: list[dict[str, str | None]] = [
        {"source": "hello", "target": "hallo"},
        {"source": "hello", "target": "olá", "to": "Portuguese"},
        {"source": "hello", "target": "hallo", "to": None},
    ]
    path = write_jsonl("a.jsonl", rows)
    assert [example.inputs for example in _read(path, TRANSLATE, target_language="to").examples] == [
        "translate English to German: hello",
        "translate English to Portuguese: hello",
        "translate English to German: hello",
    ]


def test_records_are_kept_on_request(write_jsonl: WriteJsonl) -> None:
    records = [{"id": 7, "text": "one", "label": "x"}, {"id": 8, "text": "two", "label": "y"}]
    path = write_jsonl("a.jsonl", records)
    assert _read(path, keep_records=True).records == records
    assert _read(path).records == []


@pytest.mark.parametrize(
    ("said", "meant"),
    [("train", "train"), ("Validation", "validation"), ("valid", "validation"), ("VAL", "validation"),
     (" dev ", "validation"), ("TEST", "test")],
)  # fmt: skip
def test_split_names(write_jsonl: WriteJsonl, said: str, meant: str) -> None:
    assert _read(write_jsonl("a.jsonl", [{"text": "one", "label": "x", "split": said}])).splits == [meant]


def test_missing_column_names_the_nearest(write_jsonl: WriteJsonl) -> None:
    path = write_jsonl("a.jsonl", [{"text": "one", "summry": "x"}])
    message = (
        r"a\.jsonl: task summarize needs column `summary`, but no row has it\. Did you mean `summry`\? "
        r"Say which column it is with --column summary=NAME\."
    )
    with pytest.raises(DataError, match=message):
        _read(path, SUMMARIZE)


def test_all_missing_columns_are_named(write_jsonl: WriteJsonl) -> None:
    path = write_jsonl("a.jsonl", [{"review": "one", "stars": 5}])
    with pytest.raises(DataError) as caught:
        _read(path)
    assert "needs column `text`, but no row has it. Known names: review, stars." in str(caught.value)
    assert "--column label=NAME" in str(caught.value)


def test_missing_column_in_one_file_of_many(tmp_path: Path, write_jsonl: WriteJsonl) -> None:
    write_jsonl("rows/a.jsonl", [{"text": "one", "label": "x"}])
    (tmp_path / "rows" / "b.csv").write_text("text,topic\ntwo,y\n")
    with pytest.raises(DataError, match=r"b\.csv: task classify needs column `label`"):
        _read(str(tmp_path / "rows"))


def test_renaming_an_unknown_column(write_jsonl: WriteJsonl) -> None:
    path = write_jsonl("a.jsonl", [{"text": "one", "label": "x"}])
    with pytest.raises(
        ConfigError, match=r"--column txt=body: task classify has no column `txt`\. Did you mean `text`"
    ):
        _read(path, txt="body")


def test_no_path() -> None:
    from t5ray.data import read_splits

    with pytest.raises(ConfigError, match=r"data\.path: must name a file"):
        read_splits(DataConfig(), CLASSIFY)


@pytest.mark.parametrize("content", ["", "text,label\n", "\n\n"])
def test_empty_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(DataError, match=r"a\.csv: the data must hold rows, but they are empty"):
        _read(str(tmp_path / "a.csv"))


def test_one_empty_file_among_others_is_a_finding(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    write_jsonl("rows/a.jsonl", [{"text": "one", "label": "x"}])
    write_jsonl("rows/b.jsonl", [])
    assert _read(str(tmp_path / "rows")).findings == ["b.jsonl: holds no rows."]


def test_all_problems_are_shown_together(tmp_path: Path) -> None:
    lines = [
        '{"text": "good", "label": "x", "split": "train"}',
        '{"text": "no label", "label": null, "split": "train"}',
        '{"text": "", "label": "x", "split": "train"}',
        '{"text": "cut',
        '{"text": "unknown split", "label": "x", "split": "holdout"}',
        '{"text": "absent label", "split": "train"}',
        '{"text": "no split", "label": "x"}',
        '{"text": "half \\ud800", "label": "x", "split": "train"}',
        '{"text": "label of a wrong type", "label": {"name": "x"}, "split": "train"}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError) as caught:
        _read(str(tmp_path / "a.jsonl"))
    message = str(caught.value)
    assert "every row must be usable, but 8 rows cannot be used" in message
    assert "--skip-bad-rows" in message
    for number, text in {
        2: "label",
        3: "text",
        4: "a line must be one JSON object, but does not parse",
        5: "`split` must be one of train, validation, valid, val, dev, test, but is 'holdout'",
        6: "a row must have `label`, but this one has not",
        7: "must have `split`, as other rows do, but has not",
        8: "text must be whole Unicode characters, but holds half of a surrogate pair",
        9: "label",
    }.items():
        (line,) = [line for line in message.splitlines() if f"a.jsonl:{number}:" in line]
        assert text in line


def test_ten_problems_are_shown_and_the_rest_counted(write_jsonl: WriteJsonl) -> None:
    path = write_jsonl("a.jsonl", [{"text": str(n), "label": None if n < 13 else "x"} for n in range(20)])
    with pytest.raises(DataError) as caught:
        _read(path)
    assert "13 rows cannot be used" in str(caught.value)
    assert [line for line in str(caught.value).splitlines() if "a.jsonl:" in line and line.startswith("  ")][
        -1
    ].startswith("  a.jsonl:10:")
    assert "and 3 more" in str(caught.value)


def test_skipping_every_row_stops_all_the_same(write_jsonl: WriteJsonl) -> None:
    path = write_jsonl("a.jsonl", [{"text": "one", "label": None}])
    with pytest.raises(DataError, match="1 row cannot be used"):
        read_rows(DataConfig(path=path), CLASSIFY, Problems(path, may_skip=True))
