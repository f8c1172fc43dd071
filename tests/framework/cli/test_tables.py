"""`framework tables` for rows with a ttl, tables that follow a topic, and letting go of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.framework.cli.conftest import Shell

pytestmark = pytest.mark.slow

APP = """
from datetime import timedelta
from framework import App, Record

app = App("visits")
visits = app.topic("visits", str, key=lambda page: page, partitions=3)
recent = app.table("recent", int, ttl=timedelta(minutes=1))
last = app.table("last", source=visits)

@app.agent(visits, name="NAME")
def watch(visit: Record[str]) -> None:
    recent[visit.value] += 1
"""
SEND = """
from datetime import timedelta
from app import app, visits
from framework.log.clock import EPOCH
with app.opened():
    for second, page in enumerate(["old", "new"]):
        for key in (page, page + "er", page + "est", page + "!"):
            visits.send(key, timestamp=EPOCH + timedelta(seconds=100 * second))
"""
GONE = {"old", "older", "oldest", "old!"}
THERE = {"new", "newer", "newest", "new!"}


def visited(shell: Shell, name: str = "watch") -> None:
    """A directory in which an agent of that name has handled old visits and new ones."""
    shell.write("app.py", APP.replace("NAME", name))
    shell.write("send.py", SEND)
    shell.python("send.py")
    shell.ok("worker", "--until-idle")


def test_rows_that_are_gone_are_not_shown_with_the_app_and_without(shell: Shell) -> None:
    """The time of each partition says which; where nothing new came, the old ones are still there."""
    visited(shell)
    rows = {row["key"]: row["value"] for row in shell.ok("tables", "scan", "recent", "--json").json()}
    assert rows.items() <= dict.fromkeys(THERE | GONE, 1).items()
    assert rows.keys() >= THERE
    assert rows.keys() != THERE | GONE
    (shell.folder / "app.py").rename(shell.folder / "gone.txt")
    data = shell.folder / "data"
    assert {
        row["key"]: row["value"] for row in shell.ok("tables", "scan", "recent", "--json", "--data", data).json()
    } == rows
    for key in sorted(THERE | GONE):
        done = shell.run("tables", "get", "recent", key, "--data", data)
        assert (done.code, done.out) == ((0, "1\n") if key in rows else (4, ""))


def test_a_table_that_follows_a_topic_is_one_like_any(shell: Shell) -> None:
    visited(shell)
    assert {row["key"]: row["value"] for row in shell.ok("tables", "scan", "last", "--json").json()} == {
        key: key for key in THERE | GONE
    }
    rows = {row["table"]: row for row in shell.ok("tables", "ls", "--json").json()}
    assert rows["last"] == {"table": "last", "written_by": "last", "type": "str", "key_type": "str"}
    assert {row["agent"] for row in shell.ok("agents", "ls", "--json").json()} == {"watch", "last"}


def test_a_table_that_was_released_is_written_by_the_next_agent(shell: Shell) -> None:
    """A dry run changes nothing; the rows stay, and can be read while nobody owns them."""
    visited(shell)
    before = shell.ok("tables", "scan", "recent", "--json").out
    dry = shell.ok("tables", "release", "recent")
    assert (dry.out, dry.err) == ("", "would release table 'recent', written by 'watch'; do it with --execute\n")
    assert '"written_by":"watch"' in shell.ok("tables", "ls", "--json").out
    done = shell.ok("tables", "release", "recent", "--execute")
    assert (done.out, done.err) == ("", "released table 'recent', written by 'watch'\n")
    assert '{"table":"recent","written_by":null' in shell.ok("tables", "ls", "--json").out
    assert shell.ok("tables", "scan", "recent", "--json").out == before
    again = shell.run("tables", "release", "recent", "--execute")
    assert (again.code, again.err) == (
        4,
        "framework: table 'recent' has no owner: the next agent that writes it will be\n",
    )
    shell.ok("agents", "forget", "watch", "--execute")
    visited(shell, "follower")
    assert '"table":"recent","written_by":"follower"' in shell.ok("tables", "ls", "--json").out


def test_a_table_is_not_released_under_a_worker(shell: Shell) -> None:
    visited(shell)
    shell.worker()
    assert shell.ok("tables", "release", "recent").err.startswith("would release")
    refused = shell.run("tables", "release", "recent", "--execute")
    assert refused.code == 5
    assert "a worker is running there" in refused.err
    assert '"written_by":"watch"' in shell.ok("tables", "ls", "--json").out


def test_a_table_that_is_not_there_exits_with_4(shell: Shell) -> None:
    visited(shell)
    refused = shell.run("tables", "release", "recnt", "--execute")
    assert (refused.code, "there are last, recent" in refused.err) == (4, True)
