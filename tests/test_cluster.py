import contextlib
import os
import signal
import time

import psutil
import pytest

from t5ray import liveness
from t5ray.cluster import connect
from t5ray.errors import ClusterError


def test_a_refused_token_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def refuse(**_: object) -> None:
        raise ConnectionError("Failed to connect to Ray cluster at 10.0.0.5:6379")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr("t5ray.cluster._answering", lambda address: address)
    wanted = r"--address auto: .* Failed to connect .* set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
    with pytest.raises(ClusterError, match=wanted), connect("auto"):
        pass


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (
            9.3,
            r"The processors are busy \(load average 9.3 over 2 CPUs\). Try again when they are not, or check ",
        ),
        (
            0.2,
            r"The current node timed out during startup. Check how busy the processors are, free memory and disk",
        ),
    ],
)
def test_a_ray_that_does_not_start_names_busy_processors(
    load: float, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    def time_out(**_: object) -> None:
        time.sleep(0.3)
        raise RuntimeError("The current node timed out during startup.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", time_out)
    monkeypatch.setattr(liveness, "SLOW_START_S", 0.1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(psutil, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ClusterError, match=said), connect(None):
        pass
    out = capsys.readouterr().out
    assert out.startswith("Ray has not started within 0.1 s; waiting for it.")
    assert ("The processors are busy" in out) == (load > 3)


def listening() -> set[str]:
    """Return the addresses at which this process and those below it accept connections."""
    here = psutil.Process()
    found = set[str]()
    for process in (here, *here.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # a process that has just ended
            connections = process.net_connections(kind="inet")
            found |= {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}
    return found


@pytest.mark.parametrize(("code", "told"), [(signal.SIGTERM, KeyboardInterrupt), (3, SystemExit)])
def test_sigterm_while_ray_starts_interrupts_the_command(
    code: int, told: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def end(**_: object) -> None:
        raise SystemExit(code)  # as Ray's own handler does

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", end)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(told), connect("local"):
        pass


@pytest.mark.integration
def test_a_ray_of_its_own_lives_as_long_as_the_context(capfd: pytest.CaptureFixture[str]) -> None:
    import ray

    def on_sigterm(*_: object) -> None: ...

    before = signal.signal(signal.SIGTERM, on_sigterm)
    try:
        with connect(None, num_cpus=2) as found:
            assert (found.num_nodes, found.num_cpus, found.started_here) == (1, 2.0, True)
            assert found.object_store_bytes > 0
            assert {address.removeprefix("::ffff:") for address in listening()} == {"127.0.0.1"}
            assert signal.getsignal(signal.SIGTERM) is on_sigterm
            with connect(None) as again:
                assert again.started_here  # by this process, if not by this call
            assert ray.is_initialized()
            address = ray.get_runtime_context().gcs_address
            with pytest.raises(KeyboardInterrupt), connect(None):
                raise KeyboardInterrupt
        assert not ray.is_initialized()
        with pytest.raises(ClusterError, match="a Ray must answer there"), connect(address):
            pass
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capfd.readouterr().err == ""


@pytest.mark.integration
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one CPU")
def test_a_ray_of_its_own_has_the_cpus_that_this_process_may_run_on() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        with connect(None) as found:
            assert found.num_cpus == 1.0
    finally:
        os.sched_setaffinity(0, allowed)
