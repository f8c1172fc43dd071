"""`framework agents` and `framework tables`: committed state, beside a worker and without one."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.framework.cli.conftest import Shell

pytestmark = pytest.mark.slow

TYPED = """
from datetime import datetime
from pydantic import BaseModel
from framework import App, Stream

class Visit(BaseModel):
    page: int
    at: datetime

app = App("visits")
visits = app.topic("visits", Visit)
by_page = app.table("by_page", lambda: Visit(page=0, at=datetime(2000, 1, 1)), key_type=int)
titles = app.table("titles", str)
odd = app.table("odd", bytes, key_type=bytes)

@app.agent(visits)
async def watch(stream: Stream[Visit]) -> None:
    async for visit in stream:
        by_page[visit.page] = visit
        titles[f"page {visit.page}"] = str(visit.page)
        odd[b"\\xff"] = b"\\xfe"
"""


def test_ls_shows_how_far_each_agent_is(counted: Shell) -> None:
    rows = counted.ok("agents", "ls", "--json").json()
    assert [(row["agent"], row["topic"], row["partition"]) for row in rows] == [
        ("count", "words", 0),
        ("count", "words", 1),
        ("count", "words", 2),
        ("split", "lines", 0),
    ]
    # A partition in which nothing has come was never committed.
    assert all((row["committed"] or 0) == row["end"] and row["lag"] == 0 for row in rows)
    assert sum(row["end"] for row in rows if row["agent"] == "count") == 6
    lines = counted.ok("agents", "ls", "split").out.splitlines()
    assert lines == ["AGENT  TOPIC  PARTITION  COMMITTED  END  LAG", "split  lines          0          2    2    0"]


def test_agents_and_tables_are_known_without_the_app(counted: Shell, shell: Shell) -> None:
    data = counted.folder / "data"
    assert {row["agent"] for row in shell.ok("agents", "ls", "--json", "--data", data).json()} == {"count", "split"}
    assert shell.ok("tables", "get", "counts", "be", "--data", data).out == "2\n"
    assert shell.ok("tables", "ls", "--data", data).out.splitlines()[1].split() == ["counts", "count", "-", "-"]


def test_an_agent_that_never_ran_lags_by_all_there_is(words: Shell) -> None:
    rows = {row["agent"]: row for row in words.ok("agents", "ls", "--json").json()}
    split = {"agent": "split", "topic": "lines", "partition": 0, "committed": None, "end": 2, "lag": 2}
    count = {"agent": "count", "topic": "words", "partition": None, "committed": None, "end": None, "lag": 0}
    assert rows == {"split": split, "count": count}
    assert words.ok("agents", "ls").out.splitlines()[1].split() == ["count", "words", "-", "-", "-", "0"]


def test_lag_is_what_has_come_since(words: Shell) -> None:
    words.ok("worker", "--until-idle")
    words.ok("topics", "send", "lines", "one", "more")
    [split] = words.ok("agents", "ls", "split", "--json").json()
    assert (split["committed"], split["end"], split["lag"]) == (2, 4, 2)


def test_tables_ls_says_who_writes_them(counted: Shell) -> None:
    [row] = counted.ok("tables", "ls", "--json").json()
    assert row == {"table": "counts", "written_by": "count", "type": "JSON", "key_type": "str"}
    assert counted.ok("tables", "ls").out.splitlines() == [
        "TABLE   WRITTEN BY  TYPE  KEY TYPE",
        "counts  count       JSON  str",
    ]


def test_get_prints_one_row(counted: Shell) -> None:
    assert counted.ok("tables", "get", "counts", "be").out == "2\n"
    assert counted.ok("tables", "get", "counts", "not", "--json").out == '{"key":"not","value":1}\n'


def test_a_row_that_is_missing_exits_with_4(counted: Shell) -> None:
    done = counted.run("tables", "get", "counts", "question", "--json")
    assert (done.code, done.out, done.err) == (4, "", "framework: table 'counts' has no row 'question'\n")


def test_scan_prints_every_row_once(counted: Shell) -> None:
    rows = counted.ok("tables", "scan", "counts", "--json").json()
    assert sorted((row["key"], row["value"]) for row in rows) == [("be", 2), ("not", 1), ("or", 1), ("to", 2)]
    lines = counted.ok("tables", "scan", "counts").out.splitlines()
    assert lines[0] == "KEY  VALUE"
    assert sorted(lines[1:]) == ["be   2", "not  1", "or   1", "to   2"]


def test_scan_is_bounded_by_prefix_and_limit(counted: Shell) -> None:
    rows = counted.ok("tables", "scan", "counts", "--prefix", "o", "--json").json()
    assert rows == [{"key": "or", "value": 1}]
    assert len(counted.ok("tables", "scan", "counts", "--limit", "3", "--json").json()) == 3
    nothing = counted.ok("tables", "scan", "counts", "--prefix", "x")
    assert (nothing.out, nothing.err) == ("", "no such rows in table 'counts'\n")


def test_rows_are_printed_as_they_are_stored(shell: Shell) -> None:
    """Models in their own JSON, dates with a Z; keys as the app types them; a text of digits stays a text."""
    shell.write("app.py", TYPED)
    shell.ok("topics", "send", "visits", '{"page": 7, "at": "2026-01-31T12:00:00Z"}')
    shell.ok("worker", "--until-idle")
    row = shell.ok("tables", "get", "by_page", "7", "--json").out
    assert row == '{"key":7,"value":{"page":7,"at":"2026-01-31T12:00:00Z"}}\n'
    assert shell.ok("tables", "get", "by_page", "7").out == '{"page":7,"at":"2026-01-31T12:00:00Z"}\n'
    assert shell.ok("tables", "scan", "titles", "--json").json() == [{"key": "page 7", "value": "7"}]
    assert shell.ok("tables", "scan", "odd", "--json").json() == [
        {"key": {"base64": "/w=="}, "value": {"base64": "/g=="}}
    ]
    assert shell.ok("tables", "scan", "odd").out.splitlines() == ["KEY   VALUE", r"\xff  \xfe"]


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(words: Shell) -> None:
    words.ok("topics", "create", "many")
    words.ok("topics", "send", "many", text="some text that fills the pipe\n" * 20_000)
    command = [sys.executable, "-m", "framework", "topics", "tail", "many", "--from", "beginning"]
    with subprocess.Popen(
        command, cwd=words.folder, env=words.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as tail:
        assert tail.stdout is not None
        assert tail.stderr is not None
        assert b"fills the pipe" in tail.stdout.readline()
        tail.stdout.close()
        assert tail.stderr.read() == b""
        assert tail.wait() == 0


GROUPED = """
from framework import App, Stream

app = App("grouped")
numbers = app.topic("numbers", int)
counts = app.table("counts", int)

@app.agent(numbers)
async def count(stream: Stream[int]) -> None:
    async for number in stream.group_by(lambda number: f"k{number % 2}"):
        counts[f"k{number % 2}"] += 1
"""


def test_a_grouped_agent_is_listed_with_its_stage_and_each_topic_once(shell: Shell) -> None:
    shell.write("app.py", GROUPED)
    shell.ok("topics", "send", "numbers", text="1\n")
    assert [row["agent"] for row in shell.ok("agents", "ls", "--json").json()] == ["count"]
    shell.ok("worker", "--until-idle")
    rows = shell.ok("agents", "ls", "--json").json()
    assert [(row["agent"], row["topic"], row["committed"], row["lag"]) for row in rows] == [
        ("count", "grouped.count.group-1.repartition", 1, 0),
        ("count.group-1", "numbers", 1, 0),
    ]
