"""Test accuracy on the embedded WordNet glosses: two baselines on words, and t5ray where a bundle is given.

    python -m benchmarks.wordnet_baselines
    python -m benchmarks.wordnet_baselines --model RUN/best

All train on the rows of the split `train` (the bundle did so before) and are judged on `test`; validation is not used.
The baselines are scikit-learn's: counts of words into multinomial naive Bayes, and sublinear TF-IDF of words into
logistic regression with C=10. t5ray is judged by its own command, `python -m t5ray.evaluate`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline

from t5ray.demo import wordnet_data

Row = dict[str, str]


def read_split(path: Path, split: str) -> list[Row]:
    """Read the rows of one split."""
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [row for row in rows if row["split"] == split]


def baseline_accuracies(train: Sequence[Row], test: Sequence[Row]) -> Iterator[tuple[str, float]]:
    """Fit each baseline on `train` and yield its name and its accuracy on `test`."""
    regression = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10, max_iter=1000))
    for name, model in (
        ("naive Bayes on words", make_pipeline(CountVectorizer(), MultinomialNB())),
        ("logistic regression on words", regression),
    ):
        model.fit([row["text"] for row in train], [row["label"] for row in train])
        yield name, float(model.score([row["text"] for row in test], [row["label"] for row in test]))


def bundle_accuracy(model: str, test: Sequence[Row]) -> float:
    """Let t5ray.evaluate judge a bundle on `test`.

    Raises:
        subprocess.CalledProcessError: the command failed; it has said why.
    """
    with tempfile.TemporaryDirectory(prefix="wordnet-") as scratch:
        data, output = Path(scratch, "test.jsonl"), Path(scratch, "evaluation")
        data.write_text("".join(json.dumps(row) + "\n" for row in test), encoding="utf-8")
        options = ["--model", model, "--data", str(data), "--output", str(output), "--tracking-uri", "none"]
        subprocess.run([sys.executable, "-m", "t5ray.evaluate", *options], check=True, stdout=subprocess.DEVNULL)
        report = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    if report["rows"] != len(test):
        raise SystemExit(f"t5ray.evaluate must judge all {len(test)} test rows, but judged {report['rows']}.")
    return float(report["metrics"]["accuracy"])


def main() -> None:
    """Print one line per model."""
    parser = argparse.ArgumentParser(description="Test accuracy on the embedded WordNet glosses.")
    parser.add_argument("--model", help="bundle to judge beside the baselines")
    model: str | None = parser.parse_args().model
    train, test = read_split(wordnet_data(), "train"), read_split(wordnet_data(), "test")
    print(f"{len(train)} training rows, {len(test)} test rows, {len({row['label'] for row in test})} labels")
    for name, accuracy in baseline_accuracies(train, test):
        print(f"{name:30} {accuracy:.3f}")
    if model is not None:
        print(f"{'t5ray ' + model:30} {bundle_accuracy(model, test):.3f}")


if __name__ == "__main__":
    main()
