"""Hosts made of namespaces: each with an address, processes, temporary folders, a home and an SSH server of its own.

    with lan_of(folder, num_workers=2) as lan:
        lan.client.run("ray up -y cluster.yaml")
        lan.workers[0].unplug()

All hosts hang on one bridge, which lies in a namespace too: nothing listens outside of them, and nothing outside can be
reached from them. Every host sees the machine's files (the same root), but has its own /home, /tmp,
/run and /dev/shm; `/mnt/shared` is one folder that all of them see, as a network file system is.

What a machine must have for it: machine.py. It does not matter where the checkout and its virtual environment lie.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.cluster.image import copy_tree, make_image
from tests.cluster.slowness import part_of_a_core, processes_in

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
USER = "ubuntu"
"""The user of cluster.yaml; here another name of root, so that it may read the machine's Python."""
HOME = Path("/home") / USER
SHARED = Path("/mnt/shared")
NETWORK = "10.77.0"
INIT = """
set -eu
mount --make-rprivate /
mount --bind {folder}/etc/passwd /etc/passwd
mount --bind {folder}/etc/hosts /etc/hosts
cd {folder}
for place in /mnt /run /dev/shm; do mount -t tmpfs tmpfs $place; done
mkdir -p {shared} /run/sshd
mount --bind ../shared {shared}
cp etc/sshd_config etc/host_key /run/sshd/
mount -t tmpfs tmpfs /home
mkdir {home}
mount --bind home {home}
mount --bind tmp /tmp
hostname {name}
ip link set lo up
cd {home}
trap '' TERM
{server}
touch /tmp/.ready
while :; do sleep 1; done
"""
"""What process 1 of a host does; as a shell it also reaps the orphans of Ray."""


@dataclass
class Host:
    """One host."""

    name: str
    address: str
    folder: Path
    """Its own files: home, tmp."""
    lan: str
    """Namespace of the bridge."""
    shared_folder: Path
    serves_ssh: bool = True
    init: "subprocess.Popen[bytes] | None" = None
    inside: str = ""
    """PID namespace of its processes, once it was on."""

    @property
    def home(self) -> Path:
        """Its home folder, as seen from outside."""
        return self.folder / "home"

    @property
    def link(self) -> str:
        """Its end of the cable, at the bridge."""
        return f"v{self.name}"

    def start(self) -> None:
        """Switch it on; its home keeps what it held."""
        until(lambda: not processes_in(self.inside), 60, f"what ran on {self.name} to be gone")
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)  # as after a boot
        (self.folder / "tmp").mkdir(mode=0o1777)
        server = "/usr/sbin/sshd -f /run/sshd/sshd_config" if self.serves_ssh else ""
        script = INIT.format(home=HOME, shared=SHARED, folder=self.folder, name=self.name, server=server)
        sh("ip", "netns", "add", self.namespace)
        self._plug_in()
        command = ["ip", "netns", "exec", self.namespace, "unshare", "--pid", "--fork", "--kill-child", "--mount"]
        command += ["--uts", "--ipc", "--mount-proc", "bash", "-c", script]
        log = (self.folder / "init.log").open("ab")
        self.init = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        until(lambda: (self.folder / "tmp/.ready").exists(), 60, f"{self.name} to start ({self.folder}/init.log)")
        self.inside = os.readlink(f"/proc/{self._first}/ns/pid")

    @property
    def namespace(self) -> str:
        """Name of its network namespace."""
        return f"{self.lan}-{self.name}"

    def _plug_in(self) -> None:
        sh("ip", "link", "add", self.link, "netns", self.lan, "type", "veth", "peer", "eth0", "netns", self.namespace)
        sh("ip", "-n", self.lan, "link", "set", self.link, "master", "bridge", "up")
        sh("ip", "-n", self.namespace, "addr", "add", f"{self.address}/24", "dev", "eth0")
        sh("ip", "-n", self.namespace, "link", "set", "eth0", "up")
        sh("ip", "-n", self.namespace, "link", "set", "lo", "up")

    def _inside(self) -> list[str]:
        """Return what runs a command inside."""
        return ["nsenter", "--target", self._first, "--net", "--pid", "--mount", "--uts", "--ipc"]

    @property
    def _first(self) -> str:
        """Id of its process 1, as seen from outside."""
        assert self.init is not None, f"{self.name} is off"
        return Path(f"/proc/{self.init.pid}/task/{self.init.pid}/children").read_text().split()[0]

    def popen(self, command: str, log: Path | None = None) -> "subprocess.Popen[str]":
        """Start a shell command inside, as its user at login."""
        env = {"HOME": str(HOME), "PATH": f"{HOME}/t5ray-env/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
        env |= {"USER": USER, "LANG": "C.UTF-8", "TERM": "dumb"}
        out = log.open("a") if log else subprocess.PIPE
        return subprocess.Popen(
            [*self._inside(), "bash", "-c", f"cd {HOME}; {command}"],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str, *, timeout_s: float = 300, check: bool = True) -> str:
        """Run a shell command inside and return what it printed."""
        process = self.popen(command)
        try:
            printed, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            printed, _ = process.communicate()
            raise TimeoutError(f"{self.name}$ {command}: not done in {timeout_s:g} s\n{printed[-4000:]}") from None
        if check and process.returncode:
            raise RuntimeError(f"{self.name}$ {command}: exit {process.returncode}\n{printed[-6000:]}")
        return printed

    def unplug(self) -> None:
        """Take the cable out: packets are lost, processes go on."""
        sh("ip", "-n", self.lan, "link", "set", self.link, "down")

    @contextmanager
    def slowed_down(self, *, delay_ms: int, rate_mbit: int, cpu_share: float) -> Iterator[None]:
        """Make its network slow in both directions, and its processes, old and new, compute for a part of the time.

        A kernel without netem delays only what exceeds the rate.
        """
        ends = [("-n", self.lan, "qdisc"), ("-n", self.namespace, "qdisc")]
        devices = [self.link, "eth0"]
        rate = f"{rate_mbit}mbit"
        for end, device in zip(ends, devices, strict=True):
            command = ["tc", *end, "replace", "dev", device, "root"]
            if subprocess.run(
                [*command, "netem", "delay", f"{delay_ms}ms", "rate", rate], capture_output=True
            ).returncode:
                sh(*command, "tbf", "rate", rate, "burst", "32kbit", "latency", "400ms")
        try:
            with part_of_a_core(f"{self.lan}-{self.name}", cpu_share, self.inside):
                yield
        finally:
            for end, device in zip(ends, devices, strict=True):
                sh("tc", *end, "del", "dev", device, "root")

    def kill(self) -> None:
        """Switch it off: every process inside ends at once, as when the power goes."""
        if self.init is not None:
            self.init.kill()  # --kill-child takes process 1 along, and the kernel everything in its namespace
            self.init.wait()
            self.init = None
        subprocess.run(["ip", "-n", self.lan, "link", "del", self.link], capture_output=True)
        subprocess.run(["ip", "netns", "del", self.namespace], capture_output=True)


@dataclass
class Lan:
    """A client, a head and workers, each able to reach the others by SSH."""

    folder: Path
    client: Host
    head: Host
    workers: list[Host]
    hosts: list[Host] = field(init=False)

    def __post_init__(self) -> None:
        self.hosts = [self.client, self.head, *self.workers]

    @property
    def shared(self) -> Path:
        """The folder that every host sees as /mnt/shared, as seen from outside."""
        return self.folder / "shared"


@contextmanager
def lan_of(folder: Path, *, num_workers: int) -> Iterator[Lan]:
    """Make hosts in a folder, and take them down again whatever happens.

    Args:
        folder: empty; holds what the hosts write. On the file system of the virtual environment it costs little space.
    """
    name = f"t5r{os.getpid() % 10_000}"
    (folder / "shared").mkdir(parents=True)
    keys = _make_keys(folder)
    names = ["client", "head", *(f"worker{i}" for i in range(1, num_workers + 1))]
    hosts = [
        Host(host, f"{NETWORK}.{10 + i}", folder / host, name, folder / "shared", serves_ssh=host != "client")
        for i, host in enumerate(names)
    ]
    sh("ip", "netns", "add", name)
    try:
        sh("ip", "-n", name, "link", "add", "bridge", "type", "bridge")
        sh("ip", "-n", name, "link", "set", "bridge", "up")
        image = make_image(folder, HOME / "t5ray-env")
        for host in hosts:
            _furnish(host, hosts, keys, image)
            host.start()
        yield Lan(folder, hosts[0], hosts[1], hosts[2:])
    finally:
        for host in hosts:
            host.kill()
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


def _make_keys(folder: Path) -> Path:
    keys = folder / "keys"
    keys.mkdir()
    for name in ("user", "host"):
        sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / name))
    return keys


def _furnish(host: Host, hosts: Sequence[Host], keys: Path, image: Path) -> None:
    """Lay the home and the settings of one host."""
    ssh = host.home / ".ssh"
    ssh.mkdir(parents=True, mode=0o700)
    shutil.copy(keys / "user.pub", ssh / "authorized_keys")
    if not host.serves_ssh:
        shutil.copy(keys / "user", ssh / "cluster.pem")
        (ssh / "cluster.pem").chmod(0o600)
    (host.home / ".bashrc").touch()
    copy_tree(image, host.home / "t5ray-env")
    etc = host.folder / "etc"
    etc.mkdir()
    passwd = Path("/etc/passwd").read_text()
    (etc / "passwd").write_text(f"{USER}:x:0:0::{HOME}:/bin/bash\n{passwd}")
    names = "".join(f"{other.address} {other.name}\n" for other in hosts)
    (etc / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
    shutil.copy(keys / "host", etc / "host_key")
    (etc / "sshd_config").write_text(
        f"ListenAddress {host.address}\nHostKey /run/sshd/host_key\nPidFile none\n"
        "PasswordAuthentication no\nUsePAM no\n"
        f"StrictModes no\nPermitRootLogin prohibit-password\nAuthorizedKeysFile {HOME}/.ssh/authorized_keys\n"
        "AcceptEnv *\nMaxStartups 100\nMaxSessions 100\n"
    )


def sh(*command: str) -> str:
    """Run a command of this machine and return what it printed.

    Raises:
        RuntimeError: it failed, with what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def until(done: Callable[[], T], timeout_s: float, what: str) -> T:
    """Wait for something to become true, and return it.

    Raises:
        TimeoutError: it did not in time.
    """
    deadline = time.monotonic() + timeout_s
    while not (found := done()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}")
        time.sleep(0.5)
    return found
