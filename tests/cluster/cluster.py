"""A t5ray cluster on made hosts, as docs/cluster.md tells a user to run one."""

import json
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.hosts import HOME, ROOT, SHARED, Host, Lan, until

TOKEN = "export RAY_AUTH_MODE=token RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265"
LAUNCHER = "RAY_UP_enable_autoscaler_v2=0"
"""With addresses for a provider, Ray 2.60's second autoscaler leaves the last worker out; its first one does not."""
JOIN_S = 180
"""Longest wait for all hosts to join."""


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
        self.lan.client.run(f"cd t5ray && {TOKEN} {LAUNCHER} && ray up -y cluster.yaml", timeout_s=300)
        self.wait_for_nodes(1 + len(self.lan.workers))
        self._forward()

    def _forward(self) -> None:
        self.lan.client.popen(f"cd t5ray && {TOKEN} && ray dashboard cluster.yaml", self.lan.folder / "dashboard.log")
        until(lambda: "200" in self._dashboard(), 60, "the dashboard to be forwarded")

    def _dashboard(self) -> str:
        url = "http://127.0.0.1:8265/api/version"
        token = '-H "Authorization: Bearer $(cat ~/.ray/auth_token)"'
        return self.lan.client.run(f"curl -s -o /dev/null -w '%{{http_code}}' {token} {url}", check=False)

    def num_nodes(self) -> int:
        """Return the nodes that are alive, as the head sees them."""
        printed = self.lan.head.run(f"{TOKEN} && ray list nodes --filter state=ALIVE --format json", check=False)
        begin = printed.find("[{")  # warnings may stand before
        return len(json.JSONDecoder().raw_decode(printed, begin)[0]) if begin >= 0 else 0

    def wait_for_nodes(self, number: int) -> None:
        """Wait until so many nodes are alive."""
        until(lambda: self.num_nodes() >= number, JOIN_S, f"{number} nodes to be alive")

    def submit(self, name: str, command: str) -> None:
        """`ray job submit` from the client."""
        self.lan.client.run(f"{TOKEN} && ray job submit --submission-id {name} --no-wait -- {command}", timeout_s=120)

    def status(self, name: str) -> str:
        """Return a job's state: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
        printed = self.lan.client.run(f"{TOKEN} && ray job status {name}", check=False)
        states = re.findall(r"(PENDING|RUNNING|SUCCEEDED|FAILED|STOPPED)", printed, re.I)
        return states[-1].upper() if states else printed[-300:]

    def logs(self, name: str) -> str:
        """Return what a job printed."""
        return self.lan.client.run(f"{TOKEN} && ray job logs {name}", check=False)

    def wait(self, name: str, timeout_s: float = 600) -> str:
        """Wait for a job's end and return its log.

        Raises:
            AssertionError: it did not succeed.
        """
        until(lambda: self.status(name) not in ("PENDING", "RUNNING"), timeout_s, f"job {name} to end")
        log = self.logs(name)
        assert self.status(name) == "SUCCEEDED", f"{name}: {self.status(name)}\n{log[-6000:]}"
        return log

    def at_work(self, title: str) -> set[str]:
        """Return the hosts on which a process of Ray runs whose title matches, and is not waiting for work."""
        hosts = [host for host in (self.lan.head, *self.lan.workers) if host.init is not None]
        return {host.name for host in hosts if re.search(title, host.run("ps ax -o args", check=False))}

    def lose(self, host: Host) -> None:
        """Cut a host off, and switch it off some seconds later."""
        host.unplug()
        time.sleep(5)
        host.kill()

    def until_epoch(self, name: str, epoch: int) -> None:
        """Wait until some trial of a search has reported an epoch."""
        ledger = self.here(f"{SHARED}/runs/{name}/state/ledger.json")
        until(lambda: ledger.exists() and f'"epoch": {epoch}' in ledger.read_text(), 240, f"epoch {epoch} of {name}")

    def read_json(self, path: str) -> dict[str, Any]:
        """Read a file of the shared folder, named as the hosts see it."""
        found: dict[str, Any] = json.loads(self.here(path).read_text(encoding="utf-8"))
        return found

    def here(self, path: str) -> Path:
        """Return where a path of the shared folder lies outside of the hosts."""
        return self.lan.shared / Path(path).relative_to(SHARED)


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
