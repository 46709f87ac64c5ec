"""Check this machine or cluster before money is spent: `python -m t5ray.doctor`. Each line passes, or says the mend."""

import importlib.metadata
import os
import platform
import sys
import tempfile
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from t5ray import cli, options, terminal
from t5ray.counting import counted
from t5ray.errors import ClusterError, DataError, ModelError, T5RayError, TrackingError, one_line
from t5ray.health.finding import Finding

if TYPE_CHECKING:
    from t5ray.config import RunConfig

LIBRARIES = ("ray", "torch", "transformers", "datasets", "optuna", "mlflow")
INSTALL = "In t5ray's repository: pip install -c constraints.txt ."
ANSWER_WITHIN_S = 60
ENOUGH_DISK_BYTES = 5 * 2**30
ENOUGH_MEMORY_BYTES = 4 * 2**30


def command(
    ctx: typer.Context,
    config: options.ConfigFile = None,
    data: options.Data = None,
    model: options.Model = None,
    storage: options.Storage = None,
    tracking_uri: options.TrackingUri = None,
    address: options.Address = None,
    sets: options.Sets = None,
    cluster: options.EveryNode = False,
) -> int:
    """Check versions, memory, disk, storage, bf16, tracking, Ray, and that --data and --model open.

    With --cluster, then ask every node of the Ray at --address the same, and whether they agree.
    """
    terminal.quiet_libraries()
    from t5ray.config import RunConfig

    settings = cli.load(ctx, RunConfig, options.SETTING_OF)
    checks: dict[str, Callable[[RunConfig], Finding]] = {
        "python": check_python,
        "versions": check_versions,
        "memory": check_memory,
        "disk": check_disk,
        "storage": check_storage,
        "bf16": check_bf16,
        "data": check_data,
        "model": check_model,
        "tracking": check_tracking,
        "ray": check_ray,
    }
    findings = [_show(name, examine(check, settings)) for name, check in checks.items()]
    if cluster:
        findings += _nodes(settings)
    if failed := [finding for finding in findings if not finding.passed]:
        terminal.say(f"\n{len(failed)} of {counted(len(findings), 'check')} failed.")
        terminal.suggest({"once that is mended": cli.again("doctor")})
        return failed[0].exit_code
    terminal.close(f"All {len(findings)} checks passed.", _to_search(settings))
    return 0


def _to_search(settings: "RunConfig") -> dict[str, str]:
    """Return the search with what was checked; what it needs besides that data, task and model is left to fill in."""
    named = {"data": settings.data.path, "task": settings.task, "model": settings.model}
    if not any(named.values()):
        return {"try the demo": cli.again("tune", cluster=False)}
    blanks = {"data": "ROWS.jsonl", "task": "TASK", "model": "google/flan-t5-small"}
    return {"search": cli.again("tune", cluster=False, **{k: blank for k, blank in blanks.items() if not named[k]})}


def _show(name: str, finding: Finding) -> Finding:
    terminal.say(f"{'pass' if finding.passed else 'FAIL'}  {name.ljust(9)} {finding.text}")
    if not finding.passed and finding.mend:
        terminal.say(f"      {' ' * 9} -> {finding.mend}")
    return finding


def _nodes(settings: "RunConfig") -> list[Finding]:
    """Ask every node, and show what comes of it; nodes that autoscaling may bring are not there to be asked.

    Where no address is given, the cluster is the one that runs here: a Ray of doctor's own would be this node only.
    """
    from t5ray.cluster import connect
    from t5ray.health.checks import CHECKS
    from t5ray.health.survey import survey

    terminal.say("\nThe nodes:")
    try:
        with connect(settings.address or os.environ.get("RAY_ADDRESS") or "auto"):
            found = survey(settings)
    except T5RayError as exc:
        return [_show("nodes", Finding(False, str(exc), exit_code=exc.exit_code))]
    return [_show(name, check(found)) for name, check in CHECKS.items()]


def examine(check: Callable[["RunConfig"], Finding], settings: "RunConfig") -> Finding:
    """Run one check; an error that a user can cause is a finding, and so is a library that is not there."""
    try:
        return check(settings)
    except ImportError as exc:
        return Finding(False, f"every library must be installed, but: {exc}", INSTALL, ClusterError.exit_code)
    except T5RayError as exc:
        return Finding(False, str(exc), exit_code=exc.exit_code)


def check_python(settings: "RunConfig") -> Finding:
    """Python must be 3.11 or newer."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding(sys.version_info >= (3, 11), found, "Install Python 3.11 or newer.", ClusterError.exit_code)


def check_versions(settings: "RunConfig") -> Finding:
    """Every library must be installed, in a version that t5ray allows."""
    from packaging.requirements import Requirement

    needed = {r.name: r for r in map(Requirement, importlib.metadata.requires("t5ray") or []) if not r.marker}
    found = {name: _version(name) for name in LIBRARIES}
    wrong = [
        f"{name} {version or 'is not installed'} (needs {needed[name].specifier})"
        for name, version in found.items()
        if not version or version not in needed[name].specifier
    ]
    text = ", ".join(wrong or (f"{name} {version}" for name, version in found.items()))
    return Finding(not wrong, text, INSTALL, ClusterError.exit_code)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def check_memory(settings: "RunConfig") -> Finding:
    """A trial of a small model needs some gigabytes."""
    import psutil

    free = psutil.virtual_memory().available
    mend = f"Close programs: a small T5 needs about {_gib(ENOUGH_MEMORY_BYTES)} per trial."
    return Finding(free >= ENOUGH_MEMORY_BYTES, f"{_gib(free)} free", mend, ClusterError.exit_code)


def check_disk(settings: "RunConfig") -> Finding:
    """Checkpoints need room."""
    from t5ray.storage import free_bytes

    free = free_bytes(settings.storage)
    if free is None:
        return Finding(True, f"{settings.storage}: an object store, whose free space nobody says")
    mend = f"Free space or choose another --storage: checkpoints of a small T5 take up to {_gib(ENOUGH_DISK_BYTES)}."
    return Finding(free >= ENOUGH_DISK_BYTES, f"{_gib(free)} free for {settings.storage}", mend, ClusterError.exit_code)


def check_storage(settings: "RunConfig") -> Finding:
    """A file must come back from the storage as it was written."""
    from t5ray.health.scratch import scratch_in
    from t5ray.storage import download_dir, upload_dir

    token = uuid.uuid4().hex
    try:
        with tempfile.TemporaryDirectory() as here, scratch_in(settings.storage) as target:
            Path(here, "out").mkdir()
            Path(here, "out", "token").write_text(token)
            upload_dir(Path(here, "out"), target)
            download_dir(target, Path(here, "back"))
            same = Path(here, "back", "token").read_text() == token
        return Finding(same, f"{settings.storage} is writable", "Check the storage.", ClusterError.exit_code)
    except (OSError, T5RayError) as exc:
        return Finding(False, f"{settings.storage}: {exc}", "Choose a writable --storage.", ClusterError.exit_code)


def check_bf16(settings: "RunConfig") -> Finding:
    """Say which precision `auto` means here, for training and for scoring; neither is a fault.

    Training has the GPUs it is given, scoring those that there are.
    """
    from t5ray.model.numeric import default_device, device_with, has_fast_bf16

    def found(device: str) -> str:
        return f"{device}: " + ("fast, precision auto means bf16" if has_fast_bf16(device) else "slow, auto means fp32")

    training, scoring = device_with(settings.resources.gpus_per_worker).type, default_device().type
    if training == scoring:
        return Finding(True, found(training))
    return Finding(True, f"training, with gpus_per_worker 0, on {found(training)}; scoring on {found(scoring)}")


def check_data(settings: "RunConfig") -> Finding:
    """Files of rows must open; of their content the first byte is read."""
    from t5ray.data.hub import PREFIX
    from t5ray.health.node import data_problem

    path = settings.data.path
    if path is None:
        return Finding(True, "the demo's, which come with t5ray (--data names others)")
    if path.startswith(PREFIX):
        return Finding(True, f"{path}: the hub is asked when a command reads it")
    problem = data_problem(path)
    return Finding(not problem, problem or f"{path} opens", exit_code=DataError.exit_code)


def check_model(settings: "RunConfig") -> Finding:
    """The model must be a T5 whose config and tokenizer load and whose weights, in a folder, are all there."""
    from t5ray.demo import model_files
    from t5ray.model.loading import check_weights, load_config, load_tokenizer
    from t5ray.scoring.fetching import fetch_uri
    from t5ray.storage import is_uri

    source = settings.model or str(model_files())
    here = str(fetch_uri(source)) if is_uri(source) else source
    config, tokenizer = load_config(here), load_tokenizer(here)
    if settings.model and Path(here).is_dir():  # the demo's are made when they are needed, a hub's downloaded
        check_weights(Path(here))
    shown = source if settings.model else "the demo's"
    size = f"d_model {config.d_model}, {counted(config.num_layers, 'layer')}, {counted(len(tokenizer), 'token')}"
    return Finding(True, f"{shown}: {config.model_type}, {size}", exit_code=ModelError.exit_code)


def check_tracking(settings: "RunConfig") -> Finding:
    """MLflow must answer; a database file must be in a folder that can be written."""
    from t5ray.tracking import open_tracker
    from t5ray.tracking.uri import check_uri, scheme_of, shown, sqlite_path

    uri = settings.tracking.uri
    if scheme_of(uri) == "sqlite":
        check_uri(uri)
        file = sqlite_path(uri)
        if not file.exists():  # opening it would make it
            writable = os.access(file.parent, os.W_OK)
            mend = "Choose another --tracking-uri."
            return Finding(writable, f"{uri} can be made here", mend, TrackingError.exit_code)
    lost = open_tracker(settings.tracking).close()
    return Finding(not lost, f"{shown(uri)} answers", "; ".join(lost), TrackingError.exit_code)


def check_ray(settings: "RunConfig") -> Finding:
    """Ray must start, or be there at the address, and run a task."""
    import ray

    from t5ray.cluster import connect

    with connect(settings.address) as cluster:
        try:
            answer = ray.get(ray.remote(num_cpus=0)(platform.python_version).remote(), timeout=ANSWER_WITHIN_S)
        except ray.exceptions.RayError as exc:  # of which GetTimeoutError is one
            reason = one_line(exc)
            mend = "Look at `ray status`, and at the workers' logs in Ray's dashboard."
            text = f"a task must run within {ANSWER_WITHIN_S} s, but: {reason}"
            return Finding(False, text, mend, ClusterError.exit_code)
        where = "started here" if cluster.started_here else "joined"
        has = {"node": cluster.num_nodes, "CPU": cluster.num_cpus, "GPU": cluster.num_gpus}
        text = f"{where}: {', '.join(counted(number, what) for what, number in has.items())}"
        if answer != platform.python_version():
            mend = "Install the same Python on every node."
            return Finding(False, f"{text}; workers run Python {answer}", mend, ClusterError.exit_code)
        return Finding(True, text)


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return cli.run(command, "python -m t5ray.doctor", argv)


if __name__ == "__main__":
    from t5ray.doctor import main as entry

    raise SystemExit(entry())
