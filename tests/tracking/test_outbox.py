import errno
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5ray.errors import TrackingError
from t5ray.tracking import outbox as module
from t5ray.tracking.outbox import Away, Event, Outbox, Refused, read_events, write_events


def event(number: int, **body: object) -> Event:
    return Event("metrics", f"run-{number}", 1_700_000_000_000 + number, body)


class Server:
    """Takes events, unless it is away or a run is refused."""

    def __init__(self) -> None:
        self.taken: list[Event] = []
        self.away = False
        self.refuses: set[str] = set()

    def __call__(self, event: Event) -> None:
        if self.away:
            raise Away("connection refused")
        if event.run in self.refuses:
            raise Refused("no such run")
        self.taken.append(event)


def wait_until(true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_events_arrive_in_order_those_of_an_earlier_outbox_first(tmp_path: Path) -> None:
    server = Server()
    write_events(tmp_path / "journal", [event(0), event(1)])
    outbox = Outbox(server, tmp_path / "journal")
    for number in range(2, 100):
        outbox.add(event(number))
    outbox.close(patience_s=5)
    assert server.taken == [event(number) for number in range(100)]
    assert outbox.unsent == []
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_sent_is_on_disk_at_once_and_gone_when_sent(tmp_path: Path) -> None:
    journal = tmp_path / "state" / "journal"
    server = Server()
    server.away = True
    outbox = Outbox(server, journal)
    for number in range(3):
        outbox.add(event(number))
        assert read_events(journal) == [event(n) for n in range(number + 1)]  # whatever kills us now
    server.away = False
    wait_until(lambda: len(server.taken) == 3 and not journal.exists())
    server.away = True
    outbox.add(event(3))
    outbox.close(patience_s=0.2)
    assert read_events(journal) == [event(3)]


def test_a_line_that_was_cut_off_is_no_event(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    write_events(journal, [event(0), event(1)])
    journal.write_text(journal.read_text()[:-5])
    assert read_events(journal) == [event(0)]


def test_what_follows_a_line_that_was_cut_off_is_whole(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    write_events(journal, [event(0), event(1)])
    journal.write_text(journal.read_text()[:-5])
    server = Server()
    server.away = True
    outbox = Outbox(server, journal)
    outbox.add(event(2))
    assert read_events(journal) == [event(0), event(2)]
    server.away = False
    outbox.close(patience_s=10)


def test_events_wait_in_order_until_the_server_is_back() -> None:
    server = Server()
    server.away = True
    outbox = Outbox(server)
    for number in range(5):
        outbox.add(event(number))
    wait_until(lambda: outbox.away_reason == "connection refused")
    assert server.taken == []
    server.away = False
    wait_until(lambda: len(server.taken) == 5)
    assert outbox.away_reason is None
    outbox.close(patience_s=5)
    assert server.taken == [event(number) for number in range(5)]


def test_close_gives_up_after_its_patience_and_leaves_the_rest() -> None:
    server = Server()
    outbox = Outbox(server)
    outbox.add(event(0))
    wait_until(lambda: len(server.taken) == 1)
    server.away = True
    outbox.add(event(1))
    outbox.add(event(2))
    start_s = time.monotonic()
    outbox.close(patience_s=0.5)
    assert 0.4 < time.monotonic() - start_s < 5
    assert outbox.unsent == [event(1), event(2)]
    with pytest.raises(RuntimeError, match="a closed tracker takes no events"):
        outbox.add(event(3))


def test_a_refused_event_is_told_and_does_not_stop_the_others() -> None:
    server = Server()
    server.refuses = {"run-1"}
    outbox = Outbox(server)
    for number in range(3):
        outbox.add(event(number))
    outbox.close(patience_s=5)
    assert server.taken == [event(0), event(2)]
    assert outbox.refused == [(event(1), "no such run")]
    assert outbox.unsent == []


def test_a_server_that_hangs_blocks_neither_add_nor_settle_nor_close() -> None:
    hang = threading.Event()
    outbox = Outbox(lambda _: [None, None][hang.wait(60)])
    start_s = time.monotonic()
    for number in range(10):
        outbox.add(event(number))
    outbox.settle(event(0), timeout_s=0.2)
    outbox.close(patience_s=0.3)
    assert time.monotonic() - start_s < 5
    assert len(outbox.unsent) == 10
    hang.set()


def test_settle_returns_as_soon_as_the_event_is_sent() -> None:
    outbox = Outbox(Server())
    start_s = time.monotonic()
    last = event(1)
    outbox.add(last)
    outbox.settle(last, timeout_s=60)
    assert time.monotonic() - start_s < 10
    assert outbox.unsent == []
    outbox.close(patience_s=1)


def out_of_reach(folder: Path) -> Path:
    """Return the path of a journal that nobody can write, as a file has the place of its folder."""
    (folder / "state").write_text("")
    return folder / "state" / "journal"


def test_an_event_that_cannot_be_put_down_is_sent_all_the_same(tmp_path: Path) -> None:
    server = Server()
    outbox = Outbox(server, out_of_reach(tmp_path))
    outbox.add(event(0))
    outbox.close(patience_s=5)
    assert server.taken == [event(0)]
    assert outbox.unsent == []


def test_what_could_not_be_put_down_is_once_that_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(path: Path, event: Event) -> None:
        path.write_text('{"kind": "metr')
        raise OSError(errno.ENOSPC, "No space left on device")

    server = Server()
    server.away = True
    journal = tmp_path / "journal"
    outbox = Outbox(server, journal)
    with monkeypatch.context() as full:
        full.setattr(module, "_append", half)
        outbox.add(event(0))
        assert read_events(journal) == []
    outbox.add(event(1))
    assert read_events(journal) == [event(0), event(1)]
    outbox.add(event(2))
    outbox.close(patience_s=0.1)
    assert outbox.kept_in == journal
    assert read_events(journal) == [event(0), event(1), event(2)]


def test_what_is_left_is_kept_elsewhere_where_the_journal_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    server = Server()
    server.away = True
    outbox = Outbox(server, out_of_reach(tmp_path))
    outbox.add(event(0))
    outbox.add(event(1))
    outbox.close(patience_s=0.1)
    assert outbox.kept_in is not None
    assert outbox.kept_in.is_relative_to(tmp_path)
    assert read_events(outbox.kept_in) == [event(0), event(1)]


def test_a_journal_that_cannot_be_written_anew_has_what_is_left_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()
    server.away = True
    outbox = Outbox(server, tmp_path / "journal")
    outbox.add(event(0))
    (tmp_path / "journal.tmp").mkdir()  # where it is written anew
    outbox.close(patience_s=0.1)
    assert outbox.kept_in == tmp_path / "journal"
    assert read_events(outbox.kept_in) == [event(0)]


def test_a_journal_that_cannot_be_read_or_written_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    with pytest.raises(TrackingError, match="journal: must be readable, for it holds what MLflow lacks, but: Is a dir"):
        read_events(tmp_path / "journal")
    write_events(tmp_path / "there", [event(0)])
    (tmp_path / "there.tmp").mkdir()
    with pytest.raises(TrackingError, match="there: must be writable, for it holds what MLflow lacks, but: Is a dir"):
        Outbox(Server(), tmp_path / "there")


ANY_TEXT = st.text(st.characters())  # lone surrogates too
JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | ANY_TEXT,
    lambda inner: st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.builds(Event, st.just("start"), st.text(), st.integers(), st.dictionaries(st.text(), JSON)), min_size=1)
)
def test_written_events_read_back(tmp_path_factory: pytest.TempPathFactory, events: list[Event]) -> None:
    path = tmp_path_factory.mktemp("outbox") / "new" / "outbox.jsonl"
    write_events(path, events)
    assert [asdict(e) for e in read_events(path)] == [asdict(e) for e in events]
    assert [p.name for p in path.parent.iterdir()] == ["outbox.jsonl"]
    write_events(path, [])
    assert read_events(path) == []
    assert not path.exists()


def test_no_file_is_no_events(tmp_path: Path) -> None:
    assert read_events(None) == []
    write_events(tmp_path / "none.jsonl", [])
    assert read_events(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("line", ["{", "[]", '{"kind": "start"}', '"text"'])
def test_a_broken_line_is_refused_with_its_place(tmp_path: Path, line: str) -> None:
    path = tmp_path / "outbox.jsonl"
    write_events(path, [event(0)])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(TrackingError, match=r"outbox\.jsonl:2: must be one unsent MLflow event as JSON, but got"):
        read_events(path)
