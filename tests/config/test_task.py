from typing import Any

import pytest
from pydantic import ValidationError

from t5ray.config import TaskConfig, template_fields


def task(**changes: Any) -> TaskConfig:
    settings = {"name": "dates", "inputs": "date: {text}", "targets": "{iso}", "metrics": ("exact_match",)}
    return TaskConfig.model_validate({**settings, **changes})


@pytest.mark.parametrize(
    ("template", "fields"),
    [
        ("answer: {context} question: {question}", ("context", "question")),
        ("{a} and {a} or {b}", ("a", "b")),
        ("{{literal}} {text}", ("text",)),
        ("no field", ()),
    ],
)
def test_fields_come_in_order_and_once(template: str, fields: tuple[str, ...]) -> None:
    assert template_fields(template) == fields


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{}", r"\{\}"),
        ("{0}", r"\{0\}"),
        ("{text.upper}", r"\{text.upper\}"),
        ("{text[0]}", r"\{text\[0\]\}"),
        ("{review text}", r"\{review text\}"),
        ("{text:>10}", r"\{text:>10\}"),
        ("{text:{width}}", r"\{text:\{width\}\}"),
        ("{text!r}", r"\{text!r\}"),
    ],
)
def test_field_must_be_a_plain_column_name(template: str, found: str) -> None:
    with pytest.raises(ValidationError, match=rf"must be a column name such as \{{text\}}, but got {found}"):
        task(inputs=template)


@pytest.mark.parametrize("template", ["{text", "text}"])
def test_braces_must_match(template: str) -> None:
    with pytest.raises(ValidationError, match=r"before end of string|encountered in format string"):
        task(inputs=template)


@pytest.mark.parametrize("template", ["plain", "{source_language} only"])
def test_template_must_name_a_column(template: str) -> None:
    with pytest.raises(ValidationError, match="must name at least one column"):
        task(targets=template)


@pytest.mark.parametrize(
    ("inputs", "prefix"),
    [
        ("classify: {text}", "classify: "),
        ("translate {source_language} to {target_language}: {source}", "translate English to German: "),
        ("{text} tail", ""),
        ("{{x}} {text}", "{x} "),
        ("a {b} c {d}", "a "),
    ],
)
def test_prefix_is_the_text_before_the_first_column(inputs: str, prefix: str) -> None:
    assert task(inputs=inputs).prefix == prefix


def test_columns_leave_out_languages() -> None:
    found = task(inputs="from {source_language}: {a} {b}", targets="{c} in {target_language}")
    assert (found.input_columns, found.target_columns) == (("a", "b"), ("c",))


def test_task_needs_a_metric_that_is_known() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        task(metrics=())
    with pytest.raises(ValidationError, match="Input should be 'accuracy'"):
        task(metrics=("accurcy",))


def test_task_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        task().name = "other"


def test_a_task_may_say_which_columns_augmentation_changes() -> None:
    task = {"name": "t", "inputs": "{context} {question} {label}", "targets": "{label}", "metrics": ["exact_match"]}
    assert TaskConfig.model_validate(task).augmentable_columns == ("context", "question")
    assert TaskConfig.model_validate({**task, "augment": ["context"]}).augmentable_columns == ("context",)
    assert TaskConfig.model_validate({**task, "augment": []}).augmentable_columns == ()
    with pytest.raises(ValidationError, match=r"`augment` must name columns of `inputs`, but got 'contxt'.*`context`"):
        TaskConfig.model_validate({**task, "augment": ["contxt"]})


def test_labels_that_are_named_are_a_closed_set() -> None:
    given = {"name": "route", "inputs": "{text}", "targets": "{label}", "metrics": ["accuracy"]}
    assert TaskConfig.model_validate({**given, "labels": ["billing", "bug"]}).closed_labels
    with pytest.raises(ValidationError, match="`labels` names a closed set, but `closed_labels` is false"):
        TaskConfig.model_validate({**given, "labels": ["billing", "bug"], "closed_labels": False})
