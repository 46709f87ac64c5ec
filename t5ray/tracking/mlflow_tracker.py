"""The tracker that writes to MLflow: calls become events, a background thread sends them."""

import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from t5ray.errors import TrackingError
from t5ray.redaction import hide_secrets
from t5ray.tracking.outbox import Away, Event, Kind, Outbox, Refused, read_events
from t5ray.tracking.store import MlflowStore, within
from t5ray.tracking.tracker import HANDLE_PREFIX, NO_METRICS, NO_TAGS, NOTHING, Dataset, Status
from t5ray.tracking.uri import runs_url, shown

SETTLE_S = 2.0
"""How long start_run and reopen_run wait for MLflow's answer, in seconds."""
CLOSE_PATIENCE_S = 6.0
"""How long flush and close wait for a server that takes nothing, in seconds."""


class MlflowTracker:
    """Writes to one MLflow experiment. One process, the driver, holds it; any of its threads may call."""

    def __init__(self, uri: str, store: MlflowStore, outbox_path: Path | None) -> None:
        self._uri = uri
        self._store = store
        self._outbox_path = outbox_path
        self._has_begun = False
        self.was_interrupted = False
        self._names = {event.run: event.body["name"] for event in read_events(outbox_path) if event.kind == "start"}
        self._outbox = Outbox(store.send, outbox_path)

    @classmethod
    def open(cls, uri: str, experiment: str, outbox_path: Path | None) -> "MlflowTracker":
        """Connect; see `open_tracker`."""
        return cls(uri, MlflowStore.open(uri, experiment), outbox_path)

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
        """Begin a run. A name under a parent, or a key, is one run, however often it is begun: a kill may forget it.

        Returns:
            MLflow's run id; while the server is away, a handle `unsent-…` that works in its place. The run carries
            it as the tag `t5ray.handle` once it is made.
        Raises:
            TrackingError: MLflow refuses the tracker's first run, when nothing is lost yet. Later refusals are told
                by `close`.
        """
        known_by = f"{parent}/{name}" if parent else key
        handle = HANDLE_PREFIX + (uuid.uuid5(uuid.NAMESPACE_OID, known_by) if known_by else uuid.uuid4()).hex
        texts = {key: hide_secrets(str(value)) for key, value in params.items()}
        data = dataset and {key: hide_secrets(value) for key, value in asdict(dataset).items()}
        event = self._add("start", handle, name=name, parent=parent, params=texts, tags=dict(tags), dataset=data)
        if (reason := self._refusal_of_first(event)) is not None:
            raise TrackingError(f"MLflow at {shown(self._uri)} must take the run {name!r}, but refused: {reason}.")
        run_id = self._store.known_id(handle) or handle
        self._names[handle] = self._names[run_id] = name
        return run_id

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], *, step: int, time_ms: int | None = None) -> None:
        """Add one point to each metric's curve; returns at once."""
        self._add("metrics", run_id, time_ms, metrics=_floats(metrics), step=step)

    def end_run(
        self,
        run_id: str,
        status: Status,
        *,
        metrics: Mapping[str, float] = NO_METRICS,
        tags: Mapping[str, str] = NO_TAGS,
    ) -> None:
        """End a run; returns at once."""
        self._add("end", run_id, status=status, metrics=_floats(metrics), tags=dict(tags))

    def log_files(self, run_id: str, path: Path, folder: str = "") -> None:
        """Upload in the background; `close` waits for it."""
        self._add("files", run_id, path=str(path.absolute()), folder=folder)

    def log_model(
        self, run_id: str, bundle: Path, *, columns: Mapping[str, str] = NO_TAGS, register: str | None = None
    ) -> None:
        """Upload and register in the background; `close` waits for it."""
        self._add("model", run_id, path=str(bundle.absolute()), columns=dict(columns), register=register)

    def reopen_run(self, run_id: str) -> None:
        """Take up a run again.

        Raises:
            TrackingError: it is the tracker's first run, and MLflow knows it no longer. Later ones are told by `close`.
        """
        event = self._add("reopen", run_id)
        if (reason := self._refusal_of_first(event)) is not None:
            raise TrackingError(
                f"MLflow at {shown(self._uri)} must still have the run {run_id} to go on with it, but refused: "
                f"{reason}. Give the --tracking-uri and --experiment of the first start, or begin under another --name."
            )

    def current_id(self, run_id: str) -> str:
        """Return MLflow's id of a run; a handle of an earlier tracker is looked up, where MLflow answers."""
        known = self._store.known_id(run_id)
        if known is None and self._outbox.away_reason is None:
            with suppress(Away, Refused):
                known = within(SETTLE_S, lambda: self._store.look_up(run_id))
        return known or run_id

    def runs_url(self) -> str:
        """Return what a run's id is appended to for a link to its page."""
        return runs_url(self._uri, self._store.experiment_id)

    def flush(self) -> None:
        """Send what waits; give up where nothing can be sent for some seconds."""
        self._outbox.flush(CLOSE_PATIENCE_S)

    def close(self) -> list[str]:
        """Send what is left, keep the rest in the outbox file, and say what is missing; Ctrl-C ends the sending."""
        is_cut = False
        try:
            self._outbox.close(CLOSE_PATIENCE_S)
        except KeyboardInterrupt:
            is_cut = True
        unsent = self._outbox.unsent
        self.was_interrupted = is_cut and bool(unsent)
        lines = [f"MLflow refused {reason}" for reason in self._refusals()]
        if unsent:
            reason, server = self._outbox.away_reason or "no answer", f"MLflow at {shown(self._uri)}"
            why = f"Sending to {server} was interrupted" if is_cut else f"{server} did not answer ({reason})"
            lines.append(f"{why}. Not sent: {self._list(unsent)}.")
            lines.append(self._where_kept())
        return lines

    def _where_kept(self) -> str:
        """Say where what was not sent is, and how it can be sent later."""
        path, kept, why = self._outbox_path, self._outbox.kept_in, self._outbox.unkept_reason
        if path is None:
            return "It is not kept. Run the command again to record it."
        if kept is None:
            return (
                f"Nor is it kept, for {path} cannot be written ({why}): MLflow will lack it. The run's files have it."
            )
        if kept == path:
            return f"It is kept in {path}. The same command with --resume sends it."
        return (
            f"It is kept in {kept}, for {path} cannot be written ({why}). "
            "Move it there once it can; the same command with --resume then sends it."
        )

    def _add(self, kind: Kind, run: str, time_ms: int | None = None, **body: Any) -> Event:
        event = Event(kind, run, time.time_ns() // 1_000_000 if time_ms is None else time_ms, body)
        self._outbox.add(event)
        return event

    def _refusal_of_first(self, event: Event) -> str | None:
        """Wait shortly for the answer; return why it is a refusal if this is the tracker's first run."""
        self._outbox.settle(event, SETTLE_S)
        is_first, self._has_begun = not self._has_begun, True
        return self._outbox.reason_of_refusal(event) if is_first else None

    def _refusals(self) -> list[str]:
        """Group refused events by reason: `trial_3 metrics of step 2, end: RESOURCE_DOES_NOT_EXIST: ...`."""
        reasons = dict.fromkeys(reason for _, reason in self._outbox.refused)
        return [f"{self._list(e for e, r in self._outbox.refused if r == reason)}: {reason}" for reason in reasons]

    def _list(self, events: Iterable[Event]) -> str:
        """Say what events hold, run by run: `trial_3 (start, metrics of step 1, end)`."""
        runs: dict[str, list[str]] = {}
        for event in events:
            runs.setdefault(self._names.get(event.run, event.run), []).append(_content(event))
        return ", ".join(f"{name} ({', '.join(contents)})" for name, contents in runs.items())


def _content(event: Event) -> str:
    match event.kind:
        case "metrics":
            return f"metrics of step {event.body['step']}"
        case "files":
            return f"files {event.body['path']}"
        case "model":
            return f"model {event.body['path']}"
        case "end":
            return f"end {event.body['status']}"
        case kind:
            return kind


def _floats(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}
