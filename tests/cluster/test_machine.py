"""Where hosts cannot be made it is said why, and only what would help is installed."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.cluster import machine

APT = ["apt-get -qq update", f"apt-get -qq install -y --no-install-recommends {' '.join(machine.PACKAGES)}"]
Plant = Callable[[str, object], None]


class Shell:
    """In place of `subprocess`: notes each command of apt-get, with whether services were kept off; refuses some."""

    DEVNULL = None

    def __init__(self, *refused: str) -> None:
        self.refused = refused
        self.installed = list[tuple[str, bool]]()

    def run(self, command: list[str], **options: object) -> "subprocess.CompletedProcess[str]":
        if command[0] == "apt-get":
            self.installed.append((" ".join(command), machine.POLICY.exists()))
        return subprocess.CompletedProcess(command, int(command[0] in self.refused), "", "not permitted\n")


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Changes one thing of a Debian of root's that allows everything and has everything."""

    def plant(name: str, value: object) -> None:
        monkeypatch.setattr(machine, name, value)

    plant("os", SimpleNamespace(geteuid=lambda: 0, environ={"PATH": "/usr/bin"}))
    plant("subprocess", Shell())
    plant("missing_programs", list)
    plant("shutil", SimpleNamespace(which=lambda name: f"/usr/bin/{name}"))
    plant("POLICY", tmp_path / "policy-rc.d")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("sys.base_prefix", "/usr")
    return plant


def test_a_machine_that_has_all_is_left_as_it_is(plant: Plant) -> None:
    plant("subprocess", shell := Shell())
    machine.install()
    assert machine.why_not() is None
    assert shell.installed == []


def test_what_is_missing_is_installed_and_not_started(plant: Plant) -> None:
    plant("subprocess", shell := Shell())
    plant("missing_programs", lambda: ["sshd", "psql"])
    assert machine.why_not() == f"not installed: sshd, psql (Debian: {' '.join(machine.PACKAGES)})"
    machine.install()
    assert shell.installed == [(command, True) for command in APT]
    assert not machine.POLICY.exists()


def test_where_packages_would_not_help_none_is_installed(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant("missing_programs", lambda: ["sshd"])
    plant("subprocess", shell := Shell("unshare"))
    assert machine.why_not() == "namespaces are not allowed here: not permitted"
    monkeypatch.setattr("sys.base_prefix", "/home/me/python")
    assert machine.why_not() == "Python lies in /home/me/python, and each host has a /home of its own"
    plant("os", SimpleNamespace(geteuid=lambda: 1000))
    assert machine.why_not() == "namespaces need root on Linux"
    machine.install()
    assert shell.installed == []


def test_an_installation_that_fails_is_said_and_ends_nothing(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    plant("missing_programs", lambda: ["sshd"])
    plant("subprocess", shell := Shell("apt-get"))
    machine.install()
    assert capsys.readouterr().err == "*** NOT INSTALLED: apt-get -qq update: not permitted\n"
    assert [command for command, _ in shell.installed] == APT[:1]
    assert not machine.POLICY.exists()
