"""Tracking URIs: which are taken, how they are shown, and what to type to look at the runs. Knows no mlflow."""

import re
import shlex
from pathlib import Path
from urllib.parse import unquote, urlsplit

from t5ray.errors import TrackingError, did_you_mean

NO_TRACKING = "none"
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SCHEMES = (*DATABASES, "http", "https", "databricks")
SQLITE = "sqlite:///"
HIDDEN = "***"
UI_ADDRESS = "http://127.0.0.1:5000"
"""Where `mlflow ui` serves unless it is told otherwise."""


def check_uri(uri: str) -> None:
    """Refuse URIs that MLflow 3 cannot write to, before mlflow is imported.

    Raises:
        TrackingError: a folder (MLflow's old file store), SQLite without a file, or a scheme that MLflow does not know.
    """
    scheme = scheme_of(uri)
    if scheme == "sqlite":
        _require_file(uri)
    if scheme in SCHEMES:
        return
    if scheme in ("", "file"):
        raise TrackingError(
            f"tracking.uri: must be a database or a server, but got {uri!r}: MLflow 3 no longer keeps runs in plain "
            f"folders. Use {SQLITE}mlflow.db, or move the old runs there first with "
            f"`mlflow migrate-filestore --source {shlex.quote(_folder(uri))} --target {SQLITE}mlflow.db`."
        )
    raise TrackingError(
        f"tracking.uri: must begin with one of {', '.join(SCHEMES)}, or be `{NO_TRACKING}`, "
        f"but got {shown(uri)!r}. {did_you_mean(scheme, SCHEMES)}"
    )


def _require_file(uri: str) -> None:
    """Refuse SQLite that is not in a file: MLflow would try for minutes, and each process would have its own memory."""
    scheme, _, rest = uri.partition("://")
    path, _, query = rest.partition("?")
    if scheme.lower() not in ("sqlite", "sqlite+pysqlite"):
        found = "which has another driver than SQLite's own"
    elif ":memory:" in path or "mode=memory" in query or path == "":
        found = "which each process would have in a memory of its own"
    elif path == "/" or sqlite_path(uri).is_dir():
        found = "which is a folder"
    elif not path.startswith("/"):
        found = f"which has a host, {path.partition('/')[0]}"
    else:
        return
    raise TrackingError(
        f"tracking.uri: must be a file, such as {SQLITE}mlflow.db, but got {shown(uri)!r}, {found}. Name a file, or "
        f"use `{NO_TRACKING}`."
    )


def scheme_of(uri: str) -> str:
    """Return the scheme without its driver: `postgresql+psycopg2://host/db` -> `postgresql`."""
    return "databricks" if uri == "databricks" else urlsplit(uri).scheme.partition("+")[0].lower()


def _folder(uri: str) -> str:
    return unquote(urlsplit(uri).path) or "mlruns"


def is_local(uri: str) -> bool:
    """Tell whether the URI is a SQLite file, which no network can take away."""
    return scheme_of(uri) == "sqlite"


def is_loopback(uri: str) -> bool:
    """Tell whether the URI's host is the machine that asks, whichever that is."""
    return urlsplit(uri).hostname in ("localhost", "127.0.0.1", "::1")


def sqlite_path(uri: str) -> Path:
    """Return the absolute path of a SQLite URI's file; three slashes are relative, four are absolute."""
    return Path(uri.partition("://")[2].removeprefix("/").partition("?")[0]).absolute()


def shown(uri: str) -> str:
    """Return the URI as messages may show it: without user, password and query.

    Example:
        shown("https://me:secret@host/x?token=t") -> "https://***@host/x"
    """
    bare = uri.partition("?")[0]
    return re.sub(r"(?<=://)[^/]*@", f"{HIDDEN}@", bare)


def redact(text: str, uri: str) -> str:
    """Take a URI's user, password and query out of another library's message."""
    parts = urlsplit(uri)
    secrets = {parts.password, parts.query, parts.netloc.rpartition("@")[0]}
    for secret in sorted((s for s in secrets if s), key=len, reverse=True):
        for form in {secret, unquote(secret)}:
            text = text.replace(form, HIDDEN)
    return text


def runs_url(uri: str, experiment_id: str) -> str:
    """Return the address that, with a run's id behind it, shows the run: at the server, or where `mlflow ui` serves.

    Example:
        runs_url("sqlite:///mlflow.db", "1") -> "http://127.0.0.1:5000/#/experiments/1/runs/"
    """
    scheme = scheme_of(uri)
    if scheme not in (*DATABASES, "http", "https"):
        return ""
    server = UI_ADDRESS if scheme in DATABASES else ui_command(uri).rstrip("/")
    return f"{server}/#/experiments/{experiment_id}/runs/"


def ui_command(uri: str) -> str:
    """Return what shows the runs: a command for a database, the address itself for a server, nothing for `none`."""
    if uri == NO_TRACKING:
        return ""
    if scheme_of(uri) in DATABASES:
        return f"mlflow ui --backend-store-uri {shlex.quote(shown(uri))}"
    return re.sub(r"(?<=://)[^/]*@", "", shown(uri))
