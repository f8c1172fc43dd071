"""`agents rename`, `agents forget` and `worker --accept-schema`: the ways out that a worker names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.framework.cli.conftest import Shell

pytestmark = pytest.mark.slow

VISITS = """
from pydantic import BaseModel
from framework import App

class Visit(BaseModel):
    page: int

app = App("visits")
visits = app.topic("visits", Visit)

@app.agent(visits)
def watch(visit: Visit) -> None: ...
"""


def renamed_in_code(words: Shell) -> None:
    """The agent `count` has counted, and is called `tally` now."""
    words.ok("worker", "--until-idle")
    app = words.folder / "app.py"
    app.write_text(app.read_text().replace("def count(", "def tally("))


def test_a_worker_names_the_command_that_helps(words: Shell) -> None:
    renamed_in_code(words)
    refused = words.run("worker", "--until-idle")
    assert refused.code == 2
    assert "framework: the state in " in refused.err
    command = "agents rename count tally --execute"
    assert f"`framework {command}`" in refused.err
    words.ok("topics", "create", "words.count.dead-letter", "--partitions", "3")
    dry = words.ok(*command.split()[:-1])
    tables = "committed offsets, table 'counts'"
    assert dry.out == ""
    assert tables in dry.err
    assert dry.err.startswith("would rename agent 'count' to 'tally': ")
    assert "; do it with --execute\nits dead letters so far stay in topic 'words.count.dead-letter'\n" in dry.err
    assert words.run("worker", "--until-idle").code == 2
    assert words.ok(*command.split()).err.startswith("renamed agent 'count' to 'tally': ")
    words.ok("topics", "send", "lines", "be")
    words.ok("worker", "--until-idle")
    assert words.ok("tables", "get", "counts", "be").out == "3\n"
    assert words.run(*command.split()).code == 4


def test_what_is_forgotten_begins_anew(words: Shell) -> None:
    renamed_in_code(words)
    dry = words.ok("agents", "forget", "count", "--tables")
    assert dry.err.startswith("would forget agent 'count': ")
    assert dry.err.endswith("table 'counts' with their rows; do it with --execute\n")
    kept = words.ok("agents", "forget", "count").err
    assert kept.endswith("table 'counts', whose rows stay; do it with --execute\n")
    words.ok("agents", "forget", "count", "--tables", "--execute")
    words.ok("worker", "--until-idle")
    assert words.ok("tables", "get", "counts", "be").out == "2\n"


@pytest.mark.parametrize("command", ["rename count tally", "forget count"])
def test_names_are_not_changed_under_a_worker(words: Shell, command: str) -> None:
    worker = words.worker()
    for execute in ([], ["--execute"]):
        refused = words.run("agents", *command.split(), *execute)
        assert refused.code == 5
        assert refused.err.startswith(f"framework: process {worker.pid} owns shard 0 of ")


def test_a_name_has_to_be_one(words: Shell) -> None:
    words.ok("worker", "--until-idle")
    assert words.run("agents", "rename", "count", "a/b").code == 2
    assert words.run("agents", "rename", "count", "split").code == 5
    missing = words.run("agents", "forget", "cuont")
    assert missing.code == 4
    assert missing.err.endswith("knows no agent or job 'cuont'; it knows count, longest, split\n")


def test_a_changed_type_stops_the_worker_until_it_is_accepted(shell: Shell) -> None:
    shell.write("app.py", VISITS)
    shell.ok("worker", "--until-idle")
    shell.ok("topics", "send", "visits", '{"page": 7}', '{"page": 8}')
    shell.write("app.py", VISITS.replace("page: int", "number: int"))
    refused = shell.run("worker", "--until-idle")
    assert refused.code == 2
    assert "topic 'visits' holds 2 records (visits-0 offset 0 to 1)" in refused.err
    assert "number is new, and required" in refused.err
    assert shell.run("worker", "--until-idle", "--accept-schema", "visit").code == 4
    shell.ok("worker", "--until-idle", "--accept-schema", "visits")
    shell.ok("worker", "--until-idle")
    shell.write("app.py", VISITS.replace("page: int", "at: int"))
    assert shell.run("worker", "--until-idle").code == 2
    shell.environment["FRAMEWORK_ACCEPT_SCHEMA"] = "all"
    shell.ok("worker", "--until-idle")
