"""A command, run to its end or to its death, and the memory that its processes took at most.

Peaks are the kernel's high-water marks of resident memory, read twice a second from /proc, so no peak is missed but one
in the last half second of a process. Shared memory counts in each process that touched it. Linux only.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil

POLL_S = 0.5


def peak_bytes(pid: int | str = "self") -> int:
    """Return the most memory that a process has had; raises what reading does where it has ended."""
    with open(f"/proc/{pid}/status") as status:
        line = next(line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


@dataclass
class Watched:
    """What a command did."""

    exit_code: int
    output: str
    seconds: float
    peaks_mb: dict[str, float] = field(default_factory=dict)
    """driver: the command itself; worker: the largest process that scored."""


class Command:
    """A running `python -m …` in a process group of its own."""

    def __init__(self, words: Sequence[str], *, watch: bool = True, **environment: str) -> None:
        """Start it.

        Args:
            watch: note its memory, which costs some per cent of a core.
        """
        self._started = time.monotonic()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (a pipe that nobody reads would stop it when full)
        self._process = subprocess.Popen(
            [sys.executable, "-m", *words],
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        self._itself = psutil.Process(self._process.pid)  # which knows a pid that another process has by now
        self._suspended: list[psutil.Process] = []
        self._peaks = {"driver": 0.0, "worker": 0.0}
        self._watcher = threading.Thread(target=self._watch if watch else self._process.wait, daemon=True)
        self._watcher.start()

    @property
    def is_running(self) -> bool:
        """True until it ends."""
        return self._process.poll() is None

    def _watch(self) -> None:
        while self.is_running:
            self._note("driver", self._process.pid)
            for process in self.workers():
                self._note("worker", process.pid)
            time.sleep(POLL_S)

    def _note(self, kind: str, pid: int) -> None:
        with contextlib.suppress(OSError, StopIteration):
            self._peaks[kind] = max(self._peaks[kind], peak_bytes(pid) / 2**20)

    def workers(self) -> list[psutil.Process]:
        """Return the processes that score now."""
        return self._children("ray::MapWorker", "ray::Map(")

    def ray_itself(self) -> list[psutil.Process]:
        """Return Ray's own processes: the node's daemon and the store of the cluster's state."""
        return self._children("raylet", "gcs_server")

    def _children(self, *names: str) -> list[psutil.Process]:
        found = []
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self._process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    first = (process.cmdline() or [""])[0]
                    if any(name in first for name in names):
                        found.append(process)
        return found

    def suspend(self) -> None:
        """Let it stand still with all that it started, until `resume`."""
        while new := [process for process in self._all() if process not in self._suspended]:
            for process in new:  # each before what it started; what it started meanwhile comes next
                with contextlib.suppress(psutil.Error):
                    process.suspend()
            self._suspended += new

    def resume(self) -> None:
        """Let it go on."""
        for process in reversed(self._suspended):
            with contextlib.suppress(psutil.Error):
                process.resume()
        self._suspended = []

    def destroy(self) -> None:
        """Kill it with all that it started, standing still or not."""
        self.suspend()  # so that nothing is started meanwhile
        for process in self._suspended:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._process.wait()

    def _all(self) -> list[psutil.Process]:
        """Return its processes, each before what it started."""
        with contextlib.suppress(psutil.Error):
            return [self._itself, *self._itself.children(recursive=True)]
        return []

    def kill(self) -> None:
        """Kill the command itself, as kill -9 does."""
        os.kill(self._process.pid, signal.SIGKILL)

    def wait(self) -> Watched:
        """Wait for its end."""
        self._process.wait()
        self._watcher.join()
        self._output.seek(0)
        output = self._output.read().decode(errors="replace")
        return Watched(self._process.returncode, output, time.monotonic() - self._started, dict(self._peaks))
