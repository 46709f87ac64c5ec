"""How the workers of a group find each other. Workers on several nodes do it as Ray Train lets them, over TCP.

torch's TCP store listens on every interface of its node, and gloo on the one that the host's name leads to. Workers
that share a node need neither: they meet in a file and talk over loopback, so that nobody else can reach them.
"""

import atexit
import os
from contextlib import ExitStack
from pathlib import Path

import psutil
import ray
from ray.train._internal.base_worker_group import BaseWorkerGroup
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend

from t5ray.training.scratch import scratch

INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


class GroupConfig(TorchConfig):  # type: ignore[misc]
    """Ray Train's settings of a process group, which meets as this module says."""

    @property
    def backend_cls(self) -> type["_GroupBackend"]:
        """What sets the group up."""
        return _GroupBackend


class _GroupBackend(_TorchBackend):  # type: ignore[misc]
    """Runs on the driver of a group."""

    def on_start(self, worker_group: BaseWorkerGroup, backend_config: TorchConfig) -> None:
        if len(set(worker_group.execute(_node))) > 1:
            super().on_start(worker_group, backend_config)
            return
        file = worker_group.execute_single(0, _new_file)
        worker_group.execute(_set_torch_distributed_env_vars)
        joining = [
            worker_group.execute_single_async(
                rank, _join, backend_config.backend, rank, len(worker_group), file, backend_config.timeout_s
            )
            for rank in range(len(worker_group))
        ]
        ray.get(joining)


def _node() -> str:
    return str(ray.get_runtime_context().get_node_id())


def _new_file() -> str:
    """Return where the workers meet: a file that is not there yet, in a folder that worker 0 has while it lives."""
    held = ExitStack()
    folder = held.enter_context(scratch("group"))
    atexit.register(held.close)
    return str(Path(folder, "store"))


def _join(backend: str, rank: int, size: int, file: str, timeout_s: int) -> None:
    """Join the group. A user's own choice of interfaces stands."""
    for name in INTERFACE_VARIABLES:
        os.environ.setdefault(name, loopback_interface())
    _setup_torch_process_group(backend, rank, size, Path(file).as_uri(), timeout_s)


def loopback_interface() -> str:
    """Return the name of the interface that has 127.0.0.1."""
    return next(
        name for name, found in psutil.net_if_addrs().items() if any(each.address == "127.0.0.1" for each in found)
    )
