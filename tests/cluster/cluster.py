"""A t5ray cluster on made hosts, as docs/cluster.md tells a user to run one."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.hosts import HOME, ROOT, SHARED, Host, Lan, until

TOKEN = "export RAY_AUTH_MODE=token RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265"
LAUNCHER = "RAY_UP_enable_autoscaler_v2=0"
"""With addresses for a provider, Ray 2.60's second autoscaler leaves the last worker out; its first one does not."""
JOIN_S = 300
"""Longest wait for all hosts to join, or for the loss of one to be noticed."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


def on_these_hosts(text: str, head: Host, workers: list[Host]) -> str:
    """Return cluster.yaml with another provider and other addresses, and nothing else changed.

    Ray refuses node types where a provider is given addresses: they go with the provider.
    """
    config = yaml.safe_load(text)
    config["provider"] = {"type": "local", "head_ip": head.address, "worker_ips": [w.address for w in workers]}
    config["auth"]["ssh_private_key"] = "~/.ssh/cluster.pem"
    del config["available_node_types"], config["head_node_type"]
    return yaml.safe_dump(config, sort_keys=False)


@dataclass
class Cluster:
    """What a user has: a laptop (the client), and a cluster that SSH reaches."""

    lan: Lan
    forward: "subprocess.Popen[str] | None" = None
    """What forwards the dashboard to the client."""

    def furnish(self, wheel: Path) -> None:
        """Lay out on the client what `ray up` copies to the hosts."""
        folder = self.lan.client.home / "t5ray"
        (folder / "dist").mkdir(parents=True)
        shutil.copy(wheel, folder / "dist")
        shutil.copy(ROOT / "constraints.txt", folder)
        text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
        (folder / "cluster.yaml").write_text(on_these_hosts(text, self.lan.head, self.lan.workers), encoding="utf-8")
        self.lan.client.run("python -c 'import ray' && ray get-auth-token --generate >/dev/null")
        self.lan.client.run("chmod 600 ~/.ray/auth_token")

    def up(self) -> None:
        """`ray up`, wait for the workers, forward the dashboard."""
        self.lan.client.run(f"cd t5ray && {TOKEN} {LAUNCHER} && ray up -y cluster.yaml", timeout_s=600)
        self.wait_for_nodes(1 + len(self.lan.workers))
        self._forward()

    def _forward(self) -> None:
        if self.forward is not None:  # its port would be taken until SSH notices that the head was lost
            with suppress(ProcessLookupError):
                os.killpg(self.forward.pid, signal.SIGKILL)
            self.forward.wait()
        command = f"cd t5ray && {TOKEN} && ray dashboard cluster.yaml"
        self.forward = self.lan.client.popen(command, self.lan.folder / "dashboard.log")
        until(lambda: _ask(self.lan.client, "/api/version"), 120, "the dashboard to be forwarded")

    def nodes(self) -> dict[str, str]:
        """Return id -> address of the nodes that are alive, as the head sees them."""

        def alive() -> dict[str, str]:
            nodes = _listed(self.lan.head, "nodes")
            return {node["node_id"]: node["node_ip"] for node in nodes if node["state"] == "ALIVE"}

        return until(alive, 120, "the head to list its nodes")

    def node_of(self, host: Host) -> str:
        """Return the id of a host's node, once it is alive."""
        return until(lambda: {v: k for k, v in self.nodes().items()}.get(host.address, ""), JOIN_S, host.name)

    def wait_for_nodes(self, number: int) -> None:
        """Wait until so many hosts are alive."""
        until(lambda: len(set(self.nodes().values())) == number, JOIN_S, f"{number} hosts to be alive")

    def submit(self, name: str, command: str) -> None:
        """`ray job submit` from the client."""
        self.lan.client.run(f"{TOKEN} && ray job submit --submission-id {name} --no-wait -- {command}", timeout_s=120)

    def status(self, name: str) -> str:
        """Return a job's state: PENDING, RUNNING or one of `ENDED`; empty where the head did not say."""
        return str((_ask(self.lan.head, f"/api/jobs/{name}") or {}).get("status", ""))

    def logs(self, name: str) -> str:
        """Return what a job printed."""
        return self.lan.client.run(f"{TOKEN} && ray job logs {name}", check=False)

    def wait(self, name: str, timeout_s: float = 900) -> str:
        """Wait for a job's end and return its log.

        Raises:
            AssertionError: it did not succeed.
        """
        self.until(lambda: self.status(name) in ENDED, timeout_s, "its end", name)
        printed = self.lan.client.run(f"{TOKEN} && ray job status {name}", check=False)
        log = self.logs(name)
        assert re.search("succeeded", printed, re.IGNORECASE), f"{name}: {printed}\n{log[-6000:]}"
        return log

    def until(self, done: Callable[[], object], timeout_s: float, what: str, name: str) -> None:
        """Wait for what must become true before a job ends, or is its end.

        Raises:
            AssertionError: it did not; with what the job said.
        """

        def look() -> str:
            ended = self.status(name) in ENDED  # before the look: what the job did last counts
            return "done" if done() else "ended" if ended else ""

        try:
            found = until(look, timeout_s, what)
        except TimeoutError as exc:
            raise AssertionError(f"{name}: {exc}\n{self.logs(name)[-6000:]}") from exc
        assert found == "done", f"{name} is {self.status(name)}, without {what}\n{self.logs(name)[-6000:]}"

    def at_work(self, title: str) -> set[str]:
        """Return the hosts on which a process of Ray runs whose title matches."""
        return {host.name for host in self._on() if re.search(title, host.run("ps ax -o args", check=False))}

    def until_at_work(self, title: str, name: str, enough: Callable[[set[str]], bool], hold: bool = False) -> None:
        """Wait until enough hosts have had such a process; they need not be at work at the same moment.

        Args:
            name: of the job that they work for.
            hold: let those that are there stand still meanwhile. Else a job whose workers do not wait for each other
                may end before the last host has begun, however much there is to do.
        """
        seen = set[str]()

        def look() -> bool:
            if hold:
                self._signal("STOP", title)
            seen.update(self.at_work(title))
            return enough(seen)

        try:
            self.until(look, JOIN_S, f"enough of {title}", name)
        finally:
            if hold:
                self._signal("CONT", title)

    def _on(self) -> list[Host]:
        return [host for host in (self.lan.head, *self.lan.workers) if host.init is not None]

    def _signal(self, name: str, title: str, hosts: Iterable[Host] | None = None) -> None:
        """Send a signal to the processes of a title, on every host unless some are named."""
        pattern = f"[{title[0]}]{title[1:]}"  # which the shell that runs pkill does not match
        for host in self._on() if hosts is None else hosts:
            host.run(f"pkill -{name} -f '{pattern}'", check=False)

    @contextmanager
    def held(self, title: str, *, newcomers: bool = False) -> Iterator[None]:
        """Let the processes of a title stand still, so that what they do lasts as long as a test needs.

        Args:
            newcomers: those as well that begin meanwhile, on the hosts that there are now.
        """
        hosts, over = self._on(), threading.Event()
        self._signal("STOP", title, hosts)

        def stop_newcomers() -> None:
            while newcomers and not over.wait(0.5):
                self._signal("STOP", title, hosts)

        with ThreadPoolExecutor(1) as pool:
            stopping = pool.submit(stop_newcomers)
            try:
                yield
            finally:
                over.set()
                stopping.result()
                self._signal("CONT", title)

    def lose(self, host: Host) -> None:
        """Cut a host off, switch it off some seconds later, and wait until the head has noticed."""
        node = self.node_of(host)
        host.unplug()
        time.sleep(5)
        host.kill()
        until(lambda: node not in self.nodes(), JOIN_S, f"the loss of {host.name} to be noticed")

    def restart(self, host: Host, meanwhile: str = "true") -> None:
        """Stop Ray on a worker and start it, by cluster.yaml's commands, with shell commands in between."""
        stop, start = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))["worker_start_ray_commands"]
        node = self.node_of(host)
        host.run(stop)
        host.run(f"{meanwhile}\nexport RAY_HEAD_IP={self.lan.head.address}\n({start}) >/tmp/ray-start.log 2>&1")
        until(lambda: node not in self.nodes(), JOIN_S, f"Ray to have ended on {host.name}")
        self.node_of(host)

    def num_reports(self, name: str) -> int:
        """Return how many reports of epochs a search has heard."""
        ledger = self.here(f"{SHARED}/runs/{name}/state/ledger.json")
        return ledger.read_text().count('"epoch": ') if ledger.exists() else 0

    def until_reports(self, name: str, number: int) -> None:
        """Wait until a search has heard so many."""
        self.until(lambda: self.num_reports(name) >= number, 400, f"{number} reports of epochs", name)

    def num_tasks(self, host: Host, title: str) -> int:
        """Return how many tasks of a title a host has finished since it joined."""
        only = f"filter_keys=node_id&filter_predicates=%3D&filter_values={self.node_of(host)}"
        tasks = _listed(self.lan.head, f"tasks?limit=10000&{only}")
        return sum(task["state"] == "FINISHED" and title in task["name"] for task in tasks)

    def read_json(self, path: str) -> dict[str, Any]:
        """Read a file of the shared folder, named as the hosts see it."""
        found: dict[str, Any] = json.loads(self.here(path).read_text(encoding="utf-8"))
        return found

    def here(self, path: str) -> Path:
        """Return where a path of the shared folder lies outside of the hosts."""
        return self.lan.shared / Path(path).relative_to(SHARED)


def _ask(host: Host, path: str) -> Any:
    """Return what Ray's dashboard says at a host's loopback; None where it does not answer.

    Ray's own commands ask the same, but import Ray for it, which takes a core seconds for each look.
    """
    token = '-H "Authorization: Bearer $(cat ~/.ray/auth_token)"'
    printed = host.run(f"curl -s -m 30 {token} 'http://127.0.0.1:8265{path}'", check=False)
    try:
        return json.loads(printed)
    except ValueError:
        return None


def _listed(head: Host, what: str) -> list[dict[str, Any]]:
    """Return what Ray's state API lists; nothing where it does not answer."""
    data = (_ask(head, f"/api/v0/{what}") or {}).get("data") or {}
    found: list[dict[str, Any]] = (data.get("result") or {}).get("result") or []
    return found


def start_mlflow(head: Host) -> None:
    """Start PostgreSQL, with the data it had, and an MLflow server on it, on the head's loopback."""
    database = f"{HOME}/postgres"
    as_postgres = "setpriv --reuid=postgres --regid=postgres --clear-groups"
    programs = "$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)"
    start = f"rm -f {database}/postmaster.pid; {as_postgres} $P/pg_ctl -w -D {database} -l {database}/log "
    start += f"-o '-h 127.0.0.1 -k {database}' start >/dev/null"
    make = (
        f"install -d -o postgres -g postgres {database} && {as_postgres} $P/initdb -D {database} -A trust >/dev/null"
        f" && {{ {start}; }} && {as_postgres} $P/createdb -h 127.0.0.1 mlflow"
    )
    head.run(f"P={programs}; if test -d {database}; then {start}; else {make}; fi", timeout_s=120)
    head.popen(
        "mlflow server --host 127.0.0.1 --port 5000 --workers 1 --backend-store-uri "
        f"postgresql+psycopg2://postgres@127.0.0.1/mlflow --artifacts-destination {SHARED}/mlflow",
        head.folder / "mlflow.log",
    )
    until(lambda: head.run("curl -s http://127.0.0.1:5000/health", check=False).strip() == "OK", 120, "MLflow")
