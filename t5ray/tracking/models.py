"""Downloads of models that MLflow knows: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/ID/PATH`."""

import re
from pathlib import Path

import mlflow
from mlflow.artifacts import download_artifacts

from t5ray.errors import ModelError, TrackingError
from t5ray.tracking.outbox import Away, Refused
from t5ray.tracking.registry import bundle_in
from t5ray.tracking.store import mend, translated
from t5ray.tracking.uri import is_local, shown, sqlite_path

FORMS = "models:/NAME@ALIAS, models:/NAME/VERSION or runs:/RUN_ID/PATH"


def download_model(uri: str, tracking_uri: str, folder: Path | None) -> Path:
    """Return a local directory with the model; see `resolve_model`."""
    if not re.match(r"(models|runs):/[^/]", uri):
        raise ModelError(f"model: must be {FORMS}, but got {uri!r}.")
    if is_local(tracking_uri) and not sqlite_path(tracking_uri).exists():
        raise TrackingError(f"tracking.uri: {shown(tracking_uri)} must exist to find {uri}. Give --tracking-uri.")
    try:
        with translated(tracking_uri):
            target = None if folder is None else str(folder)
            # download_artifacts has arguments for both, but looks `models:/` up in the global ones (MLflow 3.17)
            mlflow.set_tracking_uri(tracking_uri)
            mlflow.set_registry_uri(tracking_uri)
            path = download_artifacts(uri, dst_path=target)
    except Away as exc:
        raise TrackingError(
            f"tracking.uri: MLflow must answer at {shown(tracking_uri)}, but it did not: {exc}. {mend(tracking_uri)}"
        ) from exc
    except Refused as exc:
        raise ModelError(f"model: {uri} must be in MLflow at {shown(tracking_uri)}, but is not: {exc}.") from exc
    return bundle_in(Path(path))
