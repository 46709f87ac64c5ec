"""Workers that share a node meet where nobody else can reach them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from t5ray.cluster import connect
from t5ray.training.rendezvous import GroupConfig, loopback_interface


def test_the_loopback_interface_is_found() -> None:
    assert any(each.address == "127.0.0.1" for each in psutil.net_if_addrs()[loopback_interface()])


def test_where_a_group_met_is_gone_once_its_process_has_ended(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from t5ray.training.rendezvous import _new_file\n"
        "found = {Path(_new_file()) for _ in range(2)}\n"
        "assert len(found) == 2 and all(path.parent.is_dir() and not path.exists() for path in found)"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, check=True)
    assert not list(tmp_path.glob("t5ray-*"))


def look(config: dict[str, str]) -> None:
    """Add up over the group, and note where this worker accepts connections meanwhile."""
    import psutil
    import torch
    import torch.distributed as dist

    total = torch.ones(3) * (dist.get_rank() + 1)
    dist.all_reduce(total)
    sockets = psutil.Process().net_connections(kind="inet")
    found = sorted({each.laddr.ip.removeprefix("::ffff:") for each in sockets if each.status == psutil.CONN_LISTEN})
    Path(config["folder"], f"{dist.get_rank()}.json").write_text(json.dumps([total.tolist(), found]))
    dist.barrier()


@pytest.mark.integration
def test_workers_of_one_node_listen_on_loopback_only(tmp_path: Path) -> None:
    import ray.train
    from ray.train.torch import TorchTrainer

    with connect(None, num_cpus=2):
        TorchTrainer(
            look,
            train_loop_config={"folder": str(tmp_path)},
            scaling_config=ray.train.ScalingConfig(num_workers=2),
            torch_config=GroupConfig(),
            run_config=ray.train.RunConfig(storage_path=str(tmp_path / "runs")),
        ).fit()
    for rank in (0, 1):
        total, listening = json.loads((tmp_path / f"{rank}.json").read_text())
        assert total == [3.0, 3.0, 3.0]
        assert listening == ["127.0.0.1"]
