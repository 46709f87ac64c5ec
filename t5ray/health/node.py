"""A node examines itself.

Comes in: questions of the driver. Goes out: a `NodeReport`, in which what does not work is a sentence, never an error.
Must not know Ray, nor what the other nodes say.
"""

import hashlib
import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import t5ray
from t5ray.config import TrackingConfig
from t5ray.errors import one_line

LIBRARIES = ("ray", "torch", "transformers")
"""Must be the same everywhere: what one node pickles or computes, another goes on with."""
FROM_DRIVER = "driver"
"""Name of the file by which nodes know the driver's storage."""
SHARED_MEMORY = Path("/dev/shm")
MOST_FILES = 32
"""Files of rows that are opened: on object stores each takes a request."""


@dataclass(frozen=True, slots=True)
class Questions:
    """What the driver asks of one node."""

    node: str
    """How messages call the node."""
    node_id: str
    session_folder: str
    """Where Ray keeps its logs, and objects that memory does not hold."""
    storage_folder: str
    """Folder or URI in which the driver has written `FROM_DRIVER`, and the node is to write a file named `node_id`."""
    nonce: str
    """What stands in these files."""
    tracking: TrackingConfig | None = None
    """To be reached from the node; None: need not be."""
    data: str | None = None
    model: str | None = None
    gpus: float = 0.0
    """Of a training worker."""


@dataclass(frozen=True, slots=True)
class Clock:
    """A node's clock against the driver's."""

    ahead_s: float
    """Seconds by which the node's clock is ahead; negative: behind."""
    uncertainty_s: float
    """Half of the round trip in which it was read."""


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What a node found. `storage`, `tracking`, `data` and `model` say what is wrong with them; empty: nothing."""

    node: str
    node_id: str
    software: Mapping[str, str]
    """Python, t5ray and each of `LIBRARIES` -> version; t5ray's with a digest of its code."""
    gpus: tuple[str, ...]
    """Names of the GPUs that torch sees."""
    has_fast_bf16: bool
    """Where training computes: on a GPU that its workers are given, else on the CPU."""
    shared_memory_bytes: int | None
    """Size of /dev/shm; None where there is none."""
    disk_bytes: int
    """Size of the disk that holds Ray's folder."""
    disk_free_bytes: int
    storage: str = ""
    tracking: str = ""
    data: str = ""
    model: str = ""
    clock: Clock | None = None
    """Of the driver's measuring; None where the node did not say its time."""
    ray_cpus: float = 0.0
    """CPUs that Ray gives out there."""
    ray_gpus: float = 0.0
    """GPUs that Ray gives out there."""
    object_store_bytes: int = 0
    """What Ray's object store there may hold."""


def examine(questions: Questions) -> NodeReport:
    """Answer every question; takes seconds, as torch, transformers and mlflow are imported."""
    gpus, has_fast_bf16 = _accelerators(questions.gpus)
    disk = shutil.disk_usage(questions.session_folder)
    return NodeReport(
        node=questions.node,
        node_id=questions.node_id,
        software=software(),
        gpus=gpus,
        has_fast_bf16=has_fast_bf16,
        shared_memory_bytes=shutil.disk_usage(SHARED_MEMORY).total if SHARED_MEMORY.exists() else None,
        disk_bytes=disk.total,
        disk_free_bytes=disk.free,
        storage=_problem(lambda: _meet_driver(questions)),
        tracking=_problem(lambda: _reach(questions.tracking)),
        data=data_problem(questions.data),
        model=_problem(lambda: _open_model(questions.model)),
    )


def software() -> dict[str, str]:
    """Return what runs in this process: Python, t5ray and each of `LIBRARIES` -> version."""
    own = f"{t5ray.__version__} (code {code_digest(Path(t5ray.__file__).parent)})"
    return {"Python": platform.python_version(), "t5ray": own, **{name: _version(name) for name in LIBRARIES}}


def code_digest(package: Path) -> str:
    """Return six digits that differ where the code of a package does, whatever its version says."""
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:6]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _accelerators(gpus: float) -> tuple[tuple[str, ...], bool]:
    """Return the GPUs that torch sees, and whether bf16 has hardware where who has so many GPUs computes."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":  # a Ray that is told to hides GPUs from who asked for none
        del os.environ["CUDA_VISIBLE_DEVICES"]
    import torch

    from t5ray.model.numeric import device_with, has_fast_bf16

    names = tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return names, has_fast_bf16(device_with(gpus).type)


def _problem(look: Callable[[], None]) -> str:
    """Return why a look failed; empty where it did not."""
    try:
        look()
    except Exception as exc:  # noqa: BLE001 (drivers of storages raise errors of every class)
        return one_line(exc)
    return ""


def _meet_driver(questions: Questions) -> None:
    """Find what the driver wrote, and only then write: elsewhere than in the driver's storage nothing is to be left."""
    from t5ray.storage import download_file, is_there, upload_file

    theirs = f"{questions.storage_folder}/{FROM_DRIVER}"
    if not is_there(theirs):
        raise OSError("what the driver writes there is not there")
    with tempfile.TemporaryDirectory() as scratch:
        found = Path(scratch, FROM_DRIVER)
        download_file(theirs, found)
        if found.read_text() != questions.nonce:
            raise OSError("what the driver writes there reads differently")
        own = Path(scratch, questions.node_id)
        own.write_text(questions.nonce)
        upload_file(own, questions.storage_folder)


def _reach(tracking: TrackingConfig | None) -> None:
    if tracking is not None:
        from t5ray.tracking import open_tracker

        open_tracker(tracking).close()


def data_problem(path: str | None) -> str:
    """Return why files of rows cannot be opened here; empty where they can."""
    return _problem(lambda: _open_data(path))


def _open_data(path: str | None) -> None:
    """Read the first byte of files of rows: of all, or of some from the first to the last."""
    if path is None:
        return
    from t5ray.data.sources import find_sources

    sources = find_sources(path)[0]
    for source in sources[:: -(-len(sources) // MOST_FILES)] + sources[-1:]:
        with source.open() as file:
            file.read(1)


def _open_model(source: str | None) -> None:
    """Read a model's config and tokenizer and, where it is a folder, the headers of its weights."""
    if source is not None:
        from t5ray.model.loading import check_weights, load_config, load_tokenizer
        from t5ray.scoring.fetching import fetch_uri
        from t5ray.storage import is_uri

        here = str(fetch_uri(source)) if is_uri(source) else source
        load_config(here)
        load_tokenizer(here)
        if Path(here).is_dir():  # a hub's would have to be downloaded
            check_weights(Path(here))
