import subprocess
import sys
import time
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5ray.config import MetricName, TaskConfig
from t5ray.text.metrics import Judgement, judge, only_prediction, score
from t5ray.text.tasks import BUILT_IN

EVERY = get_args(MetricName)
CLASSIFY = BUILT_IN["classify"].model_copy(update={"labels": ("games", "net")})
TEXTS = st.lists(st.sampled_from(["games", "net", "the Net", "a fine game.", "", "Ü"]), min_size=1, max_size=8)


def judged(task: TaskConfig, predictions: list[str | None], references: list[list[str]], **options: Any) -> Judgement:
    return judge(task, predictions, references, **{"bootstrap_samples": 100, "seed": 0, **options})


def test_exact_match_asks_for_equal_text() -> None:
    predictions, references = ["2021-03-03", " 2021-03-03\n", "2021-03-3", "The net"], [["2021-03-03"]] * 3 + [["net"]]
    assert score(["exact_match"], predictions, references) == {"exact_match": 0.5}


def test_exact_match_beside_token_f1_is_squads() -> None:
    predictions, references = ["The Net!", "nets"], [["net"], ["net"]]
    assert score(["token_f1", "exact_match"], predictions, references) == {"token_f1": 0.5, "exact_match": 0.5}
    assert score(["exact_match"], predictions, references) == {"exact_match": 0.0}


def test_accuracy_takes_any_reference_and_tells_case() -> None:
    predictions = ["net", " net ", "Net", "games"]
    assert score(["accuracy"], predictions, [["net", "web"]] * 4) == {"accuracy": 0.5}


def test_metrics_come_in_the_order_asked_for() -> None:
    order: tuple[MetricName, ...] = ("bleu", "macro_f1", "accuracy", "chrf", "rouge1")
    assert list(score(order, ["net"], [["net"]])) == list(order)


def test_metric_named_twice_counts_once() -> None:
    assert score(["accuracy", "accuracy"], ["net"], [["net"]]) == {"accuracy": 1.0}


@pytest.mark.parametrize("metric", EVERY)
def test_failed_row_is_never_right(metric: MetricName) -> None:
    """Not even where SQuAD's normalisation leaves nothing of the reference."""
    reference = "the" if metric in ("token_f1", "exact_match") else "net"
    asked: list[MetricName] = ["token_f1", "exact_match"] if metric == "exact_match" else [metric]
    assert score(asked, [None], [[reference]], ["net"])[metric] == 0


@settings(max_examples=25, deadline=None)
@given(TEXTS, st.data())
def test_metrics_stay_within_bounds_and_do_not_depend_on_row_order(references: list[str], data: st.DataObject) -> None:
    outputs = st.none() | st.sampled_from(["games", "net", "fine", ""])
    predictions = data.draw(st.lists(outputs, min_size=len(references), max_size=len(references)))
    found = score(EVERY, predictions, [[r] for r in references], ("games", "net"))
    for metric, value in found.items():
        assert 0 <= value <= (100.0001 if metric in ("chrf", "bleu") else 1), metric
    order = data.draw(st.permutations(range(len(references))))
    mixed = score(EVERY, [predictions[i] for i in order], [[references[i]] for i in order], ("games", "net"))
    assert mixed == pytest.approx(found)


def test_perfect_predictions_score_best() -> None:
    texts = ["the first of four sentences", "a second sentence of text", "yet another one of these", "and the last one"]
    found = score(EVERY, texts, [[text] for text in texts], texts)
    best = {metric: 100.0 if metric in ("chrf", "bleu") else 1.0 for metric in EVERY}
    assert found == pytest.approx(best)


@pytest.mark.parametrize(("predictions", "references"), [([], []), (["a"], [["a"], ["b"]]), (["a", "b"], [["a"], []])])
def test_rows_that_cannot_be_judged_are_refused(predictions: list[str | None], references: list[list[str]]) -> None:
    with pytest.raises(ValueError, match="at least one row, and at least one reference for each"):
        score(["accuracy"], predictions, references)
    with pytest.raises(ValueError, match="at least one row, and at least one reference for each"):
        judged(CLASSIFY, predictions, references)


def test_judgement_of_labels_holds_classes_intervals_and_confusion() -> None:
    predictions: list[str | None] = ["games", "net", "net", "gmaes", None] * 10
    references = [["games"], ["games"], ["net"], ["games"], ["net"]] * 10
    found = judged(CLASSIFY, predictions, references)
    assert found.metrics == score(CLASSIFY.metrics, predictions, references, CLASSIFY.labels)
    assert found.metrics["accuracy"] == pytest.approx(0.4)
    assert list(found.per_class) == ["games", "net"]
    assert found.per_class["games"] == {"precision": 1.0, "recall": pytest.approx(1 / 3), "f1": 0.5, "support": 30}
    assert list(found.metrics) == list(found.intervals) == list(CLASSIFY.metrics)
    for metric, (low, high) in found.intervals.items():
        assert 0 <= low < found.metrics[metric] < high <= 1
    assert found.confusion is not None
    assert found.confusion.labels == ("games", "net", "<other>")
    assert found.confusion.counts == ((10, 10, 10), (0, 10, 10), (0, 0, 0))


@pytest.mark.parametrize(
    ("predictions", "references", "only"),
    [
        (["net", " net", "net"], [["net"], ["games"], ["net"]], "net"),
        (["net", None, "net"], [["games"], ["net"], ["games"]], "net"),
        (["oops"] * 3, [["net"], ["games"], ["net"]], "oops"),  # no label at all
        (["net", "games", "net"], [["games"]] * 3, None),
        (["net"] * 3, [["net"], ["net"], ["games", "net"]], None),  # and rightly so
        (["net", None], [["games"]] * 2, None),  # one row tells nothing
        ([None, None], [["games"]] * 2, None),
    ],
)
def test_a_model_that_tells_nothing_apart_is_found(
    predictions: list[str | None], references: list[list[str]], only: str | None
) -> None:
    assert judged(CLASSIFY, predictions, references).only_prediction == only
    by_class = TaskConfig(name="tags", inputs="{text}", targets="{tag}", metrics=("macro_f1",))
    assert only_prediction(by_class, predictions, references) == only
    assert only_prediction(BUILT_IN["summarize"], predictions, references) is None  # any text may be short of ideas


def test_judgement_of_text_has_no_classes() -> None:
    found = judged(BUILT_IN["translate"], ["guten Tag"], [["guten Tag", "hallo"]])
    assert (found.per_class, found.confusion) == ({}, None)
    assert found.intervals == {"chrf": pytest.approx((100, 100)), "bleu": pytest.approx((0, 0))}


def test_open_labels_are_judged_by_class_without_a_matrix() -> None:
    task = TaskConfig(name="tags", inputs="{text}", targets="{tag}", metrics=("macro_f1",))
    found = judged(task, ["x", "y"], [["x"], ["z"]])
    assert list(found.per_class) == ["x", "z"]
    assert found.confusion is None


def test_judgement_without_bootstrap_has_no_intervals() -> None:
    assert judged(CLASSIFY, ["net"], [["net"]], bootstrap_samples=0).intervals == {}


def test_thousand_resamples_of_ten_thousand_rows_take_seconds() -> None:
    predictions: list[str | None] = ["net" if i % 3 else "games" for i in range(10_000)]
    references = [["net" if i % 2 else "games"] for i in range(10_000)]
    start = time.perf_counter()
    judged(CLASSIFY, predictions, references, bootstrap_samples=1000)
    assert time.perf_counter() - start < 20


def test_scoring_in_a_worker_imports_no_library_that_the_metrics_do_not_need() -> None:
    code = "import sys, t5ray.text.metrics as m; m.score(['accuracy', 'macro_f1'], ['a'], [['a']]); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"sklearn", "sacrebleu", "rouge_score", "nltk", "torch", "transformers", "ray"} & set(loaded)
