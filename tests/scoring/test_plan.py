import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from t5ray.config import DecodeConfig, PredictConfig, TaskConfig
from t5ray.errors import ConfigError, DataError, TrackingError
from t5ray.model.card import BundleCard
from t5ray.scoring.ledger import Entry, JobSummary
from t5ray.scoring.plan import FinishedJob, Job, open_model, prepare


@pytest.fixture
def settings(tiny_t5: Path, tmp_path: Path) -> PredictConfig:
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n{"text": "c"}\n')
    return PredictConfig(
        model=str(tiny_t5),
        input=str(tmp_path / "rows.jsonl"),
        output=str(tmp_path / "out"),
        task="classify",
        shard_rows=1,
    )


def planned(config: PredictConfig) -> Job:
    job = prepare(config)
    assert isinstance(job, Job)
    return job


def begin(config: PredictConfig, **record: Any) -> Job:
    """Leave a job behind as a run would that was killed after its first part."""
    job = planned(config)
    ledger = job.spec.ledger
    ledger.open()
    stamps = [[file.source.name, file.stamp] for file in job.spec.input.files]
    ledger.write_job({"state": "running", "seconds": 1.5, "fingerprint": job.fingerprint, "stamps": stamps, **record})
    ledger.commit(0, b"part", Entry(rows=1, errors=1))
    return job


def changed(config: PredictConfig, **values: Any) -> PredictConfig:
    return PredictConfig.model_validate({**config.model_dump(), **values})


def test_a_new_job_has_every_shard_before_it(settings: PredictConfig) -> None:
    job = planned(settings)
    assert [shard.index for shard in job.pending] == [0, 1, 2]
    assert job.finished == {}
    assert job.spec.task.prefix == "classify: "


def test_a_stopped_job_goes_on_after_its_finished_parts(settings: PredictConfig) -> None:
    begin(settings)
    job = planned(settings)
    assert [shard.index for shard in job.pending] == [1, 2]
    assert job.finished == {0: Entry(rows=1, errors=1)}
    assert job.seconds_before == 1.5
    assert [shard.index for shard in planned(changed(settings, retry_errors=True)).pending] == [0, 1, 2]


def test_a_finished_job_is_done_unless_its_errors_are_retried(settings: PredictConfig) -> None:
    counts = {"rows_out": 3, "rows_with_error": 1, "rows_per_s": 9.0, "padding_share": 0.1, "capped_share": 0.0}
    job = begin(settings, state="done", num_shards=3, **counts)
    for index in (1, 2):
        job.spec.ledger.commit(index, b"part", Entry(rows=1))
    assert prepare(settings) == FinishedJob(JobSummary(3, 1, 1.5, 9.0, 0.1, 0.0))
    assert [shard.index for shard in planned(changed(settings, retry_errors=True)).pending] == [0]
    job.spec.ledger.part(1).unlink()
    assert [shard.index for shard in planned(settings).pending] == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "csv"}, r"format \('parquet' there, 'csv' here\)"),
        ({"scores": True}, r"scores \(False there, True here\)"),
        ({"on_long": "error"}, r"on_long \('truncate' there, 'error' here\)"),
        ({"shard_rows": 2}, r"shard_rows \(1 there, 2 here\)"),
        ({"task": "summarize"}, r"task\.inputs \('classify: \{text\}' there, 'summarize: \{text\}' here\)"),
        ({"decode": {"num_beams": 4}}, r"decode\.num_beams \(None there, 4 here\)"),
    ],
)
def test_another_job_in_the_same_folder_is_refused(
    settings: PredictConfig, change: dict[str, Any], message: str
) -> None:
    begin(settings)
    with pytest.raises(
        ConfigError, match=rf"out: holds the results of another job, which differs in .*{message}.*Choose"
    ):
        prepare(changed(settings, **change))


def test_another_model_or_input_in_the_same_folder_is_refused(settings: PredictConfig, tmp_path: Path) -> None:
    from tests.tiny import make_tiny_t5

    begin(settings)
    with pytest.raises(ConfigError, match=r"differs in model \(weights, tokenizer or card: "):
        prepare(changed(settings, model=str(make_tiny_t5(tmp_path / "other", seed=1))))
    Path(settings.input).write_text('{"text": "a"}\n{"text": "b"}\n{"text": "d"}\n')
    with pytest.raises(ConfigError, match=r"differs in input \(content of rows\.jsonl\)"):
        prepare(settings)


def test_what_does_not_decide_the_output_may_change(settings: PredictConfig) -> None:
    begin(settings)
    os.utime(settings.input, (1, 1))
    assert len(planned(changed(settings, workers=7, batch_tokens=64)).pending) == 2
    assert len(planned(changed(settings, on_long="error", retry_errors=True)).pending) == 3


def test_a_missing_column_is_found_before_anything_runs(settings: PredictConfig) -> None:
    Path(settings.input).write_text('{"txt": "a", "id": 1}\n{"id": 2}\n')
    with pytest.raises(DataError, match=r"task classify needs column `text`, but no row has it\. Did you mean `txt`\?"):
        prepare(settings)
    assert planned(changed(settings, columns={"text": "txt"})).spec.columns == {"text": "txt"}
    with pytest.raises(
        ConfigError, match=r"--column texd=txt: task classify has no column `texd`\. Did you mean `text`"
    ):
        prepare(changed(settings, columns={"texd": "txt"}))


def test_a_column_that_only_the_last_row_has_is_not_missing(settings: PredictConfig) -> None:
    Path(settings.input).write_text('{"id": 1}\n{"id": 2}\n{"text": "a"}\n')
    assert planned(settings).spec.input.schema.names == ["id", "text"]


def test_an_input_with_the_columns_of_the_output_is_refused(settings: PredictConfig) -> None:
    Path(settings.input).write_text('{"text": "a", "score": 1}\n')
    assert planned(settings)
    with pytest.raises(DataError, match="the output adds the column `score`, but the input has one of that name"):
        prepare(changed(settings, scores=True))


def test_the_task_comes_from_the_bundle_or_the_settings_and_not_from_both(
    settings: PredictConfig, tmp_path: Path, tiny_t5: Path
) -> None:
    with pytest.raises(ConfigError, match="is no bundle, so --task must say how rows become inputs"):
        prepare(changed(settings, task=None))
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for file in tiny_t5.iterdir():
        (bundle / file.name).write_bytes(file.read_bytes())
    task = TaskConfig(name="shout", inputs="shout: {text}", targets="{loud}", metrics=("exact_match",))
    card = BundleCard(task=task, decode=DecodeConfig(max_new_tokens=9), max_input_tokens=32)
    (bundle / "t5ray.json").write_text(card.model_dump_json())
    with pytest.raises(ConfigError, match=r"is a bundle and brings its own task \(shout\)\. Leave --task out"):
        prepare(changed(settings, model=str(bundle)))
    job = planned(changed(settings, model=str(bundle), task=None))
    assert job.spec.task == task
    assert json.loads(json.dumps(job.fingerprint))["decode"]["max_new_tokens"] == 9


def test_one_decode_setting_leaves_the_bundles_others_as_they_are(
    settings: PredictConfig, tmp_path: Path, tiny_t5: Path
) -> None:
    bundle = shutil.copytree(tiny_t5, tmp_path / "bundle")
    task = TaskConfig(name="shout", inputs="shout: {text}", targets="{loud}", metrics=("exact_match",))
    own = DecodeConfig(max_new_tokens=9, num_beams=4, length_penalty=0.5)
    card = BundleCard(task=task, decode=own, max_input_tokens=32)
    (bundle / "t5ray.json").write_text(card.model_dump_json())
    asked = DecodeConfig.model_validate({"num_beams": 2})
    job = planned(changed(settings, model=str(bundle), task=None, decode=asked))
    decode = job.fingerprint["decode"]
    assert [decode[name] for name in ("num_beams", "max_new_tokens", "length_penalty")] == [2, 9, 0.5]


def test_the_output_must_be_a_folder_here(settings: PredictConfig) -> None:
    with pytest.raises(ConfigError, match="output: must be a folder, on a share where there are several nodes"):
        prepare(changed(settings, output="s3://bucket/out"))


@pytest.mark.parametrize("names", [["part-00000.parquet"], ["d.py", "c.py", "b.py", "a.py"]])
def test_a_folder_with_other_things_in_it_is_no_output(settings: PredictConfig, names: list[str]) -> None:
    Path(settings.output).mkdir()
    for name in names:
        (Path(settings.output) / name).write_bytes(b"precious")
    held = {1: "part-00000.parquet", 4: "a.py, b.py, c.py and 1 more"}[len(names)]
    with pytest.raises(
        ConfigError, match=rf"out: --output must be a new or empty folder, or hold this job, but has .* holds {held}\. "
    ):
        prepare(settings)


def test_a_folder_in_which_a_job_was_killed_at_its_beginning_is_taken(settings: PredictConfig) -> None:
    (Path(settings.output) / "_ledger").mkdir(parents=True)
    (Path(settings.output) / "_lock").touch()
    assert isinstance(prepare(settings), Job)


def test_an_output_that_is_a_file_is_refused(settings: PredictConfig) -> None:
    Path(settings.output).write_text("a file")
    with pytest.raises(ConfigError, match="out: --output must be a folder, but is a file"):
        prepare(settings)


def test_an_output_that_cannot_be_written_is_found_before_anything_runs(settings: PredictConfig) -> None:
    (Path(settings.output).parent / "blocked").write_text("a file")
    with pytest.raises(DataError, match="out: the output must be writable, but"):
        prepare(changed(settings, output=str(Path(settings.output).parent / "blocked/out")))


@pytest.mark.parametrize(
    ("given", "output"),
    [("in", "in/out"), ("in", "in"), ("in/*.parquet", "in"), ("in/*", "in/out"), ("in/part-00000.parquet", "in")],
)
def test_an_output_inside_the_input_is_refused(
    settings: PredictConfig, tmp_path: Path, given: str, output: str
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "rows.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(ConfigError, match="output: must lie outside of the input, whose rows its parts would become"):
        prepare(changed(settings, input=str(tmp_path / given), output=str(tmp_path / output)))
    assert not (tmp_path / "in" / "out").exists()


@pytest.mark.parametrize("given", ["in", "in/*.jsonl", "in/rows.jsonl"])
def test_an_output_beside_the_input_is_taken(settings: PredictConfig, tmp_path: Path, given: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "rows.jsonl").write_text('{"text": "a"}\n')
    assert planned(changed(settings, input=str(tmp_path / given))).pending


def test_a_registered_model_is_looked_up_at_the_tracking_uri(settings: PredictConfig, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/other.db"
    with pytest.raises(TrackingError, match=f"{store} must exist to find models:/topics@champion"):
        prepare(changed(settings, model="models:/topics@champion", tracking_uri=store))
    with pytest.raises(TrackingError, match=r"tracking\.uri: must say where MLflow knows models:/topics@champion"):
        prepare(changed(settings, model="models:/topics@champion", tracking_uri="none"))


def test_a_model_at_a_uri_is_read_from_a_copy_here(
    settings: PredictConfig, tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from t5ray.cluster import upload_dir

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    upload_dir(tiny_t5, "memory://plan/best")
    model = open_model(changed(settings, model="memory://plan/best"))
    assert model.origin == "memory://plan/best"
    assert Path(model.source).is_relative_to(tmp_path / "cache")
    assert model.fingerprint == open_model(settings).fingerprint
    assert open_model(changed(settings, model=f"file://{tiny_t5}")).source == str(tiny_t5)
