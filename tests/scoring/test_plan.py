import os
import shutil
from pathlib import Path

import pytest

from t5ray.config import PredictConfig
from t5ray.errors import ConfigError, DataError
from t5ray.scoring.ledger import Entry, JobSummary
from t5ray.scoring.plan import FinishedJob, Job, prepare
from tests.scoring.plans import begin, changed, planned


def test_a_new_job_has_every_shard_before_it(settings: PredictConfig) -> None:
    job = planned(settings)
    assert [shard.index for shard in job.pending] == [0, 1, 2]
    assert job.finished == {}
    assert job.spec.texts.task.prefix == "classify: "


def test_a_stopped_job_goes_on_after_its_finished_parts(settings: PredictConfig) -> None:
    begin(settings)
    job = planned(settings)
    assert [shard.index for shard in job.pending] == [1, 2]
    assert job.finished == {0: Entry(rows=1, errors=1)}
    assert [shard.index for shard in planned(changed(settings, retry_errors=True)).pending] == [0, 1, 2]


@pytest.mark.parametrize(("record_at", "seconds"), [(1000, 1.5 + 60), (1100, 1.5)])
def test_a_killed_run_took_what_passed_until_its_last_part(
    settings: PredictConfig, record_at: int, seconds: float
) -> None:
    begin(settings)
    out = Path(settings.output)
    for path, at in ((out / "_job.json", record_at), (out / "_ledger" / "part-00000.json", 1060)):
        os.utime(path, (at, at))
    assert planned(settings).seconds_before == seconds


def test_a_finished_job_is_done_unless_its_errors_are_retried(settings: PredictConfig) -> None:
    counts = {"rows_out": 3, "rows_with_error": 1, "rows_per_s": 9.0, "padding_share": 0.1, "capped_share": 0.0}
    job = begin(settings, state="done", num_shards=3, **counts)
    for index in (1, 2):
        job.spec.ledger.commit(index, b"part", Entry(rows=1))
    assert prepare(settings) == FinishedJob(JobSummary(3, 1, 1.5, 9.0, 0.1, 0.0))
    assert [shard.index for shard in planned(changed(settings, retry_errors=True)).pending] == [0]
    job.spec.ledger.part(1).unlink()
    assert [shard.index for shard in planned(settings).pending] == [1]


def test_rows_that_no_try_can_score_are_not_tried_again(settings: PredictConfig) -> None:
    again = changed(settings, retry_errors=True)
    job = begin(settings)
    for index, entry in enumerate([Entry(3, errors=1, unusable=1), Entry(3, errors=2, unusable=1), Entry(3)]):
        job.spec.ledger.commit(index, b"part", entry)
    assert [shard.index for shard in planned(again).pending] == [1]
    counts = {"rows_out": 9, "rows_with_error": 1, "rows_per_s": 9.0, "padding_share": 0.1, "capped_share": 0.0}
    begin(settings, state="done", num_shards=3, **counts, rows_unusable=1)
    for index in (1, 2):
        job.spec.ledger.commit(index, b"part", Entry(rows=3))
    assert isinstance(prepare(again), FinishedJob)


@pytest.mark.parametrize(("unusable", "finished"), [(1, FinishedJob), (0, Job)])
def test_long_rows_are_tried_again_as_cut_ones_only_where_there_are_any(
    settings: PredictConfig, unusable: int, finished: type
) -> None:
    strict = changed(settings, on_long="error")
    counts = {"rows_out": 3, "rows_with_error": 1, "rows_per_s": 9.0, "padding_share": 0.1, "capped_share": 0.0}
    job = begin(strict, state="done", num_shards=3, **counts, rows_unusable=unusable)
    for index in range(3):
        entry = Entry(1, errors=1, unusable=unusable) if index == 0 else Entry(1)
        job.spec.ledger.commit(index, b"part", entry)
    assert isinstance(prepare(changed(settings, retry_errors=True)), finished)
    with pytest.raises(ConfigError, match="on_long"):
        prepare(settings)


def test_an_input_that_went_away_is_told_and_when_it_is_back_the_job_goes_on(
    settings: PredictConfig, tmp_path: Path
) -> None:
    begin(settings)
    away = shutil.move(settings.input, tmp_path / "away")
    with pytest.raises(DataError, match=r"rows\.jsonl: there must be a file, folder or glob of rows, but nothing is"):
        prepare(settings)
    shutil.copyfile(away, settings.input)  # of another time, so that it is read again
    assert [shard.index for shard in planned(settings).pending] == [1, 2]


def test_a_missing_column_is_found_before_anything_runs(settings: PredictConfig) -> None:
    Path(settings.input).write_text('{"txt": "a", "id": 1}\n{"id": 2}\n')
    with pytest.raises(DataError, match=r"task classify needs column `text`, but no row has it\. Did you mean `txt`\?"):
        prepare(settings)
    assert planned(changed(settings, columns={"text": "txt"})).spec.texts.columns == {"text": "txt"}
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


@pytest.mark.parametrize("name", ["input", "output"])
def test_a_path_that_is_no_utf8_is_refused_before_anything_runs(settings: PredictConfig, name: str) -> None:
    path = os.fsdecode(os.fsencode(Path(settings.input).parent) + b"/caf\xe9.jsonl")
    Path(path).write_text('{"text": "a"}\n')
    with pytest.raises(DataError, match=rf"^{name}: a path that is given must be UTF-8, but .*/caf\\xe9\.jsonl is not"):
        prepare(changed(settings, **{name: path}))
    assert not Path(settings.output).exists()


def test_a_file_in_a_folder_may_have_a_name_that_is_no_utf8(settings: PredictConfig, tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "rows") + b"/caf\xe9.jsonl")).write_text('{"text": "a"}\n')
    assert planned(changed(settings, input=str(tmp_path / "rows"))).spec.input.files[0].source.name == "caf\\xe9.jsonl"


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


@pytest.mark.parametrize(
    ("given", "output"), [("link/**/*.jsonl", "real/out"), ("in", "real/out"), ("in/*", "link/out"), ("link", "real")]
)
def test_an_output_inside_the_input_is_refused_whatever_links_lead_there(
    settings: PredictConfig, tmp_path: Path, given: str, output: str
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "rows.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "in").mkdir()
    for link in ("link", "in/linked"):
        (tmp_path / link).symlink_to(tmp_path / "real")
    asked = {"input": str(tmp_path / given), "format": "jsonl"}
    with pytest.raises(ConfigError, match="output: must lie outside of the input, whose rows its parts would become"):
        prepare(changed(settings, **asked, output=str(tmp_path / output)))
    assert planned(changed(settings, **asked, output=str(tmp_path / "out"))).pending


@pytest.mark.parametrize(
    ("given", "target", "output"),
    [("in", "real", "real/out"), ("in/*", "real", "real/out"), ("in", "real", "real"), ("in", "none", "none/out")],
)
def test_an_output_behind_a_link_is_refused_before_anything_is_there(
    settings: PredictConfig, tmp_path: Path, given: str, target: str, output: str
) -> None:
    for folder in ("real", "in"):
        (tmp_path / folder).mkdir()
    (tmp_path / "in" / "rows.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "in" / "link").symlink_to(tmp_path / target)
    (tmp_path / "in" / "up").symlink_to("..")  # not followed, as it holds the input
    asked = {"input": str(tmp_path / given), "format": "jsonl"}
    with pytest.raises(ConfigError, match="must lie outside of the input, whose rows its parts would become"):
        prepare(changed(settings, **asked, output=str(tmp_path / output)))
    assert planned(changed(settings, **asked, output=str(tmp_path / "out"))).pending


def test_a_file_whose_name_is_no_utf8_is_scored(settings: PredictConfig, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / os.fsdecode(b"caf\xe9.jsonl")).write_text('{"text": "a"}\n{"text": "b"}\n')
    odd = changed(settings, input=str(tmp_path / "in"))
    assert begin(odd).fingerprint["input"][0][0] == r"caf\xe9.jsonl"
    assert [shard.index for shard in planned(odd).pending] == [1]


def test_files_that_are_not_read_are_told(settings: PredictConfig, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.jsonl", "b.jsonl.zst", "c.parquet.gz"):
        (tmp_path / "in" / name).write_text('{"text": "a"}\n')
    job = planned(changed(settings, input=str(tmp_path / "in")))
    assert (job.spec.input.num_rows, len(job.notes)) == (1, 2)
    assert job.notes[0].startswith("b.jsonl.zst: was not read, as its name ends in none of .csv, ")
    begin(changed(settings, input=str(tmp_path / "in")))
    assert planned(changed(settings, input=str(tmp_path / "in"))).notes == job.notes


@pytest.mark.parametrize("given", ["in", "in/*.jsonl", "in/rows.jsonl"])
def test_an_output_beside_the_input_is_taken(settings: PredictConfig, tmp_path: Path, given: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "rows.jsonl").write_text('{"text": "a"}\n')
    assert planned(changed(settings, input=str(tmp_path / given))).pending
