import csv
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from t5ray.evaluate import main
from t5ray.scoring.ledger import working_alone
from t5ray.tracking import MemoryTracker
from tests.test_predict import make_bundle

WORKED = [("yes", "yes")] * 41 + [("yes", "no")] * 9 + [("no", "yes")] * 6 + [("no", "no")] * 44
"""(true, predicted): the design's worked example: accuracy 0.85, precision 0.87, recall 0.82, F1 0.85."""


def write_predictions(folder: Path, rows: list[dict[str, Any]], kind: str) -> Path:
    folder.mkdir()
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / "part-00000.parquet")
    elif kind == "csv":
        with (folder / "part-00000.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        (folder / "part-00000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def judge(predictions: Path, output: Path, *more: str) -> int:
    given = ["--predictions", str(predictions), "--output", str(output), "--tracking-uri", "none"]
    return main([*given, "--set", "bootstrap_samples=200", *more])


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_the_worked_example_of_the_design(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": "t", "label": true, "prediction": found, "error": None} for true, found in WORKED]
    folder = write_predictions(tmp_path / "scored", rows, kind)
    assert judge(folder, tmp_path / "out", "--task", "classify") == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["rows"] == 100
    assert found["metrics"]["accuracy"] == 0.85
    yes = found["per_class"]["yes"]
    assert (round(yes["precision"], 2), round(yes["recall"], 2), round(yes["f1"], 2)) == (0.87, 0.82, 0.85)
    assert yes["support"] == 50
    low, high = found["intervals"]["accuracy"]
    assert low < 0.85 < high
    matrix = list(csv.reader((tmp_path / "out" / "confusion_matrix.csv").open()))
    assert matrix == [["true \\ predicted", "no", "yes"], ["no", "44", "6"], ["yes", "9", "41"]]
    judged = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [row["correct"] for row in judged] == [true == found for true, found in WORKED]
    assert judged[41] | {"error": None} == {
        "text": "t",
        "label": "yes",
        "inputs": "classify: t",
        "references": ["yes"],
        "prediction": "no",
        "error": None,
        "correct": False,
    }
    assert "Evaluation: classify" in (tmp_path / "out" / "report.html").read_text()
    assert (tmp_path / "out" / "metrics.json").read_text().endswith("}\n")
    shown = capsys.readouterr().out
    assert "accuracy 0.8500 (95 % interval" in shown
    assert "on 100 rows" in shown


def test_a_row_that_failed_counts_as_wrong_and_gives_exit_code_8(tmp_path: Path) -> None:
    rows = [
        {"text": "t", "label": "a", "prediction": "a", "error": None},
        {"text": "t", "label": "a", "prediction": None, "error": "too long"},
    ]
    folder = write_predictions(tmp_path / "scored", rows, "jsonl")
    assert judge(folder, tmp_path / "out", "--task", "classify") == 8
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (found["metrics"]["accuracy"], found["rows_with_error"]) == (0.5, 1)


def test_an_evaluation_whose_sending_was_cut_off_says_so_by_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = MemoryTracker()
    tracker.was_interrupted = True  # Ctrl-C came while it was closed
    monkeypatch.setattr("t5ray.tracking.open_tracker", lambda *_, **__: tracker)
    rows = [{"text": "t", "label": "yes", "prediction": "yes", "error": None}]
    assert judge(write_predictions(tmp_path / "scored", rows, "jsonl"), tmp_path / "out", "--task", "classify") == 130
    assert tracker.closed
    assert "on 1 row" in capsys.readouterr().out


def test_answers_are_right_after_squads_normalisation(tmp_path: Path) -> None:
    rows = [{"context": "c", "question": "q", "answer": ["Rome", "the city of Rome"], "prediction": "The  rome."}]
    folder = write_predictions(tmp_path / "scored", rows, "jsonl")
    assert judge(folder, tmp_path / "out", "--task", "answer") == 0
    assert json.loads((tmp_path / "out" / "predictions.jsonl").read_text())["correct"] is True


def test_task_and_columns_come_from_the_job_that_predicted(tmp_path: Path) -> None:
    rows = [{"t": "x", "topic": "a", "prediction": "a", "error": None}]
    folder = write_predictions(tmp_path / "scored", rows, "jsonl")
    task = {"name": "topics", "inputs": "topic of {text}", "targets": "{label}", "metrics": ["accuracy"]}
    job = {"state": "done", "fingerprint": {"task": task, "columns": {"text": "t"}}, "config": {"model": "m"}}
    (folder / "_job.json").write_text(json.dumps(job))
    assert judge(folder, tmp_path / "out", "--column", "label=topic") == 0
    assert json.loads((tmp_path / "out" / "predictions.jsonl").read_text())["inputs"] == "topic of x"
    (folder / "_job.json").write_text(json.dumps({**job, "state": "running"}))
    assert judge(folder, tmp_path / "again") == 3


def test_a_part_that_is_missing_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": "t", "label": "a", "prediction": "a", "error": None}] * 3
    folder = write_predictions(tmp_path / "scored", rows, "jsonl")
    job = {"state": "done", "rows_out": 3, "fingerprint": {}, "config": {"model": "m"}}
    (folder / "_job.json").write_text(json.dumps(job))
    assert judge(folder, tmp_path / "out", "--task", "classify") == 0
    (folder / "_job.json").write_text(json.dumps({**job, "rows_out": 7}))
    assert judge(folder, tmp_path / "again", "--task", "classify") == 3
    assert "the parts must hold the 7 rows that the job wrote, but hold 3" in " ".join(capsys.readouterr().err.split())


def test_what_cannot_be_judged_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_predictions(tmp_path / "scored", [{"text": "x", "prediction": "a"}], "jsonl")
    assert judge(folder, tmp_path / "out") == 2
    assert "task: must be given (--task), as" in capsys.readouterr().err
    assert judge(folder, tmp_path / "out", "--model", "m") == 2
    assert "model: must not be given with --predictions" in capsys.readouterr().err
    assert main(["--output", str(tmp_path / "out"), "--model", "m"]) == 2
    assert "data: must be given (--data), or else --predictions" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("more", [[], ["--skip-bad-rows"], ["--column", "label=topic"]])
def test_predictions_none_of_which_has_a_reference_are_told_once_with_the_column_that_may_be_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    name = "label" if "--column" in more else "labels"
    rows = [{"text": "x", name: "a", "prediction": "a"}] * 12
    folder = write_predictions(tmp_path / "scored", rows, "jsonl")
    assert judge(folder, tmp_path / "out", "--task", "classify", *more) == 3
    column, meant = (
        ("topic", "Known names: label, prediction, text.") if more[1:] else ("label", "Did you mean `labels`?")
    )
    assert capsys.readouterr().err == (
        f"data error: {folder}: task classify needs column `{column}`, but no row has it. {meant} "
        "Say which column it is with --column label=NAME.\n"
    )
    assert not (tmp_path / "out").exists()


def test_a_seed_that_no_generator_takes_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judge(tmp_path / "nowhere", tmp_path / "out", "--task", "classify", "--seed", "-1") == 2
    assert "seed" in capsys.readouterr().err


def test_rows_without_a_reference_are_left_out_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "t", "label": "a", "prediction": "a"},
        {"text": "t", "label": None, "prediction": "a"},
    ]
    folder = write_predictions(tmp_path / "scored", rows, "jsonl")
    assert judge(folder, tmp_path / "out", "--task", "classify", "--skip-bad-rows") == 0
    shown = capsys.readouterr().out
    assert "--skip-bad-rows left out 1 row:\n  part-00000.jsonl:2: `label` must hold text, but is null" in shown
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (found["rows"], found["rows_left_out"]) == (1, 1)


def test_numbers_are_judged_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "t", "label": 3, "prediction": 3},
        {"text": "t", "label": 4, "prediction": float("nan")},
    ]
    folder = write_predictions(tmp_path / "scored", rows, "jsonl")
    assert judge(folder, tmp_path / "out", "--task", "classify") == 8
    judged = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [(row["prediction"], row["correct"]) for row in judged] == [("3", True), (None, False)]
    wrong = write_predictions(tmp_path / "lists", [{"text": "t", "label": "a", "prediction": ["a"]}], "jsonl")
    assert judge(wrong, tmp_path / "again", "--task", "classify") == 3
    assert "part-00000.jsonl:1: `prediction` must hold text or a number, but holds a list" in capsys.readouterr().err


def test_columns_that_are_called_like_what_is_found_stay(tmp_path: Path) -> None:
    row = {"text": "t", "label": "a", "inputs": 1, "correct": "maybe", "correct_in_data": 0, "references": ["mine"]}
    folder = write_predictions(tmp_path / "scored", [{**row, "prediction": "a", "error": None}], "jsonl")
    assert judge(folder, tmp_path / "out", "--task", "classify") == 0
    assert json.loads((tmp_path / "out" / "predictions.jsonl").read_text()) == {
        "text": "t",
        "label": "a",
        "inputs_in_data": 1,
        "correct_in_data_in_data": "maybe",
        "correct_in_data": 0,
        "references_in_data": ["mine"],
        "inputs": "classify: t",
        "references": ["a"],
        "prediction": "a",
        "error": None,
        "correct": True,
    }


def test_only_the_parts_of_a_job_are_judged(tmp_path: Path) -> None:
    rows = [{"text": "x", "label": "a", "prediction": "a", "error": None}]
    folder = write_predictions(tmp_path / "scored", rows, "jsonl")
    (folder / "notes.csv").write_text("mine\n1\n")
    (folder / "old").mkdir()
    (folder / "old" / "part-00000.jsonl").write_text('{"text": "x", "label": "a", "prediction": "b"}\n')
    job = {"state": "done", "fingerprint": {"columns": {}}}
    (folder / "_job.json").write_text(json.dumps(job))
    assert judge(folder, tmp_path / "out", "--task", "classify") == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["rows"] == 1


def test_files_beside_predictions_of_others_that_are_not_read_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_predictions(tmp_path / "scored", [{"text": "x", "label": "a", "prediction": "a"}], "jsonl")
    (folder / "part-00001.jsonl.zst").write_bytes(b"")
    assert judge(folder, tmp_path / "out", "--task", "classify") == 0
    assert "part-00001.jsonl.zst: was not read, as its name ends in none of .csv, " in capsys.readouterr().out


def test_an_evaluation_of_something_else_is_not_replaced_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": "t", "label": true, "prediction": found, "error": None} for true, found in WORKED]
    first, second = (write_predictions(tmp_path / name, rows, "jsonl") for name in ("first", "second"))
    said = []
    for folder in (first, first, second):
        assert judge(folder, tmp_path / "out", "--task", "classify") == 0
        said.append(" ".join(capsys.readouterr().out.split()))
    assert [f"out holds another evaluation (predictions {first}" in text for text in said] == [False, False, True]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["predictions"] == str(second)


def test_an_evaluation_leaves_the_output_of_one_that_still_runs_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": "t", "label": "a", "prediction": "a", "error": None}]
    folder, out = write_predictions(tmp_path / "scored", rows, "jsonl"), tmp_path / "out"
    part = out / "_work" / "0123456789ab" / "scored" / "part-00000.jsonl"
    part.parent.mkdir(parents=True)
    part.write_text("of the other one")
    with working_alone(out):
        assert judge(folder, out, "--task", "classify") == 2
    said = " ".join(capsys.readouterr().err.split())
    holder = f"process {os.getpid()} on {platform.node()}"
    assert f"one command at a time may work on an output, but another one does ({holder})" in said
    assert (part.read_text(), (out / "metrics.json").exists()) == ("of the other one", False)
    assert judge(folder, out, "--task", "classify") == 0
    assert ((out / "_work").exists(), (out / "metrics.json").exists()) == (False, True)


def test_a_path_that_is_no_utf8_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl")
    Path(data).write_text('{"text": "t", "label": "a"}\n')
    assert main(["--model", "m", "--data", data, "--output", str(tmp_path / "out")]) == 3
    assert f"data: a path that is given must be UTF-8, but {tmp_path}/caf\\xe9.jsonl is not" in capsys.readouterr().err


def test_files_of_an_earlier_evaluation_do_not_stay_beside_those_of_another_task(tmp_path: Path) -> None:
    row = {"text": "t", "label": "a", "context": "c", "question": "q", "answer": "a", "prediction": "a", "error": None}
    folder, out = write_predictions(tmp_path / "scored", [row], "jsonl"), tmp_path / "out"
    assert judge(folder, out, "--task", "classify") == 0
    (out / "notes.txt").write_text("mine")
    assert (out / "confusion_matrix.csv").exists()
    assert judge(folder, out, "--task", "answer") == 0
    assert {path.name for path in out.iterdir()} == {
        "_lock",
        "config.yaml",
        "metrics.json",
        "notes.txt",
        "predictions.jsonl",
        "report.html",
    }


@pytest.mark.parametrize(
    ("flag", "given"),
    [
        ("data", "data"),
        ("data", "data/**/*.jsonl"),
        ("data", "data/*/predictions.jsonl"),
        ("predictions", "data/*/predictions.jsonl"),
    ],
)
def test_an_output_that_the_same_command_would_judge_is_refused(
    flag: str, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    model = ["--model", "m"] if flag == "data" else []
    assert main([*model, f"--{flag}", given, "--output", "data/eval", "--tracking-uri", "none"]) == 2
    assert f"but --{flag} {given} holds data/eval" in " ".join(capsys.readouterr().err.split())


def test_rows_for_which_somebody_else_has_no_prediction_are_counted(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "x", "label": "a", "prediction": "a"},
        {"text": "y", "label": "a", "prediction": None},
    ]
    folder = write_predictions(tmp_path / "scored", rows, "jsonl")
    assert judge(folder, tmp_path / "out", "--task", "classify") == 8
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (found["rows"], found["rows_with_error"], found["metrics"]["accuracy"]) == (2, 1, 0.5)


def test_an_output_that_would_replace_what_is_judged_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_predictions(tmp_path / "scored", [{"text": "x", "label": "a", "prediction": "a"}], "jsonl")
    before = sorted(folder.iterdir())
    assert judge(folder, tmp_path / "." / "scored", "--task", "classify") == 2
    assert "output: must lie outside of what is judged, so that it stays as it is" in capsys.readouterr().err
    data = tmp_path / "out" / "predictions.jsonl"
    assert main(["--model", "m", "--data", str(data), "--output", str(data.parent)]) == 2
    assert f"but --data {data} holds" in capsys.readouterr().err
    assert main(["--model", "m", "--data", "d.csv", "--output", "s3://bucket/out"]) == 2
    assert "output: must be a folder, on a share where there are several nodes, but got 's3://" in (
        capsys.readouterr().err
    )
    assert sorted(folder.iterdir()) == before


def test_help_answers_without_the_big_libraries() -> None:
    code = (
        "import sys; from t5ray.evaluate import main; main(['--help']); "
        "assert not {'torch', 'ray', 'mlflow', 'pyarrow', 'sklearn'} & set(sys.modules)"
    )
    assert (
        "--predictions"
        in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    )


@pytest.mark.integration
def test_a_model_is_judged_on_the_split_that_training_did_not_see(tmp_path: Path, tiny_t5: Path) -> None:
    from mlflow.tracking import MlflowClient

    data = tmp_path / "rows.jsonl"
    splits = ["train", "dev", "test", "test"]
    rows = [{"text": f"row {n}", "loud": f"ROW {n}", "split": splits[n % 4]} for n in range(20)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    make_bundle(tiny_t5, tmp_path / "bundle", max_input_tokens=40)
    store = f"sqlite:///{tmp_path}/mlflow.db"
    given = ["--model", str(tmp_path / "bundle"), "--data", str(data), "--output", str(tmp_path / "out")]
    assert main([*given, "--tracking-uri", store, "--experiment", "judged"]) == 0
    judged = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [row["text"] for row in judged] == [row["text"] for row in rows if row["split"] == "test"]
    assert judged[0]["inputs"] == "shout: row 2"
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["metrics"]["exact_match"] == sum(row["prediction"] == row["loud"] for row in judged) / 10
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "_lock",
        "config.yaml",
        "metrics.json",
        "predictions.jsonl",
        "report.html",
    ]
    client = MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("judged").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics == found["metrics"]
    assert run.data.params["split"] == "test"
    assert run.data.params["model"] == str(tmp_path / "bundle")
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        "config.yaml",
        "metrics.json",
        "predictions.jsonl",
        "report.html",
    }
