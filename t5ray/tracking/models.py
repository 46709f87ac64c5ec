"""Downloads of models that MLflow knows: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/ID/PATH`."""

import re
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from t5ray.errors import ModelError, TrackingError, did_you_mean
from t5ray.tracking.outbox import Away, Refused
from t5ray.tracking.registry import bundle_in, forms_of
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
        raise ModelError(
            f"model: {uri} must be in MLflow at {shown(tracking_uri)}, but is not: {exc}. {_there(uri, tracking_uri)}"
            "Name another MLflow with --tracking-uri, or register a model: --register NAME of tune and train."
        ) from exc
    return bundle_in(Path(path))


def _there(uri: str, tracking_uri: str) -> str:
    """Return a sentence on what is registered in the place of a model that is not; "" where MLflow does not say."""
    registered = re.match(r"models:/([^/@]+)", uri)
    if registered is None:
        return ""
    name = registered[1]
    try:
        with translated(tracking_uri):
            names = [model.name for model in MlflowClient(tracking_uri).search_registered_models()]
            forms = forms_of(MlflowClient(tracking_uri), name) if name in names else []
    except (Away, Refused):
        return ""
    if name not in names:
        return f"{did_you_mean(name, names)} " if names else "No model is registered there. "
    return f"There are {', '.join(forms)}. " if forms else ""
