"""Models that lie elsewhere -> a folder of this machine.

Comes in: an fsspec URI, or a name that MLflow knows. Goes out: a folder in `~/.cache/t5ray/models`, or where
XDG_CACHE_HOME says. It is named after what it holds: the same model has the same folder, and another one never takes
its place. Nothing is removed from there. Must not know tasks or rows.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec

from t5ray.data.sources import version_of
from t5ray.disk import cache_folder, publish_dir
from t5ray.errors import ModelError, one_line
from t5ray.model.card import fingerprint
from t5ray.redaction import hide_secrets
from t5ray.storage import download_dir
from t5ray.tracking import resolve_model

CACHE = "models"


def fetch_uri(uri: str) -> Path:
    """Copy a model from a URI, unless the very same was copied before.

    Raises:
        ModelError: no model is there, or the cache cannot be written.
        ClusterError: the storage cannot be reached.
    """
    target = cache_folder(CACHE) / f"{_slug(uri)}-{_stamp(uri)[:12]}"
    if not target.is_dir():
        with _arriving() as folder:
            download_dir(uri, folder)
            publish_dir(folder, target)
    return target


def fetch_registered(uri: str, tracking_uri: str) -> Path:
    """Download a model that MLflow knows.

    An alias moves, and an extended search replaces its run's files: only the content tells whether it is the one that
    was downloaded before. So it is downloaded each time, and kept once.

    Raises:
        ModelError: no such model, or the cache cannot be written.
        TrackingError: the tracking URI is refused or nothing answers there.
    """
    with _arriving() as folder:
        found = resolve_model(uri, tracking_uri, folder)
        target = cache_folder(CACHE) / f"{_slug(uri)}-{fingerprint(found)[:12]}"
        if not target.is_dir():
            publish_dir(found, target)
        return target


def _slug(uri: str) -> str:
    """Return the end of a URI as part of a folder's name."""
    return re.sub(r"[^\w.@-]+", "-", hide_secrets(uri).partition(":")[2]).strip("-")[-60:]


def _stamp(uri: str) -> str:
    """Return a digest of the URI and of the names, sizes and versions of its files."""
    try:
        files, root = fsspec.core.url_to_fs(uri)
        files.invalidate_cache()
        found: dict[str, dict[str, Any]] = files.find(root, detail=True)
    except Exception as exc:  # drivers raise errors of every class
        reason = one_line(exc)
        raise ModelError(
            f"{uri}: the model must be at an address that can be reached, but: {reason}. Check address and credentials."
        ) from exc
    if not any(name.endswith("/config.json") for name in found):
        raise ModelError(f"{uri}: must be the folder of a model, but holds no config.json. Check the address.")
    if leading_out := [name for name in found if ".." in name.split("/")]:
        raise ModelError(f"{uri}: all files must lie in the model's folder, but one is called {leading_out[0]!r}.")
    listing = [[name, found[name]["size"], str(version_of(found[name])[1])] for name in sorted(found)]
    return hashlib.sha256(json.dumps([uri, listing]).encode()).hexdigest()


@contextmanager
def _arriving() -> Iterator[Path]:
    """Yield an empty folder inside the cache, which is gone afterwards unless it was kept."""
    cache = cache_folder(CACHE)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=cache) as folder:
            arriving = Path(folder) / "model"
            arriving.mkdir()
            yield arriving
    except OSError as exc:
        raise ModelError(
            f"{cache}: fetched models must be kept there, but: {exc}. Free space, or set XDG_CACHE_HOME."
        ) from exc
