"""deploy/kuberay/, judged by Ray's KubeRay autoscaler, Kubernetes' schemas and this repository's own command lines.

The fields of KubeRay's own kinds are from its API reference (ray.io/v1); what is inside a pod template is
judged by the schemas of Kubernetes that the package kubernetes-validate holds. No cluster, no image is built.
"""

import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from t5ray import predict, tune
from tests.deploy.launcher import INVALID, ROOT, Pins, launches, secrets_in, unpinned

FOLDER = ROOT / "deploy" / "kuberay"
FILES = ("Dockerfile", "storage.yaml", "cluster.yaml", "tune.yaml", "predict.yaml")
COMMANDS: dict[str, Callable[..., int]] = {"t5ray.tune": tune.command, "t5ray.predict": predict.command}
FIELDS = {
    "RayCluster": {"rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec"}
    | {"workerGroupSpecs", "suspend", "gcsFaultToleranceOptions", "headServiceAnnotations", "managedBy"},
    "authOptions": {"mode", "secretName", "enableK8sTokenAuth"},
    "autoscalerOptions": {"resources", "image", "imagePullPolicy", "securityContext", "idleTimeoutSeconds"}
    | {"upscalingMode", "version", "env", "envFrom", "volumeMounts"},
    "headGroupSpec": {"template", "headService", "enableIngress", "resources", "labels", "rayStartParams"}
    | {"serviceType"},
    "workerGroupSpecs": {"suspend", "groupName", "replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds"}
    | {"resources", "labels", "rayStartParams", "template", "scaleStrategy", "numOfHosts"},
    "RayJob": {"activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate", "metadata"}
    | {"clusterSelector", "submitterConfig", "managedBy", "deletionStrategy", "entrypoint", "runtimeEnvYAML", "jobId"}
    | {"submissionMode", "entrypointResources", "entrypointNumCpus", "entrypointNumGpus", "ttlSecondsAfterFinished"}
    | {"shutdownAfterJobFinishes", "suspend"},
}


@dataclass(frozen=True)
class Folder:
    """The files of deploy/kuberay/: name -> text."""

    texts: dict[str, str]

    def document(self, name: str) -> dict[str, Any]:
        document = yaml.safe_load(self.texts[name])
        assert isinstance(document, dict)
        return document

    @cached_property
    def cluster(self) -> dict[str, Any]:
        return self.document("cluster.yaml")

    @property
    def head(self) -> dict[str, Any]:
        head = self.cluster["spec"]["headGroupSpec"]
        assert isinstance(head, dict)
        return head

    @property
    def workers(self) -> list[dict[str, Any]]:
        groups = self.cluster["spec"]["workerGroupSpecs"]
        assert isinstance(groups, list)
        return groups

    @property
    def pods(self) -> list[dict[str, Any]]:
        return [group["template"]["spec"] for group in (self.head, *self.workers)]

    @property
    def jobs(self) -> list[dict[str, Any]]:
        return [self.document(name) for name in ("tune.yaml", "predict.yaml")]

    @cached_property
    def autoscaling(self) -> dict[str, Any]:
        """What Ray's autoscaler makes of the cluster; it validates that by its own schema."""
        placed = {**self.cluster, "metadata": {**self.cluster["metadata"], "namespace": "default"}}
        config = _derive_autoscaling_config_from_ray_cr(placed)
        assert isinstance(config, dict)
        return config

    @property
    def installs(self) -> list[str]:
        """The Dockerfile's RUN commands, each in one line."""
        return re.findall(r"^RUN (.*)$", self.texts["Dockerfile"].replace("\\\n", " "), flags=re.MULTILINE)

    def planted(self, name: str, old: str, new: str) -> "Folder":
        assert old in self.texts[name], f"nothing to plant the fault in: {old}"
        return Folder({**self.texts, name: self.texts[name].replace(old, new)})


Check = Callable[[Folder, Pins], list[str]]


@pytest.fixture(scope="session")
def folder() -> Folder:
    return Folder({name: (FOLDER / name).read_text() for name in FILES})


# --- The checks ---------------------------------------------------------------------------------------------------


def kuberay_fields(folder: Folder, pins: Pins) -> list[str]:
    """Every field is one that KubeRay has: it drops or refuses what it does not know."""
    spec = folder.cluster["spec"]
    parts = [("RayCluster", spec), ("headGroupSpec", folder.head)]
    parts += [(key, spec.get(key, {})) for key in ("authOptions", "autoscalerOptions")]
    parts += [("workerGroupSpecs", group) for group in folder.workers]
    parts += [("RayJob", job["spec"]) for job in folder.jobs]
    faults = [f"{kind}: {name}" for kind, part in parts for name in part.keys() - FIELDS[kind]]
    kinds = [(d["apiVersion"], d["kind"]) for d in (folder.cluster, *folder.jobs)]
    return faults + ["kinds"] * (kinds != [("ray.io/v1", kind) for kind in ("RayCluster", "RayJob", "RayJob")])


def kubernetes_schema(folder: Folder, pins: Pins) -> list[str]:
    """Pod templates and the claim are what Kubernetes takes, without a field that it does not know."""
    pods = [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec} for spec in folder.pods]
    faults = []
    for document in (*pods, folder.document("storage.yaml")):
        try:
            kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
        except kubernetes_validate.ValidationError as exc:
            faults.append(exc.message)
    return faults


def autoscaler(folder: Folder, pins: Pins) -> list[str]:
    """Ray's autoscaler reads the cluster: no worker without a job, some with one, idle ones go."""
    try:
        config = folder.autoscaling
    except (INVALID, ValueError, KeyError, AssertionError) as exc:
        return [str(exc)]
    types = config["available_node_types"]
    workers = {name: node for name, node in types.items() if name != config["head_node_type"]}
    faults = ["no autoscaler"] * (folder.cluster["spec"].get("enableInTreeAutoscaling") is not True)
    faults += ["the head has a GPU"] * bool(types[config["head_node_type"]]["resources"].get("GPU"))
    faults += [f"{group['groupName']}: starts with some" for group in folder.workers if group["replicas"] != 0]
    for name, node in workers.items():
        faults += [f"{name}: up without work"] * (node["min_workers"] > 0) + [f"{name}: never up"] * (
            node["max_workers"] < 1
        )
        faults += [f"{name}: no GPU"] * (node["resources"].get("GPU") != 1)
    return faults + ["idle workers stay"] * (not 1 <= config["idle_timeout_minutes"] <= 30)


def spot(folder: Folder, pins: Pins) -> list[str]:
    """Workers run on spot nodes and bear their taint."""
    faults = []
    for group in folder.workers:
        pod = group["template"]["spec"]
        selector = pod.get("nodeSelector", {})
        borne = {(t["key"], t.get("value")) for t in pod.get("tolerations", [])}
        faults += [f"{group['groupName']}: any node"] * (not selector)
        faults += [f"{group['groupName']}: {key} is not borne" for key in selector.items() if key not in borne]
    return faults


def token_authentication(folder: Folder, pins: Pins) -> list[str]:
    """KubeRay makes the token and hands it out; none is written here."""
    options = folder.cluster["spec"].get("authOptions", {})
    own = [env["name"] for pod in folder.pods for c in pod["containers"] for env in c.get("env", [])]
    return ["no token"] * (options.get("mode") != "token") + [name for name in own if name.startswith("RAY_AUTH")]


def only_within_the_cluster(folder: Folder, pins: Pins) -> list[str]:
    """No service, port or ingress that is reached from outside of Kubernetes."""
    faults = ["service"] * (folder.head.get("serviceType") != "ClusterIP" or "headService" in folder.head)
    faults += ["ingress"] * (folder.head.get("enableIngress") is not False)
    for pod in folder.pods:
        ports = [port for container in pod["containers"] for port in container.get("ports", [])]
        faults += ["a port of the host"] * any("hostPort" in port for port in ports)
        faults += ["the host's network"] * bool(pod.get("hostNetwork"))
    return faults


def confined(folder: Folder, pins: Pins) -> list[str]:
    """No root, no more rights, and no key to Kubernetes where none is needed."""
    faults = []
    for pod in folder.pods:
        faults += ["root"] * (pod.get("securityContext", {}).get("runAsNonRoot") is not True)
        for container in pod["containers"]:
            context = container.get("securityContext", {})
            faults += ["more rights"] * (context.get("allowPrivilegeEscalation") is not False)
            faults += ["capabilities"] * (context.get("capabilities") != {"drop": ["ALL"]})
    open_doors = [g for g in folder.workers if g["template"]["spec"].get("automountServiceAccountToken") is not False]
    return faults + ["a worker may talk to Kubernetes"] * bool(open_doors)


def versions(folder: Folder, pins: Pins) -> list[str]:
    """The image holds constraints.txt and cluster.yaml's Python, KubeRay knows the same Ray, pods have one image."""
    aws_python = re.findall(r"--python (\S+)", (ROOT / "cluster.yaml").read_text())
    own_python = re.findall(r"^FROM python:(\d+\.\d+\.\d+)-slim", folder.texts["Dockerfile"], flags=re.MULTILINE)
    faults = unpinned(folder.installs, pins) + [f"Python {own_python}"] * (own_python != aws_python)
    ray = folder.cluster["spec"].get("rayVersion")
    images = {container["image"] for pod in folder.pods for container in pod["containers"]}
    return faults + [f"rayVersion {ray}"] * (ray != pins["ray"]) + [f"images {images}"] * (len(images) != 1)


def shared_folder(folder: Folder, pins: Pins) -> list[str]:
    """Head and workers mount one claim at one path, and jobs read and write there and nowhere else."""
    claim = folder.document("storage.yaml")
    faults = ["one node at a time"] * ("ReadWriteMany" not in claim["spec"]["accessModes"])
    for pod in folder.pods:
        claims = [v.get("persistentVolumeClaim", {}).get("claimName") for v in pod.get("volumes", [])]
        mounts = [m["mountPath"] for container in pod["containers"] for m in container.get("volumeMounts", [])]
        faults += ["not mounted"] * (claim["metadata"]["name"] not in claims or mounts != ["/shared"])
    folders = {"--data", "--storage", "--input", "--output"}
    for job in folder.jobs:
        words = shlex.split(job["spec"]["entrypoint"])
        pairs = pairwise(words)
        faults += [f"{flag} {path}" for flag, path in pairs if flag in folders and not path.startswith("/shared/")]
    return faults


def jobs(folder: Folder, pins: Pins) -> list[str]:
    """Jobs run on this cluster, once, by commands whose flags exist; nothing in them means more to a shell."""
    faults = []
    for job in folder.jobs:
        spec = job["spec"]
        name = folder.cluster["metadata"]["name"]
        faults += ["another cluster"] * (spec.get("clusterSelector") != {"ray.io/cluster": name})
        faults += ["started again"] * (spec.get("backoffLimit", 0) != 0)
        faults += ["for a shell"] * bool(re.search(r"[*?$&|;<>\"'`\\]", spec["entrypoint"]))
        faults += command_line_faults(shlex.split(spec["entrypoint"]))
    return faults


def command_line_faults(words: list[str]) -> Iterable[str]:
    """Parse `python -m MODULE ARGUMENTS` as the command itself does, and return what it says against it."""
    python, m, module, *arguments = words
    if (python, m) != ("python", "-m") or module not in COMMANDS:
        return [" ".join(words[:3])]
    app = typer.Typer(add_completion=False)
    app.command()(COMMANDS[module])
    command = typer.main.get_command(app)
    try:
        command.make_context(module, list(arguments))  # which takes them out of the list
    except Exception as exc:  # noqa: BLE001 (typer brings click along under a name of its own)
        return [str(exc) or repr(exc)]
    return ["--address auto"] * ("--address auto" not in " ".join(arguments))


def no_secrets(folder: Folder, pins: Pins) -> list[str]:
    """No key, token, password or account number."""
    return [found for text in folder.texts.values() for found in secrets_in(text)]


C, J, P, S, D = "cluster.yaml", "tune.yaml", "predict.yaml", "storage.yaml", "Dockerfile"
FAULTS: list[tuple[Check, str, str, str]] = [  # check, file, its text, the fault in its place
    (kuberay_fields, C, "idleTimeoutSeconds", "idleTimeoutMinutes"),
    (kuberay_fields, C, "maxReplicas: 8 ", "maxWorkers: 8 "),
    (kuberay_fields, J, "clusterSelector", "cluster"),
    (kuberay_fields, P, "kind: RayJob", "kind: RayService"),
    (kubernetes_schema, C, "restartPolicy: Never ", "restartpolicy: Never "),
    (kubernetes_schema, C, 'value: "30"', "value: 30"),
    (kubernetes_schema, C, "mountPath: /shared", "path: /shared"),
    (kubernetes_schema, S, "accessModes: [ReadWriteMany]", "accessModes: ReadWriteMany"),
    (autoscaler, C, "minReplicas: 0", "minReplicas: 1"),
    (autoscaler, C, "minReplicas: 0", "minReplicas: few"),
    (autoscaler, C, "      replicas: 0 ", "      replicas: 1 "),
    (autoscaler, C, "maxReplicas: 8", "maxReplicas: 0"),
    (autoscaler, C, 'nvidia.com/gpu: "1"}', "ephemeral-storage: 50Gi}"),
    (autoscaler, C, 'limits: {cpu: "8", ', 'limits: {cpu: "8", nvidia.com/gpu: "1", '),
    (autoscaler, C, "idleTimeoutSeconds: 600", "idleTimeoutSeconds: 86400"),
    (autoscaler, C, "enableInTreeAutoscaling: true", "suspend: false"),
    (spot, C, 'nodeSelector: {cloud.google.com/gke-spot: "true"}', "nodeSelector: {}"),
    (spot, C, "{key: cloud.google.com/gke-spot, operator", "{key: cloud.google.com/gke-preemptible, operator"),
    (token_authentication, C, "mode: token", "mode: disabled"),
    (token_authentication, C, "authOptions: {mode: token}", "suspend: false"),
    (token_authentication, C, "{name: RAY_JOB_STOP_SIGNAL, value: SIGINT}", "{name: RAY_AUTH_TOKEN, value: abc}"),
    (only_within_the_cluster, C, "serviceType: ClusterIP", "serviceType: LoadBalancer"),
    (only_within_the_cluster, C, "serviceType: ClusterIP", "suspend: false"),
    (only_within_the_cluster, C, "enableIngress: false", "enableIngress: true"),
    (only_within_the_cluster, C, "containerPort: 8265}", "containerPort: 8265, hostPort: 8265}"),
    (only_within_the_cluster, C, "automountServiceAccountToken: false", "hostNetwork: true"),
    (confined, C, "runAsNonRoot: true", "runAsNonRoot: false"),
    (confined, C, "allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true"),
    (confined, C, "capabilities: {drop: [ALL]}", "privileged: true"),
    (confined, C, "automountServiceAccountToken: false", "enableServiceLinks: false"),
    (versions, C, "rayVersion: 2.60.0", "rayVersion: 2.59.0"),
    (versions, C, "- name: ray-worker\n              image: registry.example.com/t5ray:1", "- image: other"),
    (versions, D, "python:3.11.18-slim", "python:3.11-slim"),
    (versions, D, "]==2.60.0", "]==2.59.0"),
    (versions, D, "install -c constraints.txt", "install"),
    (shared_folder, S, "ReadWriteMany", "ReadWriteOnce"),
    (shared_folder, C, "claimName: t5ray-shared", "claimName: other"),
    (shared_folder, C, "mountPath: /shared", "mountPath: /mnt"),
    (shared_folder, P, "--output /shared/scored", "--output /tmp/scored"),
    (jobs, J, "ray.io/cluster: t5ray", "ray.io/cluster: ray"),
    (jobs, J, "backoffLimit: 0", "backoffLimit: 3"),
    (jobs, J, "--num-trials", "--trials"),
    (jobs, J, "--num-trials 20", "--num-trials many"),
    (jobs, P, "--address auto ", ""),
    (jobs, P, "--input /shared/rows", "--input /shared/rows/*.parquet"),
    (no_secrets, C, "{name: RAY_JOB_STOP_SIGNAL", "{password: hunter2, name: RAY_JOB_STOP_SIGNAL"),
    (no_secrets, J, "sqlite:////shared/mlflow.db", "https://me:secret@mlflow.example.com"),
]
CHECKS = list(dict.fromkeys(check for check, *_ in FAULTS))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_files_pass(check: Check, folder: Folder, pins: Pins) -> None:
    assert check(folder, pins) == []


@pytest.mark.parametrize(("check", "name", "old", "new"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_fault_is_found(check: Check, name: str, old: str, new: str, folder: Folder, pins: Pins) -> None:
    assert check(folder.planted(name, old, new), pins)


def test_trials_start_one_worker_each_and_never_more_than_max_replicas(folder: Folder) -> None:
    assert launches(folder.autoscaling, {"GPU": 1, "CPU": 1}, count=3) == {"gpu-spot": 3}
    assert launches(folder.autoscaling, {"GPU": 1, "CPU": 1}, count=100) == {"gpu-spot": 8}
    assert launches(folder.autoscaling, {"CPU": 1}, count=8) == {}


def test_the_scoring_job_reads_the_bundle_that_the_search_writes(folder: Folder) -> None:
    search, scoring = (shlex.split(job["spec"]["entrypoint"]) for job in folder.jobs)
    flags = dict(pairwise(search))

    assert scoring[scoring.index("--model") + 1] == f"{flags['--storage']}/{flags['--name']}/best"
