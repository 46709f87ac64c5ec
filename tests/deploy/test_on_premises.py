"""deploy/on_premises.yaml, judged by Ray's schema and local provider, and by this repository's promises."""

import pytest
import yaml

from tests.deploy.launcher import (
    ROOT,
    Check,
    Cluster,
    Pins,
    dashboard_on_loopback,
    no_secrets,
    one_python,
    schema,
    starts_as_on_aws,
    token_authentication,
    versions,
)


@pytest.fixture(scope="session")
def text() -> str:
    return (ROOT / "deploy" / "on_premises.yaml").read_text()


def every_machine_joins(cluster: Cluster, pins: Pins) -> list[str]:
    """Ray's local provider wants all addresses, each once and the head not as a worker; it says how to start them."""
    provider = cluster.prepared["provider"]
    addresses = [provider["head_ip"], *provider["worker_ips"]]
    (node,) = cluster.node_types.values()
    faults = ["an address twice"] * (len(set(addresses)) != len(addresses))
    faults += ["not all join"] * (not node["min_workers"] == node["max_workers"] == len(provider["worker_ips"]))
    return faults + ["the last worker stays out"] * (
        "RAY_UP_enable_autoscaler_v2=0 ray up deploy/on_premises.yaml" not in cluster.text
    )


def key_of_its_own(cluster: Cluster, pins: Pins) -> list[str]:
    """The private key goes to the head, so it is none that opens other doors."""
    key = cluster.prepared["auth"].get("ssh_private_key", "")
    return [f"ssh_private_key: {key}"] * ("t5ray" not in key)


FAULTS: list[tuple[Check, str, str]] = [  # check, text of on_premises.yaml, the fault in its place
    (schema, "upscaling_speed: 8", "upscaling: 8"),
    (token_authentication, 'PATH" RAY_AUTH_MODE=token;', 'PATH";'),
    (token_authentication, "  ~/.ray/auth_token: ~/.ray/auth_token\n", ""),
    (dashboard_on_loopback, "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"),
    (versions, "]==2.60.0", "]==2.59.0"),
    (versions, "pip install -c constraints.txt", "pip install"),
    (versions, "/uv/0.13.9/", "/uv/0.13.8/"),
    (one_python, "--python 3.11.18", "--python 3.11"),
    (starts_as_on_aws, "--port=6379", "--port=6380"),
    (starts_as_on_aws, "  - chmod 600 ~/.ray/auth_token\n", ""),
    (every_machine_joins, "10.0.0.12]", "10.0.0.11]"),
    (every_machine_joins, "10.0.0.12]", "10.0.0.10]"),
    (every_machine_joins, "upscaling_speed: 8", "upscaling_speed: 8\nmax_workers: 1"),
    (every_machine_joins, "RAY_UP_enable_autoscaler_v2=0 ", ""),
    (key_of_its_own, "~/.ssh/t5ray", "~/.ssh/id_ed25519"),
    (no_secrets, "ssh_user: ubuntu", "ssh_user: ubuntu\n  password: hunter2"),
]
CHECKS = list(dict.fromkeys(check for check, _, _ in FAULTS))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_on_premises_yaml_passes(check: Check, text: str, pins: Pins) -> None:
    assert check(Cluster(text), pins) == []


@pytest.mark.parametrize(("check", "old", "new"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_fault_is_found(check: Check, old: str, new: str, text: str, pins: Pins) -> None:
    assert text.count(old) >= 1, f"nothing to plant the fault in: {old}"

    assert check(Cluster(text.replace(old, new)), pins)


def test_without_both_kinds_of_address_ray_refuses_it(text: str) -> None:
    config = yaml.safe_load(text)
    del config["provider"]["worker_ips"]

    with pytest.raises(Exception, match="worker_ips"):  # Ray prints its sentence and raises click's exception
        Cluster(yaml.safe_dump(config)).prepared  # noqa: B018 (a property that raises)
