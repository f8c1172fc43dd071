"""`framework agents rewind`, `reset` and `checkpoints`: said first, done with --execute, never under a worker."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from framework.log import Log
from framework.state.checkpoints import Checkpoints
from framework.state.shards import Shards

if TYPE_CHECKING:
    from tests.framework.cli.conftest import Shell

pytestmark = pytest.mark.slow
FUTURE = "2099-01-01T00:00:00Z"


def take_checkpoints(data: Path) -> None:
    """Of all shards that have words."""
    with Log(data) as log:
        shards = Shards(log)
        made = Checkpoints(log, keep=24)
        for number in range(3):
            made.make(shards.of_partition(number))
        shards.close()


@pytest.fixture
def old(words: Shell) -> Shell:
    """Two lines counted, a checkpoint, and a third line counted."""
    words.ok("worker", "--until-idle")
    take_checkpoints(words.folder / "data")
    words.ok("topics", "send", "lines", "to sleep to dream")
    words.ok("worker", "--until-idle")
    assert words.ok("tables", "get", "counts", "to").out == "4\n"
    return words


def count(shell: Shell) -> dict[str, int]:
    """The table."""
    return {row["key"]: row["value"] for row in shell.ok("tables", "scan", "counts", "--json").json()}


def test_an_agent_is_taken_back_and_counts_again(old: Shell) -> None:
    whole = count(old)
    planned = old.ok("agents", "rewind", "count", "--to", FUTURE, "--json")
    rows = planned.json()
    assert [row["partition"] for row in rows] == [0, 1, 2]
    assert all(row["executed"] is False and row["checkpoint"] and row["topic"] == "words" for row in rows)
    assert sum(row["from"] - row["to"] for row in rows) == sum(row["records"] for row in rows) == 4
    assert planned.err == "would rewind agent 'count': 4 records to handle; do it with --execute\n"
    assert count(old) == whole
    done = old.ok("agents", "rewind", "count", "--to", FUTURE, "--execute")
    assert done.err == "rewound agent 'count': 4 records to handle when a worker is started\n"
    header = done.out.splitlines()[0].split()
    assert header == [
        "TOPIC",
        "PARTITION",
        "FROM",
        "TO",
        "RECORDS",
        "ROWS",
        "RESTORED",
        "ROWS",
        "DELETED",
        "CHECKPOINT",
    ]
    assert count(old)["to"] == 2
    old.ok("worker", "--until-idle")
    assert count(old) == whole


def test_who_sends_must_say_what_becomes_of_it(old: Shell) -> None:
    refused = old.run("agents", "rewind", "split", "--to", FUTURE)
    assert refused.code == 2
    assert refused.err.startswith("framework: agent 'split' has sent records, and would send those of the records it ")
    assert refused.err.endswith("say --outputs send, --outputs drop, or --outputs TOPIC for where they go instead\n")
    old.ok("agents", "rewind", "split", "--to", FUTURE, "--outputs", "drop", "--execute")
    old.ok("worker", "--until-idle")
    assert count(old)["to"] == 4
    old.ok("agents", "rewind", "split", "--to", FUTURE, "--outputs", "send", "--execute")
    old.ok("worker", "--until-idle")
    assert count(old)["to"] == 6


def test_without_the_app_nobody_knows_that_an_agent_sends_nothing(old: Shell, tmp_path: Path) -> None:
    data = old.folder / "data"
    (old.folder / "app.py").unlink()
    refused = old.run("agents", "rewind", "count", "--to", FUTURE, "--data", data)
    assert refused.code == 2
    assert "agent 'count' may send records" in refused.err
    old.ok("agents", "rewind", "count", "--to", FUTURE, "--outputs", "drop", "--data", data)


def test_outputs_go_to_a_topic_that_is_there(old: Shell) -> None:
    assert old.run("agents", "rewind", "split", "--to", FUTURE, "--outputs", "again").code == 4
    old.ok("topics", "create", "again", "--partitions", "2")
    old.ok("agents", "rewind", "split", "--to", FUTURE, "--outputs", "again", "--execute")
    old.ok("worker", "--until-idle")
    again = [row["value"] for row in old.ok("topics", "tail", "again", "--json").json()]
    assert sorted(again) == ["dream", "sleep", "to", "to"]
    assert count(old)["to"] == 4


def test_reset_with_a_table_must_say_what_becomes_of_it(old: Shell) -> None:
    refused = old.run("agents", "reset", "count")
    assert refused.code == 2
    assert refused.err == (
        "framework: agent 'count' writes table 'counts': say --state reset to empty it first, or --state keep to go on "
        "from what is there\n"
    )
    whole = count(old)
    old.ok("agents", "reset", "count", "--state", "reset", "--execute")
    assert count(old) == {}
    old.ok("worker", "--until-idle")
    assert count(old) == whole
    old.ok("agents", "rewind", "count", "--to", "1h", "--state", "reset", "--execute")
    assert count(old) == {}
    old.ok("agents", "reset", "count", "--state", "keep", "--to", "end", "--execute")
    old.ok("worker", "--until-idle")
    assert count(old) == {}


def test_nothing_is_moved_under_a_worker(old: Shell) -> None:
    worker = old.worker()
    planned = old.ok("agents", "rewind", "count", "--to", FUTURE)
    assert planned.err.endswith(f"; stop the worker, process {worker.pid}, and then do it with --execute\n")
    refused = old.run("agents", "rewind", "count", "--to", FUTURE, "--execute")
    assert refused.code == 5
    assert f"process {worker.pid} owns shard 0" in refused.err
    assert "Stop it" in refused.err
    assert refused.out == ""


def test_mistakes_name_the_way_out(old: Shell) -> None:
    for arguments, code, text in (
        (("rewind", "count", "--to", "1w"), 4, "say --state reset"),
        (("rewind", "count", "--to", "2020-01-01"), 4, "or before, the oldest is from 20"),
        (("rewind", "count", "--to", "soon"), 2, "--to 'soon' is no time like 2026-01-31T12:00:00Z"),
        (("reset", "count", "--to", "soon", "--state", "keep"), 2, "nor how long ago, like 90s or 12h"),
        (("reset", "nobody"), 4, "agent 'nobody' has committed nothing in"),
        (("rewind", "count"), 2, "Missing option '--to'"),
    ):
        done = old.run("agents", *arguments)
        assert (done.code, text in done.err) == (code, True), done.err


def test_checkpoints_are_listed(old: Shell) -> None:
    rows = old.ok("agents", "checkpoints", "--json").json()
    assert [(row["shard"], row["partitions"]) for row in rows] == [("0", [0]), ("1", [1]), ("2", [2])]
    assert all(row["bytes"] > 0 for row in rows)
    assert all(datetime.fromisoformat(row["time"]) <= datetime.now(UTC) for row in rows)
    assert "TIME" in old.ok("agents", "checkpoints").out
    assert json.loads(old.ok("agents", "checkpoints", "--json").out.splitlines()[0])["shard"] == "0"


def test_none_are_listed_where_there_are_none(words: Shell) -> None:
    words.ok("worker", "--until-idle")
    assert words.ok("agents", "checkpoints").err.startswith("no checkpoints in ")
