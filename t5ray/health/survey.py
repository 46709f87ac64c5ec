"""Every node is asked, by one actor on each.

Comes in: settings, a Ray that is connected. Goes out: a `Survey`. Must not judge what the nodes say.
"""

import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from t5ray.config import RunConfig, TrackingConfig
from t5ray.errors import ClusterError, one_line
from t5ray.health.node import FROM_DRIVER, Clock, NodeReport, Questions, examine, software
from t5ray.health.scratch import scratch_in
from t5ray.redaction import hide_secrets
from t5ray.storage import download_file, is_uri, local_path, upload_file
from t5ray.tracking.uri import NO_TRACKING, is_local, is_loopback

ANSWER_WITHIN_S = 120.0
"""How long nodes may take for their reports: to start a process and import torch, transformers and mlflow there."""
CLOCK_WITHIN_S = 10.0
"""How long a node that has given its report may take to say its time."""
READINGS = 5
"""Of each clock; the one with the shortest round trip counts."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What all nodes said."""

    driver: Mapping[str, str]
    """`software` of the process that asked."""
    nodes: tuple[NodeReport, ...]
    silent: Mapping[str, str]
    """Node -> why it gave no report."""
    storage: str
    tracking: str
    """URI that the nodes had to reach; empty: they had none to."""
    data: str | None
    model: str | None
    gpus_per_worker: float = 0.0
    """Of training."""


class _Examiner:
    """Runs on a node."""

    def examine(self, questions: Questions) -> NodeReport:
        return examine(questions)

    def now(self) -> float:
        return time.time()


def survey(settings: RunConfig) -> Survey:
    """Ask every node that is alive.

    Raises:
        ClusterError: the driver itself cannot use the storage.
    """
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    nonce = uuid.uuid4().hex
    tracking = settings.tracking if must_reach(settings.tracking) else None
    data, model = _data_of(settings.data.path), _model_of(settings.model)
    gpus = settings.resources.gpus_per_worker
    with scratch_in(settings.storage) as folder:
        _leave(folder, FROM_DRIVER, nonce)
        asked = [
            Questions(_shown(node), node_id, _session(node), folder, nonce, tracking, data, model, gpus)
            for node_id, node in nodes.items()
        ]
        reports, silent = _ask(asked)
        reports = [_read_back(report, folder, nonce) for report in reports]
    return Survey(
        driver=software(),
        nodes=tuple(_with_resources(report, nodes[report.node_id]["Resources"]) for report in reports),
        silent=silent,
        storage=settings.storage,
        tracking=tracking.uri if tracking else "",
        data=data,
        model=model,
        gpus_per_worker=gpus,
    )


def _shown(node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})"


def _session(node: Mapping[str, Any]) -> str:
    """Return a node's session folder: Ray names the folder of its sockets only."""
    return str(Path(node["ObjectStoreSocketName"]).parents[1])


def _with_resources(report: NodeReport, resources: Mapping[str, float]) -> NodeReport:
    memory = int(resources.get("object_store_memory", 0))
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    return replace(report, ray_cpus=cpus, ray_gpus=gpus, object_store_bytes=memory)


def must_reach(tracking: TrackingConfig) -> bool:
    """Say whether a tracking URI names the same place from every node: a file or a loopback address does not."""
    return not (tracking.uri == NO_TRACKING or is_local(tracking.uri) or is_loopback(tracking.uri))


def _data_of(path: str | None) -> str | None:
    """Return the data as nodes would have to find it; None where there is nothing that they would open."""
    if path is None or path.startswith("hf:"):  # the driver reads those, and hands on what it read
        return None
    return path if is_uri(path) else str(local_path(path).absolute())


def _model_of(source: str | None) -> str | None:
    return str(Path(source).absolute()) if source and Path(source).exists() else source


def _leave(folder: str, name: str, nonce: str) -> None:
    """Write a file of the driver's into the storage."""
    with tempfile.TemporaryDirectory() as scratch:
        own = Path(scratch, name)
        own.write_text(nonce)
        upload_file(own, folder)


def _read_back(report: NodeReport, folder: str, nonce: str) -> NodeReport:
    """Hold what a node wrote to what the driver reads; a node that could not write has said so."""
    if report.storage:
        return report
    with tempfile.TemporaryDirectory() as scratch:
        found = Path(scratch, report.node_id)
        try:
            download_file(f"{folder}/{report.node_id}", found)
        except ClusterError as exc:
            return replace(report, storage=f"the driver does not find what the node wrote: {exc}")
        same = found.read_text() == nonce
        return report if same else replace(report, storage="the driver reads other bytes than the node wrote")


def _ask(asked: list[Questions]) -> tuple[list[NodeReport], dict[str, str]]:
    """Return the reports, and why others did not come. All work at the same time; clocks are read when all rest."""
    actor = ray.remote(num_cpus=0)(_Examiner)
    there = [actor.options(scheduling_strategy=NodeAffinitySchedulingStrategy(q.node_id, soft=False)) for q in asked]
    examiners = [each.remote() for each in there]
    pending = [examiner.examine.remote(q) for examiner, q in zip(examiners, asked, strict=True)]
    ray.wait(pending, num_returns=len(pending), timeout=ANSWER_WITHIN_S)
    reports, silent = list[NodeReport](), dict[str, str]()
    for questions, examiner, answer in zip(asked, examiners, pending, strict=True):
        try:
            report = ray.get(answer, timeout=0)
        except ray.exceptions.GetTimeoutError:
            silent[questions.node] = f"no report came within {ANSWER_WITHIN_S:g} s"
        except ray.exceptions.RayError as exc:
            silent[questions.node] = hide_secrets(one_line(exc))[-300:]
        else:
            reports.append(replace(report, clock=_clock_of(examiner)))
        finally:
            ray.kill(examiner)
    return reports, silent


def _clock_of(examiner: Any) -> Clock | None:
    """Compare a node's clock with the driver's; None where the node has fallen silent."""
    try:
        return read_clock(lambda: float(ray.get(examiner.now.remote(), timeout=CLOCK_WITHIN_S)))
    except (ray.exceptions.GetTimeoutError, ray.exceptions.RayError):
        return None


def read_clock(ask: Callable[[], float], now: Callable[[], float] = time.time) -> Clock:
    """Compare another clock with this one, as NTP does: its reading is taken to be from the middle of the round trip.

    Args:
        ask: returns the other clock's seconds since 1970; takes a round trip.
        now: the same of this clock.
    """
    readings = list[Clock]()
    for _ in range(READINGS):
        sent = now()
        there = ask()
        back = now()
        readings.append(Clock(there - (sent + back) / 2, (back - sent) / 2))
    return min(readings, key=lambda clock: clock.uncertainty_s)
