"""Is a Ray there, and does it go on living?

    require_answer   refuse an address where no Ray answers
    said_if_slow     say that a Ray takes its time to start, and busy_processors why it may
    watched          say so while a command runs, where the Ray goes that it depends on

Comes in: an address, processes of this machine. Goes out: an error before Ray would give one, or instead of none: Ray's
native code ends a driver that has lost its Ray with exit code 1 and no word. Must not import Ray.
"""

import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import psutil

from t5ray.counting import counted
from t5ray.errors import ClusterError

PROBE_S = 10.0
"""How long an address may take to answer before it counts as dead; `ray.init` itself would wait for minutes."""
PROBE_EVERY_S = 5.0
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""Client preface and an empty SETTINGS frame: what every gRPC server, Ray's head included, answers with its own."""
SETTINGS_FRAME = 4
OWN_RAY = ("raylet", "gcs_server")
"""Processes of Ray without which a driver is lost: the node's daemon and the store of the cluster's state."""
NATIVE_PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Ray's variable that says after how many seconds without a head (60 by default) it ends its drivers."""
FIRST_S = 15.0
"""So much earlier the command speaks."""
SLOW_START_S = 20.0
"""A Ray that starts on an idle machine is there within a few seconds."""
BUSY_LOAD = 1.5
"""Processes per CPU that want to run, from which on Ray's own may miss their deadlines."""


def require_answer(address: str, at: str | None = None) -> None:
    """Refuse an address where no gRPC server answers.

    Args:
        at: what Ray takes it for; None: for itself.
    Raises:
        ClusterError: the address is malformed, or what is there does not answer as Ray does.
    """
    host, _, port = (at or address).removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        raise ClusterError(f"--address: must be `auto` or HOST:PORT, such as 10.0.0.5:6379, but got {address!r}.")
    try:
        answers = _answers(at or address)
    except OSError as exc:
        where, private = (f"at {at}", " (what a command starts for itself nobody else joins)") if at else ("there", "")
        raise ClusterError(
            f"--address {address}: a Ray must answer {where} within {PROBE_S:g} s, but: {exc}. "
            f"Start one with `ray start --head --port=6379`{private}, or leave --address out to run on this machine."
        ) from exc
    if not answers:
        raise ClusterError(f"--address {address}: something listens there, but it is no Ray. Check the port.")


def _answers(address: str) -> bool:
    """Say whether a gRPC server listens at an address. Raises OSError where nothing does."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_S) as connection:
        return os.environ.get("RAY_USE_TLS", "0") != "0" or _speaks_http2(connection)


def _speaks_http2(connection: socket.socket) -> bool:
    connection.sendall(HTTP2_HELLO)
    answer = connection.recv(9)
    return len(answer) > 3 and answer[3] == SETTINGS_FRAME


@contextmanager
def said_if_slow() -> Iterator[None]:
    """Say that the start of a Ray goes on, where it does for long. To stdout: stderr is hidden from Ray meanwhile."""
    timer = threading.Timer(SLOW_START_S, _say_slow)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _say_slow() -> None:
    waiting = f"Ray has not started within {SLOW_START_S:g} s; waiting for it."
    print(" ".join(filter(None, [waiting, busy_processors()])), flush=True)


def busy_processors() -> str:
    """Return a sentence on the load of this machine where it is high; else nothing.

    Example:
        a load average of 9.3 on 2 CPUs -> "The processors are busy (load average 9.3 over 2 CPUs)."
    """
    load, cpus = psutil.getloadavg()[0], os.cpu_count() or 1
    if load / cpus < BUSY_LOAD:
        return ""
    return f"The processors are busy (load average {load:.1f} over {counted(cpus, 'CPU')})."


@contextmanager
def watched(processes: Iterable[int], head: str | None, on_loss: Callable[[ClusterError], object]) -> Iterator[None]:
    """Call `on_loss`, once and in another thread, when a process ends or the head is away for too long.

    Args:
        processes: pids of this machine. On what is no Linux of 5.3 or newer, they are not watched.
        head: HOST:PORT that must answer; None: no address is watched. An outage that Ray survives is borne.
    """
    with ExitStack() as opened:
        names = _open(processes, opened)
        told, stop = os.pipe()
        opened.callback(os.close, told)
        watcher = threading.Thread(target=_watch, args=(names, told, head, on_loss), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            os.close(stop)
            watcher.join()


def own_ray() -> list[int]:
    """Return the pids of the Ray that this process has started."""
    return _pids(psutil.Process().children(), lambda process: process.name() in OWN_RAY)


def raylet_at(socket_name: str) -> list[int]:
    """Return the pid of the raylet of this machine that listens at a socket; none where it cannot be seen from here."""
    flag = f"--raylet_socket_name={socket_name}"
    return _pids(psutil.process_iter(), lambda process: process.name() == "raylet" and flag in process.cmdline())


def _pids(processes: Iterable[psutil.Process], is_wanted: Callable[[psutil.Process], bool]) -> list[int]:
    found = list[int]()
    for process in processes:
        with suppress(psutil.Error):  # gone meanwhile, or another user's
            if is_wanted(process):
                found.append(process.pid)
    return found


def _open(pids: Iterable[int], opened: ExitStack) -> dict[int, str]:
    """Return a file descriptor for each process -> its name. It turns readable when the process ends."""
    found: dict[int, str] = {}
    if hasattr(os, "pidfd_open"):
        for pid in pids:
            with suppress(psutil.Error, OSError):
                found[os.pidfd_open(pid)] = psutil.Process(pid).name()
    for file in found:
        opened.callback(os.close, file)
    return found


def _watch(names: dict[int, str], told: int, head: str | None, on_loss: Callable[[ClusterError], object]) -> None:
    if loss := _first_loss(names, told, head):
        on_loss(ClusterError(f"{loss} What was finished is kept."))


def _first_loss(names: dict[int, str], told: int, head: str | None) -> str:
    """Wait for the first loss and say it; empty where the other end of `told` is closed before."""
    poll, outage = select.poll(), _Outage()
    for file in (*names, told):
        poll.register(file, select.POLLIN)
    while True:
        ended = {file for file, _ in poll.poll(None if head is None else 1000 * PROBE_EVERY_S)}
        if told in ended:
            return ""
        if ended:
            return (
                f"Ray's own processes must live as long as the command, but `{names[ended.pop()]}` died: killed, "
                "perhaps for want of memory."
            )
        if head is not None and outage.after(head) > _patience():
            return (
                f"Ray's head must live as long as the command, but {head} has not answered for {_patience():g} s. "
                "Bring it up again (`ray up`, `ray start --head`)."
            )


class _Outage:
    """How long the head has been away."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def after(self, head: str) -> float:
        """Return the seconds since it last answered, having asked once more."""
        with suppress(OSError):
            if _answers(head):
                self._last = time.monotonic()
        return time.monotonic() - self._last


def _patience() -> float:
    return max(PROBE_EVERY_S, float(os.environ.get(NATIVE_PATIENCE, "60")) - FIRST_S)
