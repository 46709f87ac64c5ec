"""The embedded dates: truthful, complete, without leakage, and the same bytes from every run of their script."""

import json
import re
import runpy
import subprocess
import sys
from collections import Counter
from datetime import date
from pathlib import Path

import pytest

from t5ray.demo import dates_data, dates_task, examples_data

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "make_demo_dates.py"
WEEKDAYS = {
    "Monday Mon segunda-feira seg Montag Mo": 0,
    "Tuesday Tue terça-feira ter Dienstag Di": 1,
    "Wednesday Wed quarta-feira qua Mittwoch Mi": 2,
    "Thursday Thu quinta-feira qui Donnerstag Do": 3,
    "Friday Fri sexta-feira sex Freitag Fr": 4,
    "Saturday Sat sábado sáb Samstag Sa": 5,
    "Sunday Sun domingo dom Sonntag So": 6,
}
WEEKDAY_OF = {word: number for words, number in WEEKDAYS.items() for word in words.split()}
MONTHS = """January Jan janeiro jan Januar|February Feb fevereiro fev Februar|March Mar março mar März|
    April Apr abril abr|May maio mai Mai|June Jun junho jun Juni|July Jul julho jul Juli|August Aug agosto ago|
    September Sep setembro set Sept|October Oct outubro out Oktober Okt|November Nov novembro nov|
    December Dec dezembro dez Dezember Dez"""
MONTH_OF = {word: i for i, words in enumerate(MONTHS.split("|"), start=1) for word in words.split()}


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_date(text: str) -> date:
    """Read a date by the conventions of the script's docstring, by other means than the script's."""
    words = [MONTH_OF[word] for word in re.findall(r"[^\W\d_]+", text) if word in MONTH_OF]
    numbers = re.findall(r"\d+", text)
    if len(numbers[0]) == 4:
        numbers.reverse()
    day, year, month = int(numbers[0]), numbers[-1], words[0] if words else int(numbers[1])
    century = 0 if len(year) == 4 else 2000 if int(year) < 50 else 1900
    return date(century + int(year), month, day)


def write_day(day: date) -> list[str]:
    written: list[str] = runpy.run_path(str(SCRIPT))["write_day"](day)
    return written


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    return read(dates_data())


def test_the_script_gives_the_shipped_bytes_every_time(tmp_path: Path) -> None:
    for name in ("first.jsonl", "second.jsonl"):
        subprocess.run([sys.executable, str(SCRIPT), str(tmp_path / name)], check=True, capture_output=True)
        assert (tmp_path / name).read_bytes() == dates_data().read_bytes()


def test_sizes(rows: list[dict[str, str]]) -> None:
    assert Counter(row["split"] for row in rows) == {"train": 8000, "validation": 1000, "test": 1000}
    assert dates_data().stat().st_size <= 700_000


def test_no_text_and_no_day_lies_in_two_splits(rows: list[dict[str, str]]) -> None:
    for column in ("text", "iso"):
        splits = [{row[column] for row in rows if row["split"] == split} for split in ("train", "validation", "test")]
        assert sum(map(len, splits)) == len(set.union(*splits))


def test_every_text_means_its_iso_date(rows: list[dict[str, str]]) -> None:
    assert [row for row in rows if read_date(row["text"]) != date.fromisoformat(row["iso"])] == []


def test_every_weekday_is_true(rows: list[dict[str, str]]) -> None:
    found = 0
    for row in rows:
        word = re.match(r"[^\W\d]+(-feira)?(?=[,.])", row["text"])
        if word:
            found += 1
            assert WEEKDAY_OF[word[0]] == date.fromisoformat(row["iso"]).weekday(), row
    assert found > 2000


def test_there_are_at_least_15_ways_in_three_languages(rows: list[dict[str, str]]) -> None:
    shapes = Counter(
        re.sub(r"\d", "9", re.sub(r"[^\W\d]+(-feira)?", lambda m: "M" if m[0] in MONTH_OF else "W", row["text"]))
        for row in rows
    )
    assert sum(count > 100 for count in shapes.values()) >= 15
    text = " ".join(row["text"] for row in rows)
    assert all(word in text for word in ("Wednesday", "quarta-feira", "Mittwoch", "März", "março", "1º de", "22nd"))


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("Wednesday, 3rd of March 2021", "2021-03-03"),
        ("March 3rd, 2021", "2021-03-03"),
        ("the 3rd of March, 2021", "2021-03-03"),
        ("Wed, 3 Mar 2021", "2021-03-03"),
        ("03-Mar-21", "2021-03-03"),
        ("2021/03/03", "2021-03-03"),
        ("Monday, 11th of December 1950", "1950-12-11"),
        ("the 22nd of August, 1999", "1999-08-22"),
        ("quarta-feira, 3 de março de 2021", "2021-03-03"),
        ("1º de maio de 2024", "2024-05-01"),
        ("qua., 03/03/2021", "2021-03-03"),
        ("9/11/89", "1989-11-09"),
        ("7 set. 1992", "1992-09-07"),
        ("Mittwoch, den 3. März 2021", "2021-03-03"),
        ("So., 4. Okt. 2015", "2015-10-04"),
        ("9.11.49", "2049-11-09"),
        ("09.11.1989", "1989-11-09"),
    ],
)
def test_days_are_written_as_people_write_them(text: str, iso: str) -> None:
    assert text in write_day(date.fromisoformat(iso))


def test_examples_are_days_that_training_has_not_seen(rows: list[dict[str, str]]) -> None:
    seen = {row["iso"] for row in rows if row["split"] == "train"}
    examples = read(examples_data())
    assert len(examples) == 12
    assert not {read_date(row["text"]).isoformat() for row in examples} & seen
    assert all(set(row) == {"text"} for row in examples)


def test_the_task_file_names_the_columns() -> None:
    from t5ray.config import TaskConfig, read_yaml

    task = TaskConfig.model_validate(read_yaml(dates_task()))
    assert (task.name, task.inputs, task.targets) == ("normalize_date", "normalize date: {text}", "{iso}")
    assert task.metrics == ("exact_match",)
