"""What a machine must have for hosts to be made on it: `why_not` says what is missing.

    python -m tests.cluster.machine    # as .ci/run does: installs what is missing, where Debian's apt-get can

Must not know what hosts are made of.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("ip", "tc", "unshare", "nsenter", "setpriv", "sshd", "ssh", "ssh-keygen", "rsync", "curl", "ps", "psql")
PACKAGES = ("iproute2", "util-linux", "openssh-server", "openssh-client", "rsync", "curl", "procps", "postgresql")
OWN_FOLDERS = ("/home", "/tmp", "/run", "/mnt", "/dev/shm")
"""A host has its own: what lies there on the machine is not seen inside."""
NAMESPACES = ("unshare", "--net", "--pid", "--fork", "--mount", "--uts", "--ipc", "--mount-proc")
POLICY = Path("/usr/sbin/policy-rc.d")
"""Debian asks it before it starts a service."""


def why_not() -> str | None:
    """Say why hosts cannot be made on this machine; None where they can."""
    if reason := forbidden():
        return reason
    if missing := missing_programs():
        return f"not installed: {', '.join(missing)} (Debian: {' '.join(PACKAGES)})"
    links = "ip link add bridge type bridge && ip link add v0 type veth peer v1"
    return _try(links, "a bridge and its cables cannot be made here")


def forbidden() -> str | None:
    """Say what no package would change; None where there is nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "namespaces need root on Linux"
    python = Path(sys.base_prefix).resolve()
    if hidden := next((folder for folder in OWN_FOLDERS if python.is_relative_to(folder)), None):
        return f"Python lies in {python}, and each host has a {hidden} of its own"
    return _try("mount -t tmpfs tmpfs /mnt", "namespaces are not allowed here")


def missing_programs() -> list[str]:
    """Return what is not installed."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    return missing + ["postgres"] * (not any(Path("/usr/lib/postgresql").glob("*/bin/initdb")))


def _try(command: str, trouble: str) -> str | None:
    tried = subprocess.run([*NAMESPACES, "sh", "-c", command], capture_output=True, text=True)
    return f"{trouble}: {tried.stderr.strip()}" if tried.returncode else None


def install() -> None:
    """Install what is missing, where that would do; a failure is said, and `why_not` says what it means."""
    if forbidden() or not missing_programs() or shutil.which("apt-get") is None:
        return
    with _services_off():
        for command in ("apt-get -qq update", f"apt-get -qq install -y --no-install-recommends {' '.join(PACKAGES)}"):
            env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            done = subprocess.run(command.split(), env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            if done.returncode:
                print(f"*** NOT INSTALLED: {command}: {done.stderr.strip()[-2000:]}", file=sys.stderr)
                return


@contextmanager
def _services_off() -> Iterator[None]:
    """Keep what is installed from being started: an SSH server would listen on this machine's own addresses."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


if __name__ == "__main__":
    install()
