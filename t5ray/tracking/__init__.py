"""Runs, parameters and metrics on their way to MLflow, behind a small protocol.

    tracker.py         the protocol, a tracker that does nothing, a tracker in memory
    uri.py             which tracking URIs are taken, how they are shown without their passwords
    mlflow_tracker.py  the tracker that writes to MLflow: calls become events
    outbox.py          events in order, sent by one thread, kept while the server is away
    store.py           what one event is in MLflow's terms: the home of mlflow
    datasets.py        a run's dataset in MLflow's words
    registry.py        a bundle as an MLflow model, under a registered name
    served_model.py    the code inside such a model
    models.py          downloads of `models:/NAME@ALIAS` and `runs:/ID/PATH`

Comes in: settings and events of the driver, the one writer. Goes out: MLflow runs. mlflow takes seconds to import and
is imported only once a tracking URI is opened.
"""

import os
from pathlib import Path

from t5ray.config import TrackingConfig
from t5ray.errors import TrackingError
from t5ray.tracking.tracker import Dataset, MemoryRun, MemoryTracker, NoTracker, Status, Tracker, is_handle
from t5ray.tracking.uri import NO_TRACKING, check_uri, ui_command

__all__ = [
    "Dataset",
    "MemoryRun",
    "MemoryTracker",
    "NoTracker",
    "Status",
    "Tracker",
    "is_handle",
    "open_tracker",
    "require_usable",
    "resolve_model",
    "ui_command",
]


def require_usable(config: TrackingConfig) -> None:
    """Refuse a tracking URI that MLflow cannot write to, before anything else is done; connects to nothing.

    Raises:
        TrackingError: as `check_uri`.
    """
    if config.uri != NO_TRACKING:
        check_uri(config.uri)


def open_tracker(config: TrackingConfig, *, outbox: Path | None = None) -> Tracker:
    """Connect to the tracking URI, making its database and experiment where they do not exist yet.

    Args:
        outbox: JSON-lines file. Events that an earlier tracker left there are sent first; what this one cannot send by
            the time it is closed is written there.
    Raises:
        TrackingError: the URI is of a kind that MLflow 3 refuses, nothing answers there within about 10 s, the
            experiment is deleted, or the outbox file is not one.
    """
    require_usable(config)
    if config.uri == NO_TRACKING:
        return NoTracker()
    _prepare_mlflow()
    from t5ray.tracking.mlflow_tracker import MlflowTracker

    return MlflowTracker.open(config.uri, config.experiment, outbox)


def resolve_model(uri: str, tracking_uri: str, folder: Path | None = None) -> Path:
    """Download what `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `runs:/ID/PATH` names; return the local directory.

    Args:
        folder: where the download goes. None: a new temporary directory.
    Raises:
        ModelError: no such model, alias, version, run or path.
        TrackingError: the URI is refused or nothing answers there, or it is `none`.
    """
    if tracking_uri == NO_TRACKING:
        raise TrackingError(f"tracking.uri: must say where MLflow knows {uri}, but is `none`. Give --tracking-uri.")
    check_uri(tracking_uri)
    _prepare_mlflow()
    from t5ray.tracking.models import download_model

    return download_model(uri, tracking_uri, folder)


def _prepare_mlflow() -> None:
    """Set what mlflow reads from the environment, before it is imported: quiet, and one try for each request."""
    for name, value in {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the outbox does the waiting
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    }.items():
        os.environ.setdefault(name, value)
