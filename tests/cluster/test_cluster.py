"""A cluster as users run one: `ray up`, a search and a scoring job on three hosts, hosts that are lost, `ray down`.

The tests run in the order of this file, on one cluster, and each leaves three hosts up. What took how long is printed
(pytest -s): all hosts share this machine's cores, so more hosts are not faster here; see docs/scale.md.
"""

import json
import re
import statistics
import time
from itertools import pairwise
from typing import Any

import pyarrow.parquet
import pytest

from tests.cluster.cluster import TOKEN, Cluster, start_mlflow
from tests.cluster.faults import FOUND, another_machine
from tests.cluster.hosts import ROOT, SHARED, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]
RUNS = f"{SHARED}/runs"
ROWS = 50_000
TRAINER, SCORER = r"ray::RayTrainWorker", r"ray::MapWorker"
BLOCK = ".submit"
"""In the name of a task that scores a block of shards."""
HOSTS = {"head", "worker1", "worker2"}


def tune(name: str, *more: str, trials: int = 6, rows: int = 1000) -> str:
    """Return a search of two workers per trial, three at a time, that ends within minutes."""
    words = ["python -m t5ray.tune --address auto", f"--storage {RUNS} --name {name}"]
    words += ["--tracking-uri http://127.0.0.1:5000 --search-space demo --metric validation_loss"]
    words += [f"--num-trials {trials} --max-epochs 2 --workers-per-trial 2 --max-concurrent 3"]
    words += [f"--set data.max_train_rows={rows} --set training.validation_rows=100"]
    words += ["--set data.max_validation_rows=100 --set data.max_test_rows=100"]
    return " ".join([*words, *more])


@pytest.fixture(scope="module")
def plain(cluster: Cluster) -> dict[str, Any]:
    """search.json of a search that nothing disturbed; its winner is what scores."""
    start_mlflow(cluster.lan.head)
    cluster.submit("search", tune("plain", "--confirm-seeds 1"))
    cluster.until_at_work(TRAINER, "search", HOSTS.issubset)
    cluster.wait("search")
    return check_trials(cluster, "plain")


def predict(rows: str, output: str, workers: int, shard_rows: int = 1000, num_beams: int = 1) -> str:
    """Return a job of so many scorers, each of which fills a host."""
    return (
        f"python -m t5ray.predict --address auto --model {RUNS}/plain/best --input {rows} --output {SHARED}/{output} "
        f"--workers {workers} --cpus-per-worker 2 --set shard_rows={shard_rows} --set decode.max_new_tokens=11 "
        f"--set decode.num_beams={num_beams}"
    )


@pytest.fixture(scope="module")
def rows(cluster: Cluster, plain: dict[str, Any]) -> str:
    """50,000 dates in one file of the shared folder, each with its number."""
    path = cluster.here(f"{SHARED}/rows.jsonl")
    dates = [json.loads(line)["text"] for line in (ROOT / "t5ray/demo/dates.jsonl").open(encoding="utf-8")]
    with path.open("w", encoding="utf-8") as out:
        for number in range(ROWS):
            out.write(json.dumps({"number": number, "text": dates[number % len(dates)]}) + "\n")
    return f"{SHARED}/rows.jsonl"


def check_trials(cluster: Cluster, name: str, number: int = 6) -> dict[str, Any]:
    """No trial lost, none doubled, each with its epochs; return search.json."""
    found = cluster.read_json(f"{RUNS}/{name}/search.json")
    assert [trial["trial"] for trial in found["trials"]] == list(range(number))
    for trial in found["trials"]:
        assert trial["state"] in ("COMPLETE", "PRUNED"), trial
        assert len(trial["values"]) == 2 or trial["state"] == "PRUNED", trial
    print(f"\n{name}: {found['wall_s']:.0f} s, {found['overhead_s']:.0f} s of them overhead")
    return found


def check_rows(cluster: Cluster, output: str) -> None:
    """No row lost, none doubled, all in order."""
    parts = sorted(cluster.here(f"{SHARED}/{output}").glob("part-*.parquet"))
    numbers = [n for part in parts for n in pyarrow.parquet.read_table(part)["number"].to_pylist()]
    assert numbers == list(range(ROWS))
    job = cluster.read_json(f"{SHARED}/{output}/_job.json")
    assert job["rows_in"] == job["rows_out"] == ROWS
    print(f"\n{output}: {job['seconds']:.1f} s in all, {job['rows_per_s']:.0f} rows/s while scoring")


def check_same(cluster: Cluster, output: str, whole: str) -> None:
    """The bytes are those of a job that nothing disturbed."""
    theirs, ours = (sorted(cluster.here(f"{SHARED}/{name}").glob("part-*")) for name in (whole, output))
    for one, two in zip(theirs, ours, strict=True):
        assert one.read_bytes() == two.read_bytes(), two.name


def test_ray_up_brings_up_every_host(cluster: Cluster) -> None:
    assert len(cluster.nodes()) == 3


def test_a_search_spreads_over_the_hosts_and_mlflow_receives_it(cluster: Cluster, plain: dict[str, Any]) -> None:
    # the study, its trials, and what confirms the best
    assert num_runs(cluster) == 1 + 6 + len(plain["confirm"]["candidates"])
    found = ask_mlflow(cluster, "select run_uuid, value from latest_metrics where key = 'best_validation_loss'")
    best = {run: float(value) for run, value in (line.split("|") for line in found.splitlines())}
    assert all(best[t["mlflow_run_id"]] == pytest.approx(t["best_value"]) for t in plain["trials"])


def test_the_workers_of_a_trial_may_be_on_two_hosts(cluster: Cluster, plain: dict[str, Any]) -> None:
    """Each fills a host, so that gradients cross the network; the run is that of two workers anywhere."""
    wide = tune("wide", "--confirm-seeds 0 --max-concurrent 1 --set resources.cpus_per_worker=2", trials=1)
    cluster.submit("wide", wide)
    cluster.until(lambda: len(cluster.at_work(TRAINER)) == 2, 300, "trainers on two hosts at once", "wide")
    cluster.wait("wide")
    found = check_trials(cluster, "wide", 1)
    assert found["trials"][0]["best_value"] == pytest.approx(plain["trials"][0]["best_value"], rel=0.02)


def test_dashboard_and_mlflow_stay_on_loopback_and_ask_for_the_token(cluster: Cluster, plain: dict[str, Any]) -> None:
    head = cluster.lan.head
    listening = [line.split()[3].rsplit(":", 1) for line in head.run("ss -Hltn").splitlines()]
    for port in ("8265", "5000", "5432"):
        assert {address for address, at in listening if at == port} == {"127.0.0.1"}, port
    ask = "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8265/api/jobs/"
    assert head.run(f'{ask} -H "Authorization: Bearer $(cat ~/.ray/auth_token)"') == "200"
    assert head.run(ask) in ("401", "403")
    assert head.run(f"{ask} -H 'Authorization: Bearer {'0' * 64}'") in ("401", "403")


def test_the_token_is_written_nowhere(cluster: Cluster, plain: dict[str, Any]) -> None:
    """Logs of Ray and of jobs, runs on the share, MLflow's tables."""
    look = "grep -rlF -f ~/.ray/auth_token"
    for host in (cluster.lan.head, *cluster.lan.workers):
        assert int(host.run("wc -c < ~/.ray/auth_token")) > 20  # an empty pattern would match every file
        assert host.run(f"{look} /tmp {SHARED}", check=False) == ""
    head = cluster.lan.head
    tables = "pg_dump -h 127.0.0.1 -U postgres mlflow"
    assert int(head.run(f"{tables} | grep -cF experiment")) > 0  # there is something to find
    assert head.run(f"{tables} | grep -cF -f ~/.ray/auth_token", check=False).strip() == "0"


def ask_mlflow(cluster: Cluster, query: str) -> str:
    """Return the rows that MLflow's database gives."""
    return cluster.lan.head.run(f'psql -h 127.0.0.1 -U postgres -At -c "{query}" mlflow')


def num_runs(cluster: Cluster) -> int:
    return int(ask_mlflow(cluster, "select count(*) from runs where lifecycle_stage = 'active'"))


@pytest.fixture(scope="module")
def whole(cluster: Cluster, rows: str) -> str:
    """Name of a scoring job over all hosts that nothing disturbed."""
    return score(cluster, rows, hosts=3)


def score(cluster: Cluster, rows: str, hosts: int) -> str:
    name = f"scored-{hosts}"
    cluster.submit(name, predict(rows, name, workers=hosts))
    cluster.until_at_work(SCORER, name, lambda seen: len(seen) == hosts, hold=True)
    cluster.wait(name)
    check_rows(cluster, name)
    return name


@pytest.mark.parametrize("hosts", [1, 2])
def test_fewer_hosts_give_the_bytes_of_three(cluster: Cluster, rows: str, whole: str, hosts: int) -> None:
    check_same(cluster, score(cluster, rows, hosts), whole)


DOCTOR = f"python -m t5ray.doctor --cluster --address auto --storage {RUNS} --model {RUNS}/plain/best"


def test_doctor_finds_no_fault_on_a_good_cluster(cluster: Cluster, rows: str) -> None:
    shown = cluster.lan.head.run(f"{TOKEN}; {DOCTOR} --data {rows} --tracking-uri http://127.0.0.1:5000", check=False)
    print(shown)
    assert "3 nodes answered" in shown
    assert "All 21 checks passed." in shown


def faults_of(shown: str) -> dict[str, tuple[str, str]]:
    """Return check -> what doctor says of the nodes, and the mend, for those that fail."""
    print(shown)
    lines = pairwise(shown.split("The nodes:")[1].splitlines())
    return {line.split()[1]: (line, below.strip()) for line, below in lines if line.startswith("FAIL")}


def test_doctor_names_the_host_of_each_fault(cluster: Cluster, rows: str) -> None:
    worker = cluster.lan.workers[0]
    worker.run(f"mount -t tmpfs tmpfs {SHARED}")  # a folder of its own in place of the share
    code = "$(python -c 'import t5ray; print(t5ray.__path__[0])')/tune.py"
    worker.run(f"cp {code} /tmp/tune.py && echo '# changed' >> {code}")
    server = f"http://{cluster.lan.head.address}:5000"  # which listens on its loopback only
    try:
        shown = cluster.lan.head.run(f"{TOKEN}; {DOCTOR} --data {rows} --tracking-uri {server}", check=False)
    finally:
        worker.run(f"umount {SHARED}; cp /tmp/tune.py {code}")
    faults = faults_of(shown)
    assert set(faults) == {"software", "storage", "tracking", "data", "model"}
    for name, (line, mend) in faults.items():
        assert worker.address in line
        assert (cluster.lan.head.address in line.replace(server, "")) == (name == "tracking")
        assert mend.startswith("-> ")


def test_doctor_names_the_host_that_is_another_machine(cluster: Cluster, rows: str) -> None:
    worker, addresses = cluster.lan.workers[0], set(cluster.nodes().values())
    with another_machine(cluster, worker):
        shown = cluster.lan.head.run(f"{TOKEN}; {DOCTOR} --data {rows} --tracking-uri none", check=False)
    faults = faults_of(shown)
    assert set(faults) == set(FOUND)
    for name, (said, mend) in FOUND.items():
        (blamed,) = [part for part in faults[name][0].split("; ") if worker.address in part]
        assert re.search(said, blamed)
        assert mend in faults[name][1]
        named = {address for address in addresses if address in faults[name][0]}
        assert named == (addresses if name == "bf16" else {worker.address})  # of two precisions neither is the fault
    assert set(cluster.nodes().values()) == addresses


def test_a_host_lost_in_mid_search_costs_no_trial_and_is_used_again_when_it_joins(cluster: Cluster) -> None:
    """Trainers are held while the test looks at what must happen before the search ends, however fast it is."""
    runs, worker = num_runs(cluster), cluster.lan.workers[0]
    cluster.submit("lost", tune("lost", "--confirm-seeds 0", trials=8, rows=3000))
    cluster.until_at_work(TRAINER, "lost", HOSTS.issubset)
    cluster.until_reports("lost", 1)
    with cluster.held(TRAINER):
        cluster.lose(worker)
        heard = cluster.num_reports("lost")
    cluster.until_reports("lost", heard + 1)
    with cluster.held(TRAINER, newcomers=True):  # else a trial that is just beginning again takes all that are left
        worker.start()
        cluster.until_at_work(TRAINER, "lost", {worker.name}.issubset)
    cluster.wait("lost")
    check_trials(cluster, "lost", 8)
    assert num_runs(cluster) == runs + 1 + 8


def test_a_host_lost_in_mid_scoring_costs_no_row_and_is_used_again(cluster: Cluster, rows: str, whole: str) -> None:
    """Scorers are held while the test looks, so that only one that comes later can score meanwhile."""
    cluster.wait_for_nodes(3)
    cluster.submit("score-lost", predict(rows, "scored-lost", workers=3))
    cluster.until_at_work(SCORER, "score-lost", HOSTS.issubset, hold=True)
    output = cluster.here(f"{SHARED}/scored-lost")
    cluster.until(lambda: len(list(output.glob("part-*"))) >= 5, 300, "five parts", "score-lost")
    worker = cluster.lan.workers[1]
    with cluster.held(SCORER):
        cluster.lose(worker)
        worker.start()
        cluster.until(
            lambda: cluster.num_tasks(worker, BLOCK) > 0, 300, "a block scored where it is back", "score-lost"
        )
    cluster.wait("score-lost")
    check_rows(cluster, "scored-lost")
    check_same(cluster, "scored-lost", whole)


def test_a_slow_host_does_not_hold_up_the_others(cluster: Cluster, rows: str) -> None:
    """While it takes its time for one shard, the others commit theirs."""
    worker = cluster.lan.workers[0]
    before = cluster.num_tasks(worker, BLOCK)
    cluster.submit("score-slow", predict(rows, "scored-slow", workers=3, shard_rows=250, num_beams=4))
    cluster.until(lambda: cluster.num_tasks(worker, BLOCK) > before, 300, "a block scored there", "score-slow")
    began = time.time()
    with worker.slowed_down(delay_ms=200, rate_mbit=1, cpu_share=0.1):
        cluster.wait("score-slow")
    check_rows(cluster, "scored-slow")
    entries = list((cluster.here(f"{SHARED}/scored-slow") / "_ledger").glob("part-*.json"))
    ended = {entry: entry.stat().st_mtime for entry in entries}
    took = {entry: json.loads(entry.read_text())["seconds"] for entry in entries if ended[entry] > began}
    slowest = max(took, key=took.__getitem__)
    meanwhile = [e for e in took if e != slowest and ended[slowest] - took[slowest] < ended[e] < ended[slowest]]
    usual = statistics.median(took.values())
    print(f"\nslowest shard {took[slowest]:.1f} s, usually {usual:.1f} s; {len(meanwhile)} others meanwhile")
    assert took[slowest] > 3 * usual
    assert len(meanwhile) >= 2


def test_a_search_goes_on_when_the_head_was_lost(cluster: Cluster) -> None:
    number = num_runs(cluster)
    cluster.submit("headless", tune("headless", "--confirm-seeds 0"))
    cluster.until_reports("headless", 1)
    before = cluster.read_json(f"{RUNS}/headless/state/ledger.json")
    cluster.lan.head.kill()
    cluster.lan.head.start()
    cluster.up()
    start_mlflow(cluster.lan.head)
    cluster.submit("headless-2", tune("headless", "--confirm-seeds 0", "--resume"))
    cluster.wait("headless-2")
    found = check_trials(cluster, "headless")
    assert num_runs(cluster) == number + 1 + 6
    runs = {trial["trial"]: trial["mlflow_run_id"] for trial in found["trials"]}
    assert any(trial["mlflow_run_id"] for trial in before["trials"])
    for trial in before["trials"]:
        assert trial["mlflow_run_id"] in (None, runs[trial["trial"]])  # none: it was about to begin
        known = [report["value"] for report in trial["reports"]]
        assert found["trials"][trial["trial"]]["values"][: len(known)] == known


def test_ray_down_leaves_no_ray_behind(cluster: Cluster) -> None:
    cluster.lan.client.run(f"cd t5ray && {TOKEN} && ray down -y cluster.yaml", timeout_s=180)
    hosts = (cluster.lan.head, *cluster.lan.workers)  # of which workers end by themselves, a minute after the head
    until(lambda: not any("raylet" in host.run("ps ax -o comm") for host in hosts), 300, "Ray to end on every host")
