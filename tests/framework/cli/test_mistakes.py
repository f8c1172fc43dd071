"""Every mistake we know of, with the one line it is answered with and the exit code; `~` is the user's folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from framework import App
from framework.log import Files, Log, TopicSettings, partition_of
from framework.log.document import read_document, write_document
from framework.state import rows
from framework.state.database import Database

if TYPE_CHECKING:
    from tests.framework.cli.conftest import Shell

pytestmark = pytest.mark.slow

HEAD = "from framework import App, Batch, Stream\n"
AGENT = "@app.agent(t)\nasync def work(stream: Stream) -> None:\n    async for _ in stream: pass\n"
APP = f"{HEAD}app = App('shop')\nt = app.topic('orders')\ntotals = app.table('totals', int, key_type=int)\n{AGENT}"
WAYS = "-A module:app, -A path/to/file.py, FRAMEWORK_APP, or [tool.framework] app in pyproject.toml"
TOPIC_NAME = "is not valid: 1 to 249 characters, only letters, digits, '.', '_' and '-'"
NAME = "is not valid: 1 to 100 characters, only letters, digits, '.', '_' and '-'"
SAY = "say where it is with --data or FRAMEWORK_DATA"
UPGRADE = [f"this version reads up to {version}: upgrade framework-streams" for version in (1, 2)]


def nothing(_: Path) -> None:
    """The folder is as the app made it."""


def data(folder: Path) -> None:
    """A data directory with an empty topic, which a worker has used."""
    app = App("setup", data=folder / "data")
    with app.opened(), Log(app.data) as log:
        log.create_topic("orders", 2)


def newer_shared(folder: Path) -> None:
    data(folder)
    with (folder / "data" / "shared").open("r+b") as file:
        file.seek(8)
        file.write((3).to_bytes(8, sys.byteorder))


def newer_catalogue(folder: Path) -> None:
    data(folder)
    path = folder / "data" / "catalogue"
    body = read_document(path, "catalogue", 1)
    write_document(Files(), path, "catalogue", 2, {"topics": body["topics"]})


def damaged_catalogue(folder: Path) -> None:
    data(folder)
    (folder / "data" / "catalogue").write_bytes(b"")


def newer_state(folder: Path) -> None:
    data(folder)
    database = Database(folder / "data" / "state" / "0")
    database.write([(rows.meta_key("store"), json.dumps({"version": 2, "producer_id": 1}).encode())])
    database.close()


def a_file(folder: Path) -> None:
    (folder / "data").write_text("")


def an_unreadable_file(folder: Path) -> None:
    """A directory where a file should be cannot be read as one, not even by root."""
    data(folder)
    (folder / "data" / "shared").unlink()
    (folder / "data" / "shared").mkdir()


@dataclass(frozen=True)
class Mistake:
    """A command in a folder that holds *app* as app.py, and what it answers."""

    command: str
    line: str
    code: int
    app: str | None = APP
    before: Callable[[Path], None] = nothing


DECLARED_WRONG = {
    "bad app name": Mistake("worker", f"app.py:2: app name 'a b' {NAME}", 2, HEAD + "app = App('a b')\n"),
    "bad topic name": Mistake(
        "worker", f"app.py:3: topic name 'a b' {TOPIC_NAME}", 2, HEAD + "app = App('a')\napp.topic('a b')\n"
    ),
    "zero partitions": Mistake(
        "worker",
        "app.py:3: partitions is 0, it must lie between 1 and 10000",
        2,
        HEAD + "app = App('a')\napp.topic('t', partitions=0)\n",
    ),
    "retention that is none": Mistake(
        "worker",
        "app.py:4: topic 't': retention is 0:00:00, it must be positive, or None for ever",
        2,
        HEAD + "from datetime import timedelta\napp = App('a')\napp.topic('t', retention=timedelta())\n",
    ),
    "a topic declared twice": Mistake(
        "worker",
        "app.py:4: topic 't' is declared twice, and differently: keep one and share it",
        2,
        HEAD + "app = App('a')\napp.topic('t', str)\napp.topic('t', bytes)\n",
    ),
    "two agents of one name": Mistake(
        "worker",
        "app.py:8: there are two agents, jobs or timers named 'work': give one of them another name",
        2,
        APP + AGENT,
    ),
    "a table declared twice": Mistake(
        "worker",
        "app.py:4: there are two tables named 't': give one of them another name",
        2,
        HEAD + "app = App('a')\napp.table('t', int)\napp.table('t', int)\n",
    ),
    "an agent that takes what its topic does not hold": Mistake(
        "worker",
        "app.py:4: agent 'work' takes <class 'int'>; write Stream[...] for a loop, str or Record[...] for one "
        "call per record",
        2,
        HEAD + "app = App('a')\nt = app.topic('t', str)\n@app.agent(t)\ndef work(n: int) -> None: ...\n",
    ),
    "bad schedule": Mistake(
        "worker",
        "app.py:4: nightly: schedule '61 * * * *': '61' in the minute; it takes 0-59",
        2,
        HEAD + "app = App('a')\nt = app.topic('t')\n"
        "@app.job(t, schedule='61 * * * *')\ndef nightly(batch: Batch) -> None: ...\n",
    ),
    "bad time zone": Mistake(
        "jobs ls",
        "app.py:4: nightly: schedule '@daily': unknown time zone 'Mars/Olympus'",
        2,
        HEAD + "app = App('a')\nt = app.topic('t')\n"
        "@app.job(t, schedule='@daily', timezone='Mars/Olympus')\ndef nightly(batch: Batch) -> None: ...\n",
    ),
    "an app without agents": Mistake(
        "worker",
        "app 'a' declares no agents, jobs or timers: there is nothing to run",
        2,
        HEAD + "app = App('a')\n",
    ),
    "another number of partitions": Mistake(
        "worker",
        "topic 'orders' has 2 partitions in ~/data, the app declares 5: declare 2, or use another topic",
        5,
        APP.replace("'orders'", "'orders', partitions=5"),
        data,
    ),
}
APPS = {
    "no app": Mistake("worker", f"there is no app in app.py or main.py of ~: name one with {WAYS}", 4, None),
    "unknown module": Mistake(
        "worker -A nowhere:app", "-A 'nowhere:app': there is no module 'nowhere' in ~ or on the Python path", 4
    ),
    "unknown file": Mistake("worker -A no.py", "-A 'no.py': there is no file ~/no.py", 4),
    "no app of this name": Mistake(
        "worker -A app:shop", "-A 'app:shop': there is no 'shop' in app.py; its Apps are called app", 4
    ),
    "not an app": Mistake("worker -A app:t", "-A 'app:t': 't' in app.py is of type Topic, not an App", 4),
    "module without an app": Mistake("worker -A app", "-A 'app': there is no App in app.py", 4, "x = 1\n"),
    "two apps": Mistake(
        "worker -A app.py",
        "-A 'app.py': there are 2 Apps; say which one with -A app.py:a or -A app.py:b",
        2,
        HEAD + "a = App('a')\nb = App('b')\n",
    ),
    "two apps found": Mistake(
        "worker",
        "~: there are 2 Apps; say which one with -A app.py:a or -A app.py:b",
        2,
        HEAD + "a = App('a')\nb = App('b')\n",
    ),
    "an import that fails": Mistake(
        "worker",
        "cannot import app.py: ZeroDivisionError: division by zero (app.py:2)",
        1,
        "import framework\n1 / 0\n",
    ),
    "an import that is missing": Mistake(
        "worker -A app",
        "cannot import app.py: ModuleNotFoundError: No module named 'nonesuch' (app.py:1)",
        1,
        "import nonesuch\n",
    ),
    "a syntax error": Mistake(
        "worker -A app.py", "cannot import app.py: SyntaxError: invalid syntax (app.py:2)", 1, "x = 1\nx =\n"
    ),
    "a program": Mistake(
        "worker -A app.py",
        'app.py ends the program when it is imported, at app.py:2: put what it runs below `if __name__ == "__main__":`',
        1,
        "import sys\nsys.exit(0)\n",
    ),
}
DIRECTORIES = {
    "no directory": Mistake("topics ls", f"there is no data directory at ~/data: {SAY}", 4),
    "no directory where --data says": Mistake(
        "agents ls --data other", f"there is no data directory at ~/other: {SAY}", 4, None
    ),
    "a file": Mistake("topics ls", f"there is no data directory at ~/data: {SAY}", 4, APP, a_file),
    "a file to make a directory of": Mistake(
        "worker", "cannot open the data directory ~/data: File exists", 1, APP, a_file
    ),
    "below a file": Mistake(
        "topics create t --data data/below",
        "cannot open the data directory ~/data/below: Not a directory",
        1,
        None,
        a_file,
    ),
    "an unreadable file": Mistake("topics ls", "~/data/shared: Is a directory", 1, None, an_unreadable_file),
    "newer shared file": Mistake("topics ls", f"~/data/shared has format 3, {UPGRADE[1]}", 6, None, newer_shared),
    "newer catalogue": Mistake("topics ls", f"~/data/catalogue has format 2, {UPGRADE[0]}", 6, None, newer_catalogue),
    "damaged catalogue": Mistake(
        "topics ls",
        "~/data/catalogue is damaged: its checksum line b'' does not fit its 0 bytes",
        6,
        None,
        damaged_catalogue,
    ),
    "newer state": Mistake("worker", f"the state in ~/data/state/0 has format 2, {UPGRADE[0]}", 6, APP, newer_state),
}
ARGUMENTS = {
    "bad new topic": Mistake("topics create a!", f"topic name 'a!' {TOPIC_NAME}", 2),
    "bad number of partitions": Mistake(
        "topics create t --partitions 0", "partitions is 0, it must lie between 1 and 10000", 2
    ),
    "other partitions than declared": Mistake(
        "topics create orders --partitions 3",
        "the app declares topic 'orders' with 2 partitions, not 3",
        2,
        APP.replace("'orders'", "'orders', partitions=2"),
    ),
    "bad retention": Mistake(
        "topics create t --retention 1y",
        "--retention '1y' is none of 90s, 30m, 12h, 7d, 2w, forever and the like",
        2,
    ),
    "bad setting": Mistake("topics create t --config a", "--config 'a' is not NAME=VALUE", 2),
    "bad value": Mistake(
        "topics create t --config retention.ms=1d", "retention.ms is '1d', it must be a whole number", 2
    ),
    "unknown setting": Mistake(
        "topics create t --config retention=1",
        f"unknown topic setting 'retention'; known are {', '.join(TopicSettings().as_config())}",
        2,
    ),
    "setting out of range": Mistake(
        "topics create t --config segment.bytes=1",
        "segment.bytes is 1, it must lie between 4096 and 1073741824",
        2,
    ),
    "a topic that exists": Mistake("topics create orders", "topic 'orders' exists, with 2 partitions", 5, None, data),
    "unknown topic": Mistake(
        "topics show nonesuch", "there is no topic 'nonesuch' in ~/data; there are orders", 4, APP, data
    ),
    "unknown topic to send to": Mistake(
        "topics send nonesuch x", "there is no topic 'nonesuch' in ~/data; there are orders", 4, APP, data
    ),
    "unknown topic to tail": Mistake(
        "topics tail nonesuch", "there is no topic 'nonesuch' in ~/data; there are orders", 4, APP, data
    ),
    "unknown partition": Mistake(
        "topics tail orders --partition 2", "topic 'orders' has partitions 0 to 1, not 2", 4, APP, data
    ),
    "unknown partition to send to": Mistake(
        "topics send orders 1 --partition -1", "topic 'orders' has partitions 0 to 1, not -1", 4, APP, data
    ),
    "bad place": Mistake(
        "topics tail orders --from noon",
        "--from 'noon' is not beginning, end, an offset or a time like 2026-01-31T12:00:00Z",
        2,
    ),
    "bad header": Mistake("topics send orders 1 --header a", "--header 'a' is not NAME=VALUE", 2, APP, data),
    "unknown agent": Mistake(
        "agents ls nonesuch", "there is no agent 'nonesuch' in ~/data; there are work", 4, APP, data
    ),
    "unknown table": Mistake(
        "tables scan nonesuch", "there is no table 'nonesuch' in ~/data; there are totals", 4, APP, data
    ),
    "unknown table to get from": Mistake(
        "tables get nonesuch 1", "there is no table 'nonesuch' in ~/data; there are none", 4, None, data
    ),
    "missing row": Mistake("tables get totals 1", "table 'totals' has no row '1'", 4, APP, data),
    "bad key": Mistake(
        'tables get totals "one"',
        "key '\"one\"' of table 'totals': not a valid int: it is a str",
        2,
        APP,
        data,
    ),
    "unknown job": Mistake(
        "jobs run nonesuch", "there is no job 'nonesuch' in app 'shop'; there are none", 4, APP, data
    ),
    "unknown job's runs": Mistake(
        "jobs runs nonesuch",
        "there is no job 'nonesuch': no app declares it, and no run of it is in ~/data",
        4,
        None,
        data,
    ),
    "unknown command": Mistake("topics remove", "No such command 'remove'; see 'framework topics --help'", 2),
    "unknown option": Mistake("worker --no", "No such option '--no'; see 'framework worker --help'", 2),
    "missing argument": Mistake("topics show", "Missing argument 'NAME'; see 'framework topics show --help'", 2),
}
MISTAKES = {**DECLARED_WRONG, **APPS, **DIRECTORIES, **ARGUMENTS}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_an_exit_code(shell: Shell, name: str) -> None:
    mistake = MISTAKES[name]
    if mistake.app is not None:
        shell.write("app.py", mistake.app)
    mistake.before(shell.folder)
    before = sorted(shell.folder.rglob("*"))
    done = shell.run(*mistake.command.split())
    line = mistake.line.replace("~", str(shell.folder))
    assert (done.err, done.out, done.code) == (f"framework: {line}\n", "", mistake.code)
    if mistake.before is nothing:
        # A mistake is no reason to make a data directory.
        assert [path for path in sorted(shell.folder.rglob("*")) if "__pycache__" not in path.parts] == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_directory_that_may_not_be_read_is_named(shell: Shell) -> None:
    data(shell.folder)
    (shell.folder / "data").chmod(0)
    done = shell.run("topics", "ls")
    (shell.folder / "data").chmod(0o700)
    line = f"cannot open the data directory {shell.folder / 'data'}: Permission denied"
    assert (done.err, done.code) == (f"framework: {line}\n", 1)


ORDERS = """
from framework import App, Stream
app = App("shop")
orders = app.topic("orders", dict, key=lambda order: order["id"], partitions=2)
totals = app.table("totals", int)

@app.agent(orders)
async def sum_up(stream: Stream[dict]) -> None:
    async for order in stream:
        totals[order["customer"]] += 1
"""


def test_a_row_of_another_partition_makes_a_dead_letter_that_says_so(shell: Shell) -> None:
    """The topic is keyed by the order and the table by the customer."""
    shell.write("app.py", ORDERS)
    order = {"id": "1", "customer": "ann"}
    wrong = next(n for n in range(99) if partition_of(b"%d" % n, 2) != partition_of(b"ann", 2))
    shell.ok("topics", "send", "orders", json.dumps({**order, "id": str(wrong)}))
    shell.ok("worker", "--until-idle")
    [letter] = shell.ok("topics", "tail", "shop.sum_up.dead-letter", "--json").json()
    belongs = partition_of(b"ann", 2)
    assert letter["headers"]["dead-letter.error"] == (
        f"WrongPartition: table 'totals': key 'ann' belongs to partition {belongs}, but 'sum_up' touched it while "
        f"handling partition {1 - belongs}. Bring the records of a key together first, with stream.group_by(...), or "
        "with key= on the topic"
    )
    assert letter["value"] == {**order, "id": str(wrong)}


def test_debug_shows_the_traceback_above_the_line(shell: Shell) -> None:
    shell.write("app.py", "import framework\n1 / 0\n")
    line = "framework: cannot import app.py: ZeroDivisionError: division by zero (app.py:2)"
    shown = shell.run("--debug", "worker")
    shell.environment["FRAMEWORK_DEBUG"] = "1"
    for done in (shown, shell.run("worker")):
        assert done.code == 1
        assert 'app.py", line 2, in <module>' in done.err
        assert done.err.splitlines()[-1] == line


def test_data_can_be_read_although_the_app_is_broken(shell: Shell) -> None:
    """If the directory is known without the app, and nobody insists on it."""
    data(shell.folder)
    shell.write("app.py", "import framework\n1 / 0\n")
    done = shell.ok("topics", "ls", "--json", "--data", "data")
    reason = "cannot import app.py: ZeroDivisionError: division by zero (app.py:2)"
    assert done.err == f"framework: going on without the app: {reason}\n"
    assert [row["topic"] for row in done.json()] == ["orders"]
    insisting = shell.run("topics", "ls", "--data", "data", "-A", "app")
    assert (insisting.code, insisting.err) == (1, f"framework: {reason}\n")
    assert shell.run("topics", "ls").code == 1
