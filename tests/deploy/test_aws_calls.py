"""What `ray up cluster.yaml` asks of AWS, carried out on moto, which plays AWS within this process.

Ray's own code makes the calls: security group, key pair, profiles, head, on-demand and spot worker. The policies are
those that docs/cluster.md tells users to create, and moto judges by them what a node's role may do.
"""

import importlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.core import set_initial_no_auth_action_count

from tests.deploy.launcher import ROOT, Cluster

BUCKET = "my-t5ray-bucket"
ROLES = {"t5ray-head": ("bucket.json", "head.json"), "t5ray-worker": ("bucket.json",)}
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}


def policy(name: str) -> str:
    """Return a policy of docs/cluster.md as its shell would write it."""
    guide = (ROOT / "docs" / "cluster.md").read_text()
    found = re.search(rf"^cat > {re.escape(name)} <<END\n(.*?)^END$", guide, flags=re.MULTILINE | re.DOTALL)
    assert found, name
    text = re.sub(r"\$\(aws sts .*?\)", "arn:aws:iam::123456789012:role/t5ray-worker", found[1])
    return json.dumps(json.loads(text.replace("$BUCKET", BUCKET)))


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An AWS account as docs/cluster.md prepares it; the region of cluster.yaml."""
    region = str(Cluster((ROOT / "cluster.yaml").read_text()).raw["provider"]["region"])
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # Ray writes its key pair to ~/.ssh
        patch.setenv("AWS_DEFAULT_REGION", region)
        iam = boto3.client("iam")
        for role, policies in ROLES.items():
            iam.create_role(RoleName=role, AssumeRolePolicyDocument=json.dumps(TRUST))
            iam.create_instance_profile(InstanceProfileName=role)
            iam.add_role_to_instance_profile(InstanceProfileName=role, RoleName=role)
            for name in policies:
                iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=policy(name))
        for bucket in (BUCKET, "other"):
            boto3.client("s3").create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": region})
        yield region


@pytest.fixture(scope="module")
def instances(aws: str) -> dict[str, dict[str, Any]]:
    """Let Ray prepare the account and start one node of each type; return what EC2 then says of each."""
    config_module = importlib.import_module("ray.autoscaler._private.aws.config")
    provider_module = importlib.import_module("ray.autoscaler._private.aws.node_provider")
    config = config_module.bootstrap_aws(Cluster((ROOT / "cluster.yaml").read_text()).prepared)
    provider = provider_module.AWSNodeProvider(config["provider"], config["cluster_name"])
    for name, node_type in config["available_node_types"].items():
        kind = "head" if name == "head" else "worker"
        tags = {"ray-node-type": kind, "ray-user-node-type": name, "ray-node-name": f"ray-t5ray-{kind}"}
        provider.create_node(node_type["node_config"], tags, 1)
    found = boto3.client("ec2").describe_instances()["Reservations"]
    nodes = [instance for reservation in found for instance in reservation["Instances"]]
    return {next(t["Value"] for t in node["Tags"] if t["Key"] == "ray-user-node-type"): node for node in nodes}


def test_one_node_of_each_type_starts(instances: dict[str, dict[str, Any]]) -> None:
    types = {name: node["InstanceType"] for name, node in instances.items()}

    assert types == {"head": "m6i.2xlarge", "gpu_on_demand": "g6.2xlarge", "gpu_spot": "g6.2xlarge"}


def test_only_the_spot_type_is_spot(instances: dict[str, dict[str, Any]]) -> None:
    assert {name: node.get("InstanceLifecycle") for name, node in instances.items()} == {
        "head": None,
        "gpu_on_demand": None,
        "gpu_spot": "spot",
    }


def test_each_node_has_its_profile(instances: dict[str, dict[str, Any]]) -> None:
    profiles = {name: node["IamInstanceProfile"]["Arn"].rpartition("/")[2] for name, node in instances.items()}

    assert profiles == {"head": "t5ray-head", "gpu_on_demand": "t5ray-worker", "gpu_spot": "t5ray-worker"}


def test_from_outside_only_ssh_is_open(aws: str, instances: dict[str, dict[str, Any]]) -> None:
    groups = {group["GroupId"] for node in instances.values() for group in node["SecurityGroups"]}
    found = boto3.client("ec2").describe_security_groups(GroupIds=list(groups))["SecurityGroups"]

    assert [group["GroupName"] for group in found] == ["t5ray"]
    rules = found[0]["IpPermissions"]
    outside = [(r["IpProtocol"], r.get("FromPort"), r.get("ToPort")) for r in rules if r["IpRanges"]]
    inside = {pair["GroupId"] for rule in rules for pair in rule["UserIdGroupPairs"]}
    assert outside == [("tcp", 22, 22)]
    assert inside == groups
    assert not any(rule["Ipv6Ranges"] or rule["PrefixListIds"] for rule in rules)


def test_the_private_key_is_readable_by_its_owner_only(instances: dict[str, dict[str, Any]]) -> None:
    (key,) = Path("~/.ssh").expanduser().glob("ray-autoscaler_*.pem")

    assert key.stat().st_mode & 0o777 == 0o600


# --- What the roles of docs/cluster.md may do ---------------------------------------------------------------------


def client(role: str, service: str) -> Any:
    """Return a client with the rights of a node's role."""
    arn = f"arn:aws:iam::123456789012:role/{role}"
    keys = boto3.client("sts").assume_role(RoleArn=arn, RoleSessionName="node")["Credentials"]
    return boto3.client(
        service,
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["SessionToken"],
    )


def verdict(call: Callable[..., Any], **arguments: Any) -> str:
    """Call AWS with moto judging by the caller's policies; return `allowed`, or AWS's code of refusal."""
    try:
        set_initial_no_auth_action_count(0)(call)(**arguments)
    except ClientError as exc:
        return str(exc.response["Error"]["Code"])
    return "allowed"


@pytest.mark.parametrize("role", ROLES)
def test_a_node_may_use_the_bucket_and_no_other(aws: str, role: str) -> None:
    s3 = client(role, "s3")

    assert verdict(s3.put_object, Bucket=BUCKET, Key="t5ray/x", Body=b"x") == "allowed"
    assert verdict(s3.get_object, Bucket=BUCKET, Key="t5ray/x") == "allowed"
    assert verdict(s3.list_objects_v2, Bucket=BUCKET) == "allowed"
    assert verdict(s3.delete_object, Bucket=BUCKET, Key="t5ray/x") == "allowed"
    assert verdict(s3.put_object, Bucket="other", Key="x", Body=b"x") == "AccessDenied"
    assert verdict(s3.list_objects_v2, Bucket="other") == "AccessDenied"
    assert verdict(s3.delete_bucket, Bucket=BUCKET) == "AccessDenied"
    assert verdict(s3.list_buckets) == "AccessDenied"


def test_the_head_may_start_instances_and_a_worker_may_not(aws: str) -> None:
    wanted = {"ImageId": "ami-12c6146b", "InstanceType": "g6.2xlarge", "MinCount": 1, "MaxCount": 1}

    assert verdict(client("t5ray-head", "ec2").run_instances, **wanted) == "allowed"
    assert verdict(client("t5ray-worker", "ec2").run_instances, **wanted) == "AccessDenied"
    assert verdict(client("t5ray-worker", "ec2").describe_instances) == "AccessDenied"


def test_the_head_may_tag_only_what_it_starts_and_end_only_what_has_the_tag() -> None:
    """Who may tag any instance may end any: it gives it the tag first."""
    statements = json.loads(policy("head.json"))["Statement"]
    conditions = {
        action: [
            s.get("Condition", {}) for s in statements if action in ([a] if isinstance(a := s["Action"], str) else a)
        ]
        for action in ("ec2:CreateTags", "ec2:TerminateInstances")
    }
    ours = {"StringEquals": {"aws:ResourceTag/ray-cluster-name": "t5ray"}}
    starting = {"StringEquals": {"ec2:CreateAction": "RunInstances"}}

    assert conditions == {"ec2:CreateTags": [starting, ours], "ec2:TerminateInstances": [ours]}


@pytest.mark.parametrize("role", ROLES)
def test_no_node_may_give_itself_rights(aws: str, role: str) -> None:
    rights = {"RoleName": role, "PolicyName": "all", "PolicyDocument": policy("head.json")}

    assert verdict(client(role, "iam").put_role_policy, **rights) == "AccessDenied"
    assert verdict(client(role, "iam").create_user, UserName="me") == "AccessDenied"
