"""What the other rooms know of tracking: the protocol, and two trackers that need no MLflow."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

Status = Literal["FINISHED", "FAILED", "KILLED"]

NOTHING: Mapping[str, object] = {}
NO_TAGS: Mapping[str, str] = {}
NO_METRICS: Mapping[str, float] = {}
HANDLE_PREFIX = "unsent-"


@dataclass(frozen=True, slots=True)
class Dataset:
    """The rows that a run uses, as MLflow's lists of runs name them."""

    name: str
    digest: str
    """What other rows do not have. MLflow takes 36 characters."""
    source: str
    """Where they are from: a path or an address."""


def is_handle(run_id: str | None) -> bool:
    """Say whether an id is a handle: of a run that began while MLflow was away, and had no id of MLflow's yet."""
    return run_id is not None and run_id.startswith(HANDLE_PREFIX)


class Tracker(Protocol):
    """Records runs. No method waits for a server longer than about two seconds, but `flush` and `close`."""

    was_interrupted: bool
    """Whether Ctrl-C ended `close` before all was sent."""

    def start_run(
        self,
        name: str,
        *,
        parent: str | None = None,
        key: str = "",
        params: Mapping[str, object] = NOTHING,
        tags: Mapping[str, str] = NO_TAGS,
        dataset: Dataset | None = None,
    ) -> str:
        """Begin a run and return the id that the other methods, and a later tracker's `reopen_run`, take.

        Args:
            parent: id of the run that this one is shown under; there it is the only one of its name.
            key: what no other run without a parent has: begun again with it, it is the same run. Empty: a new one.
            params: written now and never again.
            dataset: what it trains on.
        """
        ...

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], *, step: int, time_ms: int | None = None) -> None:
        """Add one point to each metric's curve, at `step` (an epoch).

        Args:
            time_ms: when it happened, in milliseconds since 1970; given again with the same time it is one point.
                None: now.
        """
        ...

    def end_run(
        self,
        run_id: str,
        status: Status,
        *,
        metrics: Mapping[str, float] = NO_METRICS,
        tags: Mapping[str, str] = NO_TAGS,
    ) -> None:
        """End a run with metrics that have no curve, such as `test_accuracy`."""
        ...

    def log_files(self, run_id: str, path: Path, folder: str = "") -> None:
        """Upload a file, or what a directory holds, into `folder` of the run. It must stay in place until `close`."""
        ...

    def log_model(
        self, run_id: str, bundle: Path, *, columns: Mapping[str, str] = NO_TAGS, register: str | None = None
    ) -> None:
        """Log a bundle as the run's model, ready to be served. It must stay in place until `close`.

        Args:
            columns: column that the task looks for -> column of the data, which the served model takes.
            register: name to register it under, as `champion`.
        """
        ...

    def reopen_run(self, run_id: str) -> None:
        """Take up a run of an earlier tracker again."""
        ...

    def current_id(self, run_id: str) -> str:
        """Return MLflow's id of a run that `start_run` had a handle for; the handle while the run is not made."""
        ...

    def runs_url(self) -> str:
        """Return what a run's id is appended to for a link to its page; nothing where there is none."""
        ...

    def flush(self) -> None:
        """Send what waits, as far as the server takes it."""
        ...

    def close(self) -> list[str]:
        """Send what is left and return one line for each thing that could not be sent."""
        ...


class NoTracker:
    """Records nothing: the tracker of `--tracking-uri none`."""

    was_interrupted = False

    def start_run(
        self,
        name: str,
        *,
        parent: str | None = None,
        key: str = "",
        params: Mapping[str, object] = NOTHING,
        tags: Mapping[str, str] = NO_TAGS,
        dataset: Dataset | None = None,
    ) -> str:
        """Return no id: there is no run."""
        return ""

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], *, step: int, time_ms: int | None = None) -> None:
        """Do nothing."""

    def end_run(
        self,
        run_id: str,
        status: Status,
        *,
        metrics: Mapping[str, float] = NO_METRICS,
        tags: Mapping[str, str] = NO_TAGS,
    ) -> None:
        """Do nothing."""

    def log_files(self, run_id: str, path: Path, folder: str = "") -> None:
        """Do nothing."""

    def log_model(
        self, run_id: str, bundle: Path, *, columns: Mapping[str, str] = NO_TAGS, register: str | None = None
    ) -> None:
        """Do nothing."""

    def reopen_run(self, run_id: str) -> None:
        """Do nothing."""

    def current_id(self, run_id: str) -> str:
        """Return it as it is."""
        return run_id

    def runs_url(self) -> str:
        """Return nothing: there are no pages."""
        return ""

    def flush(self) -> None:
        """Do nothing: nothing waits."""

    def close(self) -> list[str]:
        """Return no lines: nothing is missing."""
        return []


@dataclass
class MemoryRun:
    """What a MemoryTracker knows of one run."""

    name: str
    parent: str | None
    params: dict[str, object]
    tags: dict[str, str]
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    """Metric -> its (step, value) points in the order they came."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Metrics given at the end of the run."""
    status: Literal["RUNNING"] | Status = "RUNNING"
    files: list[tuple[Path, str]] = field(default_factory=list)
    """(path, folder) of each upload."""
    model: tuple[Path, dict[str, str], str | None] | None = None
    """(bundle, columns, registered name) of its model."""
    dataset: Dataset | None = None


class MemoryTracker:
    """Keeps runs in memory, for tests. An unknown run id is a KeyError."""

    def __init__(self) -> None:
        self.runs: dict[str, MemoryRun] = {}
        self.closed = False
        self.was_interrupted = False

    def start_run(
        self,
        name: str,
        *,
        parent: str | None = None,
        key: str = "",
        params: Mapping[str, object] = NOTHING,
        tags: Mapping[str, str] = NO_TAGS,
        dataset: Dataset | None = None,
    ) -> str:
        """Begin a run; ids are `run-1`, `run-2` and so on."""
        if parent is not None and parent not in self.runs:
            raise KeyError(parent)
        run_id = f"run-{len(self.runs) + 1}"
        self.runs[run_id] = MemoryRun(name, parent, dict(params), dict(tags), dataset=dataset)
        return run_id

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], *, step: int, time_ms: int | None = None) -> None:
        """Add one point to each curve."""
        for name, value in metrics.items():
            self.runs[run_id].curves.setdefault(name, []).append((step, value))

    def end_run(
        self,
        run_id: str,
        status: Status,
        *,
        metrics: Mapping[str, float] = NO_METRICS,
        tags: Mapping[str, str] = NO_TAGS,
    ) -> None:
        """Keep status, metrics and tags."""
        run = self.runs[run_id]
        run.status = status
        run.metrics |= metrics
        run.tags |= tags

    def log_files(self, run_id: str, path: Path, folder: str = "") -> None:
        """Keep the path."""
        self.runs[run_id].files.append((path, folder))

    def log_model(
        self, run_id: str, bundle: Path, *, columns: Mapping[str, str] = NO_TAGS, register: str | None = None
    ) -> None:
        """Keep what was given."""
        self.runs[run_id].model = (bundle, dict(columns), register)

    def reopen_run(self, run_id: str) -> None:
        """Set the run to RUNNING."""
        self.runs[run_id].status = "RUNNING"

    def current_id(self, run_id: str) -> str:
        """Return it as it is."""
        return run_id

    def runs_url(self) -> str:
        """Return nothing: there are no pages."""
        return ""

    def flush(self) -> None:
        """Do nothing: nothing waits."""

    def close(self) -> list[str]:
        """Mark as closed; nothing is ever missing."""
        self.closed = True
        return []
