"""What the README shows of jobs is so, and the report of each day has what DuckDB finds in the file of flights."""

from __future__ import annotations

import re
import shlex
import zipfile
from datetime import date, timedelta
from itertools import chain, takewhile
from pathlib import Path

import duckdb
import pytest

from tests.examples.flights_shell import EXAMPLE, ROOT, archive, needs_flights, run

DAYS = [date(2013, 1, 1) + timedelta(days=days) for days in range(365)]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PROGRAMS = {"python": [], "framework": ["-m", "framework"]}

# What differs from one time to the next: ids, the times of today, how long it took, and how sends were batched.
VARIES = [
    (re.compile(r"\b\d{8}T\d{6}Z"), "ID"),
    (re.compile(r"\b20(?!13|14)\d\d-\d\d-\d\dT[\d:.]+(?:Z|[-+]\d\d:\d\d)"), "TIME"),
    (re.compile(r"\b\d+\.\d+\b"), "N"),
    (re.compile(r"(T00:00:00-0[45]:00 +\d +\d+ +)\d+$"), r"\1N"),
    (re.compile(r" +"), " "),
]

# Said every ten seconds of long work, of which there is none on a machine that is not busy.
PROGRESS = re.compile(r" \[[#-]{24}\] |^looking through \w+: ")

# The day on which a flight left in New York, twice: by the zone of DuckDB, and by the columns of the file, which are
# local time. (No flight was so late that it left on another day because the clocks had changed.)
FLIGHTS = """
    SELECT
        timezone('America/New_York', time_hour + to_minutes(minute + coalesce(dep_delay, 0)))::DATE AS day,
        (make_timestamp(year, month, day, hour, minute, 0) + to_minutes(coalesce(dep_delay, 0)))::DATE AS plain_day,
        dep_delay, distance, flight, tailnum
    FROM read_csv(?, nullstr = 'NA', types = {'time_hour': 'TIMESTAMPTZ', 'tailnum': 'VARCHAR'})
"""
FIGURES = """
    count(*), sum(dep_delay), sum(distance), sum(flight), count(*) - count(dep_delay), count(*) - count(tailnum)
"""

Typed = tuple[str, list[str], list[str]]
"""A command, what it prints, and what the README shows."""

pytestmark = [pytest.mark.slow, needs_flights]


def section() -> list[tuple[str, str]]:
    """The blocks of code of the README's section: their language and text."""
    readme = (ROOT / "README.md").read_text()
    [found] = re.findall(r"^## Batch beside stream$(.*?)^## ", readme, re.DOTALL | re.MULTILINE)
    return FENCE.findall(found)


def commands() -> list[tuple[str, list[str]]]:
    """What is typed, and what appears below it."""
    lines = chain.from_iterable(text.splitlines() for language, text in section() if not language)
    typed: list[tuple[str, list[str]]] = []
    for line in lines:
        if line.startswith("$ "):
            typed.append((line.removeprefix("$ "), []))
        else:
            typed[-1][1].append(line)
    return typed


def settled(lines: list[str]) -> list[str]:
    """The lines without what differs each time, in any order: two streams come together."""
    for varies, instead in VARIES:
        lines = [varies.sub(instead, line.rstrip()) for line in lines]
    return sorted(lines)


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Typed]]:
    """The data directory for which the README's commands were typed, one after the other, and what they printed."""
    data = tmp_path_factory.mktemp("batch") / "flights"
    seen = []
    for command, shown in commands():
        program, *arguments = shlex.split(command)
        printed = run(*PROGRAMS[program], *arguments, both=True, FRAMEWORK_DATA=str(data))
        seen.append((command, printed.splitlines(), shown))
    return data, seen


def test_the_readme_shows_the_job_as_it_is() -> None:
    [shown] = [text for language, text in section() if language == "python"]
    assert shown in (ROOT / EXAMPLE).read_text()


def test_the_readmes_commands_print_what_it_says(typed: tuple[Path, list[Typed]]) -> None:
    assert len(typed[1]) >= 5
    for command, printed, shown in typed[1]:
        said = [line for line in printed if not PROGRESS.search(line)]
        assert settled(said) == settled(shown), command


def test_each_days_report_has_what_duckdb_finds(typed: tuple[Path, list[Typed]], tmp_path: Path) -> None:
    """On all days of 2013, also those of 23 and 25 hours: rows, sums, and how many values are missing."""
    with zipfile.ZipFile(archive()) as zipped:
        file = zipped.extract("flights.csv", tmp_path)
    reports = typed[0].with_name("flights-reports")
    with duckdb.connect(config={"autoinstall_known_extensions": False}) as sql:  # Nothing comes from the network.
        sql.execute(f"CREATE TABLE flights AS {FLIGHTS}", [file])
        assert sql.sql("SELECT count(*) FROM flights WHERE day != plain_day").fetchall() == [(0,)]
        sql.read_parquet(f"{reports}/2013-*.parquet", filename=True).create("reports")
        found = sql.table("flights").aggregate(f"day, {FIGURES}").order("day").fetchall()
        by_file = sql.table("reports").aggregate(f"parse_filename(filename, true)::DATE AS day, {FIGURES}")
        written = by_file.order("day").fetchall()
    expected = list(takewhile(lambda row: row[0].year == 2013, found))
    assert written == expected
    assert [day for day, *_ in written] == DAYS
    assert sum(rows for _, rows, *_ in found) == 336_776
    assert sum(rows for _, rows, *_ in expected) == 336_773  # Three have left in 2014.
