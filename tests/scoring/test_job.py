"""Jobs on a real local Ray, undisturbed and disturbed."""

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pytest
import ray.data
import torch

from t5ray.cluster import Cluster, connect
from t5ray.config import DecodeConfig
from t5ray.errors import ClusterError, ConfigError, DataError, ModelError
from t5ray.model.card import fingerprint
from t5ray.scoring.inputs import Shard
from t5ray.scoring.job import Pace, _opening_record, _outcomes, run
from t5ray.scoring.ledger import Entry, read_job
from t5ray.scoring.plan import Job, prepare
from t5ray.scoring.pool import BLOCK_SHARDS, Pool, blocks_of
from t5ray.scoring.predicting import DEADLY
from t5ray.scoring.scorer import Outcome, Scorer, ScorerSpec
from tests.scoring.doubles import DeadlySpec, ShoutingEngine, ShoutingSpec, SlowSpec, spec_for
from tests.scoring.plans import settings, small


def test_workers_are_told_how_many_gpus_they_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = list[ScorerSpec]()

    class Shards:
        def map_batches(self, scorer: type, *, fn_constructor_args: tuple[ScorerSpec], **how: object) -> "Shards":
            made.extend(fn_constructor_args)
            return self

        def iter_batches(self, **how: object) -> Iterator[pa.Table]:
            return iter(())

    monkeypatch.setattr(ray.data, "from_blocks", lambda blocks: Shards())
    write_rows(tmp_path / "rows.jsonl", 3)
    assert list(_outcomes(spec_for(tmp_path / "rows.jsonl", tmp_path / "out"), (), Pool(1, 1, 1.0, 0.5))) == []
    assert [spec.engine.gpus for spec in made] == [0.5]


def test_the_pace_leaves_start_up_out_and_never_falls() -> None:
    pace = Pace(100)
    assert pace.note(0.0, 100) == ""
    assert pace.note(50.0, 100) == ""  # the model loads
    assert pace.note(60.0, 300) == "20.0 rows/s"
    assert pace.note(70.0, 250) == "10.0 rows/s"  # a worker died, and its rows are scored again
    assert pace.done == 300
    assert pace.note(80.0, 700) == "20.0 rows/s"


def test_the_job_file_says_what_decides_the_output(tiny_t5: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", 3)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    decode = DecodeConfig(num_beams=2, max_new_tokens=5)
    given = {"model": str(tiny_t5), "input": str(path), "output": str(tmp_path / "o")}
    job = prepare(settings(**given, task="classify", format="csv", decode=decode))
    assert isinstance(job, Job)
    record = json.loads(json.dumps(_opening_record(job)))
    assert record["fingerprint"]["model"] == fingerprint(tiny_t5)
    assert record["fingerprint"]["task"]["inputs"] == "classify: {text}"
    assert record["fingerprint"]["decode"] == decode.model_dump(mode="json")
    assert record["fingerprint"]["format"] == "csv"
    assert record["fingerprint"]["input"] == [["rows.jsonl", hashlib.sha256(path.read_bytes()).hexdigest()]]
    size = path.stat().st_size
    assert record["stamps"] == [["rows.jsonl", f"{size} bytes, changed 2023-11-14T22:13:20+00:00"]]


def test_a_finished_part_that_goes_missing_is_told(tmp_path: Path) -> None:
    spec = spec_for(write_rows(tmp_path / "rows.jsonl", 8), tmp_path / "out", shard_rows=4)
    undisturbed(replace(spec, output=tmp_path / "other"))
    for file in (tmp_path / "undisturbed").rglob("part-00000*"):
        file.rename(tmp_path / "out" / file.relative_to(tmp_path / "undisturbed"))
    job = Job(settings(output=str(tmp_path / "out")), spec, {}, {}, (), 0.0)
    with pytest.raises(DataError, match="out: finished parts must stay, but 1 went missing while the job ran"):
        run(job, small(), quiet)


def test_the_rate_is_that_of_the_workers_that_ran_and_a_pause_does_not_count(tmp_path: Path) -> None:
    spec = spec_for(write_rows(tmp_path / "rows.jsonl", 1000), tmp_path / "out", shard_rows=10)
    for shard in spec.input.shards:  # by two workers, 100 s in all; an hour's pause in the middle
        spec.ledger.commit(shard.index, b"part", Entry(rows=10, seconds=1.0))
        ended = 1_700_000_000 + shard.index // 2 + (3600 if shard.index >= 50 else 0)
        os.utime(spec.ledger.entry_file(shard.index), (ended, ended))
    config = settings(output=str(tmp_path / "out"), workers="1,8")
    summary = run(Job(config, spec, {"decode": {}}, {}, (), 0.0), small(num_cpus=2.0), quiet)
    assert (summary.num_rows, summary.rows_per_s) == (1000, 20.0)


def test_what_earlier_attempts_took_counts_when_they_took_it(tmp_path: Path) -> None:
    spec = spec_for(write_rows(tmp_path / "rows.jsonl", 40), tmp_path / "out", shard_rows=2)
    for index, shard in enumerate(spec.input.shards):  # 100 s each, by two workers: 1,000 s
        spec.ledger.commit(
            shard.index, b'{"text": "a", "prediction": null, "error": "no"}\n' * 2, Entry(2, 2, seconds=100)
        )
        ended = 1_700_000_000 + index // 2 * 100
        os.utime(spec.ledger.entry_file(shard.index), (ended, ended))
    again = Scorer(spec, load=ShoutingEngine).score([replace(shard, attempts=1) for shard in spec.input.shards])
    for index, entry in again:
        assert (entry.rows, entry.errors) == (2, 0)
        assert entry.seconds < 10
        ended = 1_700_500_000 + index * 100
        os.utime(spec.ledger.entry_file(index), (ended, ended))
    finished = spec.ledger.finished()
    total = sum(entry.seconds for entry in finished.values())
    assert spec.ledger.scoring_seconds(finished) == pytest.approx(1000 + total)


@pytest.mark.parametrize("change", ["touched", "gone"])
def test_an_input_that_changes_after_its_last_shard_was_read_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", 8)
    spec = spec_for(path, tmp_path / "out", shard_rows=4)
    job = Job(settings(output=str(tmp_path / "out")), spec, {"decode": {}}, {}, spec.input.shards, 0.0)

    def outcomes(spec: ScorerSpec, shards: Iterable[Shard], pool: Pool) -> Iterator[Outcome]:
        yield from Scorer(spec, load=ShoutingEngine).outcomes(tuple(shards))
        if change == "touched":
            os.utime(path, (1, 1))
        else:
            path.unlink()

    monkeypatch.setattr("t5ray.scoring.job._outcomes", outcomes)
    words = {
        "touched": "the input must not change while it is scored",
        "gone": "the input file must stay until the job",
    }
    with pytest.raises(DataError, match=rf"rows\.jsonl: {words[change]}"):
        run(job, small(), quiet)
    assert (read_job(tmp_path / "out") or {})["state"] == "running"
    assert len(job.spec.ledger.finished()) == 2


def precision_of_a_run(tiny_t5: Path, folder: Path, cluster: Cluster, **asked: object) -> str:
    """Run a job whose one scorer dies at once; return the precision that scorers, fingerprint and record agree on."""
    folder.mkdir(exist_ok=True)
    rows = str(write_rows(folder / "rows.jsonl", 3))
    given = {"model": str(tiny_t5), "input": rows, "output": str(folder / "out"), "task": "classify"}
    seen = set[str]()

    def outcomes(spec: ScorerSpec, shards: Iterable[Shard], pool: Pool) -> Iterator[Outcome]:
        seen.add(spec.engine.precision)
        raise ClusterError("it died")

    job = prepare(settings(**given, **asked))
    assert isinstance(job, Job)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("t5ray.scoring.job._outcomes", outcomes)
        with pytest.raises(ClusterError, match="it died"):
            run(job, cluster, quiet)
    record = read_job(folder / "out") or {}
    assert seen == {record["fingerprint"]["precision"]} == {record["config"]["precision"]}
    return seen.pop()


def test_automatic_precision_is_what_the_device_of_scorers_is_fast_at_not_the_drivers(
    tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("t5ray.model.hardware.GPU_DEVICES", (str(tmp_path),))  # the driver sees a GPU
    monkeypatch.setattr("t5ray.model.hardware.cpu_has_bf16", lambda: False)
    monkeypatch.setattr("t5ray.model.numeric.default_device", lambda: torch.device("cuda"))
    monkeypatch.setattr("t5ray.model.numeric.has_fast_bf16", lambda device_type: device_type == "cuda")
    joined = replace(small(), started_here=False)
    assert precision_of_a_run(tiny_t5, tmp_path / "cpus", joined) == "fp32"
    assert precision_of_a_run(tiny_t5, tmp_path / "gpus", small(num_gpus=1.0)) == "bf16"
    assert precision_of_a_run(tiny_t5, tmp_path / "later", joined, gpus_per_worker=1) == "bf16"
    assert precision_of_a_run(tiny_t5, tmp_path / "asked", joined, precision="bf16") == "bf16"
    assert precision_of_a_run(tiny_t5, tmp_path / "cpus", small(num_gpus=1.0)) == "fp32"  # as it began
    with pytest.raises(ConfigError, match=r"precision \('fp32' there, 'bf16' here\)"):
        precision_of_a_run(tiny_t5, tmp_path / "cpus", joined, precision="bf16")


def test_no_password_is_written_into_the_job(tiny_t5: Path, tmp_path: Path) -> None:
    given = {"model": str(tiny_t5), "input": str(write_rows(tmp_path / "rows.jsonl", 3)), "output": str(tmp_path / "o")}
    job = prepare(settings(**given, task="classify", tracking_uri="https://me:secret@host"))
    assert isinstance(job, Job)
    record = json.dumps(_opening_record(job))
    assert "https://***@host" in record
    assert "secret" not in record


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with connect("local", num_cpus=2) as found:
        yield found


def write_rows(path: Path, count: int) -> Path:
    path.write_text("".join(json.dumps({"id": n, "text": "x" * (n % 7) + f" row {n}"}) + "\n" for n in range(count)))
    return path


def parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*"))}


def undisturbed(spec: ScorerSpec) -> dict[str, bytes]:
    """Return what the parts must hold, scored one after the other without Ray."""
    spec = replace(spec, output=spec.output.with_name("undisturbed"))
    spec.ledger.open()
    list(Scorer(spec, load=ShoutingEngine).score(spec.input.shards))
    return parts(spec.output)


def slow_job(tmp_path: Path, num_rows: int, part_format: str, **values: object) -> Job:
    """A job of 5 rows a shard that takes 0.3 s for each."""
    spec = spec_for(
        write_rows(tmp_path / "rows.jsonl", num_rows), tmp_path / "out", part_format=part_format, shard_rows=5
    )
    pids = tmp_path / "pids"
    pids.mkdir()
    spec = replace(spec, engine=SlowSpec(str(pids), None, "fp32", 1024))
    return Job(settings(output=str(tmp_path / "out"), **values), spec, {"decode": {}}, {}, spec.input.shards, 0.0)


def quiet(done: float, note: str = "") -> None: ...


def wait_for(condition: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


@pytest.mark.integration
def test_a_killed_worker_is_replaced_and_the_output_is_the_same(cluster: Cluster, tmp_path: Path) -> None:
    job = slow_job(tmp_path, 163, "parquet", workers=2)
    assert len(next(blocks_of(job.pending, 2))) > 1
    pids, killed = tmp_path / "pids", list[int]()

    def kill_some() -> None:
        for wave in (1, 2):
            wait_for(lambda wave=wave: len(job.spec.ledger.finished()) >= 3 * wave)
            alive = [int(path.name) for path in pids.iterdir() if int(path.name) not in killed]
            killed.append(alive[0])
            os.kill(alive[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_some)
    killer.start()
    progress: list[float] = []
    summary = run(job, cluster, lambda done, note="": progress.append(done))
    killer.join()
    assert len(killed) == 2
    assert len(list(pids.iterdir())) > len(killed)
    assert (summary.num_rows, summary.num_errors) == (163, 0)
    assert parts(tmp_path / "out") == undisturbed(job.spec)
    assert len(parts(tmp_path / "out")) == 33
    assert progress == sorted(progress)
    assert progress[-1] == 163
    record = read_job(tmp_path / "out") or {}
    assert (record["state"], record["rows_in"], record["rows_out"]) == ("done", 163, 163)
    assert not (tmp_path / "out" / "_progress").exists()


@pytest.mark.integration
def test_the_driver_hears_of_each_shard_when_it_is_committed(cluster: Cluster, tmp_path: Path) -> None:
    job = slow_job(tmp_path, 60, "jsonl")  # 12 shards, of which a worker alone is handed 8 at once
    committed = [
        (outcome.index, len(job.spec.ledger.finished()))
        for outcome in _outcomes(job.spec, job.pending, Pool(1, 1, 1.0, 0.0))
    ]
    assert [index for index, _ in committed] == list(range(12))
    assert all(index < count for index, count in committed), committed
    assert committed[2][1] < BLOCK_SHARDS, committed  # 4 with a driver that listens at once


@pytest.mark.integration
def test_what_stops_a_worker_stops_the_job_and_keeps_the_rest(cluster: Cluster, tmp_path: Path) -> None:
    job = slow_job(tmp_path, 100, "jsonl", workers=1)

    def change_input() -> None:
        wait_for(lambda: len(job.spec.ledger.finished()) >= 2)
        with (tmp_path / "rows.jsonl").open("a") as file:
            file.write("{}\n")

    meddler = threading.Thread(target=change_input)
    meddler.start()
    with pytest.raises(DataError, match=r"rows\.jsonl: the input must not change while it is scored, but it did"):
        run(job, cluster, quiet)
    meddler.join()
    kept = job.spec.ledger.finished()
    assert 2 <= len(kept) < 20
    assert (read_job(tmp_path / "out") or {})["state"] == "running"


@pytest.mark.integration
def test_a_model_that_does_not_load_is_a_model_error(cluster: Cluster, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", 3)
    (tmp_path / "model").mkdir()
    config = settings(
        model=str(tmp_path / "model"), input=str(tmp_path / "rows.jsonl"), output=str(tmp_path / "out"), task="classify"
    )
    job = prepare(config)
    assert isinstance(job, Job)
    with pytest.raises(ModelError, match=f"{tmp_path}/model: "):
        run(job, cluster, quiet)


@pytest.mark.integration
def test_predictions_are_those_of_the_engine_alone(cluster: Cluster, tmp_path: Path, tiny_t5: Path) -> None:
    from t5ray.model.engine import Engine

    write_rows(tmp_path / "rows.jsonl", 60)
    decode = DecodeConfig(max_new_tokens=6)
    config = settings(
        model=str(tiny_t5),
        input=str(tmp_path / "rows.jsonl"),
        output=str(tmp_path / "out"),
        task="classify",
        format="jsonl",
        shard_rows=7,
        workers=2,
        precision="fp32",
        decode=decode,
        scores=True,
    )
    job = prepare(config)
    assert isinstance(job, Job)
    summary = run(job, cluster, quiet)
    rows = [json.loads(line) for part in parts(tmp_path / "out").values() for line in part.splitlines()]
    expected = Engine(str(tiny_t5), decode=decode, precision="fp32").predict(
        [f"classify: {row['text'].strip()}" for row in rows], scores=True
    )
    assert [row["id"] for row in rows] == list(range(60))
    assert [row["prediction"] for row in rows] == [prediction.text.strip() for prediction in expected]
    assert [row["score"] for row in rows] == pytest.approx([prediction.score for prediction in expected], rel=1e-3)
    assert summary.capped_share == pytest.approx(sum(prediction.hit_cap for prediction in expected) / 60)
    assert 0 <= summary.padding_share < 0.5
    assert asdict(Shard(**asdict(job.pending[0]))) == asdict(job.pending[0])


@pytest.mark.integration
@pytest.mark.long
def test_a_fault_in_native_code_costs_its_own_row_only(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"text": "fault"}\n{"text": "b"}\n')
    spec = replace(spec_for(path, tmp_path / "out"), engine=ShoutingSpec("", None, "fp32", 1024))
    job = Job(settings(output=str(tmp_path / "out")), spec, {"decode": {}}, {}, spec.input.shards, 0.0)
    assert run(job, cluster, quiet).num_errors == 1
    assert parts(tmp_path / "out")["part-00000.jsonl"].decode().splitlines() == [
        '{"text": "a", "prediction": "A", "error": null}',
        f'{{"text": "fault", "prediction": null, "error": "{DEADLY}"}}',
        '{"text": "b", "prediction": "B", "error": null}',
    ]


@pytest.mark.integration
@pytest.mark.long
def test_a_model_that_kills_every_worker_ends_the_job(cluster: Cluster, tmp_path: Path) -> None:
    spec = spec_for(write_rows(tmp_path / "rows.jsonl", 3), tmp_path / "out")
    spec = replace(spec, engine=DeadlySpec("", None, "fp32", 1024))
    with pytest.raises(
        ClusterError, match="part-00000: a worker must live through a shard, but 5 died while it loaded"
    ):
        run(Job(settings(output=str(tmp_path / "out")), spec, {}, {}, spec.input.shards, 0.0), cluster, quiet)


@pytest.mark.integration
@pytest.mark.long
def test_a_pool_grows_while_shards_wait(cluster: Cluster, tmp_path: Path) -> None:
    job = slow_job(tmp_path, 200, "jsonl", workers="1,2", cpus_per_worker=1)
    assert run(job, cluster, quiet).num_rows == 200
    assert len(list((tmp_path / "pids").iterdir())) == 2
    assert parts(tmp_path / "out") == undisturbed(job.spec)
