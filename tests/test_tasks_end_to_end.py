"""The whole path on real text: each task trained, predicted and evaluated by the commands that a user types."""

import csv
import json
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from t5ray.evaluate import main as evaluate
from t5ray.predict import main as predict
from t5ray.train import main as train

pytestmark = pytest.mark.integration

TEXTS = Path(__file__).parent / "texts"
SETTINGS = {
    # A hundred steps: enough for a model of random weights to say something that is sometimes right.
    "learning_rate": 1e-2,
    "batch_size": 2,
    "max_epochs": 8,
    "dropout": 0.0,
    "schedule": "constant",
    "precision": "fp32",
}
NO_TRACKING = ("--tracking-uri", "none")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train_bundle(data: Path, task: str | Path, model: Path, *more: str) -> Path:
    """Train as a user does; return the bundle, proved to be one."""
    sets = [word for name, value in SETTINGS.items() for word in ("--set", f"training.{name}={value}")]
    named = ["--data", data, "--task", task, "--model", model, "--storage", "runs", "--name", "run"]
    assert train([*map(str, named), *sets, *more]) == 0
    bundle = Path("runs/run/best")
    assert {path.name for path in bundle.iterdir()} >= {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "t5ray.json",
    }
    AutoModelForSeq2SeqLM.from_pretrained(bundle)
    return bundle


def card_of(bundle: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((bundle / "t5ray.json").read_text())
    return content


def score_rows(bundle: Path, rows: Path, kind: str, *more: str) -> Path:
    """Predict as a user does; return the one part, its job counted."""
    named = ["--model", bundle, "--input", rows, "--output", "scored", "--format", kind, "--precision", "fp32"]
    assert predict([*map(str, named), *more]) == 0
    (part,) = Path("scored").glob("part-*")
    job = json.loads(Path("scored/_job.json").read_text())
    assert job["rows_in"] == job["rows_out"] == 30
    assert job["rows_with_error"] == 0
    return part


def judge(*flags: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Evaluate as a user does; return metrics.json and predictions.jsonl, what holds for all tasks checked."""
    sets = ["--set", "bootstrap_samples=200", "--output", "judged"]
    assert evaluate([*map(str, flags), *sets]) == 0
    found = json.loads(Path("judged/metrics.json").read_text())
    judged = read_json_lines(Path("judged/predictions.jsonl"))
    assert found["rows"] == len(judged)
    assert list(found["intervals"]) == list(found["metrics"])
    for name, (low, high) in found["intervals"].items():
        assert low <= found["metrics"][name] <= high
    report = Path("judged/report.html").read_text()
    assert "<html" in report
    assert f"Evaluation: {found['task']}" in report
    return found, judged


def files_of_evaluation() -> set[str]:
    found = {path.name for path in Path("judged").iterdir()}
    assert found >= {"config.yaml", "metrics.json", "predictions.jsonl", "report.html"}
    return found - {"config.yaml", "metrics.json", "predictions.jsonl", "report.html", "_lock"}


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_csv(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def without_results(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in ("prediction", "error")} for row in rows]


def texts_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    predictions = [row["prediction"] for row in rows]
    assert all(isinstance(text, str) for text in predictions)
    assert any(predictions)
    return predictions


def test_classify_reviews(local_ray: None, tiny_t5: Path) -> None:
    reviews, renamed = TEXTS / "reviews.csv", ("--column", "text=review")
    bundle = train_bundle(reviews, "classify", tiny_t5, *renamed, *NO_TRACKING)
    card = card_of(bundle)
    labels = ["mixed", "negative", "positive"]
    assert card["task"]["labels"] == labels

    scored = read_csv(score_rows(bundle, reviews, "csv", *renamed))
    assert without_results(scored) == read_csv(reviews)
    assert {row["error"] for row in scored} == {""}

    found, judged = judge(
        "--model", bundle, "--data", reviews, "--split", "all", "--precision", "fp32", *renamed, *NO_TRACKING
    )
    assert files_of_evaluation() == {"confusion_matrix.csv"}
    predicted, truth = texts_of(judged), [row["label"] for row in judged]
    assert truth == [row["label"] for row in scored]
    assert predicted == texts_of(scored)
    assert [row["correct"] for row in judged] == [p == t for p, t in zip(predicted, truth, strict=True)]

    def averaged(average: str) -> list[float]:
        known = sorted({*truth, *(set(predicted) & set(labels))})
        return list(
            precision_recall_fscore_support(truth, predicted, labels=known, average=average, zero_division=0)[:3]
        )

    macro, weighted = averaged("macro"), averaged("weighted")
    assert found["metrics"] == pytest.approx(
        {
            "accuracy": accuracy_score(truth, predicted),
            **dict(zip(("macro_precision", "macro_recall", "macro_f1"), macro, strict=True)),
            **dict(zip(("weighted_precision", "weighted_recall", "weighted_f1"), weighted, strict=True)),
        }
    )
    by_class = zip(*precision_recall_fscore_support(truth, predicted, labels=labels, zero_division=0), strict=True)
    assert found["per_class"] == {
        label: pytest.approx(dict(zip(("precision", "recall", "f1", "support"), values, strict=True)))
        for label, values in zip(labels, by_class, strict=True)
    }
    header, *lines = list(csv.reader(Path("judged/confusion_matrix.csv").read_text().splitlines()))
    assert header[:4] == ["true \\ predicted", *labels]
    counts = confusion_matrix(truth, predicted, labels=labels).tolist()
    assert [[line[0], *map(int, line[1:4])] for line in lines[:3]] == [
        [label, *row] for label, row in zip(labels, counts, strict=True)
    ]
    assert sum(int(cell) for line in lines for cell in line[1:]) == 30

    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(bundle), AutoTokenizer.from_pretrained(bundle)
    for row in scored[:3]:  # plain transformers finds the same label likeliest
        text = f"classify: {row['review']}"
        ids = tokenizer(text, max_length=card["max_input_tokens"], truncation=True, return_tensors="pt")
        losses = {}
        for label in labels:
            target = tokenizer(label, return_tensors="pt").input_ids
            losses[label] = model(**ids, labels=target).loss.item() * target.shape[1]
        assert min(losses, key=lambda label: losses[label]) == row["prediction"]


@pytest.mark.long
def test_summarize_news(local_ray: None, tiny_t5: Path) -> None:
    news = TEXTS / "summaries.jsonl"
    bundle = train_bundle(news, "summarize", tiny_t5, *NO_TRACKING)
    scored = read_json_lines(score_rows(bundle, news, "jsonl"))
    assert without_results(scored) == read_json_lines(news)
    assert {row["error"] for row in scored} == {None}

    found, judged = judge("--predictions", "scored", *NO_TRACKING)
    assert files_of_evaluation() == set()
    assert found["per_class"] == {}
    assert texts_of(judged) == texts_of(scored)
    scorer = RougeScorer(["rougeL", "rouge1", "rouge2", "rougeLsum"])
    rouge = [scorer.score(row["summary"], row["prediction"]) for row in judged]
    assert found["metrics"] == pytest.approx(
        {name: sum(row[name].fmeasure for row in rouge) / 30 for name in ("rougeL", "rouge1", "rouge2", "rougeLsum")}
    )


@pytest.mark.long
def test_answer_questions_of_several_answers(local_ray: None, tiny_t5: Path) -> None:
    questions = TEXTS / "questions.jsonl"
    bundle = train_bundle(questions, "answer", tiny_t5, *NO_TRACKING)
    scored = read_json_lines(score_rows(bundle, questions, "jsonl"))
    assert without_results(scored) == read_json_lines(questions)

    found, judged = judge("--predictions", "scored", *NO_TRACKING)
    assert files_of_evaluation() == set()
    assert judged[0]["references"] == ["the North Sea", "North Sea"]
    assert judged[1]["references"] == ["no"]
    assert judged[1]["inputs"] == (
        "answer: The Elbe rises in the Giant Mountains and flows into the North Sea. "
        "question: Does the Elbe flow into the Baltic?"
    )
    f1s, matches = [], []
    for row in judged:
        references = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
        assert row["references"] == references
        f1s.append(max(squad_f1(row["prediction"], reference) for reference in references))
        matches.append(max(squad_tokens(row["prediction"]) == squad_tokens(reference) for reference in references))
    assert found["metrics"] == pytest.approx({"token_f1": sum(f1s) / 30, "exact_match": sum(matches) / 30})
    assert [row["correct"] for row in judged] == matches


def squad_tokens(text: str) -> list[str]:
    """Normalise as SQuAD's evaluation script does: lower case, no punctuation, no articles."""
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def squad_f1(prediction: str, reference: str) -> float:
    guessed, wanted = squad_tokens(prediction), squad_tokens(reference)
    common = (Counter(guessed) & Counter(wanted)).total()
    return 2 * common / (len(guessed) + len(wanted)) if common else 0.0


@pytest.mark.long
def test_translate_to_german(local_ray: None, tiny_t5: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentences = TEXTS / "sentences.tsv"
    rows = read_csv(sentences, "\t")
    bundle = train_bundle(sentences, "translate", tiny_t5, "--target-language", "German", *NO_TRACKING)
    shown = capsys.readouterr().out
    assert re.search(r"a target must come back unchanged from the tokenizer .* loses characters: .*'[äöüß]'", shown)

    sources = Path("sources.tsv")  # what is to be translated has no translation yet
    sources.write_text("source\n" + "".join(f"{row['source']}\n" for row in rows[:30]))
    table = pq.read_table(score_rows(bundle, sources, "parquet"))
    assert table.column_names == ["source", "prediction", "error"]
    assert table["source"].to_pylist() == [row["source"] for row in rows[:30]]
    assert table["error"].null_count == 30

    found, judged = judge("--model", bundle, "--data", sentences, "--precision", "fp32", *NO_TRACKING)
    assert files_of_evaluation() == set()
    assert found["split"] == "test"
    assert [row["source"] for row in judged] == [row["source"] for row in rows if row["split"] == "test"]
    assert judged[0]["inputs"] == "translate English to German: The train is late today."
    predicted, references = texts_of(judged), [[row["target"] for row in judged]]
    assert found["metrics"] == pytest.approx(
        {
            "chrf": sacrebleu.corpus_chrf(predicted, references).score,
            "bleu": sacrebleu.corpus_bleu(predicted, references).score,
        }
    )
    assert found["metrics"]["chrf"] > 0
    of_training = json.loads(Path("runs/run/train.json").read_text())["test"]
    assert found["metrics"] == pytest.approx({name: of_training[name] for name in ("chrf", "bleu")})


def test_route_tickets_by_a_task_of_ones_own(local_ray: None, tiny_t5: Path, folder: Path) -> None:
    from mlflow import MlflowClient

    tickets = read_csv(TEXTS / "tickets.csv")
    table = pa.Table.from_pylist([{**ticket, "number": int(ticket["number"])} for ticket in tickets])
    pq.write_table(table, "tickets.parquet")
    data = Path("tickets.parquet")
    bundle = train_bundle(data, TEXTS / "tickets.yaml", tiny_t5)
    assert card_of(bundle)["task"]["inputs"] == "route {product}: {subject}"

    scored = pq.read_table(score_rows(bundle, data, "parquet"))
    assert scored.drop_columns(["prediction", "error"]).equals(table)
    assert scored["error"].null_count == 30

    found, judged = judge("--model", bundle, "--data", data, "--split", "all", "--precision", "fp32")
    assert files_of_evaluation() == set()
    assert judged[0]["inputs"] == "route router: No light comes on after the update"
    predicted, teams = texts_of(judged), [ticket["team"] for ticket in tickets]
    assert predicted == scored["prediction"].to_pylist()
    assert found["metrics"] == pytest.approx(
        {
            "exact_match": sum(p == t for p, t in zip(predicted, teams, strict=True)) / 30,
            "chrf": sacrebleu.corpus_chrf(predicted, [teams]).score,
        }
    )

    client = MlflowClient("sqlite:///mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("t5ray").experiment_id])
    kinds = {run.info.run_name: run for run in runs}
    assert sorted(kinds) == ["evaluate-route", "run"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert kinds["evaluate-route"].data.metrics == found["metrics"]
    record = json.loads(Path("runs/run/train.json").read_text())
    trained = kinds["run"]
    assert trained.data.params["learning_rate"] == "0.01"
    assert trained.data.metrics["best_exact_match"] == record["best_value"]
    history = client.get_metric_history(trained.info.run_id, "exact_match")
    assert [(point.step, point.value) for point in history] == [(r["epoch"], r["value"]) for r in record["epochs"]]
    assert len(trained.outputs.model_outputs) == 1  # the bundle, as an MLflow model
