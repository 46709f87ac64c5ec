import json
from pathlib import Path

import numpy as np
import pytest

from t5ray.config import DataConfig, EvaluateConfig, TaskConfig, load_settings
from t5ray.data.partition import SEEN_SEED, digest_texts
from t5ray.data.splits import read_splits
from t5ray.errors import DataError
from t5ray.model.card import SEEN
from t5ray.scoring.evaluation import conclude, plan_scoring
from t5ray.scoring.labelled import Labelled, Scored, read_labelled
from t5ray.scoring.opening import ScoringModel
from t5ray.scoring.plan import Job
from t5ray.scoring.scorer import Scorer
from t5ray.text.calibration import Calibration
from tests.scoring.doubles import ShoutingEngine

TASK = TaskConfig(name="mood", inputs="{text} => ", targets="{label}", metrics=("accuracy",), closed_labels=True)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    rows = ({"text": f"row {n}", "label": "odd" if n % 2 else "even"} for n in range(60))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def model_of(folder: Path, data: Path, seed: int = 5, **caps: int) -> ScoringModel:
    """A model as training on the data leaves it."""
    splits = read_splits(DataConfig.model_validate({"path": str(data), "split_seed": seed, **caps}), TASK)
    folder.mkdir()
    seen = [example.inputs for example in (*splits.train, *splits.validation)]
    np.save(folder / SEEN, np.unique(digest_texts(seen, SEEN_SEED)))
    return ScoringModel(str(folder), "fp", splits.task, {}, seed)


def settings(tmp_path: Path, data: Path, **values: object) -> EvaluateConfig:
    given = {"model": "m", "data": str(data), "output": str(tmp_path / "out"), **values}
    return EvaluateConfig.model_validate(given)


def test_rows_that_training_saw_are_left_out_by_default(tmp_path: Path, data: Path) -> None:
    model = model_of(tmp_path / "best", data)
    rows = read_labelled(settings(tmp_path, data), model)
    splits = read_splits(DataConfig(path=str(data), split_seed=5), TASK)
    assert rows.inputs == [example.inputs for example in splits.test]
    assert (len(rows.inputs), rows.about["split"]) == (6, "unseen")
    assert rows.notes == [
        f"{data}: the model saw the input text of 54 of 60 rows in training, so only the other 6 are judged. "
        "--split all judges every row."
    ]
    everything = read_labelled(settings(tmp_path, data, split="all"), model)
    assert (len(everything.inputs), everything.notes) == (60, [])


def test_rows_that_training_saw_are_told_apart_in_other_data_and_under_caps(tmp_path: Path, data: Path) -> None:
    model = model_of(tmp_path / "best", data, max_train_rows=10, max_validation_rows=2)
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "new", "label": "unheard of"}\n' + data.read_text())
    rows = read_labelled(settings(tmp_path, other), model)
    assert (len(rows.inputs), rows.inputs[0]) == (61 - 12, "new => ")
    assert [record["text"] + " => " for record in rows.records] == rows.inputs


def test_rows_that_are_all_new_are_all_judged(tmp_path: Path, data: Path) -> None:
    model = model_of(tmp_path / "best", data)
    new = tmp_path / "new.jsonl"
    new.write_text('{"text": "one", "label": "odd"}\n')
    rows = read_labelled(settings(tmp_path, new), model)
    assert (len(rows.inputs), rows.about["split"], rows.notes) == (1, "all", [])


def test_data_of_which_nothing_is_new_are_refused(tmp_path: Path, data: Path) -> None:
    model = model_of(tmp_path / "best", data)
    splits = read_splits(DataConfig(path=str(data), split_seed=5), TASK)
    lines = data.read_text().splitlines(keepends=True)
    data.write_text("".join(lines[int(example.place.rpartition(":")[2]) - 1] for example in splits.train))
    with pytest.raises(DataError, match=r"saw the input text of 48 of 48 rows in training, so nothing is left"):
        read_labelled(settings(tmp_path, data), model)


@pytest.fixture
def named(tmp_path: Path, data: Path) -> Path:
    """Data that name their splits, whose two test rows repeat a training row and are new."""
    path = tmp_path / "named.jsonl"
    rows = [{**json.loads(line), "split": "train"} for line in data.read_text().splitlines()]
    rows += [{"text": f"held out {n}", "label": "odd", "split": "dev"} for n in range(3)]
    rows += [{"text": text, "label": "odd", "split": "test"} for text in ("row 7", "new")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_test_rows_that_training_saw_are_left_out_where_no_split_is_asked_for(tmp_path: Path, named: Path) -> None:
    model = model_of(tmp_path / "best", named)
    rows = read_labelled(settings(tmp_path, named), model)
    assert (rows.inputs, rows.about["split"], rows.num_seen) == (["new => "], "unseen test", 1)
    assert rows.notes == [
        f"{named}: the model saw the input text of 1 of 2 test rows in training, so only the other 1 are judged. "
        "--split test judges every one."
    ]
    conclude(settings(tmp_path, named, bootstrap_samples=10), rows, Scored(["odd"], [None]))
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    found = {name: metrics[name] for name in ("rows", "split", "rows_seen_in_training")}
    assert found == {"rows": 1, "split": "unseen test", "rows_seen_in_training": 1}


def test_test_rows_that_are_asked_for_are_all_judged_and_their_leak_is_told(tmp_path: Path, named: Path) -> None:
    model = model_of(tmp_path / "best", named)
    rows = read_labelled(settings(tmp_path, named, split="test"), model)
    assert (rows.inputs, rows.about["split"], rows.num_seen) == (["row 7 => ", "new => "], "test", None)
    assert rows.notes == [
        "1 of 2 test rows have an input text that is also in train: their score says nothing about new text."
    ]


def test_test_rows_that_training_never_saw_are_judged_as_they_are(tmp_path: Path, named: Path) -> None:
    named.write_text("".join(line + "\n" for line in named.read_text().splitlines() if "row 7" not in line))
    rows = read_labelled(settings(tmp_path, named), model_of(tmp_path / "best", named))
    assert (rows.inputs, rows.about["split"], rows.notes, rows.num_seen) == (["new => "], "test", [], 0)


@pytest.mark.parametrize(
    ("row", "given"),
    [
        ({"review_body": "fine", "text": "not this"}, {}),  # as in training
        ({"text": "fine"}, {}),  # the task's own name
        ({"body": "fine", "review_body": "not this"}, {"text": "body"}),  # what the user says wins
    ],
)
def test_columns_are_found_as_training_had_them(tmp_path: Path, row: dict[str, str], given: dict[str, str]) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({**row, "label": "odd"}) + "\n")
    model = ScoringModel(str(tmp_path), "fp", TASK, {}, 0, columns={"text": "review_body", "label": "stars"})
    assert read_labelled(settings(tmp_path, data, columns=given), model).inputs == ["fine => "]


def test_bad_rows_are_left_out_on_request(tmp_path: Path, data: Path) -> None:
    data.write_text('{"text": "a", "label": "odd"}\n{"text": null, "label": "odd"}\n{"text": "b"}\n')
    model = ScoringModel(str(tmp_path), "fp", TASK, {}, 0)
    rows = read_labelled(settings(tmp_path, data, skip_bad_rows=True), model)
    assert rows.inputs == ["a => "]
    assert rows.notes == [
        "--skip-bad-rows left out 2 rows:",
        "  rows.jsonl:2: `text` must hold text, but is null",
        "  rows.jsonl:3: a row must have `label`, but this one has not",
    ]


def test_the_model_is_given_what_the_task_renders_white_space_included(
    tmp_path: Path, data: Path, tiny_t5: Path
) -> None:
    data.write_text('{"text": "  fine ", "label": "odd"}\n')
    model = ScoringModel(str(tiny_t5), "fp", TASK, {}, 0)
    config = settings(tmp_path, data)
    job = plan_scoring(config, model, read_labelled(config, model))
    assert isinstance(job, Job)
    engine = ShoutingEngine()
    list(Scorer(job.spec, load=lambda: engine).score(job.pending))
    assert engine.batches == [["fine => "]]


def test_the_settings_lie_beside_the_result_without_the_password(tmp_path: Path, data: Path) -> None:
    config = settings(tmp_path, data, bootstrap_samples=10, tracking={"uri": "https://me:secret@host/x"})
    task = TASK.model_copy(update={"labels": ("even", "odd")})
    rows = Labelled(task, [{"text": "a"}], ["a => "], [["odd"]], {"model": "m"}, "")
    found = conclude(config, rows, Scored(["odd"], [None]))
    assert "secret" not in "".join(path.read_text() for path in found.files)
    again = load_settings(EvaluateConfig, config=tmp_path / "out" / "config.yaml", flags={})
    assert again == config.model_copy(
        update={"tracking": config.tracking.model_copy(update={"uri": "https://***@host/x"})}
    )


def test_predictions_that_the_data_hold_stay_beside_those_of_the_model(tmp_path: Path, data: Path) -> None:
    rows = Labelled(TASK, [{"text": "a", "prediction": "old"}], ["a => "], [["odd"]], {"model": "m"}, "")
    conclude(settings(tmp_path, data, bootstrap_samples=10), rows, Scored(["odd"], [None]))
    judged = json.loads((tmp_path / "out" / "predictions.jsonl").read_text())
    assert (judged["prediction_in_data"], judged["prediction"]) == ("old", "odd")


def test_a_model_that_gave_all_rows_one_label_is_said_to(tmp_path: Path, data: Path) -> None:
    records = [{"text": "a"}, {"text": "b"}]
    rows = Labelled(TASK, records, ["a => ", "b => "], [["odd"], ["even"]], {"model": "m"}, "")
    conclude(settings(tmp_path, data, bootstrap_samples=10), rows, Scored(["odd", "odd"], [None, None]))
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["only_prediction"] == "odd"
    said = "Every one of the 2 rows was given &#39;odd&#39;: the metrics tell of that label&#39;s share alone."
    assert said in (tmp_path / "out" / "report.html").read_text()


def test_numbers_that_json_has_not_are_null(tmp_path: Path, data: Path) -> None:
    rows = Labelled(TASK, [{"text": "a"}], ["a => "], [["odd"]], {"model": "m"}, "")
    nan = float("nan")
    conclude(settings(tmp_path, data, bootstrap_samples=10), rows, Scored(["odd"], [None], Calibration(1.0, nan, nan)))
    found = json.loads((tmp_path / "out" / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert found["calibration"] == {"temperature": 1.0, "ece_before": None, "ece_after": None}
    assert found["metrics"] == {"accuracy": 1.0}
