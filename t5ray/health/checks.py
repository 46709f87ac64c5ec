"""Reports of the nodes -> findings. Pure functions: every fault can be planted by hand."""

from collections import defaultdict
from collections.abc import Callable, Mapping

from t5ray.counting import counted
from t5ray.errors import ClusterError, DataError, ModelError, TrackingError
from t5ray.health.finding import Finding
from t5ray.health.node import NodeReport
from t5ray.health.survey import Survey
from t5ray.tracking.uri import shown

ENOUGH_DISK_BYTES = 5 * 2**30
ENOUGH_OBJECT_STORE_BYTES = 512 * 2**20
MOST_OF_DISK = 0.95
"""Where the disk is fuller, Ray refuses to write objects to it (its `local_fs_capacity_threshold`)."""
MOST_AHEAD_S = 1.0
"""Clocks that a time service keeps differ by milliseconds."""
SHOWN_NODES = 3
SAME_SOFTWARE = (
    "Install the same everywhere: the wheel and constraints.txt of `ray up`, or one image, then start Ray there again."
)


def check_nodes(found: Survey) -> Finding:
    """Every node must give its report."""
    mend = "See `ray status`, and the node's logs in Ray's dashboard; t5ray must be installed there as it is here."
    return _finding(f"{counted(len(found.nodes), 'node')} answered", found.silent, mend)


def check_software(found: Survey) -> Finding:
    """What the driver runs must be what every node runs."""
    wrong = {
        report.node: ", ".join(
            f"{name} {report.software.get(name, 'is missing')}, but the driver has {version}"
            for name, version in found.driver.items()
            if report.software.get(name) != version
        )
        for report in found.nodes
    }
    return _finding(
        "the same everywhere: " + ", ".join(map(" ".join, found.driver.items())),
        {node: text for node, text in wrong.items() if text},
        SAME_SOFTWARE,
    )


def check_storage(found: Survey) -> Finding:
    """What the driver writes, every node must read; and the other way round."""
    mend = (
        "Mount one share at this path on every node, writable for the user that runs Ray, or choose a --storage "
        "such as s3://BUCKET/runs and give every node its credentials."
    )
    return _finding(f"{found.storage} is the same place from every node", _problems(found, "storage"), mend)


def check_tracking(found: Survey) -> Finding:
    """MLflow must answer every node, where its address means the same there."""
    if not found.tracking:
        return Finding(True, "only the driver needs it: a file or an address of the driver's own, or none at all")
    mend = (
        "Open the server's port to the nodes, and give it an address that they know. (Only drivers write to it: where "
        "jobs run on the head, as they do by default, it is enough that the head reaches it.)"
    )
    text = f"{shown(found.tracking)} answers every node"
    return _finding(text, _problems(found, "tracking"), mend, TrackingError.exit_code)


def check_clocks(found: Survey) -> Finding:
    """Clocks must agree with the driver's, as far as the round trip lets us tell."""
    clocks = {report.node: report.clock for report in found.nodes if report.clock}
    wrong = {report.node: "gave its report, but not its time" for report in found.nodes if report.clock is None}
    wrong |= {
        node: f"{abs(clock.ahead_s):.1f} s {'ahead of' if clock.ahead_s > 0 else 'behind'} "
        f"the driver's (± {clock.uncertainty_s:.3f} s)"
        for node, clock in clocks.items()
        if abs(clock.ahead_s) - clock.uncertainty_s > MOST_AHEAD_S
    }
    worst = max(clocks.values(), key=lambda clock: abs(clock.ahead_s), default=None)
    text = f"at most {abs(worst.ahead_s):.3f} s off the driver's (± {worst.uncertainty_s:.3f} s)" if worst else ""
    mend = "Run a time service there, such as chrony: object stores refuse requests of a wrong time, and logs show it."
    return _finding(text, wrong, mend)


def check_gpus(found: Survey) -> Finding:
    """Torch must see the GPUs that Ray gives out."""
    wrong = {
        report.node: f"Ray gives out {counted(report.ray_gpus, 'GPU')}, but torch sees {len(report.gpus)}"
        for report in found.nodes
        if report.ray_gpus > len(report.gpus)
    }
    mend = "Install NVIDIA's driver, and a torch that is built for CUDA; or start Ray there with --num-gpus=0."
    return _finding(_grouped({report.node: _gpus_of(report) for report in found.nodes}), wrong, mend)


def check_bf16(found: Survey) -> Finding:
    """`precision=auto` must mean the same on every node that may train.

    Those are nodes with GPUs where training is given any, and else nodes with CPUs for it.
    """
    gpus = found.gpus_per_worker
    training = [report for report in found.nodes if (report.gpus if gpus else report.ray_cpus)] or list(found.nodes)
    fast = {report.node: report.has_fast_bf16 for report in training}
    if len(set(fast.values())) < 2:
        meaning = "bf16" if all(fast.values()) else "fp32"
        where = "GPUs" if gpus else "CPUs, with gpus_per_worker 0,"
        return Finding(True, f"precision auto means {meaning} on the {where} of every node that may train")
    wrong = {node: f"precision auto means {'bf16' if is_fast else 'fp32'}" for node, is_fast in fast.items()}
    return _finding("", wrong, "Say which: --set training.precision=fp32, or bf16; else trials compute differently.")


def check_object_store(found: Survey) -> Finding:
    """Every node's object store must hold a copy of the data, in memory."""
    wrong = dict[str, str]()
    for report in found.nodes:
        size, memory = report.object_store_bytes, report.shared_memory_bytes
        if size < ENOUGH_OBJECT_STORE_BYTES:
            wrong[report.node] = f"holds {_gib(size)}, less than {_gib(ENOUGH_OBJECT_STORE_BYTES)}"
        elif memory is not None and memory < size:
            wrong[report.node] = f"of {_gib(size)} lies on disk, as /dev/shm has {_gib(memory)} only"
    mend = "Start Ray there with a larger --object-store-memory; in a container, give it a larger --shm-size."
    least = min((report.object_store_bytes for report in found.nodes), default=0)
    return _finding(f"{_gib(least)} or more on every node", wrong, mend)


def check_disk(found: Survey) -> Finding:
    """Where Ray keeps logs and spilled objects there must be room."""
    wrong = dict[str, str]()
    for report in found.nodes:
        used = 1 - report.disk_free_bytes / report.disk_bytes
        if report.disk_free_bytes < ENOUGH_DISK_BYTES:
            wrong[report.node] = f"{_gib(report.disk_free_bytes)} free for Ray's files"
        elif used > MOST_OF_DISK:
            wrong[report.node] = f"{used:.0%} full, and from {MOST_OF_DISK:.0%} on Ray spills no objects"
    mend = "Free space there (old folders in /tmp/ray), give the node a larger disk, or Ray another --temp-dir."
    least = min((report.disk_free_bytes for report in found.nodes), default=0)
    return _finding(f"{_gib(least)} or more free for Ray's files on every node", wrong, mend)


def check_data(found: Survey) -> Finding:
    """Nodes must be able to open the data."""
    if found.data is None:
        return Finding(True, "nothing that nodes would open (--data names it)")
    mend = (
        "Put it on the share, or in an object store. (tune and train read it on the driver only; predict's workers "
        "each read their part.)"
    )
    return _finding(f"{found.data} opens on every node", _problems(found, "data"), mend, DataError.exit_code)


def check_model(found: Survey) -> Finding:
    """Nodes must be able to open the model: its configuration, its tokenizer, and what its weights say they hold."""
    if found.model is None:
        return Finding(True, "the demo's, which comes with t5ray (--model names another)")
    mend = "Put it on the share at this path, or name a model of the hub that every node can fetch."
    return _finding(f"{found.model} opens on every node", _problems(found, "model"), mend, ModelError.exit_code)


CHECKS: Mapping[str, Callable[[Survey], Finding]] = {
    "nodes": check_nodes,
    "software": check_software,
    "storage": check_storage,
    "tracking": check_tracking,
    "clocks": check_clocks,
    "gpus": check_gpus,
    "bf16": check_bf16,
    "objects": check_object_store,
    "disk": check_disk,
    "data": check_data,
    "model": check_model,
}
"""Name on the console -> check."""


def _finding(good: str, wrong: Mapping[str, str], mend: str, exit_code: int = ClusterError.exit_code) -> Finding:
    """Return what was found: all is well, or which nodes are not."""
    return Finding(not wrong, _grouped(wrong) if wrong else good, mend, exit_code)


def _problems(found: Survey, subject: str) -> dict[str, str]:
    return {report.node: text for report in found.nodes if (text := getattr(report, subject))}


def _grouped(texts: Mapping[str, str]) -> str:
    """Say each text once, with the nodes it is true of.

    Example:
        {"a": "no GPU", "b": "no GPU", "c": "1 GPU"} -> "a, b: no GPU; c: 1 GPU"
    """
    nodes = defaultdict[str, list[str]](list)
    for node, text in texts.items():
        nodes[text].append(node)
    return "; ".join(f"{_listed(names)}: {text}" for text, names in nodes.items())


def _listed(names: list[str]) -> str:
    rest = len(names) - SHOWN_NODES
    return ", ".join(names[:SHOWN_NODES]) + (f" and {rest} more" if rest > 0 else "")


def _gpus_of(report: NodeReport) -> str:
    return " + ".join(report.gpus) or "no GPU"


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
