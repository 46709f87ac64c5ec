"""One cluster for the whole folder: made by `ray up`, seen by every test, taken down with its hosts at the end."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.hosts import ROOT, lan_of
from tests.cluster.machine import why_not

UNTESTED = "THE CLUSTER WAS NOT TESTED"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end, where it is seen, that hosts were not to be had."""
    skipped = {str(report.longrepr[-1]) for report in terminalreporter.stats.get("skipped", [])}
    for reason in sorted(reason for reason in skipped if UNTESTED in reason):
        terminalreporter.write_line(f"*** {reason.removeprefix('Skipped: ')}", red=True, bold=True)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head and two workers, up."""
    reason = why_not()
    if reason:
        pytest.skip(f"{UNTESTED}: {reason}")
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # hosts are taken down when the tests are told to end, too
    folder = tmp_path_factory.mktemp("lan") / "hosts"
    with lan_of(folder, num_workers=2) as lan:
        found = Cluster(lan)
        found.furnish(_wheel(tmp_path_factory.mktemp("wheel")))
        found.up()
        yield found
    shutil.rmtree(folder, ignore_errors=True)


def _wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*command, str(folder), str(ROOT)], check=True)
    return next(folder.glob("t5ray-*.whl"))
