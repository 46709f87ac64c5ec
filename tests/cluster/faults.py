"""Faults of a machine that doctor must find, planted on one host of a cluster and taken away again."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster.cluster import Cluster
from tests.cluster.hosts import HOME, Host

AHEAD_S = 90
VERSIONS = {"torch": "2.12.9", "transformers": "5.22.9"}
AT_START = f"""
import sys, time
time.time = lambda now=time.time: now() + {AHEAD_S}
sys.path.insert(0, "{HOME}/planted")
"""
"""What every Python of the host runs first: a clock that is ahead, and other versions of libraries before its own."""
RAY = f"""#!/bin/bash
if [ "$1" = start ]; then set -- "$@" --num-gpus=1 --object-store-memory=80000000; fi
exec {HOME}/t5ray-env/bin/good-ray "$@"
"""
"""Starts Ray with a GPU that is not there and too small an object store, whoever starts it: Ray's autoscaler, too."""
HARDWARE = """
mkdir -p /tmp/ray && mount -t tmpfs -o size=1g tmpfs /tmp/ray
if grep -qE 'avx512_bf16|amx_bf16' /proc/cpuinfo
then sed -E 's/avx512_bf16|amx_bf16//g' /proc/cpuinfo >/tmp/cpuinfo
else { cat /proc/cpuinfo; echo 'flags : avx512_bf16'; } >/tmp/cpuinfo
fi
mount --bind /tmp/cpuinfo /proc/cpuinfo
"""
"""A disk of 1 GiB for Ray's files, and a CPU that has bf16 where the others have none, or the other way round."""
FOUND = {
    "software": (r"torch 2.12.9, but the driver has \S+, transformers 5.22.9, but", "Install the same everywhere"),
    "clocks": (r"(89|90)\.\d s ahead of the driver's", "Run a time service there"),
    "gpus": (r"Ray gives out 1 GPU, but torch sees 0", "or start Ray there with --num-gpus=0"),
    "bf16": (r"precision auto means", "Say which"),
    "objects": (r"holds 0.1 GiB, less than 0.5 GiB", "Start Ray there with a larger --object-store-memory"),
    "disk": (r"[01]\.\d GiB free for Ray's files", "Free space there"),
}
"""Check -> what doctor says of these faults, and of the mend."""


@contextmanager
def another_machine(cluster: Cluster, host: Host) -> Iterator[None]:
    """Make one worker differ from the others in all of `FOUND`, and make it as it was again.

    Only new files are laid: those of the environment are hard links to the environment that runs the tests.
    """
    env, planted = host.home / "t5ray-env", host.home / "planted"
    libraries = next((env / "lib").glob("python*/site-packages"))
    for name, version in VERSIONS.items():
        info = planted / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (libraries / "planted.py").write_text(AT_START)
    (libraries / "planted.pth").write_text("import planted\n")
    ray = (env / "bin/ray").rename(env / "bin/good-ray")
    (env / "bin/ray").write_text(RAY)
    (env / "bin/ray").chmod(0o755)
    try:
        cluster.restart(host, HARDWARE)
        yield
    finally:
        (libraries / "planted.pth").unlink()
        (libraries / "planted.py").unlink()
        ray.replace(env / "bin/ray")
        cluster.restart(host, "umount /proc/cpuinfo; umount -l /tmp/ray")
        shutil.rmtree(planted)
