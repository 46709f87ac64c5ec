import datetime
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5ray.config import TaskConfig
from t5ray.errors import ConfigError, DataError
from t5ray.text.tasks import (
    BUILT_IN,
    collect_labels,
    has_doubled_prefix,
    read_prediction,
    render_input,
    render_references,
    render_spans,
    resolve_task,
)

ROWS: Mapping[str, tuple[Mapping[str, object], str, tuple[str, ...]]] = {
    "classify": ({"text": "a small dog", "label": "animal"}, "classify: a small dog", ("animal",)),
    "summarize": ({"text": "long text", "summary": "text"}, "summarize: long text", ("text",)),
    "answer": (
        {"context": "Rome is in Italy.", "question": "where is Rome?", "answer": ["Italy", "in Italy"]},
        "answer: Rome is in Italy. question: where is Rome?",
        ("Italy", "in Italy"),
    ),
    "translate": (
        {"source": "good day", "target": "guten Tag"},
        "translate English to German: good day",
        ("guten Tag",),
    ),
}
"""Task -> row, inputs, references, as the design's table of tasks has them."""


def custom(**changes: Any) -> TaskConfig:
    settings = {"name": "dates", "inputs": "date: {text}", "targets": "{iso}", "metrics": ("exact_match",)}
    return TaskConfig.model_validate({**settings, **changes})


@pytest.mark.parametrize("name", ROWS)
def test_built_in_task_renders_the_rows_of_the_design(name: str) -> None:
    row, inputs, references = ROWS[name]
    assert render_input(BUILT_IN[name], row) == inputs
    assert render_references(BUILT_IN[name], row) == references


def test_built_in_tasks_are_judged_as_the_design_says() -> None:
    assert list(BUILT_IN) == list(ROWS)
    assert {name: task.metrics[0] for name, task in BUILT_IN.items()} == {
        "classify": "accuracy",
        "summarize": "rougeL",
        "answer": "token_f1",
        "translate": "chrf",
    }
    assert [name for name, task in BUILT_IN.items() if task.closed_labels] == ["classify"]
    assert set(BUILT_IN["classify"].metrics) == {
        "accuracy",
        *(f"{average}_{score}" for average in ("macro", "weighted") for score in ("precision", "recall", "f1")),
    }
    assert set(BUILT_IN["summarize"].metrics) == {"rougeL", "rouge1", "rouge2", "rougeLsum"}
    assert set(BUILT_IN["answer"].metrics) == {"token_f1", "exact_match"}
    assert set(BUILT_IN["translate"].metrics) == {"chrf", "bleu"}


def test_languages_of_the_command_replace_the_tasks() -> None:
    task = resolve_task("translate", target_language="French")
    assert render_input(task, {"source": "good day"}) == "translate English to French: good day"


def test_languages_of_the_row_win_over_the_tasks() -> None:
    row = {"source": "bom dia", "source_language": "Portuguese", "target_language": "French"}
    assert render_input(BUILT_IN["translate"], row) == "translate Portuguese to French: bom dia"


@pytest.mark.parametrize("missing", [None, float("nan"), np.float64("nan"), "", "  "])
def test_language_missing_in_a_row_is_the_tasks(missing: object) -> None:
    row = {"source": "good day", "source_language": missing, "target_language": "French"}
    assert render_input(BUILT_IN["translate"], row) == "translate English to French: good day"


def test_predict_needs_no_target_column() -> None:
    assert render_input(BUILT_IN["classify"], {"text": "x"}) == "classify: x"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (2.5, "2.5"),
        (True, "True"),
        (np.int64(7), "7"),
        (np.float32(0.5), "0.5"),
        (np.bool_(False), "False"),
        (np.str_("a"), "a"),
        (datetime.date(2021, 3, 3), "2021-03-03"),
        ("  padded\n", "padded"),
        ("{braces} stay", "{braces} stay"),
    ],
)
def test_scalars_are_rendered_as_text(value: object, text: str) -> None:
    assert render_input(BUILT_IN["classify"], {"text": value}) == f"classify: {text}"
    assert render_references(BUILT_IN["classify"], {"label": value}) == (text,)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "`text` must hold text, but is null"),
        (float("nan"), "`text` must hold text, but is null"),
        (np.float64("nan"), "`text` must hold text, but is null"),
        (pd.NaT, "`text` must hold text, but is null"),
        ("", "`text` must hold text, but is empty"),
        (" \n\t", "`text` must hold text, but is empty"),
        ([], "`text` must hold text or a number, but holds a list"),
        (["a"], "`text` must hold text or a number, but holds a list"),
        (np.array(["a"]), "`text` must hold text or a number, but holds a list"),
        ({"a": 1}, "`text` must hold text or a number, but holds a dict"),
        (b"bytes", "`text` must hold text or a number, but holds a bytes"),
    ],
)
def test_unusable_value_names_the_column(value: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        render_input(BUILT_IN["classify"], {"text": value})


def test_missing_column_names_the_nearest() -> None:
    with pytest.raises(DataError, match=r"`summary` must be a column of the row, but is missing. .*`summry`"):
        render_references(BUILT_IN["summarize"], {"text": "a", "summry": "b"})


@pytest.mark.parametrize("answers", [("1", "one", "1"), ["1", "one "], np.array(["1", "one"], dtype=object)])
def test_list_gives_several_references_once_each(answers: object) -> None:
    assert render_references(BUILT_IN["answer"], {"answer": answers}) == ("1", "one")


def test_list_fills_a_template_with_literal_text() -> None:
    assert render_references(custom(targets="label: {iso}"), {"iso": ["a", "b"]}) == ("label: a", "label: b")


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([], "`answer` must hold at least one reference, but is an empty list"),
        (["a", None], r"`answer\[1\]` must hold text, but is null"),
        (["a", " "], r"`answer\[1\]` must hold text, but is empty"),
        ([["a"]], r"`answer\[0\]` must hold text or a number, but holds a list"),
        ({"text": "a"}, "`answer` must hold text or a number, but holds a dict"),
    ],
)
def test_unusable_reference_names_its_place_in_the_list(answers: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        render_references(BUILT_IN["answer"], {"answer": answers})


def test_list_in_one_of_several_target_columns_is_refused() -> None:
    with pytest.raises(DataError, match="`b` must hold text or a number, but holds a list"):
        render_references(custom(targets="{a}: {b}"), {"a": "x", "b": ["y"]})


def test_unknown_task_names_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"task: must be a built-in task or a YAML file, but got 'clasify'.*`classify`"
    ):
        resolve_task("clasify")


def test_task_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "dates.yaml"
    path.write_text("name: dates\ninputs: 'date: {text}'\ntargets: '{iso}'\nmetrics: [exact_match]\n")
    assert resolve_task(str(path)) == custom()


def test_languages_that_a_task_cannot_use_are_refused_together() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_task("classify", source_language="English", target_language="German")
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["source_language", "target_language"]
    assert "task classify must have {source_language} in its templates" in caught.value.problems[0]


def test_empty_language_is_refused() -> None:
    with pytest.raises(ConfigError, match="target_language: must not be empty"):
        resolve_task("translate", target_language=" ")


def test_labels_are_sorted_first_references() -> None:
    assert collect_labels([("net",), ("games", "fun"), ("net",)]) == ("games", "net")


def test_prediction_is_stripped_only() -> None:
    assert read_prediction(BUILT_IN["classify"], " Games \n") == "Games"


@pytest.mark.parametrize(
    ("task", "row"),
    [
        (BUILT_IN["classify"], {"text": "classify: a dog"}),
        (BUILT_IN["classify"], {"text": " classify:a dog"}),
        (BUILT_IN["translate"], {"source": "translate English to German: good day"}),
        (
            BUILT_IN["translate"],
            {"source": "translate French to Dutch: x", "source_language": "French", "target_language": "Dutch"},
        ),
        (custom(inputs="fix {text}"), {"text": "fix this"}),
    ],
)
def test_doubled_prefix_is_seen(task: TaskConfig, row: Mapping[str, object]) -> None:
    assert has_doubled_prefix(task, render_input(task, row))


@pytest.mark.parametrize(
    ("task", "row"),
    [
        (BUILT_IN["classify"], {"text": "how to classify: a guide"}),
        (BUILT_IN["translate"], {"source": "translate French to Dutch: x"}),
        (BUILT_IN["translate"], {"source": "translate this to that"}),
        (custom(inputs="fix {text}"), {"text": "fixed costs"}),
        (custom(inputs="{text}"), {"text": "classify: classify: x"}),
        (custom(inputs='"{text}"'), {"text": '"quoted"'}),
    ],
)
def test_text_that_only_resembles_the_prefix_is_let_through(task: TaskConfig, row: Mapping[str, object]) -> None:
    assert not has_doubled_prefix(task, render_input(task, row))


@given(st.text().filter(lambda text: text.strip() and "classify:" not in text))
def test_rendered_input_is_prefix_and_text_and_never_doubled(text: str) -> None:
    task = BUILT_IN["classify"]
    inputs = render_input(task, {"text": text})
    assert inputs == "classify: " + text.strip()
    assert not has_doubled_prefix(task, inputs)
    assert has_doubled_prefix(task, render_input(task, {"text": inputs}))


def test_tasks_import_no_big_library() -> None:
    code = "import sys, t5ray.text.tasks; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "sklearn", "sacrebleu", "rouge_score", "torch", "transformers", "ray"} & set(loaded)


@pytest.mark.parametrize("name", ROWS)
def test_spans_hold_the_values_of_the_text_columns(name: str) -> None:
    row, inputs, _ = ROWS[name]
    text, spans = render_spans(BUILT_IN[name], row)
    assert text == inputs
    assert [text[start:end] for start, end in spans] == [row[column] for column in BUILT_IN[name].input_columns]


def test_spans_leave_out_prefix_numbers_languages_and_other_columns() -> None:
    task = custom(inputs="{{x}} {source_language} {a} {n}: {b}", targets="{b}")
    text, spans = render_spans(task, {"a": " one ", "n": 5, "b": "two", "source_language": "Welsh"})
    assert text == "{x} Welsh one 5: two"
    assert [text[start:end] for start, end in spans] == ["one"]
