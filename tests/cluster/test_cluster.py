"""A cluster as users run one: `ray up`, a search and a scoring job on three hosts, hosts that are lost, `ray down`.

The tests run in the order of this file, on one cluster.
"""

import json
from typing import Any

import pyarrow.parquet
import pytest

from tests.cluster.cluster import TOKEN, Cluster, start_mlflow
from tests.cluster.hosts import ROOT, SHARED, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
RUNS = f"{SHARED}/runs"
SMALL = (
    "--set data.max_train_rows=2000 --set data.max_validation_rows=100 --set data.max_test_rows=100 "
    "--set training.validation_rows=100 --search-space demo --workers-per-trial 2 --max-concurrent 2"
)
TUNE = f"python -m t5ray.tune --address auto --storage {RUNS} --tracking-uri http://127.0.0.1:5000 {SMALL}"
ROWS = 50_000


def test_ray_up_brings_up_every_host(cluster: Cluster) -> None:
    assert cluster.num_nodes() == 3


@pytest.fixture(scope="module")
def rows(cluster: Cluster) -> str:
    """50,000 dates in one file of the shared folder, each with its number."""
    path = cluster.here(f"{SHARED}/rows.jsonl")
    dates = [json.loads(line)["text"] for line in (ROOT / "t5ray/demo/dates.jsonl").open(encoding="utf-8")]
    with path.open("w", encoding="utf-8") as out:
        for number in range(ROWS):
            out.write(json.dumps({"number": number, "text": dates[number % len(dates)]}) + "\n")
    return f"{SHARED}/rows.jsonl"


def predict(rows: str, output: str, workers: int) -> str:
    return (
        f"python -m t5ray.predict --address auto --model {RUNS}/plain/best --input {rows} --output {SHARED}/{output} "
        f"--workers {workers} --set shard_rows=1000 --set decode.max_new_tokens=11"
    )


def check_trials(cluster: Cluster, name: str, number: int) -> dict[str, Any]:
    """No trial lost, none doubled, each with its epochs; return search.json."""
    found = cluster.read_json(f"{RUNS}/{name}/search.json")
    assert [trial["trial"] for trial in found["trials"]] == list(range(number))
    for trial in found["trials"]:
        assert trial["state"] in ("COMPLETE", "PRUNED"), trial
        assert len(trial["values"]) == 2 or trial["state"] == "PRUNED", trial
    return found


def check_rows(cluster: Cluster, output: str) -> dict[str, Any]:
    """No row lost, none doubled, all in order; return _job.json."""
    parts = sorted(cluster.here(f"{SHARED}/{output}").glob("part-*.parquet"))
    numbers = [n for part in parts for n in pyarrow.parquet.read_table(part)["number"].to_pylist()]
    assert numbers == list(range(ROWS))
    return cluster.read_json(f"{SHARED}/{output}/_job.json")


def test_a_search_spreads_over_the_hosts_and_mlflow_receives_it(cluster: Cluster) -> None:
    start_mlflow(cluster.lan.head)
    cluster.submit("search", f"{TUNE} --num-trials 6 --max-epochs 2 --name plain")
    cluster.wait("search", 600)
    check_trials(cluster, "plain", 6)
    query = "select count(*) from runs where lifecycle_stage = 'active'"
    found = cluster.lan.head.run(f'psql -h 127.0.0.1 -U postgres -At -c "{query}" mlflow')
    assert int(found) == 1 + 6  # the study and its trials


def test_a_scoring_job_uses_every_host(cluster: Cluster, rows: str) -> None:
    cluster.submit("score", predict(rows, "scored", workers=6))
    log = cluster.wait("score", 600)
    job = check_rows(cluster, "scored")
    assert job["rows_in"] == job["rows_out"] == ROWS
    print(log.splitlines()[-3:])


def test_a_worker_host_that_is_lost_in_mid_search_costs_no_trial(cluster: Cluster) -> None:
    cluster.submit("lost", f"{TUNE} --num-trials 6 --max-epochs 2 --name lost")
    cluster.until_epoch("lost", 1)
    cluster.lose(cluster.lan.workers[0])
    cluster.wait("lost", 800)
    check_trials(cluster, "lost", 6)


def test_a_host_that_comes_back_joins_again(cluster: Cluster) -> None:
    cluster.lan.workers[0].start()
    cluster.wait_for_nodes(3)


def test_a_worker_host_that_is_lost_in_mid_scoring_costs_no_row(cluster: Cluster, rows: str) -> None:
    cluster.submit("score-lost", predict(rows, "scored-lost", workers=6))
    output = cluster.here(f"{SHARED}/scored-lost")
    until(lambda: len(list(output.glob("part-*"))) >= 5, 240, "five parts")
    cluster.lose(cluster.lan.workers[1])
    cluster.wait("score-lost", 800)
    check_rows(cluster, "scored-lost")
    whole, disturbed = (sorted(cluster.here(f"{SHARED}/{d}").glob("part-*")) for d in ("scored", "scored-lost"))
    for one, two in zip(whole, disturbed, strict=True):
        assert one.read_bytes() == two.read_bytes(), two.name
    cluster.lan.workers[1].start()
    cluster.wait_for_nodes(3)


def test_a_search_goes_on_when_the_head_was_lost(cluster: Cluster) -> None:
    cluster.submit("headless", f"{TUNE} --num-trials 6 --max-epochs 2 --name headless")
    cluster.until_epoch("headless", 1)
    before = cluster.read_json(f"{RUNS}/headless/state/ledger.json")
    cluster.lan.head.kill()
    cluster.lan.head.start()
    cluster.up()
    start_mlflow(cluster.lan.head)
    cluster.submit("headless-2", f"{TUNE} --num-trials 6 --max-epochs 2 --name headless --resume")
    cluster.wait("headless-2", 600)
    found = check_trials(cluster, "headless", 6)
    runs = {trial["trial"]: trial["mlflow_run_id"] for trial in found["trials"]}
    for trial in before["trials"]:
        assert runs[trial["trial"]] == trial["mlflow_run_id"]


def test_a_slow_host_does_not_hold_up_the_others(cluster: Cluster, rows: str) -> None:
    cluster.lan.workers[0].slow_down(delay_ms=200, rate_mbit=1)
    cluster.submit("score-slow", predict(rows, "scored-slow", workers=6))
    cluster.wait("score-slow", 800)
    check_rows(cluster, "scored-slow")
    cluster.lan.workers[0].full_speed()


def test_ray_down_leaves_no_ray_behind(cluster: Cluster) -> None:
    cluster.lan.client.run(f"cd t5ray && {TOKEN} && ray down -y cluster.yaml", timeout_s=180)
    for host in (cluster.lan.head, *cluster.lan.workers):
        assert "raylet" not in host.run("ps ax -o comm"), host.name
