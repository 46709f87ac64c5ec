"""Write the dates of the embedded demo: dates as people write them in three languages, beside their ISO 8601 form.

    python scripts/make_demo_dates.py [OUTPUT]        default: t5ray/demo/dates.jsonl

Comes in: nothing; every choice is drawn from one seeded generator, so two runs give equal bytes.
Goes out: JSON lines of
    text   one date, written in one of the WAYS below
    iso    the same date as YYYY-MM-DD
    split  train, validation or test
10,000 days between 1950-01-01 and 2049-12-31 are drawn without repetition and each is written once. A day therefore
lives in one split only: validation and test ask for days that training never saw in any language.

Conventions:
    day before month       in all numeric forms: 03/04/2021 and 03.04.21 are the 3rd of April. The American order
                           appears only with a month word, where it cannot be misread (March 3, 2021).
    year first             numeric forms that open with four digits run year, month, day (2021/03/04).
    two-digit years        00 to 49 mean 2000 to 2049, 50 to 99 mean 1950 to 1999.
    weekdays               always the true weekday of the day.
    Portuguese             the first of the month is an ordinal (1º de março), other days are cardinals; Brazilian
                           abbreviations: mar., qua.
    German                 days and numeric months take a dot (3. März, 3.4.2021); Duden abbreviations, where März,
                           Mai, Juni and Juli stay whole.
"""

import argparse
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

OUTPUT = Path(__file__).resolve().parents[1] / "t5ray" / "demo" / "dates.jsonl"
SEED = 2021
FIRST_DAY, LAST_DAY = date(1950, 1, 1), date(2049, 12, 31)
SPLIT_ROWS = {"train": 8_000, "validation": 1_000, "test": 1_000}


@dataclass(frozen=True)
class Calendar:
    """The month and weekday words of one language, separated by spaces; they run from January and from Monday."""

    months: str
    short_months: str
    weekdays: str
    short_weekdays: str


ENGLISH = Calendar(
    months="January February March April May June July August September October November December",
    short_months="Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec",
    weekdays="Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    short_weekdays="Mon Tue Wed Thu Fri Sat Sun",
)
PORTUGUESE = Calendar(
    months="janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro",
    short_months="jan. fev. mar. abr. mai. jun. jul. ago. set. out. nov. dez.",
    weekdays="segunda-feira terça-feira quarta-feira quinta-feira sexta-feira sábado domingo",
    short_weekdays="seg. ter. qua. qui. sex. sáb. dom.",
)
GERMAN = Calendar(
    months="Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    short_months="Jan. Feb. März Apr. Mai Juni Juli Aug. Sept. Okt. Nov. Dez.",
    weekdays="Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag",
    short_weekdays="Mo. Di. Mi. Do. Fr. Sa. So.",
)

WAYS: Sequence[tuple[Calendar, str]] = (
    (ENGLISH, "{day} {month} {year}"),  # 3 March 2021
    (ENGLISH, "{month} {day}, {year}"),  # March 3, 2021
    (ENGLISH, "{month} {nth}, {year}"),  # March 3rd, 2021
    (ENGLISH, "the {nth} of {month}, {year}"),  # the 3rd of March, 2021
    (ENGLISH, "{weekday}, {nth} of {month} {year}"),  # Wednesday, 3rd of March 2021
    (ENGLISH, "{weekday}, {month} {day}, {year}"),  # Wednesday, March 3, 2021
    (ENGLISH, "{short_month} {day}, {year}"),  # Mar 3, 2021
    (ENGLISH, "{short_weekday}, {day} {short_month} {year}"),  # Wed, 3 Mar 2021
    (ENGLISH, "{two_digit_day}-{short_month}-{two_digit_year}"),  # 03-Mar-21
    (ENGLISH, "{year}/{two_digit_month}/{two_digit_day}"),  # 2021/03/03
    (PORTUGUESE, "{nth} de {month} de {year}"),  # 3 de março de 2021
    (PORTUGUESE, "{weekday}, {nth} de {month} de {year}"),  # quarta-feira, 3 de março de 2021
    (PORTUGUESE, "{nth} {short_month} {year}"),  # 3 mar. 2021
    (PORTUGUESE, "{short_weekday}, {two_digit_day}/{two_digit_month}/{year}"),  # qua., 03/03/2021
    (PORTUGUESE, "{two_digit_day}/{two_digit_month}/{year}"),  # 03/03/2021
    (PORTUGUESE, "{day}/{month_number}/{two_digit_year}"),  # 3/3/21
    (GERMAN, "{nth} {month} {year}"),  # 3. März 2021
    (GERMAN, "{weekday}, {nth} {month} {year}"),  # Mittwoch, 3. März 2021
    (GERMAN, "{weekday}, den {nth} {month} {year}"),  # Mittwoch, den 3. März 2021
    (GERMAN, "{short_weekday}, {nth} {short_month} {year}"),  # Mi., 3. März 2021
    (GERMAN, "{two_digit_day}.{two_digit_month}.{year}"),  # 03.03.2021
    (GERMAN, "{day}.{month_number}.{two_digit_year}"),  # 3.3.21
)


def nth(day: int, calendar: Calendar) -> str:
    """Write a day of the month as its language counts it: 3rd, 1º, 3."""
    if calendar is GERMAN:
        return f"{day}."
    if calendar is PORTUGUESE:
        return "1º" if day == 1 else str(day)
    suffixes = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd", 31: "st"}
    return f"{day}{suffixes.get(day, 'th')}"


def fields(day: date, calendar: Calendar) -> Mapping[str, str]:
    """Return what the templates of WAYS may name, written for one day in one language."""
    return {
        "day": str(day.day),
        "two_digit_day": f"{day.day:02}",
        "nth": nth(day.day, calendar),
        "month": calendar.months.split()[day.month - 1],
        "short_month": calendar.short_months.split()[day.month - 1],
        "month_number": str(day.month),
        "two_digit_month": f"{day.month:02}",
        "year": str(day.year),
        "two_digit_year": f"{day.year % 100:02}",
        "weekday": calendar.weekdays.split()[day.weekday()],
        "short_weekday": calendar.short_weekdays.split()[day.weekday()],
    }


def write_day(day: date) -> list[str]:
    """Write one day in every one of the WAYS, in their order."""
    return [template.format_map(fields(day, calendar)) for calendar, template in WAYS]


def make_rows(seed: int) -> Iterator[dict[str, str]]:
    """Yield the rows, split by split, each day written in one way drawn at random."""
    generator = random.Random(seed)
    num_days = (LAST_DAY - FIRST_DAY).days + 1
    offsets = iter(generator.sample(range(num_days), sum(SPLIT_ROWS.values())))
    for split, num_rows in SPLIT_ROWS.items():
        for _ in range(num_rows):
            day = FIRST_DAY + timedelta(days=next(offsets))
            yield {"text": generator.choice(write_day(day)), "iso": day.isoformat(), "split": split}


def main() -> None:
    """Write the file and say how large it became."""
    parser = argparse.ArgumentParser(description="Write the dates of the embedded demo.")
    parser.add_argument("output", nargs="?", type=Path, default=OUTPUT, help="JSON lines file (default: %(default)s)")
    output: Path = parser.parse_args().output
    lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in make_rows(SEED)]
    output.write_bytes("".join(f"{line}\n" for line in lines).encode())
    print(f"{output}: {len(lines)} rows, {len(WAYS)} ways, {output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
