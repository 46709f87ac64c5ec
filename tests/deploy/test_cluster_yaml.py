"""cluster.yaml, judged by Ray's own code and by this repository's promises.

No network and no AWS account: `FACTS` stands in for EC2's DescribeInstanceTypes, and boto3 and botocore are replaced by
mocks while Ray's AWS modules are imported. Everything else that judges here is Ray's: schema, defaults, security-group
rules, resources of node types, scheduler.

Each check returns the faults that it finds: none in cluster.yaml, at least one where `FAULTS` plants one.
"""

import importlib
import re
import shlex
import sys
import warnings
from collections.abc import Iterator
from typing import Any
from unittest import mock

import click
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
    token_authentication,
    versions,
)

MODULES_THAT_CALL_AWS = (
    "boto3",
    "boto3.exceptions",
    "boto3.resources",
    "boto3.resources.base",
    "botocore",
    "botocore.client",
    "botocore.config",
    "botocore.exceptions",
)
BF16_GPUS = {"A10G", "L4", "L40S", "A100", "H100"}  # Ampere and later

# From EC2's DescribeInstanceTypes, cut to what Ray reads.
FACTS = [
    {"InstanceType": "m6i.2xlarge", "VCpuInfo": {"DefaultVCpus": 8}, "MemoryInfo": {"SizeInMiB": 32768}},
    {
        "InstanceType": "g6.2xlarge",
        "VCpuInfo": {"DefaultVCpus": 8},
        "MemoryInfo": {"SizeInMiB": 32768},
        "GpuInfo": {"Gpus": [{"Name": "L4", "Manufacturer": "NVIDIA", "Count": 1}]},
    },
    {
        "InstanceType": "g4dn.2xlarge",
        "VCpuInfo": {"DefaultVCpus": 8},
        "MemoryInfo": {"SizeInMiB": 32768},
        "GpuInfo": {"Gpus": [{"Name": "T4", "Manufacturer": "NVIDIA", "Count": 1}]},
    },
]


@pytest.fixture(scope="session")
def text() -> str:
    return (ROOT / "cluster.yaml").read_text()


@pytest.fixture(scope="session")
def cluster(text: str) -> Cluster:
    return Cluster(text)


def ray_aws_module(name: str) -> Any:
    """Import one of Ray's AWS modules with boto3 and botocore mocked, whether or not they are installed."""
    stubs = {module: mock.MagicMock(__version__="1.43.0", name=module) for module in MODULES_THAT_CALL_AWS}
    with mock.patch.dict(sys.modules, stubs):  # also forgets Ray's modules afterwards
        return importlib.import_module(f"ray.autoscaler._private.aws.{name}")


# --- The checks ---------------------------------------------------------------------------------------------------


def only_ssh_is_open(cluster: Cluster, pins: Pins) -> list[str]:
    """Of the rules that Ray would write, those that name addresses name port 22."""
    own = "sg-own"
    extra = cluster.prepared["provider"].get("security_group", {}).get("IpPermissions", [])
    rules = ray_aws_module("config")._create_default_inbound_rules({own}, extra)
    faults = []
    for rule in rules:
        if any(pair["GroupId"] != own for pair in rule.get("UserIdGroupPairs", [])):
            faults.append(f"a group of others: {rule}")
        from_addresses = any(rule.get(key) for key in ("IpRanges", "Ipv6Ranges", "PrefixListIds"))
        ports = (rule["IpProtocol"], rule.get("FromPort"), rule.get("ToPort"))
        if from_addresses and ports != ("tcp", 22, 22):
            faults.append(f"open: {rule}")
    for name, node in cluster.node_types.items():
        if node["node_config"].keys() & {"SecurityGroupIds", "SecurityGroups", "NetworkInterfaces", "LaunchTemplate"}:
            faults.append(f"{name}: rules from elsewhere")
    return faults + ["a group that others may have opened"] * ("security_group" not in cluster.prepared["provider"])


def gpus(cluster: Cluster, pins: Pins) -> list[str]:
    """The resources stated are those of the instance types; the head has no GPU, workers one that computes in bf16."""
    provider = ray_aws_module("node_provider")
    detected = {**cluster.prepared, "available_node_types": {}}
    for name, node in cluster.node_types.items():
        detected["available_node_types"][name] = {**node, "resources": {}}
    with mock.patch.object(provider, "list_ec2_instances", return_value=FACTS):
        filled = provider.AWSNodeProvider.fillout_available_node_types_resources(detected)["available_node_types"]
    faults = []
    for name, node in cluster.node_types.items():
        has = filled[name]["resources"]
        if any(has.get(key, 0) != node["resources"].get(key, 0) for key in ("CPU", "GPU")):
            faults.append(f"{name}: states {node['resources']}, has {has}")
        kinds = {key.removeprefix("accelerator_type:") for key in has if key.startswith("accelerator_type:")}
        if kinds - BF16_GPUS or bool(kinds) != (name in cluster.workers):
            faults.append(f"{name}: GPU {kinds or 'none'}")
    return faults


def instance_safety(cluster: Cluster, pins: Pins) -> list[str]:
    """Own IAM profiles, IMDSv2, encrypted disks that go with their node, images that no region outdates."""
    profile = cluster.head["node_config"].get("IamInstanceProfile")
    faults = ["stopped nodes are kept"] * (cluster.prepared["provider"].get("cache_stopped_nodes", True) is not False)
    for name, node in cluster.node_types.items():
        config = node["node_config"]
        disks = [disk["Ebs"] for disk in config.get("BlockDeviceMappings", [])]
        right = {
            "an IAM profile": "IamInstanceProfile" in config,
            "a profile of its own": node is cluster.head or config.get("IamInstanceProfile") != profile,
            "IMDSv2": config.get("MetadataOptions", {}).get("HttpTokens") == "required",
            "encrypted disks": bool(disks) and all(disk.get("Encrypted") for disk in disks),
            "disks that go": all(disk.get("DeleteOnTermination") for disk in disks),
            "an image by parameter": config.get("ImageId", "").startswith("resolve:ssm:/aws/service/"),
        }
        faults += [f"{name}: needs {what}" for what, holds in right.items() if not holds]
    return faults


RULES = "IpPermissions: ["
SPOT = "      InstanceMarketOptions: {MarketType: spot}"
FAULTS: list[tuple[Check, str, str]] = [  # check, text of cluster.yaml, the fault in its place
    (schema, "max_workers: 8  ", "max_worker: 8  "),
    (schema, "head_node_type: head", "head_node_type: boss"),
    (schema, "priority: 1 ", "priority: high "),
    (token_authentication, 'PATH" RAY_AUTH_MODE=token;', 'PATH";'),
    (token_authentication, 'PATH" RAY_AUTH_MODE=token RAY_JOB', 'PATH" RAY_JOB'),
    (token_authentication, "  ~/.ray/auth_token: ~/.ray/auth_token\n", ""),
    (token_authentication, "  - chmod 600 ~/.ray/auth_token\n", ""),
    (token_authentication, "ray start --address", "ray join --address"),
    (dashboard_on_loopback, "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"),
    (dashboard_on_loopback, "--dashboard-host=127.0.0.1", "--disable-usage-stats"),
    (scales_from_zero, "    min_workers: 0\n", "    min_workers: 1\n"),
    (scales_from_zero, "    max_workers: 8\n    priority: 1", "    max_workers: 0\n    priority: 1"),
    (scales_from_zero, "    max_workers: 0  ", "    max_workers: 1  "),
    (only_ssh_is_open, RULES, RULES + "{IpProtocol: tcp, FromPort: 80, ToPort: 80, IpRanges: [{CidrIp: 0.0.0.0/0}]}"),
    (only_ssh_is_open, RULES, RULES + "{IpProtocol: tcp, FromPort: 22, ToPort: 23, Ipv6Ranges: [{CidrIpv6: '::/0'}]}"),
    (only_ssh_is_open, RULES, RULES + "{IpProtocol: '-1', UserIdGroupPairs: [{GroupId: sg-other}]}"),
    (only_ssh_is_open, "InstanceType: m6i.2xlarge", "InstanceType: m6i.2xlarge\n      SecurityGroupIds: [sg-1]"),
    (versions, "]==2.60.0", "]==2.59.0"),
    (versions, "]==2.60.0", "]>=2.60.0"),
    (versions, "pip install -c constraints.txt", "pip install"),
    (versions, " boto3 s3fs", " boto3==1.4.8 s3fs"),
    (versions, " boto3 s3fs", " boto3 s3fs leftpad"),
    (versions, "/uv/0.13.9/", "/uv/0.13.8/"),
    (versions, "/uv/0.13.9/", "/uv/"),
    (versions, "head_setup_commands: []", "# head_setup_commands: []"),
    (versions, "setup_commands:\n  - chmod", "metadata:\n  - chmod"),
    (one_python, "--python 3.11.18", "--python 3.11"),
    (one_python, "worker_setup_commands: []", "worker_setup_commands: [uv venv --python 3.11.17 x]"),
    (gpus, "InstanceType: g6.2xlarge", "InstanceType: m6i.2xlarge"),
    (gpus, "InstanceType: g6.2xlarge", "InstanceType: g4dn.2xlarge"),
    (gpus, "InstanceType: m6i.2xlarge", "InstanceType: g6.2xlarge"),
    (gpus, "resources: {CPU: 8}", "resources: {CPU: 16}"),
    (spot_and_on_demand, "priority: 1 ", "priority: 0 "),
    (spot_and_on_demand, SPOT, "      InstanceType: g6.2xlarge"),
    (spot_and_on_demand, SPOT, SPOT + "\n      InstanceType: g5.2xlarge"),
    (spot_and_on_demand, SPOT, SPOT.replace("spot", "capacity-block")),
    (instance_safety, "{Name: t5ray-worker}", "{Name: t5ray-head}"),
    (instance_safety, "HttpTokens: required", "HttpTokens: optional"),
    (instance_safety, ", Encrypted: true", ""),
    (instance_safety, ", DeleteOnTermination: true", ""),
    (instance_safety, "      IamInstanceProfile: {Name: t5ray-head}\n", ""),
    (instance_safety, "ImageId: resolve:ssm:/aws/service/canonical", "ImageId: ami-0123/canonical"),
    (instance_safety, "cache_stopped_nodes: false", "cache_stopped_nodes: true"),
    (no_secrets, "RAY_AUTH_MODE=token RAY_JOB", "RAY_AUTH_TOKEN=abc RAY_JOB"),
    (no_secrets, "{Name: t5ray-head}", "{Arn: 'arn:aws:iam::123456789012:instance-profile/t5ray-head'}"),
    (no_secrets, "type: aws", "type: aws\n  aws_credentials: {}"),
    (no_secrets, "region: us-west-2", "region: us-west-2  # AKIAIOSFODNN7EXAMPLE"),
]
CHECKS = list(dict.fromkeys(check for check, _, _ in FAULTS))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_cluster_yaml_passes(check: Check, cluster: Cluster, pins: Pins) -> None:
    assert check(cluster, pins) == []


@pytest.mark.parametrize(("check", "old", "new"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_fault_is_found(check: Check, old: str, new: str, text: str, pins: Pins) -> None:
    assert text.count(old) >= 1, f"nothing to plant the fault in: {old}"

    assert check(Cluster(text.replace(old, new)), pins)


# --- What Ray's scheduler makes of it -----------------------------------------------------------------------------


def test_trials_start_one_spot_node_each(cluster: Cluster) -> None:
    assert launches(cluster.prepared, {"GPU": 1, "CPU": 1}, count=3) == {"gpu_spot": 3}


def test_never_more_nodes_than_max_workers(cluster: Cluster) -> None:
    assert launches(cluster.prepared, {"GPU": 1, "CPU": 1}, count=100) == {"gpu_spot": 8}


def test_work_without_gpu_stays_on_the_head(cluster: Cluster) -> None:
    assert launches(cluster.prepared, {"CPU": 1}, count=8) == {}


def test_a_higher_priority_turns_new_nodes_to_on_demand(text: str) -> None:
    turned = Cluster(text.replace("priority: 0", "priority: 2"))

    assert launches(turned.prepared, {"GPU": 1, "CPU": 1}, count=3) == {"gpu_on_demand": 3}


# --- docs/cluster.md ----------------------------------------------------------------------------------------------


def ray_commands(document: str) -> Iterator[list[str]]:
    """Yield the words after `ray` of each command up to ` -- `, from code blocks and from code within sentences."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", document, flags=re.DOTALL)).replace("\\\n", " ")
    sentences = re.sub(r"```bash\n.*?```", "", document, flags=re.DOTALL)
    for command in [*blocks.splitlines(), *re.findall(r"`(ray [^`]+)`", sentences)]:
        if command.startswith("ray "):
            words = shlex.split(command, comments=True)[1:]
            yield words[: words.index("--")] if "--" in words else words


def test_the_guide_uses_options_that_ray_has() -> None:
    with warnings.catch_warnings():  # Ray Serve, which comes along, uses pydantic in a deprecated way
        warnings.simplefilter("ignore")
        ray_cli = importlib.import_module("ray.scripts.scripts").cli
    unknown, seen = [], set()
    for words in ray_commands((ROOT / "docs" / "cluster.md").read_text()):
        command: click.Command = ray_cli
        while isinstance(command, click.Group):
            command, words = command.commands[words[0]], words[1:]
        known = {option for parameter in command.params for option in parameter.opts}
        unknown += [(command.name, word) for word in words if word.startswith("-") and word.split("=")[0] not in known]
        seen.add(command.name)

    assert unknown == []
    assert seen >= {"up", "down", "dashboard", "get-auth-token", "submit", "logs", "stop", "exec", "monitor"}


def test_the_guide_uses_the_files_names(cluster: Cluster) -> None:
    guide = (ROOT / "docs" / "cluster.md").read_text()

    for node in cluster.node_types.values():
        assert node["node_config"]["IamInstanceProfile"]["Name"] in guide
    assert cluster.raw["provider"]["security_group"]["GroupName"] in guide
