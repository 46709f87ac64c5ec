"""The first error of a finished job, as its end shows it."""

import json
from pathlib import Path

import pytest

from t5ray.scoring.failures import SHOWN, first_error
from t5ray.scoring.ledger import Entry, Ledger

HEAD = {"csv": "text,prediction,error\n", "jsonl": ""}


def finish(folder: Path, part_format: str, parts: list[list[str | None]]) -> None:
    """Write a finished job whose rows have these errors."""
    ledger = Ledger(folder, part_format, len(parts))
    ledger.open()
    for index, errors in enumerate(parts):
        lines = [
            f'x,,"{error or ""}"\n' if part_format == "csv" else json.dumps({"prediction": None, "error": error}) + "\n"
            for error in errors
        ]
        counts = Entry(rows=len(errors), errors=sum(error is not None for error in errors))
        ledger.commit(index, (HEAD[part_format] + "".join(lines)).encode(), counts)
    ledger.write_job({"config": {"format": part_format}, "num_shards": len(parts)})


@pytest.mark.parametrize("part_format", ["csv", "jsonl"])
@pytest.mark.parametrize("name", ["out", "a::b", "~", "[x]"])
def test_the_first_error_of_the_first_part_that_has_one(tmp_path: Path, part_format: str, name: str) -> None:
    folder = tmp_path / name
    finish(folder, part_format, [[None, None], [None, "is null"], ["later"]])
    (folder / f"part-00001.{part_format}.bak").write_text("not ours")
    assert first_error(str(folder)) == (f"part-00001.{part_format} row 2", "is null")


def test_an_error_is_one_line_of_a_bearable_length(tmp_path: Path) -> None:
    finish(tmp_path / "out", "jsonl", [["bad\nrow \x1b[31m" + 10_000 * "x"]])
    _, error = first_error(str(tmp_path / "out")) or ("", "")
    assert error.startswith("bad row [31mxxx")
    assert len(error) == SHOWN + 2


def test_without_errors_or_an_output_there_is_none(tmp_path: Path) -> None:
    assert first_error(str(tmp_path)) is None
    finish(tmp_path / "out", "jsonl", [[None]])
    assert first_error(str(tmp_path / "out")) is None


@pytest.mark.parametrize(("part_format", "content"), [("jsonl", b"{"), ("csv", b"other\nx\n")])
def test_a_part_that_others_have_spoiled_takes_nothing_from_the_end_of_the_job(
    tmp_path: Path, part_format: str, content: bytes
) -> None:
    finish(tmp_path, part_format, [["is null"]])
    (tmp_path / f"part-00000.{part_format}").write_bytes(content)
    assert first_error(str(tmp_path)) is None
