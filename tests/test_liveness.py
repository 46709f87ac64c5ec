"""A Ray that is not there, or goes, is told of in time."""

import queue
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from t5ray import liveness
from t5ray.cluster import connect
from t5ray.errors import ClusterError
from t5ray.liveness import watched


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.mark.parametrize("address", ["nonsense", "host:", ":6379", "host:port"])
def test_a_malformed_address_is_refused(address: str) -> None:
    with (
        pytest.raises(ClusterError, match=r"must be `auto` or HOST:PORT, such as 10\.0\.0\.5:6379, but got"),
        connect(address),
    ):
        pass


def test_an_address_where_nothing_listens_is_refused_at_once(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    started = time.monotonic()
    wanted = f"127.0.0.1:{port}: a Ray must answer there.*ray start --head"
    with pytest.raises(ClusterError, match=wanted), connect(f"127.0.0.1:{port}"):
        pass
    assert time.monotonic() - started < 5


def test_a_listener_that_never_answers_is_given_up(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "PROBE_S", 0.2)
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(ClusterError, match=r"a Ray must answer there within 0\.2 s, but: timed out"), connect(address):
        pass


def test_another_kind_of_server_is_no_ray(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    server = threading.Thread(target=answer)
    server.start()
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{listener.getsockname()[1]}")
    with pytest.raises(ClusterError, match="something listens there, but it is no Ray"), connect(None):
        pass
    server.join()


def answer_as_ray(listener: socket.socket) -> None:
    """Answer every caller as a gRPC server does, until the listener is closed."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.recv(100)
            connection.sendall(bytes(3) + b"\x04" + bytes(5))


@pytest.fixture
def head(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of something that answers as Ray's head does, in a world where all goes faster."""
    monkeypatch.setattr(liveness, "PROBE_EVERY_S", 0.02)
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "15.3")
    threading.Thread(target=answer_as_ray, args=(listener,), daemon=True).start()
    return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def no_init(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where Ray itself is asked to join: it waits for many minutes, and hears no signal meanwhile."""

    def join(**_: object) -> None:
        raise AssertionError("Ray must not be asked")

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", join)
    monkeypatch.setattr("ray._private.services.get_node_ip_address", lambda *_: "127.0.0.2")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.parametrize("named", ["auto", None])
def test_the_ray_that_another_command_started_for_itself_is_not_waited_for(
    named: str | None, head: str, no_init: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It listens on loopback, for which Ray takes the machine's outer address."""
    monkeypatch.setattr("ray._private.services._find_address_from_flag", lambda _: {head})
    asked, started = named or head, time.monotonic()
    wanted = (
        rf"--address {asked}: a Ray must answer at 127.0.0.2:{head.partition(':')[2]} within 10 s, but: .*refused.*"
        r"ray start --head --port=6379` \(what a command starts for itself nobody else joins\), or leave --address out"
    )
    with pytest.raises(ClusterError, match=wanted), connect(asked):
        pass
    assert time.monotonic() - started < 5


def test_a_ray_that_has_gone_is_not_waited_for(
    listener: socket.socket, no_init: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last `ray start` leaves its address in a file."""
    gone = f"127.0.0.2:{listener.getsockname()[1]}"
    monkeypatch.setattr("ray._private.services._find_address_from_flag", lambda _: set())
    monkeypatch.setattr("ray._private.utils.read_ray_address", lambda _: gone)
    with pytest.raises(ClusterError, match=f"--address auto: a Ray must answer at {gone} within"), connect("auto"):
        pass


def test_auto_where_no_ray_runs_says_how_to_start_one(no_init: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray._private.services._find_address_from_flag", lambda _: set())
    monkeypatch.setattr("ray._private.utils.read_ray_address", lambda _: None)
    wanted = "--address auto: a Ray must run on this machine, but none was found. Start one with `ray start --head`"
    with pytest.raises(ClusterError, match=wanted), connect("auto"):
        pass


def test_a_process_that_dies_is_told() -> None:
    told = queue.Queue[ClusterError]()
    with subprocess.Popen(["sleep", "100"]) as process, watched([process.pid], None, told.put):
        process.kill()
        loss = told.get(timeout=30)
    assert "must live as long as the command, but `sleep` died" in str(loss)


def test_a_process_that_is_stopped_after_the_command_is_no_loss() -> None:
    told = queue.Queue[ClusterError]()
    with subprocess.Popen(["sleep", "100"]) as process:
        with watched([process.pid], None, told.put):
            pass
        process.kill()
    assert told.empty()


def test_a_head_that_goes_is_told_once_with_how_long_it_was_away(head: str, listener: socket.socket) -> None:
    told = queue.Queue[ClusterError]()
    with watched([], head, told.put):
        with pytest.raises(queue.Empty):
            told.get(timeout=0.5)
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        loss = told.get(timeout=30)
    assert f"Ray's head must live as long as the command, but {head} has not answered for 0.3 s" in str(loss)
    assert told.empty()


def test_an_outage_that_ray_survives_is_borne(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told, asked = queue.Queue[ClusterError](), list[str]()

    def answers(address: str) -> bool:
        asked.append(address)
        if len(asked) in (2, 3, 4):
            raise ConnectionRefusedError
        return True

    monkeypatch.setattr(liveness, "_answers", answers)
    with watched([], head, told.put):
        while len(asked) < 8:
            time.sleep(0.01)
    assert told.empty()
