"""The Ray that a command runs on: `connect` joins the one at an address, or starts one and stops it afterwards.

Comes in: an address. Goes out: a `Cluster`. Must not know what runs on it.
"""

import logging
import math
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

from t5ray.counting import counted
from t5ray.errors import ClusterError, one_line
from t5ray.liveness import busy_processors, own_ray, raylet_at, require_answer, said_if_slow, watched


class Node(NamedTuple):
    """What a node has for workers."""

    cpus: float
    gpus: float
    memory_bytes: float = math.inf
    """As Ray counts it; infinite where it is not known."""

    def num_workers(self, cpus: float, gpus: float, memory_bytes: float = 0.0) -> int:
        """Return how many workers of this size fit at the same time. No GPU's share stretches over two GPUs."""
        shares = [_times(self.cpus, cpus)] if cpus else []
        if gpus:
            parts = int(self.gpus) * _times(1.0, gpus) + _times(self.gpus % 1, gpus)
            shares.append(parts if gpus < 1 else _times(self.gpus, gpus))
        if memory_bytes and not math.isinf(self.memory_bytes):
            shares.append(_times(self.memory_bytes, memory_bytes))
        return min(shares)


def _times(has: float, need: float) -> int:
    return int(has / need + 1e-6)


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the command runs on."""

    num_nodes: int
    num_cpus: float
    """CPUs of all nodes together, as Ray counts them."""
    num_gpus: float
    object_store_bytes: int
    """Shared memory of all nodes together."""
    dashboard_url: str | None
    started_here: bool
    """True where this command started the Ray, and so stops it at the end."""
    nodes: tuple[Node, ...] = ()
    """Those that are alive. Empty: one node has all CPUs and GPUs."""

    @property
    def memory_bytes(self) -> float:
        """Memory for workers on all nodes together; infinite where it is not known."""
        return sum(node.memory_bytes for node in self.nodes) if self.nodes else math.inf

    def num_workers(self, cpus: float, gpus: float, memory_bytes: float = 0.0) -> int:
        """Return how many workers of this size fit at the same time; none may stretch over two nodes."""
        nodes = self.nodes or (Node(self.num_cpus, self.num_gpus),)
        return sum(node.num_workers(cpus, gpus, memory_bytes) for node in nodes)

    @property
    def shown(self) -> str:
        """Its size in words."""
        size = f"{counted(self.num_cpus, 'CPU')} and {counted(self.num_gpus, 'GPU')}"
        return f"{size} on {len(self.nodes)} nodes" if len(self.nodes) > 1 else size


@contextmanager
def connect(
    address: str | None,
    *,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    debug: bool = False,
    on_loss: Callable[[ClusterError], object] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Cluster]:
    """Join a running Ray, or start one that lives as long as the context.

    A Ray that this process is connected to already is used as it is, and left so.

    Args:
        address: `auto`, HOST:PORT or ray://HOST:PORT. None: RAY_ADDRESS, and where that is empty, a Ray of its own.
        num_cpus, num_gpus: what an own Ray offers; None: what the machine has.
        debug: show Ray's log and the output of workers.
        on_loss: called in another thread when the Ray that this process depends on is lost. Ray's native code then ends
            this process with exit code 1 and no word, moments later; this is the chance to say more.
        environment: variables of the processes of a Ray that is started here, but for those that are set already.
    Raises:
        ClusterError: nothing answers at the address, the token is refused, or Ray does not start.
    """
    import ray

    if ray.is_initialized():
        yield _describe(None, started_here=_is_own())
        return
    if address in (None, "", "auto"):
        address = os.environ.get("RAY_ADDRESS") or address or "local"
    options: dict[str, Any] = {"log_to_driver": debug, "logging_level": logging.INFO if debug else logging.ERROR}
    if address == "local":
        options |= {"num_cpus": num_cpus or _allowed_cpus(), "num_gpus": num_gpus, "include_dashboard": False}
    else:
        address = _answering(address)
    if not debug:
        # Ray's C++ side writes errors of its own household to our console; it has no other switch.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with _environment(environment or {}):
            context = _start(address, options)
        if on_sigterm is not None:  # Ray replaces the handler, and with it the tidy end of an interrupted command
            signal.signal(signal.SIGTERM, on_sigterm)
        with _watched(address, on_loss) if on_loss else nullcontext():
            yield _describe(context.dashboard_url, started_here=address == "local")
    finally:
        with nullcontext() if debug else _hidden_stderr():  # where Ray reports each worker that goes down with it
            ray.shutdown()


def _answering(address: str) -> str:
    """Return what `ray.init` makes of an address, once a Ray has answered there: it would wait for many minutes itself.

    It takes this machine's outer address for 127.0.0.1, where the Ray that another command started for itself listens.

    Raises:
        ClusterError: nothing answers, or `auto` finds nothing.
    """
    from ray._private import services

    if address != "auto":
        require_answer(address)
    if address.startswith("ray://"):
        return address
    services.find_gcs_addresses.cache_clear()  # what was there a while ago
    try:
        found = services.canonicalize_bootstrap_address(address) or address
    except ConnectionError as exc:
        raise ClusterError(
            "--address auto: a Ray must run on this machine, but none was found. Start one with `ray start --head`, "
            "or leave --address out."
        ) from exc
    if found != address:
        require_answer(address, found)
    return found


def _allowed_cpus() -> int | None:
    """Return how many CPUs this process may run on where those are not all; None: Ray counts what there are."""
    if not hasattr(os, "sched_getaffinity"):  # as on macOS
        return None
    allowed = len(os.sched_getaffinity(0))
    return allowed if allowed < (os.cpu_count() or 1) else None


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Have variables in the environment that child processes inherit, and their children after that."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _is_own() -> bool:
    """Say whether this process started the Ray that it is connected to, so that nobody else works there."""
    from ray._private import worker

    node = worker._global_node
    return node is not None and bool(node.head)


def _start(address: str, options: dict[str, Any]) -> Any:
    import ray

    try:
        with (
            nullcontext() if options["log_to_driver"] else _hidden_stderr(),
            _on_loopback() if address == "local" else nullcontext(),
            said_if_slow() if address == "local" else nullcontext(),
        ):
            return ray.init(address=address, **options)
    except SystemExit as exc:
        if exc.code != signal.SIGTERM:
            raise
        raise KeyboardInterrupt from exc  # Ray's handler of SIGTERM, which is set while Ray starts
    except Exception as exc:  # a bare one where a process of Ray dies while it starts
        reason = one_line(exc)
        if address == "local":
            busy = busy_processors()
            check = f"{busy} Try again when they are not, or check" if busy else "Check how busy the processors are,"
            raise ClusterError(
                f"A local Ray must start on this machine, but did not: {reason} "
                f"{check} free memory and disk (/dev/shm, /tmp), or join a running Ray with --address."
            ) from exc
        raise ClusterError(
            f"--address {address}: a Ray of this version that lets us in must run there, but: {reason}. Start one with "
            "`ray start --head`. If it demands a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or "
            "RAY_AUTH_TOKEN_PATH) as on its head node."
        ) from exc


def _watched(address: str, on_loss: Callable[[ClusterError], object]) -> AbstractContextManager[None]:
    """Watch what this driver cannot live without: a Ray of its own; or this node's raylet, and the head."""
    import ray

    if address == "local":
        return watched(own_ray(), None, on_loss)
    if address.startswith("ray://"):  # the driver lives at the other end
        return nullcontext()
    context = ray.get_runtime_context()
    here = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    return watched(raylet_at(here["RayletSocketName"]), context.gcs_address, on_loss)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let a Ray that starts here listen on 127.0.0.1 only: nobody else has to reach it.

    Ray turns `_node_ip_address="127.0.0.1"` into the machine's outer address. Its switch against that is an environment
    variable that it reads when it is imported, which may have happened; so the constant behind it is set.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _hidden_stderr() -> Iterator[None]:
    """Discard what native code writes to the console; what matters comes as an exception as well."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as sink:
            os.dup2(sink.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _describe(dashboard_url: str | None, *, started_here: bool) -> Cluster:
    import ray

    have = ray.cluster_resources()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return Cluster(
        num_nodes=len(nodes),
        num_cpus=have.get("CPU", 0.0),
        num_gpus=have.get("GPU", 0.0),
        object_store_bytes=int(have.get("object_store_memory", 0)),
        dashboard_url=f"http://{dashboard_url}" if dashboard_url else None,
        started_here=started_here,
        nodes=tuple(Node(node.get("CPU", 0.0), node.get("GPU", 0.0), node.get("memory", math.inf)) for node in nodes),
    )
