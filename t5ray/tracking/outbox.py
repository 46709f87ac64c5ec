"""Events in order, sent by one background thread, kept while the server is away.

Comes in: events from any thread, which never wait for the server. Goes out: calls of `send`, one at a time, in order.
Each event is on disk before it is sent, so that a killed driver loses none; where the disk takes none, it is sent all
the same, for a run is worth more than its record. Must not know what an event means to MLflow.
"""

import contextlib
import json
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from t5ray.errors import TrackingError, one_line

Kind = Literal["start", "metrics", "files", "model", "end", "reopen"]
UPLOADS = ("files", "model")
FIRST_PAUSE_S, LONGEST_PAUSE_S, CLOSING_PAUSE_S = 1.0, 30.0, 1.0


class Away(Exception):
    """The server did not answer: the event is sent again later."""


class Refused(Exception):
    """The server, or a file, will never take this event: it is given up and reported."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing to record."""

    kind: Kind
    run: str
    """Id of the run, as the tracker's caller holds it."""
    time_ms: int
    """When it happened, in milliseconds since 1970, whenever it is sent."""
    body: dict[str, Any]
    """JSON-able content; its keys depend on the kind."""


class Outbox:
    """Hands events to `send` in order and goes on with the next only when one is sent or refused."""

    def __init__(self, send: Callable[[Event], None], journal: Path | None = None) -> None:
        """Start sending.

        Args:
            send: delivers one event; raises Away or Refused. May see an event twice: when an answer got lost, or when
                the process died before the journal was cleared.
            journal: JSON-lines file that holds what is not sent yet. What an earlier outbox left there is sent first.
        Raises:
            TrackingError: a line of the journal is not an event, or the journal cannot be read or written.
        """
        self.refused: list[tuple[Event, str]] = []
        self.away_reason: str | None = None
        self.unkept_reason: str | None = None
        """Why the journal lacks what waits, or could not be written at the end."""
        self.kept_in: Path | None = None
        """Once closed: the file that holds what is unsent; None where no file could."""
        self._send = send
        self._journal = journal
        self._queue = deque(read_events(journal))
        if journal is not None and journal.exists():
            try:
                write_events(journal, self._queue)  # without the end that was cut off, which the next line would follow
            except OSError as exc:
                raise _out_of_reach(journal, "writable", exc) from exc
        self._closing = False
        self._hurried = False
        self._abandoned = False
        self._last_sent_s = time.monotonic()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="t5ray-tracking", daemon=True)
        self._thread.start()

    def add(self, event: Event) -> None:
        """Append an event; return at once."""
        with self._changed:
            if self._closing:
                raise RuntimeError("a closed tracker takes no events")
            self._queue.append(event)
            self._put_down(event)
            self._changed.notify_all()

    def _put_down(self, event: Event) -> None:
        """Put an event into the journal; where an earlier one could not be, all that wait."""
        if self._journal is None:
            return
        try:
            if self.unkept_reason is None:
                _append(self._journal, event)
            else:
                write_events(self._journal, self._queue)
        except OSError as exc:
            self.unkept_reason = _reason(exc)
        else:
            self.unkept_reason = None

    def settle(self, event: Event, timeout_s: float) -> None:
        """Wait until the event is sent or refused, the server is found away, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self.away_reason is not None or event not in self._queue, timeout_s)

    def reason_of_refusal(self, event: Event) -> str | None:
        """Return why an event was refused, or None."""
        return next((reason for refused, reason in self.refused if refused is event), None)

    @property
    def unsent(self) -> list[Event]:
        """What still waits, in order."""
        with self._changed:
            return list(self._queue)

    def flush(self, patience_s: float) -> None:
        """Send what waits; give up when no event could be sent for so long."""
        with self._changed:
            self._hurried = True
            self._send_what_waits(patience_s)
            self._hurried = False

    def close(self, patience_s: float) -> None:
        """Send what is left, and stop; `unsent` then holds what could not be sent.

        Args:
            patience_s: give up when no event could be sent for this long; an upload may take longer.
        """
        with self._changed:
            self._closing = True
            try:
                self._send_what_waits(patience_s)
            finally:
                self._abandoned = True
                self._changed.notify_all()
                if self._journal is not None:
                    self._keep_rest(self._journal)

    def _keep_rest(self, journal: Path) -> None:
        """Leave what is unsent in the journal; where that cannot be written, in a new temporary folder."""
        lacks_some = self.unkept_reason is not None
        try:
            write_events(journal, self._queue)
            self.kept_in = journal
        except OSError as exc:
            self.unkept_reason = _reason(exc)
            if not lacks_some:
                self.kept_in = journal  # what it has besides is sent twice, which changes nothing
                return
            with contextlib.suppress(OSError):
                elsewhere = Path(tempfile.mkdtemp(prefix="t5ray-unsent-")) / journal.name
                write_events(elsewhere, self._queue)
                self.kept_in = elsewhere

    def _send_what_waits(self, patience_s: float) -> None:
        self._last_sent_s = time.monotonic()
        self._changed.notify_all()
        while self._queue and self._has_patience(patience_s):
            self._changed.wait(timeout=0.1)

    def _has_patience(self, patience_s: float) -> bool:
        uploading = self._queue[0].kind in UPLOADS and self.away_reason is None
        return uploading or time.monotonic() - self._last_sent_s < patience_s

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while (event := self._next()) is not None:
            try:
                self._send(event)
            except Away as exc:
                self._wait_out(str(exc), pause_s)
                pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
                continue
            except Refused as exc:
                self.refused.append((event, str(exc)))
            pause_s = FIRST_PAUSE_S
            self._done()

    def _next(self) -> Event | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            return self._queue[0] if self._queue and not self._abandoned else None

    def _done(self) -> None:
        with self._changed:
            if not self._abandoned:
                self._queue.popleft()
                if not self._queue and self._journal is not None:
                    with contextlib.suppress(OSError):  # what stays there is sent twice, which changes nothing
                        self._journal.unlink(missing_ok=True)
            self.away_reason = None
            self._last_sent_s = time.monotonic()
            self._changed.notify_all()

    def _wait_out(self, reason: str, pause_s: float) -> None:
        with self._changed:
            self.away_reason = reason
            self._changed.notify_all()
            if self._closing or self._hurried:
                self._changed.wait_for(lambda: self._abandoned, CLOSING_PAUSE_S)
            else:
                self._changed.wait_for(lambda: self._closing or self._hurried, pause_s)


def read_events(path: Path | None) -> list[Event]:
    """Read the events that an earlier tracker left. A last line without its end was cut off in writing: it is no event.

    Raises:
        TrackingError: a line is not an event, or the file cannot be read.
    """
    if path is None or not path.exists():
        return []
    events = []
    try:
        whole, _, _ = path.read_text(encoding="ascii", errors="replace").rpartition("\n")
    except OSError as exc:
        raise _out_of_reach(path, "readable", exc) from exc
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            events.append(Event(**json.loads(line)))
        except (ValueError, TypeError) as exc:
            raise TrackingError(
                f"{path}:{number}: must be one unsent MLflow event as JSON, but got {line[:80]!r}. "
                "Delete the line (the event is lost), or the file."
            ) from exc
    return events


def write_events(path: Path, events: Iterable[Event]) -> None:
    """Write events for a later tracker, all or none; no events remove the file.

    Raises:
        OSError: the file stays what it was.
    """
    lines = [_line(event) for event in events]
    if not lines:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text("".join(lines), encoding="ascii")
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):  # a disk that is full needs the place
            temporary.unlink()
        raise


def _append(path: Path, event: Event) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="ascii") as file:
        file.write(_line(event))


def _out_of_reach(path: Path, what: str, exc: OSError) -> TrackingError:
    return TrackingError(
        f"{path}: must be {what}, for it holds what MLflow lacks, but: {_reason(exc)}. "
        "Free space or mend its permissions, and give the same command again."
    )


def _reason(exc: OSError) -> str:
    return exc.strerror or one_line(exc)


def _line(event: Event) -> str:
    return json.dumps(asdict(event)) + "\n"
