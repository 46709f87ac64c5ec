"""Each fault of a cluster, planted in the reports of its nodes, is found: with the node, what is wrong, and a mend."""

from dataclasses import replace
from typing import Any

import pytest

from t5ray.health.checks import CHECKS
from t5ray.health.node import Clock, NodeReport
from t5ray.health.survey import Survey

SOFTWARE = {"Python": "3.11.18", "t5ray": "0.1.0 (code 3f2a1c)", "ray": "2.60.0", "torch": "2.13.0"}
GOOD = NodeReport(
    node="10.0.0.11 (a1b2c3)",
    node_id="a1b2c3",
    software=SOFTWARE,
    gpus=("NVIDIA L4",),
    has_fast_bf16=True,
    shared_memory_bytes=16 * 2**30,
    disk_bytes=150 * 2**30,
    disk_free_bytes=100 * 2**30,
    clock=Clock(0.004, 0.002),
    ray_cpus=8.0,
    ray_gpus=1.0,
    object_store_bytes=9 * 2**30,
)
HEAD = replace(GOOD, node="10.0.0.10 (000000)", node_id="000000", gpus=(), ray_gpus=0.0, has_fast_bf16=False)
WORKER = replace(GOOD, node="10.0.0.12 (d4e5f6)", node_id="d4e5f6")


def survey_of(*nodes: NodeReport, **changes: Any) -> Survey:
    return Survey(
        driver=SOFTWARE,
        nodes=nodes,
        silent=changes.pop("silent", {}),
        storage="/shared/runs",
        tracking=changes.pop("tracking", "http://me:secret@10.0.0.10:5000"),
        data="/shared/rows.jsonl",
        model="google/flan-t5-base",
        gpus_per_worker=changes.pop("gpus_per_worker", 1.0),
    )


def failures(found: Survey) -> dict[str, str]:
    """Return check -> what the console shows of it, for those that fail."""
    findings = {name: check(found) for name, check in CHECKS.items()}
    assert all(finding.mend and finding.exit_code for finding in findings.values() if not finding.passed)
    return {name: f"{f.text} -> {f.mend}" for name, f in findings.items() if not f.passed}


def test_a_cluster_without_fault_passes_and_says_what_it_has() -> None:
    found = survey_of(HEAD, GOOD, WORKER)
    assert failures(found) == {}
    texts = {name: check(found).text for name, check in CHECKS.items()}
    assert texts == {
        "nodes": "3 nodes answered",
        "software": "the same everywhere: Python 3.11.18, t5ray 0.1.0 (code 3f2a1c), ray 2.60.0, torch 2.13.0",
        "storage": "/shared/runs is the same place from every node",
        "tracking": "http://***@10.0.0.10:5000 answers every node",
        "clocks": "at most 0.004 s off the driver's (± 0.002 s)",
        "gpus": "10.0.0.10 (000000): no GPU; 10.0.0.11 (a1b2c3), 10.0.0.12 (d4e5f6): NVIDIA L4",
        "bf16": "precision auto means bf16 on the GPUs of every node that may train",
        "objects": "9.0 GiB or more on every node",
        "disk": "100.0 GiB or more free for Ray's files on every node",
        "data": "/shared/rows.jsonl opens on every node",
        "model": "google/flan-t5-base opens on every node",
    }


@pytest.mark.parametrize(
    ("check", "fault", "said"),
    [
        ("software", {"software": {**SOFTWARE, "Python": "3.12.1"}}, "Python 3.12.1, but the driver has 3.11.18"),
        ("software", {"software": {**SOFTWARE, "ray": "2.59.0"}}, "ray 2.59.0, but the driver has 2.60.0"),
        ("software", {"software": {**SOFTWARE, "torch": "not installed"}}, "torch not installed, but the driver has"),
        ("software", {"software": {**SOFTWARE, "t5ray": "0.1.0 (code 77b0aa)"}}, "t5ray 0.1.0 (code 77b0aa), but"),
        ("storage", {"storage": "no such file"}, "no such file -> Mount one share at this path on every node"),
        ("tracking", {"tracking": "must answer"}, "must answer -> Open the server's port to the nodes"),
        ("clocks", {"clock": Clock(-3.25, 0.25)}, "3.2 s behind the driver's (± 0.250 s) -> Run a time service there"),
        ("clocks", {"clock": None}, "gave its report, but not its time -> Run a time service there"),
        ("clocks", {"clock": Clock(90.0, 0.001)}, "90.0 s ahead of the driver's (± 0.001 s)"),
        ("gpus", {"gpus": ()}, "Ray gives out 1 GPU, but torch sees 0 -> Install NVIDIA's driver"),
        ("bf16", {"has_fast_bf16": False}, "10.0.0.12 (d4e5f6): precision auto means fp32 -> Say which"),
        ("objects", {"object_store_bytes": 78 * 2**20}, "holds 0.1 GiB, less than 0.5 GiB -> Start Ray there with"),
        ("objects", {"shared_memory_bytes": 64 * 2**20}, "of 9.0 GiB lies on disk, as /dev/shm has 0.1 GiB only"),
        ("disk", {"disk_free_bytes": 2**30}, "1.0 GiB free for Ray's files -> Free space there"),
        ("disk", {"disk_bytes": 4000 * 2**30}, "98% full, and from 95% on Ray spills no objects"),
        ("data", {"data": "nothing is there"}, "nothing is there -> Put it on the share"),
        ("model", {"model": "the directory must be there"}, "the directory must be there -> Put it on the share"),
    ],
)
def test_a_fault_of_one_node_is_found_there_and_nowhere_else(check: str, fault: dict[str, Any], said: str) -> None:
    found = failures(survey_of(HEAD, GOOD, replace(WORKER, **fault)))
    assert list(found) == [check]
    assert said in found[check]
    assert WORKER.node in found[check]
    assert check == "bf16" or GOOD.node not in found[check]


def test_a_node_that_does_not_answer_is_a_fault() -> None:
    found = failures(survey_of(HEAD, GOOD, silent={WORKER.node: "no report came within 120 s"}))
    assert list(found) == ["nodes"]
    assert found["nodes"].startswith(f"{WORKER.node}: no report came within 120 s -> See `ray status`")


def test_where_no_node_answers_no_other_check_falls_over() -> None:
    assert list(failures(survey_of(silent={"a": "it died"}))) == ["nodes"]


def test_a_clock_that_was_read_badly_is_not_blamed() -> None:
    assert failures(survey_of(replace(GOOD, clock=Clock(1.5, 0.8)))) == {}


def test_cpus_count_for_bf16_only_where_training_has_no_gpu() -> None:
    slow, fast = HEAD, replace(WORKER, gpus=(), ray_gpus=0.0)
    assert list(failures(survey_of(slow, fast))) == ["bf16"]
    assert failures(survey_of(slow, GOOD)) == {}
    assert list(failures(survey_of(slow, GOOD, gpus_per_worker=0.0))) == ["bf16"]
    assert failures(survey_of(replace(slow, ray_cpus=0.0), GOOD, gpus_per_worker=0.0)) == {}
    said = CHECKS["bf16"](survey_of(slow, gpus_per_worker=0.0)).text
    assert said == "precision auto means fp32 on the CPUs, with gpus_per_worker 0, of every node that may train"


def test_many_nodes_with_one_fault_are_told_in_one_line() -> None:
    nodes = [replace(GOOD, node=f"10.0.1.{i}", storage="no such file") for i in range(1000)]
    assert failures(survey_of(HEAD, *nodes))["storage"].startswith(
        "10.0.1.0, 10.0.1.1, 10.0.1.2 and 997 more: no such file -> "
    )


def test_exit_codes_are_those_of_the_design() -> None:
    broken = replace(GOOD, storage="x", tracking="x", data="x", model="x", ray_gpus=2.0)
    found = survey_of(broken)
    codes = {name: CHECKS[name](found).exit_code for name in ("storage", "tracking", "data", "model", "gpus")}
    assert codes == {"storage": 6, "tracking": 5, "data": 3, "model": 4, "gpus": 6}


def test_what_nodes_need_not_reach_is_said() -> None:
    found = replace(survey_of(GOOD, tracking=""), data=None, model=None)
    texts = [CHECKS[name](found).text for name in ("tracking", "data", "model")]
    assert texts[0].startswith("only the driver needs it")
    assert texts[1:] == [
        "nothing that nodes would open (--data names it)",
        "the demo's, which comes with t5ray (--model names another)",
    ]
