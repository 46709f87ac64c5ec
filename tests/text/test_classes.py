import warnings

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from t5ray.text.classes import CLASS_METRICS, ClassStatistic, confuse, read_classes, scores_by_label
from t5ray.text.metrics import score

LABELS = ("animal", "food", "plant")
PAIRS = st.lists(
    st.tuples(st.sampled_from(LABELS), st.sampled_from([*LABELS, "nonsense", ""])), min_size=1, max_size=40
)


def test_worked_example_of_two_classes() -> None:
    """41 and 9 of the first class, 6 and 44 of the second."""
    truth = ["a"] * 50 + ["b"] * 50
    predicted = ["a"] * 41 + ["b"] * 9 + ["a"] * 6 + ["b"] * 44
    classes = read_classes(predicted, [[label] for label in truth], ("a", "b"))
    assert confuse(classes).counts == ((41, 9), (6, 44))
    found = scores_by_label(classes)["a"]
    assert {name: round(value, 2) for name, value in found.items()} == {
        "precision": 0.87,
        "recall": 0.82,
        "f1": 0.85,
        "support": 50,
    }
    assert found["precision"] == pytest.approx(41 / 47)
    values = score(("accuracy", *CLASS_METRICS), predicted, [[label] for label in truth], ("a", "b"))
    assert values["accuracy"] == 0.85
    report = sklearn.metrics.classification_report(truth, predicted, output_dict=True)
    for metric in CLASS_METRICS:
        average, _, name = metric.partition("_")
        key = "f1-score" if name == "f1" else name
        assert values[metric] == pytest.approx(report[f"{average} avg"][key])


def test_unknown_output_is_wrong_and_has_its_own_place_in_the_matrix() -> None:
    classes = read_classes(["a", "a bee", "b", None], [["a"], ["b"], ["b"], ["a"]], ("a", "b"))
    confusion = confuse(classes)
    assert confusion.labels == ("a", "b", "<other>")
    assert confusion.counts == ((1, 0, 1), (0, 1, 1), (0, 0, 0))
    assert scores_by_label(classes) == {
        "a": {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2},
        "b": {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2},
    }


def test_matrix_of_known_outputs_has_no_other() -> None:
    assert confuse(read_classes(["a"], [["b"]], ("a", "b"))).labels == ("a", "b")


def test_name_of_the_unknown_gives_way_to_a_label() -> None:
    assert confuse(read_classes(["x"], [["<other>"]], ("<other>",))).labels == ("<other>", "<<other>>")


def test_label_that_only_the_references_have_is_a_class() -> None:
    classes = read_classes(["a", "a"], [["a"], ["new"]], ("a",))
    assert classes.labels == ("a", "new")
    assert scores_by_label(classes)["new"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}


def test_any_accepted_label_is_right() -> None:
    classes = read_classes([" b ", "c"], [["a", "b"], ["a", "b"]], ("a", "b", "c"))
    assert [classes.labels[code] for code in classes.truth] == ["b", "a"]


def test_label_that_no_row_has_does_not_lower_the_macro_average() -> None:
    assert score(["macro_f1"], ["a", "b"], [["a"], ["b"]], ("a", "b", "unseen")) == {"macro_f1": 1.0}


@settings(max_examples=50, deadline=None)
@given(PAIRS)
def test_averages_equal_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    truth, predicted = [t for t, _ in pairs], [p for _, p in pairs]
    present = sorted(({*truth, *predicted}) & set(LABELS))
    values = score(CLASS_METRICS, predicted, [[t] for t in truth], LABELS)
    for metric in CLASS_METRICS:
        average, _, name = metric.partition("_")
        reference = getattr(sklearn.metrics, f"{name}_score")
        with warnings.catch_warnings(action="ignore"):
            expected = reference(truth, predicted, labels=present, average=average, zero_division=0)
        assert values[metric] == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(PAIRS)
def test_matrix_holds_every_row_once(pairs: list[tuple[str, str]]) -> None:
    classes = read_classes([p for _, p in pairs], [[t] for t, _ in pairs], LABELS)
    counts = np.array(confuse(classes).counts)
    assert counts.sum() == len(pairs)
    assert np.trace(counts) == sum(t == p for t, p in pairs)
    supports = [scores["support"] for scores in scores_by_label(classes).values()]
    assert counts.sum(axis=1)[: len(LABELS)].tolist() == supports


def test_weights_stand_for_repeated_rows() -> None:
    truth, predicted = ["a", "a", "b", "c"], ["a", "b", "b", "zzz"]
    classes = read_classes(predicted, [[t] for t in truth], ("a", "b", "c"))
    weights = np.array([[2.0, 0.0, 1.0, 1.0], [0.0, 4.0, 0.0, 0.0]])
    found = ClassStatistic(classes, CLASS_METRICS).estimate(weights)
    for number, row in enumerate(weights.astype(int)):
        repeated = [(t, p) for t, p, n in zip(truth, predicted, row, strict=True) for _ in range(n)]
        expected = score(CLASS_METRICS, [p for _, p in repeated], [[t] for t, _ in repeated], ("a", "b", "c"))
        assert {metric: values[number] for metric, values in found.items()} == pytest.approx(expected)
