"""Page faults, as the kernel counts them, of a thread that takes and frees what a training step does."""

import json
import os
import platform
import resource
import subprocess
import sys

import pytest

from t5ray import heap
from t5ray.cluster import connect

BYTES = 48 * 2**20
"""Larger than what glibc serves from its heaps by itself (32 MiB)."""
TAKE = f"""
import ctypes, resource, sys, threading
from t5ray import heap

libc = ctypes.CDLL(None)
libc.prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: a page is a page
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.memset.argtypes, libc.free.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t], [ctypes.c_void_p]

def take():
    for _ in range(2):  # beyond the first time
        if sys.argv[1].endswith("given back"):
            heap.give_back()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = libc.malloc({BYTES})
        libc.memset(block, 1, {BYTES})
        libc.free(block)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

if sys.argv[1].startswith("kept"):
    heap.keep_freed_memory()
thread = threading.Thread(target=take)
thread.start()
thread.join()
"""
PAGES = BYTES // resource.getpagesize()


def faults(kept: str, environment: dict[str, str]) -> int:
    """Return the faults of taking it for the second time."""
    tuned = ("GLIBC_TUNABLES", "MALLOC_", "LD_PRELOAD")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(tuned)}
    command = [sys.executable, "-c", TAKE, kept]
    return int(subprocess.run(command, env=variables | environment, capture_output=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="they are glibc's settings")
def test_memory_that_was_freed_costs_no_page_faults_again() -> None:
    assert faults("as it comes", {}) >= PAGES
    assert faults("kept", {}) < PAGES / 100
    assert faults("as it comes", heap.environment()) < PAGES / 100
    assert faults("kept", {"GLIBC_TUNABLES": "glibc.malloc.check=0"}) >= PAGES  # its user's affair
    assert faults("kept, given back", {}) >= PAGES


@pytest.mark.integration
def test_workers_of_an_own_ray_begin_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that the user has set stays; ours is gone from this process."""
    import ray

    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setenv("T5RAY_SET", "by the user")
    ours = {**heap.environment(), "T5RAY_SET": "by us"}
    with connect("local", num_cpus=1, environment=ours):
        found = json.loads(ray.get(ray.remote(_environment).remote()))
    assert found["GLIBC_TUNABLES"] == heap.environment()["GLIBC_TUNABLES"]
    assert found["T5RAY_SET"] == "by the user"
    assert "GLIBC_TUNABLES" not in os.environ


def _environment() -> str:
    return json.dumps(dict(os.environ))


HEAPS = """
import ctypes, threading

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.fopen.restype, libc.malloc_info.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
libc.fflush.argtypes = [ctypes.c_void_p]
together = threading.Barrier(7)

def take():
    libc.malloc(1000)
    together.wait()

threads = [threading.Thread(target=take) for _ in range(6)]
for thread in threads:
    thread.start()
together.wait()
out = libc.fopen(b"/dev/stdout", b"w")
libc.malloc_info(0, out)
libc.fflush(out)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that is told")
def test_the_threads_of_a_process_that_scores_share_two_heaps() -> None:
    bare = {name: value for name, value in os.environ.items() if name not in (heap.VARIABLE, "MALLOC_ARENA_MAX")}

    def num_heaps(environment: dict[str, str]) -> int:
        command = [sys.executable, "-c", HEAPS]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.count(
            "<heap "
        )

    assert num_heaps(bare) > 4
    assert num_heaps(bare | heap.sharing_environment()) == 2
