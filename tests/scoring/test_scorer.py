import csv
import json
import multiprocessing
import os
import shutil
import signal
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from t5ray.config import TaskConfig
from t5ray.errors import ClusterError, DataError, ModelError
from t5ray.scoring import scorer as scorer_module
from t5ray.scoring.halving import HOPELESS
from t5ray.scoring.inputs import Shard
from t5ray.scoring.journal import MOST_STAGE_DEATHS, Journal, forget_all, journal_file
from t5ray.scoring.ledger import Entry, Ledger
from t5ray.scoring.predicting import DEADLY
from t5ray.scoring.scorer import Outcome, Scorer, ScorerSpec
from t5ray.scoring.writing import Results, decode_results
from tests.scoring.conftest import Remount
from tests.scoring.doubles import ShoutingEngine, spec_for


def write_rows(path: Path, texts: list[Any]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def score_all(spec: ScorerSpec, engine: ShoutingEngine | None = None) -> list[dict[str, Any]]:
    """Score every shard and return the rows of all parts."""
    for outcome in Scorer(spec, load=lambda: engine or ShoutingEngine()).outcomes(spec.input.shards):
        outcome.raise_failure()
    return rows_of(spec)


def rows_of(spec: ScorerSpec) -> list[dict[str, Any]]:
    return [json.loads(line) for part in sorted(spec.output.glob("part-*")) for line in part.read_text().splitlines()]


def test_every_row_gets_its_own_prediction_in_input_order(tmp_path: Path) -> None:
    texts = ["a", "ccc", "bb", "a long one", "d", "ee"]
    spec = spec_for(write_rows(tmp_path / "a.jsonl", texts), tmp_path / "out")
    assert score_all(spec) == [{"text": text, "prediction": text.upper(), "error": None} for text in texts]


def test_rows_at_a_uri_are_read_where_they_lie(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe({"/scoring/b.tsv": b"text\tn\nb\t2\n", "/scoring/a.tsv": b"text\tn\na\t1\n"})
    spec = spec_for("memory://scoring/*.tsv", tmp_path / "out")
    assert score_all(spec) == [
        {"text": "a", "n": "1", "prediction": "A", "error": None},
        {"text": "b", "n": "2", "prediction": "B", "error": None},
    ]


def test_counts_of_a_shard(tmp_path: Path) -> None:
    texts = ["one", "one two three", None, "x" * 50]
    spec = spec_for(write_rows(tmp_path / "a.jsonl", texts), tmp_path / "out", scores=True)
    rows = score_all(spec)
    assert [row["score"] for row in rows] == [0.13, 0.23, None, 0.6]
    entry = spec.ledger.finished()[0]
    # tokens: words and an end; `classify:` is a word too
    assert replace(entry, seconds=0) == Entry(
        rows=4, errors=1, unusable=1, capped=1, padded_tokens=15, real_tokens=11, seconds=0
    )


def test_inputs_that_are_cut_are_counted(tmp_path: Path) -> None:
    texts = ["one", "one two", "one two three", "one two three", "bomb one two three"]
    spec = spec_for(write_rows(tmp_path / "a.jsonl", texts), tmp_path / "out", shard_rows=8)
    score_all(spec, ShoutingEngine(max_input_tokens=4))  # `classify:`, two words and an end
    assert spec.ledger.finished()[0].cut_inputs == 2


def test_a_bad_row_gets_its_error_and_leaves_the_rest_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"text": "a"}\n{"text": null}\n{"text": ["b"]}\n{"other": 1}\n{"text": \n{"text": "\\ud800"}\n{"text": 7}\n'
    )
    rows = score_all(spec_for(path, tmp_path / "out", shard_rows=10))
    assert [row["prediction"] for row in rows] == ["A", None, None, None, None, None, "7"]
    assert [row["error"] for row in rows[1:3]] == [
        "`text` must hold text, but is null",
        "`text` must hold text or a number, but holds a list",
    ]
    assert "`text` must be a column of the row, but is missing" in rows[3]["error"]
    assert rows[4]["error"].startswith("a.jsonl row 5: a line must be one JSON object")
    assert rows[5]["error"] == "text must be whole Unicode characters, but holds half of a surrogate pair"
    assert rows[0]["error"] is rows[6]["error"] is None


@pytest.mark.parametrize("part_format", ["jsonl", "csv"])
def test_a_cell_without_a_value_that_no_input_needs_is_written_as_text(tmp_path: Path, part_format: str) -> None:
    noise = pa.StringArray.from_buffers(2, pa.py_buffer(struct.pack("3i", 0, 1, 3)), pa.py_buffer(b"a\xffb"))
    columns = {
        "text": ["one", "two"],
        "noise": noise,
        "inside": pa.ListArray.from_arrays([0, 1, 2], pa.StructArray.from_arrays([noise], ["k"])),
        "at": pa.array([0, 1_500_000], pa.timestamp("us", "Mars/Phobos")),
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    spec = spec_for(tmp_path / "rows.parquet", tmp_path / "out", part_format=part_format)
    assert [entry.errors for _, entry in Scorer(spec, load=ShoutingEngine).score(spec.input.shards)] == [0]
    if part_format == "csv":
        with spec.ledger.part(0).open(newline="", encoding="utf-8") as file:
            rows = [{**row, "inside": json.loads(row["inside"])} for row in csv.DictReader(file)]
    else:
        rows = [json.loads(line) for line in spec.ledger.part(0).read_text().splitlines()]
    assert [row["prediction"] for row in rows] == ["ONE", "TWO"]
    assert [row["noise"] for row in rows] == ["a", "\\xffb"]
    assert [row["inside"] for row in rows] == [[{"k": "a"}], [{"k": "\\xffb"}]]
    assert [row["at"] for row in rows] == ["1970-01-01 00:00:00.000000Z", "1970-01-01 00:00:01.500000Z"]


def test_a_cell_without_a_value_is_one_bad_row_though_two_of_the_tasks_columns_are_made_of_it(tmp_path: Path) -> None:
    cells = pa.StringArray.from_buffers(3, pa.py_buffer(struct.pack("4i", 0, 1, 3, 4)), pa.py_buffer(b"a\xffbc"))
    pq.write_table(pa.table({"text": cells}), tmp_path / "rows.parquet")
    spec = spec_for(tmp_path / "rows.parquet", tmp_path / "out")
    task = TaskConfig(name="pair", inputs="{one} {other}", targets="{label}", metrics=("accuracy",))
    rows = score_all(replace(spec, texts=replace(spec.texts, task=task, columns={"one": "text", "other": "text"})))
    assert [row["prediction"] for row in rows] == ["A A", None, "C C"]
    assert [row["error"] is None for row in rows] == [True, False, True]


def test_equal_texts_come_to_the_engine_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ShoutingEngine, "call_rows", 3)
    engine = ShoutingEngine()
    spec = spec_for(write_rows(tmp_path / "a.jsonl", ["aa", "bb"] * 3), tmp_path / "out", shard_rows=6)
    assert [row["prediction"] for row in score_all(spec, engine)] == ["AA", "BB"] * 3
    assert engine.batches == [["classify: aa"] * 3, ["classify: bb"] * 3]


@pytest.mark.parametrize("slice_rows", [1, 1024])
def test_long_inputs_are_errors_on_request_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slice_rows: int
) -> None:
    monkeypatch.setattr(ShoutingEngine, "call_rows", slice_rows)
    path = write_rows(tmp_path / "a.jsonl", ["one two", "one two three four"])
    engine = ShoutingEngine(max_input_tokens=5)
    refused = score_all(spec_for(path, tmp_path / "refused", refuse_long=True), engine)
    assert [row["error"] for row in refused] == [None, "the input must have at most 5 tokens, but has 6"]
    assert [row["error"] for row in score_all(spec_for(path, tmp_path / "cut"), engine)] == [None, None]


def test_a_batch_that_fails_is_halved_until_the_guilty_row_is_alone(tmp_path: Path) -> None:
    texts = [f"row {number}" for number in range(20)]
    texts[13] = "a bomb!"
    engine = ShoutingEngine()
    rows = score_all(spec_for(write_rows(tmp_path / "a.jsonl", texts), tmp_path / "out", shard_rows=20), engine)
    assert rows[13]["error"] == "the model failed on this row: RuntimeError: boom"
    assert rows[13]["prediction"] is None
    assert [row["prediction"] for row in rows if row["error"] is None] == [t.upper() for t in texts if t != "a bomb!"]
    assert len(engine.batches) < 12


def test_rows_that_are_all_too_long_for_the_engine_leave_the_others_alone(tmp_path: Path) -> None:
    texts = ["a long bomb"] * (2 * HOPELESS) + ["a", "b"]  # the longest come first
    rows = score_all(spec_for(write_rows(tmp_path / "a.jsonl", texts), tmp_path / "out", shard_rows=1000))
    assert [row["error"] for row in rows[:-2]] == ["the model failed on this row: RuntimeError: boom"] * 2 * HOPELESS
    assert [row["prediction"] for row in rows[-2:]] == ["A", "B"]


def test_slices_hold_rows_of_like_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ShoutingEngine, "call_rows", 2)
    engine = ShoutingEngine()
    path = write_rows(tmp_path / "a.jsonl", ["xx", "xxxx", "x", "xxx"])
    score_all(spec_for(path, tmp_path / "out"), engine)
    assert [[len(text) - len("classify: ") for text in batch] for batch in engine.batches] == [[4, 3], [2, 1]]


@pytest.mark.parametrize("part_format", ["parquet", "jsonl", "csv"])
def test_retrying_scores_rows_with_errors_only(tmp_path: Path, part_format: str) -> None:
    path = write_rows(tmp_path / "a.jsonl", ["a", "bomb", None, "b"])
    first = spec_for(path, tmp_path / "out", part_format=part_format)
    live(first)

    class Mended(ShoutingEngine):
        def score(self, inputs: Any, *, scores: bool = False, all_scores: bool = False) -> Any:
            return super().score([text.replace("bomb", "calm") for text in inputs], scores=scores)

    engine = Mended()
    assert score_again(first, engine) == [Outcome(0)]
    assert engine.batches == [["classify: calm"]]
    expected = spec_for(
        write_rows(tmp_path / "b.jsonl", ["a", "calm", None, "b"]), tmp_path / "b", part_format=part_format
    )
    live(expected)
    found, wanted = (results_of(spec, part_format) for spec in (first, expected))
    assert found == wanted
    assert found.predictions == ["A", "CALM", None, "B"]
    assert first.ledger.finished()[0].errors == 1


def score_again(spec: ScorerSpec, engine: ShoutingEngine) -> list[Outcome]:
    """Score the rows with an error of all shards, which one run has scored."""
    shards = [replace(shard, attempts=1) for shard in spec.input.shards]
    return list(Scorer(spec, load=lambda: engine).outcomes(shards))


def results_of(spec: ScorerSpec, part_format: str) -> Results:
    return decode_results(part_format, spec.ledger.part(0).read_bytes(), spec.extras)


def test_retrying_a_part_without_its_entry_scores_it_whole(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", ["a" * 50, "bomb"])  # the first is capped
    first = spec_for(path, tmp_path / "out")
    live(first)
    whole = replace(first.ledger.finished()[0], seconds=0)
    assert (whole.errors, whole.capped) == (1, 1)
    first.ledger.entry_file(0).unlink()  # as a kill between part and entry leaves it
    assert score_again(first, ShoutingEngine()) == [Outcome(0)]
    entry = first.ledger.finished()[0]
    assert replace(entry, seconds=0, earlier=()) == whole
    assert first.ledger.scoring_seconds({0: entry}) == pytest.approx(entry.seconds, abs=1e-4)
    engine = ShoutingEngine()
    assert score_again(first, engine) == [Outcome(0)]  # as Ray repeats a task
    assert engine.batches == []


def test_a_repeated_task_says_the_same_in_the_same_order_whatever_is_done(tmp_path: Path) -> None:
    spec = spec_for(write_rows(tmp_path / "a.jsonl", list("abcd")), tmp_path / "out", shard_rows=1)
    score_all(spec)
    for index in (0, 2):
        spec.ledger.entry_file(index).unlink()
    engine = ShoutingEngine()
    found = list(Scorer(spec, load=lambda: engine).outcomes(spec.input.shards))
    assert found == [Outcome(index) for index in range(4)]
    assert engine.batches == [["classify: a"], ["classify: c"]]


def test_an_error_amid_a_block_comes_after_what_is_committed_and_ends_it(tmp_path: Path) -> None:
    spec = spec_for(write_rows(tmp_path / "a.jsonl", list("abcdef")), tmp_path / "out", shard_rows=1)
    spec.ledger.part(2).mkdir()  # in the way of the third part
    engine = ShoutingEngine()
    *committed, failed = Scorer(spec, load=lambda: engine).outcomes(spec.input.shards)
    assert committed == [Outcome(0), Outcome(1)]
    assert failed.failure_kind == "DataError"
    assert spec.ledger.finished().keys() >= {0, 1}
    assert engine.batches[:3] == [["classify: a"], ["classify: b"], ["classify: c"]]
    assert len(engine.batches) <= 4


def test_what_ends_the_job_is_reported_and_not_raised(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", ["a"])
    spec = spec_for(path, tmp_path / "out")
    path.write_text('{"text": "changed"}\n')
    (outcome,) = Scorer(spec, load=ShoutingEngine).outcomes(spec.input.shards)
    with pytest.raises(DataError, match=r"a\.jsonl: the input must not change while it is scored"):
        outcome.raise_failure()

    def missing() -> ShoutingEngine:
        raise ModelError("no such model")

    (outcome,) = Scorer(spec_for(path, tmp_path / "other"), load=missing).outcomes(spec.input.shards)
    with pytest.raises(ModelError, match="no such model"):
        outcome.raise_failure()


def test_after_an_error_that_ends_the_job_the_other_shards_are_left_alone(tmp_path: Path) -> None:
    spec = spec_for(write_rows(tmp_path / "a.jsonl", ["a", "b", "c"]), tmp_path / "out", shard_rows=1)
    shutil.rmtree(spec.output / "_ledger")
    (spec.output / "_ledger").write_text("in the way")
    engine = ShoutingEngine()
    scorer = Scorer(spec, load=lambda: engine)
    (first,), (second,) = (list(scorer.outcomes(shards)) for shards in (spec.input.shards[:1], spec.input.shards[1:]))
    assert (first.index, first.failure_kind) == (-1, "DataError")
    assert second == first
    assert engine.batches == [["classify: a"]]


def test_a_worker_loads_its_engine_once(tmp_path: Path) -> None:
    spec = spec_for(write_rows(tmp_path / "a.jsonl", ["a", "b", "c"]), tmp_path / "out", shard_rows=1)
    loaded = list[ShoutingEngine]()

    def load() -> ShoutingEngine:
        loaded.append(ShoutingEngine())
        return loaded[-1]

    scorer = Scorer(spec, load=load)
    for shard in spec.input.shards:
        list(scorer.score([shard]))
    assert [len(engine.batches) for engine in loaded] == [3]


def live(
    spec: ScorerSpec, engine: type[ShoutingEngine] = ShoutingEngine, shards: Sequence[Shard] | None = None
) -> None:
    for outcome in Scorer(spec, load=engine).outcomes(shards or spec.input.shards):
        outcome.raise_failure()


def lives_of(
    spec: ScorerSpec, engine: type[ShoutingEngine] = ShoutingEngine, shards: Sequence[Shard] | None = None
) -> int:
    """Let worker after worker score all shards until one lives; return how many it took."""
    for lives in range(1, 60):
        worker = multiprocessing.get_context("fork").Process(target=live, args=(spec, engine, shards))
        worker.start()
        worker.join()
        if worker.exitcode == 0:
            return lives
    raise AssertionError("nobody lived")


@pytest.mark.parametrize("death", ["killer", "fault", "device"])
def test_a_row_that_kills_its_worker_is_found_by_the_successors(tmp_path: Path, death: str) -> None:
    texts = ["a", "bb", f"a {death}", "ccc", "dddd", "e"]
    spec = spec_for(write_rows(tmp_path / "a.jsonl", texts), tmp_path / "out", shard_rows=10)
    lives_of(spec)
    rows = rows_of(spec)
    assert rows[2]["error"] == DEADLY
    assert [row["prediction"] for row in rows] == ["A", "BB", None, "CCC", "DDDD", "E"]
    assert not journal_file(spec.output, spec.ledger.part(0)).exists()


def test_one_row_of_512_that_kills_costs_thirteen_workers(tmp_path: Path) -> None:
    texts = ["x" * (number % 100) for number in range(511)] + ["a killer"]
    assert lives_of(spec_for(write_rows(tmp_path / "a.jsonl", texts), tmp_path / "out", shard_rows=512)) == 14


class Watched(ShoutingEngine):
    """Says how many texts are prepared. Its calls are for one text."""

    def __init__(self, spec: ScorerSpec) -> None:
        super().__init__()
        self.spec, self.prepared, self.change = spec, list[str](), threading.Condition()

    def prepare(self, inputs: Sequence[str]) -> list[str]:
        with self.change:
            self.prepared += inputs
            self.change.notify()
        return super().prepare(inputs)

    def wait_for_prepared(self, count: int) -> None:
        """Wait until so many texts are prepared, of those that there are, and see that no more are."""
        expected = min(count, self.spec.input.num_rows)
        with self.change:
            assert self.change.wait_for(lambda: len(self.prepared) >= expected, timeout=60), self.prepared
            assert len(self.prepared) == expected


class Meanwhile(Watched):
    """Waits in each call until the text of the one after it is prepared."""

    def score(self, inputs: Sequence[str], *, scores: bool = False, all_scores: bool = False) -> Any:
        self.wait_for_prepared(len(self.batches) + 2)
        return super().score(inputs, scores=scores)


def test_the_next_slice_is_prepared_while_one_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ShoutingEngine, "call_rows", 1)
    spec = spec_for(write_rows(tmp_path / "a.jsonl", ["ccc", "bb", "a"]), tmp_path / "out")
    engine = Meanwhile(spec)
    assert [row["prediction"] for row in score_all(spec, engine)] == ["CCC", "BB", "A"]
    assert engine.batches == [["classify: ccc"], ["classify: bb"], ["classify: a"]]


class AmidShards(Watched):
    """Waits in each call until the shard before its own is committed, and the first text of the next one prepared."""

    def score(self, inputs: Sequence[str], *, scores: bool = False, all_scores: bool = False) -> Any:
        shard_rows = self.spec.input.shard_rows
        shard = len(self.batches) // shard_rows
        deadline = time.monotonic() + 60
        while shard and self.spec.ledger.read_entry(shard - 1) is None:
            assert time.monotonic() < deadline, f"shard {shard - 1} is not committed"
            time.sleep(0.01)
        self.wait_for_prepared((shard + 1) * shard_rows + 1)
        return super().score(inputs, scores=scores)


@pytest.mark.parametrize("shard_rows", [1, 2])
def test_while_a_shard_is_scored_the_next_one_is_read_and_tokenised_and_the_last_one_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_rows: int
) -> None:
    monkeypatch.setattr(ShoutingEngine, "call_rows", 1)
    spec = spec_for(write_rows(tmp_path / "a.jsonl", list("abcdef")), tmp_path / "out", shard_rows=shard_rows)
    engine = AmidShards(spec)
    found = list(Scorer(spec, load=lambda: engine).outcomes(spec.input.shards))
    assert found == [Outcome(index) for index in range(6 // shard_rows)]
    assert engine.batches == [[f"classify: {text}"] for text in "abcdef"]
    assert [row["prediction"] for row in rows_of(spec)] == list("ABCDEF")
    assert list((spec.output / "_progress").iterdir()) == []


def test_after_a_death_on_a_shard_all_of_its_block_are_scored_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_for(write_rows(tmp_path / "a.jsonl", list("abcdef")), tmp_path / "out", shard_rows=1)
    Journal(journal_file(spec.output, spec.ledger.part(2))).begin((0, 1))
    seen = list[str]()
    for name in ("read_shard", "encode"):
        monkeypatch.setattr(scorer_module, name, noted(seen, getattr(scorer_module, name)))
    engine = ShoutingEngine()
    monkeypatch.setattr(engine, "score", noted(seen, engine.score))
    assert [row["prediction"] for row in score_all(spec, engine)] == list("ABCDEF")
    assert seen == ["read_shard", "score", "encode"] * 6


def noted(seen: list[str], function: Any) -> Any:
    """Return the function; it takes a while, and its name is noted when it is done."""

    def wrapped(*given: Any, **named: Any) -> Any:
        found = function(*given, **named)
        time.sleep(0.05)
        seen.append(function.__name__)
        return found

    return wrapped


class Slow(ShoutingEngine):
    """Is busy with a slice while others read and write, if there are any."""

    def score(self, inputs: Sequence[str], *, scores: bool = False, all_scores: bool = False) -> Any:
        if any(thread.name.startswith("ahead") for thread in threading.enumerate()):
            time.sleep(0.5)
        return super().score(inputs, scores=scores)


@pytest.mark.parametrize(
    ("deadly", "words"), [("read_shard", "while it read the rows"), ("encode", "while it wrote the part")]
)
def test_what_kills_beside_a_slice_is_told_of_its_own_shard_and_no_row_is_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deadly: str, words: str
) -> None:
    spec = spec_for(write_rows(tmp_path / "a.jsonl", ["a", "deadly", "c", "d"]), tmp_path / "out", shard_rows=1)
    sound = getattr(scorer_module, deadly)

    def deadly_for_one(*given: Any) -> Any:
        found = sound(*given)
        records = (found if deadly == "read_shard" else given[1]).records
        return die() if records[0]["text"] == "deadly" else found

    monkeypatch.setattr(scorer_module, deadly, deadly_for_one)
    outcomes = tmp_path / "outcomes"
    codes = [exit_code_of(spec, Slow, outcomes) for _ in range(MOST_STAGE_DEATHS + 2)]
    assert codes == [-signal.SIGKILL] * (MOST_STAGE_DEATHS + 1) + [0]
    *committed, failed = map(outcome_of, outcomes.read_text().splitlines())
    assert committed == [Outcome(0)]
    with pytest.raises(ClusterError, match=f"part-00001: a worker must live through a shard, but 5 died {words}"):
        failed.raise_failure()
    monkeypatch.undo()
    forget_all(spec.output)  # as the next command does
    assert [(row["prediction"], row["error"]) for row in score_all(spec)] == [
        ("A", None),
        ("DEADLY", None),
        ("C", None),
        ("D", None),
    ]


def test_rows_that_kill_in_several_shards_of_a_block_are_found_and_no_other_is_blamed(tmp_path: Path) -> None:
    texts = ["a", "bb", "a killer", "ccc", "d", "killer 2", "e", "ff"]
    spec = spec_for(write_rows(tmp_path / "a.jsonl", texts), tmp_path / "out", shard_rows=2)
    lives_of(spec, Slow)
    assert [row["error"] for row in rows_of(spec)] == [DEADLY if "killer" in text else None for text in texts]
    assert [row["prediction"] for row in rows_of(spec) if not row["error"]] == ["A", "BB", "CCC", "D", "E", "FF"]
    assert list((spec.output / "_progress").iterdir()) == []


def test_a_retry_that_is_repeated_after_a_death_tries_no_shard_again_that_it_has_done(tmp_path: Path) -> None:
    texts = ["a", "bomb killer", "b", "bomb", "c", "another bomb killer"]
    spec = spec_for(write_rows(tmp_path / "a.jsonl", texts), tmp_path / "out", shard_rows=2)
    score_all(spec)
    assert [entry.errors for entry in spec.ledger.finished().values()] == [1, 1, 1]

    class Calm(ShoutingEngine):
        def score(self, inputs: Any, *, scores: bool = False, all_scores: bool = False) -> Any:
            return super().score([text.replace("bomb", "calm") for text in inputs], scores=scores)

    retried = tuple(replace(shard, attempts=1) for shard in spec.input.shards)
    assert lives_of(spec, Calm, retried) == 6  # two deaths for each of the two rows, after one that says only that
    assert [(row["prediction"], row["error"]) for row in rows_of(spec)] == [
        ("A", None),
        (None, DEADLY),
        ("B", None),
        ("CALM", None),
        ("C", None),
        (None, DEADLY),
    ]
    assert [entry.num_attempts for entry in spec.ledger.finished().values()] == [2, 2, 2]
    engine = ShoutingEngine()
    assert list(Scorer(spec, load=lambda: engine).outcomes(retried)) == [Outcome(0), Outcome(1), Outcome(2)]
    assert engine.batches == []


class Lingering(ShoutingEngine):
    """Is still busy with a slice when the preparing of the next one kills."""

    def score(self, inputs: Sequence[str], *, scores: bool = False, all_scores: bool = False) -> Any:
        if any(thread.name.startswith("ahead") for thread in threading.enumerate()):
            time.sleep(1)
        return super().score(inputs, scores=scores)


def test_a_row_that_kills_while_it_is_prepared_ahead_is_found_and_no_other_is_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ShoutingEngine, "call_rows", 2)
    texts = ["a" * 30, "b" * 29, "c" * 28, "poison", "d", "e"]
    spec = spec_for(write_rows(tmp_path / "a.jsonl", texts), tmp_path / "out", shard_rows=10)
    lives_of(spec, Lingering)
    rows = rows_of(spec)
    assert [row["error"] for row in rows] == [DEADLY if text == "poison" else None for text in texts]
    assert [row["prediction"] for row in rows if not row["error"]] == [t.upper() for t in texts if t != "poison"]


@pytest.mark.parametrize("refuse_long", [False, True])
def test_a_row_that_cannot_be_tokenised_leaves_the_rest_of_its_slice_alone(tmp_path: Path, refuse_long: bool) -> None:
    path = write_rows(tmp_path / "a.jsonl", ["a", "garbled", "bb", "c"])
    rows = score_all(spec_for(path, tmp_path / "out", refuse_long=refuse_long), ShoutingEngine(max_input_tokens=5))
    assert [row["error"] for row in rows] == [None, "the model failed on this row: ValueError: no tokens", None, None]
    assert [row["prediction"] for row in rows] == ["A", None, "BB", "C"]


def test_a_repeated_task_leaves_finished_shards_alone(tmp_path: Path) -> None:
    spec = spec_for(write_rows(tmp_path / "a.jsonl", ["a", "b"]), tmp_path / "out", shard_rows=1)
    score_all(spec)
    before = [path.stat().st_mtime_ns for path in sorted(spec.output.glob("part-*"))]
    engine = ShoutingEngine()
    score_all(spec, engine)
    assert engine.batches == []
    assert [path.stat().st_mtime_ns for path in sorted(spec.output.glob("part-*"))] == before


def test_a_shard_on_which_all_workers_die_ends_the_job(tmp_path: Path) -> None:
    spec = spec_for(write_rows(tmp_path / "a.jsonl", ["a"]), tmp_path / "out")
    for number in range(23):  # as many as one row of 4,096 never takes
        Journal(journal_file(spec.output, spec.ledger.part(0))).begin((number, number + 1))
    with pytest.raises(ClusterError, match=r"part-00000: a worker must live through a shard, but 23 died on it"):
        score_all(spec)


def die(*_: object, **__: object) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("deadly", "words"),
    [
        ("load", r"5 died while it loaded the model .*smaller model"),
        ("read_shard", r"5 died while it read the rows .*cut the input smaller"),
        ("encode", r"5 died while it wrote the part .*smaller shard_rows"),
    ],
)
def test_what_kills_every_worker_outside_of_rows_ends_the_job_and_blames_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deadly: str, words: str
) -> None:
    spec = spec_for(write_rows(tmp_path / "a.jsonl", ["a", "b"]), tmp_path / "out")
    load: Any = die if deadly == "load" else ShoutingEngine
    if deadly != "load":
        monkeypatch.setattr(scorer_module, deadly, die)
    outcomes = tmp_path / "outcomes"
    deaths = MOST_STAGE_DEATHS + (deadly != "load")  # one that says only that there was one
    codes = [exit_code_of(spec, load, outcomes) for _ in range(deaths + 1)]
    assert codes == [-signal.SIGKILL] * deaths + [0]
    with pytest.raises(ClusterError, match=f"part-00000: a worker must live through a shard, but {words}"):
        outcome_of(outcomes.read_text()).raise_failure()
    monkeypatch.undo()
    forget_all(spec.output)  # as the next command does
    assert [row["prediction"] for row in score_all(spec)] == ["A", "B"]


def outcome_of(line: str) -> Outcome:
    return Outcome(**json.loads(line))


def exit_code_of(spec: ScorerSpec, load: Any, outcomes: Path) -> int | None:
    """Let a worker score all shards and write down each outcome on a line; return how it ended."""

    def work() -> None:
        found = Scorer(spec, load=load).outcomes(spec.input.shards)
        outcomes.write_text("\n".join(json.dumps(asdict(outcome)) for outcome in found))

    worker = multiprocessing.get_context("fork").Process(target=work)
    worker.start()
    worker.join()
    return worker.exitcode


def test_an_output_that_turns_read_only_stops_the_job_and_once_it_is_writable_it_goes_on(
    tmp_path: Path, small_disk: tuple[Path, Remount]
) -> None:
    disk, remount = small_disk
    spec = spec_for(write_rows(tmp_path / "a.jsonl", list("abcdefgh")), disk / "out", shard_rows=2)
    engine = ShoutingEngine()
    scorer = Scorer(spec, load=lambda: engine)
    list(scorer.score(spec.input.shards[:1]))
    remount("ro")
    with pytest.raises(DataError, match=r"out: the output must be writable, but: .*Read-only.*What was finished is"):
        list(scorer.score(spec.input.shards[1:2]))
    remount("rw")
    assert spec.ledger.finished().keys() == {0}
    assert [row["prediction"] for row in score_all(spec, engine)] == list("ABCDEFGH")


@pytest.mark.parametrize(
    "what",
    [Ledger.part, Ledger.entry_file, lambda ledger, index: journal_file(ledger.folder, ledger.part(index))],
    ids=["part", "entry", "notes"],
)
def test_an_output_that_cannot_be_read_is_an_error_of_the_output(
    tmp_path: Path, what: Callable[[Ledger, int], Path]
) -> None:
    spec = spec_for(write_rows(tmp_path / "a.jsonl", ["a", "b"]), tmp_path / "out", shard_rows=2)
    score_all(spec)
    shard = replace(spec.input.shards[0], attempts=1)
    unread = what(spec.ledger, 0)
    unread.unlink(missing_ok=True)
    unread.mkdir()
    (failed,) = Scorer(spec, load=ShoutingEngine).outcomes([shard])
    with pytest.raises(DataError, match=r"out: the output must be writable, but: .*Is a directory"):
        failed.raise_failure()


def trying(spec: ScorerSpec, index: int) -> str:
    """Return what the notes of a shard say is tried."""
    try:
        return str(json.loads(journal_file(spec.output, spec.ledger.part(index)).read_text())["trying"])
    except FileNotFoundError:
        return "no notes yet"


def test_an_output_that_turns_read_only_amid_a_block_is_an_error_of_the_output(
    tmp_path: Path, small_disk: tuple[Path, Remount]
) -> None:
    disk, remount = small_disk
    spec = spec_for(write_rows(tmp_path / "a.jsonl", list("abcd")), disk / "out", shard_rows=1)

    class Unlucky(ShoutingEngine):
        def score(self, inputs: Sequence[str], *, scores: bool = False, all_scores: bool = False) -> Any:
            if inputs == ["classify: b"]:
                deadline = time.monotonic() + 60
                while spec.ledger.read_entry(0) is None or trying(spec, 0) or trying(spec, 2):
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                remount("ro")
            return super().score(inputs, scores=scores)

    *_, failed = Scorer(spec, load=Unlucky).outcomes(spec.input.shards)
    remount("rw")
    with pytest.raises(DataError, match=r"out: the output must be writable, but: .*Read-only.*What was finished is"):
        failed.raise_failure()
    assert [row["prediction"] for row in score_all(spec)] == list("ABCD")


def test_a_full_disk_stops_the_job_and_with_more_space_it_goes_on(
    tmp_path: Path, small_disk: tuple[Path, Remount]
) -> None:
    disk, remount = small_disk
    path = write_rows(tmp_path / "a.jsonl", [f"{number} " + "x" * 2000 for number in range(24)])
    spec = spec_for(path, disk / "out")
    with pytest.raises(
        DataError, match=r"out: the output must be writable, but: .*No space left.*What was finished is"
    ):
        score_all(spec)
    kept = spec.ledger.finished().keys()
    assert 0 < len(kept) < 6
    remount("size=1m")
    engine = ShoutingEngine()
    rows = score_all(spec, engine)
    assert [row["prediction"] for row in rows] == [row["text"].upper() for row in rows]
    assert len(rows) == 24
    assert len(engine.batches) == 6 - len(kept)
    whole = spec_for(path, tmp_path / "whole")
    score_all(whole)
    assert [p.read_bytes() for p in sorted(spec.output.glob("part-*"))] == [
        p.read_bytes() for p in sorted(whole.output.glob("part-*"))
    ]
