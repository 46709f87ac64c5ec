"""Jobs on a real local Ray, undisturbed and disturbed."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from t5ray.cluster import Cluster, connect
from t5ray.config import DecodeConfig, PredictConfig
from t5ray.errors import ClusterError, DataError, ModelError
from t5ray.scoring.inputs import Shard
from t5ray.scoring.job import Pool, _opening_record, pool_for, run
from t5ray.scoring.ledger import read_job
from t5ray.scoring.plan import Job, prepare
from t5ray.scoring.scorer import Scorer, ScorerSpec
from tests.scoring.doubles import ShoutingEngine, SlowSpec, spec_for


def small(**have: float) -> Cluster:
    values = {"num_nodes": 1, "num_cpus": 8.0, "num_gpus": 0.0, "object_store_bytes": 1 << 30, **have}
    return Cluster(**values, dashboard_url=None, started_here=True)  # type: ignore[arg-type]


def settings(**values: object) -> PredictConfig:
    return PredictConfig.model_validate({"model": "m", "input": "i", "output": "o", **values})


def test_the_pool_fills_the_machine_but_not_more() -> None:
    assert pool_for(settings(), small(), 100) == Pool(4, 4, 2.0, 0.0)
    assert pool_for(settings(), small(), 1) == Pool(1, 1, 8.0, 0.0)
    assert pool_for(settings(workers=3), small(), 100) == Pool(3, 3, 2.0, 0.0)
    assert pool_for(settings(workers=16), small(num_cpus=2.0), 100) == Pool(16, 16, 0.12, 0.0)
    assert pool_for(settings(), small(num_cpus=32.0, num_nodes=4), 1) == Pool(1, 1, 8.0, 0.0)
    assert pool_for(settings(), small(num_gpus=4.0), 100) == Pool(4, 4, 2.0, 1.0)
    assert pool_for(settings(gpus_per_worker=0.5), small(num_gpus=1.0), 100) == Pool(2, 2, 4.0, 0.5)


def test_a_pool_that_cannot_fit_is_refused_where_nothing_can_join() -> None:
    with pytest.raises(ClusterError, match="--workers 3: all scorers must fit, but they need 3 GPUs and there are 2"):
        pool_for(settings(workers=3, gpus_per_worker=1), small(num_gpus=2.0), 100)
    joined = replace(small(), started_here=False)
    assert pool_for(settings(workers=3, gpus_per_worker=1), joined, 100) == Pool(3, 3, 2.0, 1.0)


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
    scorer = Scorer(spec, load=ShoutingEngine)
    for shard in spec.input.shards:
        scorer.score(shard)
    return parts(spec.output)


def slow_job(tmp_path: Path, num_rows: int, part_format: str, **values: object) -> Job:
    """A job of 5 rows a shard that takes 0.3 s for each."""
    spec = spec_for(
        write_rows(tmp_path / "rows.jsonl", num_rows), tmp_path / "out", part_format=part_format, shard_rows=5
    )
    pids = tmp_path / "pids"
    pids.mkdir()
    spec = replace(spec, engine=SlowSpec(str(pids), None, "fp32", 1024))
    return Job(settings(output=str(tmp_path / "out"), **values), spec, {}, {}, spec.input.shards, 0.0)


def quiet(done: float, note: str = "") -> None: ...


def wait_for(condition: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


@pytest.mark.integration
def test_a_killed_worker_is_replaced_and_the_output_is_the_same(cluster: Cluster, tmp_path: Path) -> None:
    job = slow_job(tmp_path, 63, "parquet", workers=2)
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
    assert (summary.num_rows, summary.num_errors) == (63, 0)
    assert parts(tmp_path / "out") == undisturbed(job.spec)
    assert len(parts(tmp_path / "out")) == 13
    assert progress == sorted(progress)
    assert progress[-1] == 63
    record = read_job(tmp_path / "out") or {}
    assert (record["state"], record["rows_in"], record["rows_out"]) == ("done", 63, 63)
    assert not (tmp_path / "out" / "_progress").exists()


@pytest.mark.integration
def test_what_stops_a_worker_stops_the_job_and_keeps_the_rest(cluster: Cluster, tmp_path: Path) -> None:
    job = slow_job(tmp_path, 40, "jsonl", workers=1)

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
    assert 2 <= len(kept) < 8
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
