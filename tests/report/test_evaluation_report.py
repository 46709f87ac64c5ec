from typing import Any

import pytest

from t5ray.report import render_evaluation
from tests.report import samples
from tests.report.pages import Page


def page(**changes: Any) -> Page:
    values: dict[str, Any] = {"title": "topics on test", "confusion": samples.confusion(), **changes}
    examples = values.pop("examples", samples.examples())
    return Page(render_evaluation(values.pop("metrics", samples.evaluation()), examples, **values))


def cells(shown: Page) -> list[list[str]]:
    return [[text for text, _ in row] for row in shown.rows]


def test_metrics_come_with_intervals_and_meaning() -> None:
    shown = page(meta={"model": "runs/topics/best", "split": "test", "left out": None})
    assert "topics on test model runs/topics/best split test rows 100" in shown.words
    assert "left out" not in shown.words
    meaning = "share of rows whose prediction is the reference"
    assert f"accuracy 0.8500 {meaning}; 95 % interval 0.7800 to 0.9200" in shown.words
    assert ["accuracy", "0.8500", "0.7800 – 0.9200", "", meaning] in cells(shown)
    assert ["chrf", "71.25", "–", "", "character n-grams shared with the reference, 0 to 100"] in cells(shown)


@pytest.mark.parametrize(("failed", "rows"), [(0, "100 rows"), (1, "99 rows that have a prediction")])
def test_a_model_that_gave_all_rows_one_label_is_said_to(failed: int, rows: str) -> None:
    metrics = samples.evaluation() | {"only_prediction": "mail", "rows_with_error": failed}
    said = f"Every one of the {rows} was given 'mail': the metrics tell of that label's share alone."
    assert said in page(metrics=metrics).words
    assert "Every one of" not in page(metrics=metrics | {"only_prediction": None}).words + page().words


def test_the_marks_lie_where_the_numbers_say() -> None:
    html = page().html
    assert '<i style="left: 78.0%; width: 14.0%"></i><b style="left: 85.0%"></b>' in html
    assert '<span class="range" title="0 to 100"><b style="left: 71.25%"></b>' in html


def test_each_label_has_its_row() -> None:
    assert ["mail", "0.8723", "0.8200", "0.8454", "", "50"] in cells(page())
    assert ["games", "0.8302", "0.8800", "0.8544", "", "50"] in cells(page())


def test_the_confusion_matrix_counts_rows_and_names_the_mistakes() -> None:
    confusion = {"mail": {"mail": 41, "games": 8, "no known label": 1}, "games": {"mail": 6, "games": 44}}
    shown = page(confusion=confusion)
    assert ["true ╲ predicted", "mail", "games", "no known label", "rows"] in cells(shown)
    assert ["mail", "41", "8", "1", "50"] in cells(shown)
    assert ["games", "6", "44", "·", "50"] in cells(shown)
    assert 'title="games → mail: 6 rows, 12 %"' in shown.html
    start = cells(shown).index(["True label", "Predicted as", "Rows", "Share"])
    assert cells(shown)[start + 1 : start + 4] == [
        ["mail", "games", "8", "16 %"],
        ["games", "mail", "6", "12 %"],
        ["mail", "no known label", "1", "2 %"],
    ]


def test_wrong_examples_come_first_and_failed_rows_say_so() -> None:
    shown = page()
    rows = [row for row in cells(shown) if row and row[0] in ("right", "wrong")]
    assert [row[0] for row in rows] == ["wrong"] * 2 + ["right"] * 5
    assert rows[0] == ["wrong", "classify: sends chess moves by mail", "games", "mail"]
    assert rows[1] == ["wrong", "classify:", "gamestoys", "no prediction: the row failed"]
    assert "7 of 7 rows, wrong ones first (2 are wrong)." in shown.words


def test_no_more_examples_than_asked_for() -> None:
    shown = page(max_examples=3)
    assert [row[0] for row in cells(shown) if row and row[0] in ("right", "wrong")] == ["wrong", "wrong", "right"]
    assert "3 of 7 rows" in shown.words


def test_a_reference_may_be_one_text() -> None:
    example = {"inputs": "a", "references": "one text", "prediction": "b", "correct": False}
    assert ["wrong", "a", "one text", "b"] in cells(page(examples=[example]))


def test_only_what_is_there_is_shown() -> None:
    shown = page(metrics={"rows": 3, "metrics": {"rougeL": 0.25}}, examples=[], confusion=None)
    assert ["rougeL", "0.2500", "–"] in [row[:3] for row in cells(shown)]
    for absent in ("Confusion matrix", "Each label", "Examples", "Most frequent mistakes"):
        assert absent not in shown.words


@pytest.mark.parametrize("field", ["inputs", "references", "prediction"])
def test_examples_are_escaped(field: str) -> None:
    shown = page(examples=[samples.examples()[0] | {field: "<script>alert(1)</script>"}])
    assert shown.tags.count("script") == 1
    assert "<script>alert(1)</script>" in shown.text


def test_labels_titles_and_facts_are_escaped() -> None:
    evil = '"><script>alert(1)</script>'
    metrics = samples.evaluation() | {"per_class": {evil: samples.evaluation()["per_class"]["mail"]}}
    shown = page(metrics=metrics, confusion={evil: {evil: 1, "x": 2}}, title=evil, meta={evil: evil})
    assert shown.tags.count("script") == 1
    assert shown.text.count(evil) >= 6


def test_nothing_is_fetched_from_elsewhere() -> None:
    shown = page()
    assert shown.fetched == []
    assert "http" not in shown.html
    assert "url(" not in shown.html
