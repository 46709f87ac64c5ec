"""What the tests of deployment files share: a file as Ray completes it, the pins, checks, Ray's scheduler as a judge.

Each check returns the faults that it finds: none in a file of this repository, at least one where a test plants one.
"""

import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.schema import AutoscalerInstance
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import NodeState, NodeStatus, ResourceRequestByCount
from ray.core.generated.instance_manager_pb2 import Instance, NodeKind

ROOT = Path(__file__).parents[2]
INVALID: type[Exception] = importlib.import_module("jsonschema").ValidationError  # has no types
COMMAND_LISTS = (
    "initialization_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)


@dataclass(frozen=True)
class Cluster:
    """One text of cluster.yaml, as written and as Ray completes it."""

    text: str

    @cached_property
    def raw(self) -> dict[str, Any]:
        config = yaml.safe_load(self.text)
        assert isinstance(config, dict)
        return config

    @cached_property
    def prepared(self) -> dict[str, Any]:
        """With Ray's AWS defaults filled in; they install packages of their own where this file leaves a list out."""
        config = prepare_config(yaml.safe_load(self.text))
        assert isinstance(config, dict)
        return config

    @property
    def node_types(self) -> dict[str, dict[str, Any]]:
        types = self.prepared["available_node_types"]
        assert isinstance(types, dict)
        return types

    @property
    def head(self) -> dict[str, Any]:
        return self.node_types[self.prepared["head_node_type"]]

    @property
    def workers(self) -> dict[str, dict[str, Any]]:
        return {name: node for name, node in self.node_types.items() if name != self.prepared["head_node_type"]}

    @property
    def commands(self) -> list[str]:
        per_type = [node.get(key, []) for node in self.node_types.values() for key in COMMAND_LISTS]
        return [command for part in [*(self.prepared[key] for key in COMMAND_LISTS), *per_type] for command in part]

    def starts(self, kind: str) -> list[str]:
        """Return the `ray start` commands of the head or of a worker."""
        return [command for command in self.prepared[f"{kind}_start_ray_commands"] if "ray start" in command]


Pins = Mapping[str, str]
Check = Callable[[Cluster, Pins], list[str]]


def read_pins() -> dict[str, str]:
    """Return constraints.txt as {name: version}, names as pip normalises them."""
    lines = (line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    return dict(split_pin(line) for line in lines if line)


def split_pin(requirement: str) -> tuple[str, str]:
    """Split `name[extras]==version; marker`.

    Example:
        "Ray[default]==2.60.0" -> ("ray", "2.60.0")
    """
    name, _, version = requirement.split(";")[0].partition("==")
    return re.sub(r"[-_.]+", "-", name.split("[")[0].strip()).lower(), version.strip()


def pip_installs(command: str) -> list[list[str]]:
    """Return the words after each `pip install` of a command, without quotes."""
    found = re.findall(r"pip install (.+?)(?:&&|;|\|\||$)", command)
    return [words.replace('"', "").replace("'", "").split() for words in found]


def schema(cluster: Cluster, pins: Pins) -> list[str]:
    """Ray's validator takes the file, and takes it again on the head, which prepares the prepared file once more."""
    try:
        validate_config(cluster.prepared)
        validate_config(prepare_config(cluster.prepared))
    except (INVALID, ValueError, RuntimeError, AssertionError) as exc:
        return [str(exc)]
    return []


def token_authentication(cluster: Cluster, pins: Pins) -> list[str]:
    """Head and workers start with token authentication, and the token lies where Ray looks for it."""
    faults = []
    for kind in ("head", "worker"):
        faults += [f"{kind}: no ray start"] * (not cluster.starts(kind))
        faults += [
            f"{kind}: {command}"
            for command in cluster.starts(kind)
            if not re.search(r"\bRAY_AUTH_MODE=token\b.*\bray start\b", command)
        ]
    if "~/.ray/auth_token" not in cluster.prepared["file_mounts"]:
        faults.append("the token is not mounted")
    if not any(re.search(r"chmod 600 ~/\.ray/auth_token", command) for command in cluster.prepared["setup_commands"]):
        faults.append("the token can be read by others")
    return faults


def dashboard_on_loopback(cluster: Cluster, pins: Pins) -> list[str]:
    """The dashboard is reached through SSH only."""
    return [command for command in cluster.starts("head") if "--dashboard-host=127.0.0.1 " not in command]


def scales_from_zero(cluster: Cluster, pins: Pins) -> list[str]:
    """No GPU node is up without a job, some may come, and the head stays the only head."""
    faults = []
    for name, node in cluster.workers.items():
        faults += [f"{name}: up without work"] * (node["min_workers"] > 0)
        faults += [f"{name}: never up"] * (node["max_workers"] < 1)
    faults += ["no worker types"] * (not cluster.workers) + ["max_workers 0"] * (cluster.prepared["max_workers"] < 1)
    return faults + ["a second head"] * (cluster.head["max_workers"] != 0)


def versions(cluster: Cluster, pins: Pins) -> list[str]:
    """What the nodes install is pinned, by constraints.txt or by the same version in the command; so is uv."""
    installers = (re.findall(r"\S+/uv/\S*install\.sh", command) for command in cluster.commands)
    right = f"https://astral.sh/uv/{pins['uv']}/install.sh"
    return unpinned(cluster.commands, pins) + [url for urls in installers for url in urls if url != right]


def unpinned(commands: Iterable[str], pins: Pins) -> list[str]:
    """Return what `pip install` in these commands takes from elsewhere than constraints.txt, and what it forgets."""
    faults = [f"{name}=={pins[name]}: PyPI has no local versions" for name in pins if "+" in pins[name]]
    installs = [words for command in commands for words in pip_installs(command)]
    for words in installs:
        if "--no-deps" not in words and words[:2] != ["-c", "constraints.txt"]:
            faults.append(f"without constraints: pip install {' '.join(words)}")
        for word in words:
            if word in {"-c", "constraints.txt"} or word.startswith(("-", "$wheel")):
                continue
            name, version = split_pin(word)
            if name not in pins or (version or pins[name]) != pins[name]:
                faults.append(f"{word}: constraints.txt has {pins.get(name)}")
    for extra in ("data", "default", "train", "tune"):
        if not any(re.search(rf"ray\[[^]]*\b{extra}\b[^]]*]==", word) for words in installs for word in words):
            faults.append(f"ray[{extra}] is not installed with a version")
    missing = {"ray", "torch", "transformers", "mlflow", "optuna", "boto3"} - pins.keys()
    return faults + [f"{name}: not in constraints.txt" for name in sorted(missing)]


def one_python(cluster: Cluster, pins: Pins) -> list[str]:
    """Head and workers get the same Python, to the patch release that Ray compares."""
    found = {version for command in cluster.commands for version in re.findall(r"--python (\S+)", command)}
    faults = [f"not one exact version: {sorted(found)}"] * (
        len(found) != 1 or not all(re.fullmatch(r"3\.\d+\.\d+", version) for version in found)
    )
    if cluster.prepared["head_setup_commands"] != cluster.prepared["worker_setup_commands"]:
        faults.append("head and workers are set up differently")
    different = [name for name, node in cluster.node_types.items() if "worker_setup_commands" in node]
    return faults + [f"{name}: set up differently" for name in different]


def starts_as_on_aws(cluster: Cluster, pins: Pins) -> list[str]:
    """Nodes are set up and started by the commands of cluster.yaml; only storage and cloud packages may differ."""
    aws = Cluster((ROOT / "cluster.yaml").read_text())
    ours, theirs = ([_without_packages(c) for c in each.prepared["setup_commands"]] for each in (cluster, aws))
    faults = ["set up differently"] * (ours != theirs)
    faults += ["other files"] * (cluster.prepared["file_mounts"] != aws.prepared["file_mounts"])
    keys = ("head_start_ray_commands", "worker_start_ray_commands")
    return faults + [f"{key} differ" for key in keys if cluster.prepared[key] != aws.prepared[key]]


def _without_packages(command: str) -> str:
    """Take out what is installed beside the wheel and Ray."""
    return re.sub(r'(]==[\d.]+").*? &&', r"\1 &&", command)


MARKETS = {"aws": ("InstanceMarketOptions", "MarketType", "spot"), "gcp": ("scheduling", "provisioningModel", "SPOT")}


def spot_and_on_demand(cluster: Cluster, pins: Pins) -> list[str]:
    """Spot is the first choice; the on-demand type differs in nothing but the market."""
    key, field, right = MARKETS[cluster.prepared["provider"]["type"]]
    market = {name: node["node_config"].get(key, {}).get(field) for name, node in cluster.node_types.items()}
    spot = {name: node for name, node in cluster.workers.items() if market[name] is not None}
    others = {name: node for name, node in cluster.workers.items() if name not in spot}
    faults = ["spot or on-demand type missing"] * (not spot or not others)
    faults += [f"{name}: not spot" for name in spot if market[name] != right]
    faults += ["the head is spot"] * (market[cluster.prepared["head_node_type"]] is not None)
    for a in spot.values():
        for b in others.values():
            faults += ["on demand comes first"] * (a.get("priority", 0) <= b.get("priority", 0))
            alike = [{k: v for k, v in node["node_config"].items() if k != key} for node in (a, b)]
            faults += ["the types differ"] * (alike[0] != alike[1] or a["resources"] != b["resources"])
    return faults


def no_secrets(cluster: Cluster, pins: Pins) -> list[str]:
    """No key, token, password or account number."""
    return secrets_in(cluster.text)


def secrets_in(text: str) -> list[str]:
    """Return what looks like a key, token, password or account number."""
    patterns = (
        r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
        r"PRIVATE KEY",
        r"(?i)\b(RAY_AUTH_TOKEN|aws_secret_access_key|aws_session_token|password|HF_TOKEN)\s*[=:]",
        r"(?i)(aws|gcp)_credentials",
        r"\b[0-9a-f]{32,}\b",
        r"(?<![\d.])\d{12}(?![\d.])",
        r"://[^/\s:]+:[^/\s@]+@",
    )
    return [match for pattern in patterns for match in re.findall(pattern, text)]


def launches(config: Mapping[str, Any], demand: Mapping[str, float], count: int) -> dict[str, int]:
    """Ask Ray's autoscaler, with an idle head up, which nodes it starts for `count` bundles of `demand`."""
    autoscaling = AutoscalingConfig(dict(config), skip_content_hash=True)
    head_type = config["head_node_type"]
    resources = config["available_node_types"][head_type]["resources"]
    node = NodeState(
        node_id=b"head",
        instance_id="i-head",
        ray_node_type_name=head_type,
        status=NodeStatus.RUNNING,
        total_resources=resources,
        available_resources=resources,
    )
    instance = Instance(
        instance_id="head",
        instance_type=head_type,
        status=Instance.RAY_RUNNING,
        node_kind=NodeKind.HEAD,
        node_id="head",
    )
    request = ResourceRequestByCount(request=ResourceRequestUtil.make(dict(demand)), count=count)
    reply = ResourceDemandScheduler(mock.MagicMock()).schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=autoscaling.get_node_type_configs(),
            max_num_nodes=autoscaling.get_max_num_nodes(),
            resource_requests=[request],
            current_instances=[AutoscalerInstance(ray_node=node, im_instance=instance, cloud_instance_id="i-head")],
        )
    )
    return {launch.instance_type: launch.count for launch in reply.to_launch}
