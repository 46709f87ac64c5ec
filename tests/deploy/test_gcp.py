"""deploy/gcp.yaml, judged by Ray's schema, defaults and scheduler, and by this repository's promises. No account."""

import re

import pytest

from tests.deploy.launcher import (
    ROOT,
    Check,
    Cluster,
    Pins,
    dashboard_on_loopback,
    launches,
    no_secrets,
    one_python,
    scales_from_zero,
    schema,
    spot_and_on_demand,
    starts_as_on_aws,
    token_authentication,
    versions,
)

# From Compute Engine's list of machine types: CPUs, and the GPU that comes with the machine.
MACHINES = {"n2-standard-8": (8, None), "g2-standard-8": (8, "L4"), "n1-standard-8": (8, "T4")}
BF16_GPUS = {"L4", "A100", "H100"}  # Ampere and later


@pytest.fixture(scope="session")
def text() -> str:
    return (ROOT / "deploy" / "gcp.yaml").read_text()


def google_packages(cluster: Cluster, pins: Pins) -> list[str]:
    """The head gets what Ray's GCP provider imports, and every node what opens gs:// addresses."""
    installed = " ".join(cluster.prepared["setup_commands"])
    return [name for name in ("google-api-python-client", "google-auth-httplib2", "gcsfs") if name not in installed]


def gpus(cluster: Cluster, pins: Pins) -> list[str]:
    """The resources stated are those of the machine types; the head has no GPU, workers one that computes in bf16."""
    faults = []
    for name, node in cluster.node_types.items():
        cpus, gpu = MACHINES[node["node_config"]["machineType"]]
        stated = node["resources"]
        faults += [f"{name}: states {stated}"] * (stated["CPU"] != cpus or stated.get("GPU", 0) != (gpu is not None))
        faults += [f"{name}: GPU {gpu}"] * ((gpu in BF16_GPUS) != (name in cluster.workers))
        cannot_move = node["node_config"].get("scheduling", {}).get("onHostMaintenance") == "TERMINATE"
        faults += [f"{name}: GPU machines must end for maintenance"] * (gpu is not None and not cannot_move)
    return faults


def instance_safety(cluster: Cluster, pins: Pins) -> list[str]:
    """Own accounts and network, disks that go with their node, images by family, spot nodes that leave nothing."""
    account = cluster.head["node_config"].get("serviceAccounts")
    faults = ["stopped nodes are kept"] * (cluster.prepared["provider"].get("cache_stopped_nodes", True) is not False)
    for name, node in cluster.node_types.items():
        config = node["node_config"]
        market = config.get("scheduling", {})
        right = {
            "a service account": bool(config.get("serviceAccounts")),
            "an account of its own": node is cluster.head or config.get("serviceAccounts") != account,
            "the network of its own": [i.get("subnetwork", "")[-6:] for i in config.get("networkInterfaces", [])]
            == ["/t5ray"],
            "disks that go": all(disk.get("autoDelete") for disk in config["disks"]),
            "an image by family": all(
                re.fullmatch(r"projects/[a-z-]+/global/images/family/[a-z0-9-]+", d["initializeParams"]["sourceImage"])
                for d in config["disks"]
            ),
            "to be deleted, not stopped": market.get("provisioningModel") != "SPOT"
            or market.get("instanceTerminationAction") == "DELETE",
        }
        faults += [f"{name}: needs {what}" for what, holds in right.items() if not holds]
    return faults


FAULTS: list[tuple[Check, str, str]] = [  # check, text of gcp.yaml, the fault in its place
    (schema, "max_workers: 8  ", "max_worker: 8  "),
    (schema, "head_node_type: head", "head_node_type: boss"),
    (token_authentication, 'PATH" RAY_AUTH_MODE=token;', 'PATH";'),
    (dashboard_on_loopback, "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"),
    (scales_from_zero, "    min_workers: 0\n", "    min_workers: 1\n"),
    (versions, "]==2.60.0", "]==2.59.0"),
    (versions, " gcsfs &&", " gcsfs==2024.1.0 &&"),
    (versions, "/uv/0.13.9/", "/uv/0.13.8/"),
    (versions, "head_setup_commands: []", "# head_setup_commands: []"),  # Ray's default installs a client of its own
    (one_python, "--python 3.11.18", "--python 3.11"),
    (starts_as_on_aws, "--python 3.11.18", "--python 3.11.17"),
    (starts_as_on_aws, "--object-manager-port=8076\n", "--object-manager-port=8077\n"),
    (google_packages, " google-auth-httplib2", ""),
    (gpus, "machineType: g2-standard-8", "machineType: n1-standard-8"),
    (gpus, "machineType: n2-standard-8", "machineType: g2-standard-8"),
    (gpus, "scheduling: {onHostMaintenance: TERMINATE}", "canIpForward: false"),
    (spot_and_on_demand, "priority: 1\n", "priority: 0\n"),
    (spot_and_on_demand, "provisioningModel: SPOT, ", ""),
    (spot_and_on_demand, "provisioningModel: SPOT", "provisioningModel: STANDARD"),
    (instance_safety, "t5ray-worker@", "t5ray-head@"),
    (instance_safety, "autoDelete: true", "autoDelete: false"),
    (instance_safety, ", instanceTerminationAction: DELETE", ", instanceTerminationAction: STOP"),
    (instance_safety, "subnetworks/t5ray", "subnetworks/default"),
    (instance_safety, "images/family/ubuntu-2404-lts-amd64", "images/ubuntu-2404-noble-amd64-v20260101"),
    (instance_safety, "cache_stopped_nodes: false", "cache_stopped_nodes: true"),
    (no_secrets, "type: gcp", "type: gcp\n  gcp_credentials: {type: credentials_token, credentials: x}"),
    (no_secrets, "RAY_AUTH_MODE=token RAY_JOB", "RAY_AUTH_TOKEN=abc RAY_JOB"),
]
CHECKS = list(dict.fromkeys(check for check, _, _ in FAULTS))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_gcp_yaml_passes(check: Check, text: str, pins: Pins) -> None:
    assert check(Cluster(text), pins) == []


@pytest.mark.parametrize(("check", "old", "new"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_fault_is_found(check: Check, old: str, new: str, text: str, pins: Pins) -> None:
    assert text.count(old) >= 1, f"nothing to plant the fault in: {old}"

    assert check(Cluster(text.replace(old, new)), pins)


def test_trials_start_one_spot_node_each_and_never_more_than_max_workers(text: str) -> None:
    config = Cluster(text).prepared

    assert launches(config, {"GPU": 1, "CPU": 1}, count=3) == {"gpu_spot": 3}
    assert launches(config, {"GPU": 1, "CPU": 1}, count=100) == {"gpu_spot": 8}
    assert launches(config, {"CPU": 1}, count=8) == {}


def test_the_guide_names_the_files_accounts_and_network() -> None:
    guide = (ROOT / "docs" / "cluster.md").read_text()

    for name in ("t5ray-head", "t5ray-worker", "deploy/gcp.yaml", "subnets create t5ray"):
        assert name in guide
