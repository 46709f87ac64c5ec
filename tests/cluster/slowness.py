"""Processes that get a part of one core's time."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
FIRST = GROUPS / "cpu"
"""Control groups of version 1 have a folder for each resource."""
PERIOD_US = 100_000
EMPTY_WITHIN_S = 30


@contextmanager
def part_of_a_core(name: str, share: float, namespace: str) -> Iterator[None]:
    """Let the processes of a PID namespace, old and new, compute for a share of the time, all of them together.

    Args:
        namespace: as /proc/PID/ns/pid links to it.
    """
    group = _make_group(name, int(share * PERIOD_US))
    try:
        while outside := processes_in(namespace) - _members(group):  # one may have started meanwhile
            _move(outside, group)
        yield
    finally:
        _dissolve(group)


def _make_group(name: str, quota_us: int) -> Path:
    if FIRST.is_dir():
        group = FIRST / name
        group.mkdir()
        (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        return group
    with suppress(OSError):  # most systems have it on
        (GROUPS / "cgroup.subtree_control").write_text("+cpu")
    group = GROUPS / name
    group.mkdir()
    (group / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
    return group


def _dissolve(group: Path) -> None:
    """Take the limit off; the kernel lets a group go once nothing is in it."""
    deadline = time.monotonic() + EMPTY_WITHIN_S
    while True:
        _move(_members(group), group.parent)
        try:
            group.rmdir()
        except OSError:  # a process has started meanwhile, or is ending
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def processes_in(namespace: str) -> set[str]:
    """Return the ids, as seen from outside, of what runs in a namespace."""
    return {path.name for path in Path("/proc").glob("[0-9]*") if _namespace_of(path) == namespace}


def _namespace_of(process: Path) -> str | None:
    try:
        return os.readlink(process / "ns/pid")
    except OSError:  # it has ended
        return None


def _members(group: Path) -> set[str]:
    return set((group / "cgroup.procs").read_text().split())


def _move(processes: set[str], group: Path) -> None:
    for process in processes:
        with suppress(ProcessLookupError):  # it has ended
            (group / "cgroup.procs").write_text(process)
