"""`framework groups`: what clients of the broker have read; said first, done with --execute, never beside a broker."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from framework.cli import groups
from framework.cli.directory import Directory
from framework.log import Log, NewRecord, encode
from framework.log.broker.offsets import Committed
from framework.state.groups import GroupStore
from tests.framework.cli.conftest import Shell, with_words

pytestmark = pytest.mark.slow
START_MS = 1_700_000_000_000


@contextmanager
def broker(data: Path) -> Iterator[tuple[Log, GroupStore]]:
    """The groups, open as a broker has them."""
    with Log(data) as log:
        store = GroupStore(log)
        yield log, store
        store.close()


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory, packages: Path) -> Iterator[Shell]:
    """A shell beside words that groups have read, some of them to the end, and what a deleted topic has left.

    Tests that change a group have it for themselves.
    """
    with ExitStack() as exits:
        shell = with_words(Shell(tmp_path_factory.mktemp("read"), packages, exits))
        shell.ok("worker", "--until-idle")
        with broker(shell.folder / "data") as (log, store):
            info, gone = log.topic("words"), log.create_topic("gone", 1)
            ends = {number: log.partition(info, number).high_watermark for number in range(3)}
            done = {(info.id, number): Committed(end, 2, "m", START_MS) for number, end in ends.items()}
            for name in ("done", "moved", "removed", "held"):
                store.commit(name, done).result(60)
            store.commit("halfway", {(info.id, 0): Committed(0, time_ms=START_MS), (gone.id, 0): Committed(3)}).result(
                60
            )
            log.delete_topic("gone")
        yield shell


def test_groups_are_listed_with_what_they_have_not_read(read: Shell) -> None:
    rows = {row["group"]: row for row in read.ok("groups", "ls", "--json").json()}
    assert {"done", "halfway", "words.count", "words.longest", "words.split"} <= rows.keys()
    assert list(rows) == sorted(rows)
    kinds = {name: (row["kind"], row["topics"], row["lag"]) for name, row in rows.items()}
    assert kinds["done"] == ("consumers", ["words"], 0)
    assert kinds["words.count"] == ("app", ["words"], 0)
    assert kinds["words.split"] == ("app", ["lines"], 0)
    assert (rows["done"]["seen"], rows["words.count"]["seen"]) == ("2023-11-14T22:13:20Z", None)
    table = read.ok("groups", "ls").out
    assert table.splitlines()[0].split() == ["GROUP", "KIND", "TOPICS", "PARTITIONS", "LAG", "SEEN"]


def test_without_groups_it_says_so(words: Shell) -> None:
    assert words.ok("groups", "ls").err.startswith("no groups in ")


def test_a_group_is_shown_partition_by_partition(read: Shell) -> None:
    rows = read.ok("groups", "show", "done", "--json").json()
    assert [row["partition"] for row in rows] == [0, 1, 2]
    assert all(row["committed"] == row["end"] and row["lag"] == 0 for row in rows)
    assert {(row["metadata"], row["leader_epoch"], row["time"]) for row in rows} == {("m", 2, "2023-11-14T22:13:20Z")}
    agent = read.ok("groups", "show", "words.count", "--json").json()
    assert [row["committed"] for row in agent] == [row["end"] for row in rows]
    missing = read.run("groups", "show", "nobody")
    assert missing.code == 4
    assert missing.err.startswith("framework: there is no group 'nobody' in ")


def test_a_group_is_read_while_a_broker_has_it(read: Shell) -> None:
    with broker(read.folder / "data") as (log, store):
        store.commit("new", {(log.topic("words").id, 1): Committed(1, time_ms=START_MS)}).result(60)
        assert [row["partition"] for row in read.ok("groups", "show", "new", "--json").json()] == [1]


def test_an_agent_may_have_the_name_of_a_group_that_was_there_before(read: Shell) -> None:
    """What consumers have committed under that name is not shown any more; the agent is."""
    with broker(read.folder / "data") as (log, store):
        store.commit("words.split", {(log.topic("words").id, 1): Committed(1, time_ms=START_MS)}).result(60)
    [row] = [row for row in read.ok("groups", "ls", "--json").json() if row["group"] == "words.split"]
    assert (row["kind"], row["topics"]) == ("app", ["lines"])
    assert [row["topic"] for row in read.ok("groups", "show", "words.split", "--json").json()] == ["lines"]


def test_a_group_is_moved_in_the_partitions_that_it_has_read(read: Shell) -> None:
    planned = read.ok("groups", "reset", "moved", "--to", "beginning", "--json")
    assert [(row["to"], row["executed"]) for row in planned.json()] == [(0, False)] * 3
    assert planned.err == "would reset group 'moved' in 3 partitions; do it with --execute\n"
    assert read.ok("groups", "show", "moved", "--json").json()[0]["lag"] == 0
    done = read.ok("groups", "reset", "moved", "--to", "beginning", "--execute")
    assert done.err == "reset group 'moved' in 3 partitions\n"
    rows = read.ok("groups", "show", "moved", "--json").json()
    assert all(row["committed"] == 0 and row["lag"] == row["end"] for row in rows)
    read.ok("groups", "reset", "moved", "--to", "end", "--partition", "1", "--execute")
    rows = read.ok("groups", "show", "moved", "--json").json()
    assert [row["committed"] for row in rows] == [0, rows[1]["end"], 0]


@pytest.mark.parametrize(("place", "offset"), [("1", 1), ("2000-01-01T00:00:00Z", 0), ("99", None), ("0s", None)])
def test_a_place_is_an_offset_or_a_time(read: Shell, place: str, offset: int | None) -> None:
    """Behind the end is the end."""
    [row] = read.ok("groups", "reset", "halfway", "--to", place, "--json").json()
    end = row["lag"] + row["to"]
    assert row["to"] == (end if offset is None else min(offset, end))


def test_with_a_topic_the_group_may_be_new(read: Shell) -> None:
    assert read.run("groups", "reset", "fresh", "--to", "end").code == 4
    read.ok("groups", "reset", "fresh", "--to", "end", "--topic", "words", "--execute")
    assert len(read.ok("groups", "show", "fresh", "--json").json()) == 3
    assert read.run("groups", "reset", "fresh", "--to", "end", "--topic", "none").code == 4
    assert read.run("groups", "reset", "fresh", "--to", "end", "--topic", "words", "--partition", "9").code == 4
    assert read.run("groups", "reset", "fresh", "--to", "nowhere").code == 2


def test_a_group_is_deleted_with_its_offsets(read: Shell) -> None:
    planned = read.ok("groups", "delete", "removed")
    assert planned.err == "would delete group 'removed' with 3 committed offsets; do it with --execute\n"
    assert (
        read.ok("groups", "delete", "removed", "--execute").err == "deleted group 'removed' with 3 committed offsets\n"
    )
    assert read.run("groups", "show", "removed").code == 4


def test_agents_and_jobs_are_moved_by_their_own_commands(read: Shell) -> None:
    for verb in (["reset", "words.count", "--to", "end"], ["delete", "words.count"]):
        refused = read.run("groups", *verb, "--execute")
        assert refused.code == 2
        assert refused.err.endswith("use `framework agents reset count` or `framework agents forget count`\n")


def test_beside_a_broker_nothing_is_changed_and_its_process_is_named(read: Shell) -> None:
    script = read.write(
        "hold.py",
        "import sys\nfrom framework.log import Log\nfrom framework.state.groups import GroupStore\n"
        "store = GroupStore(Log('data'))\nprint('open', flush=True)\nsys.stdin.readline()\n",
    )
    with holding(read, script) as pid:
        planned = read.ok("groups", "delete", "held")
        assert planned.err.endswith(f"; stop the broker, process {pid}, and then do it with --execute\n")
        for verb in (["delete", "held"], ["reset", "held", "--to", "end"]):
            refused = read.run("groups", *verb, "--execute")
            assert refused.code == 5
            assert f"process {pid} has the groups of " in refused.err
            assert "ask it over the Kafka protocol" in refused.err
    read.ok("groups", "delete", "held", "--execute", "--wait", "10")


@contextmanager
def holding(shell: Shell, script: Path) -> Iterator[int]:
    """A process that has the groups; ended after the test."""
    with subprocess.Popen(
        [sys.executable, str(script)],
        cwd=shell.folder,
        env=shell.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            yield process.pid
        finally:
            process.kill()


def test_a_group_is_moved_as_it_is_when_the_broker_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What members commit, and clients append, while the command waits for the broker is there before it moves them."""
    monkeypatch.setenv("FRAMEWORK_DATA", str(tmp_path / "data"))
    with Log(tmp_path / "data", create=True) as log:
        info = log.create_topic("words", 2)
    owned = groups._owned

    @contextmanager
    def waited(directory: Directory, wait_s: float) -> Iterator[GroupStore]:
        with owned(directory, wait_s) as store:
            store.commit("late", {(info.id, 1): Committed(0)}).result(60)
        [batch] = encode([NewRecord(None, b"word", 0)], max_batch_bytes=1 << 20)
        directory.log.append(directory.log.partition(info, 1), [batch]).result(60)
        with owned(directory, wait_s) as store:
            yield store

    with broker(tmp_path / "data") as (_, store):
        store.commit("late", {(info.id, 0): Committed(0)}).result(60)
    monkeypatch.setattr(groups, "_owned", waited)
    done = CliRunner().invoke(groups.groups, ["reset", "late", "--to", "end", "--execute", "--json"])
    assert [(row["partition"], row["to"]) for row in map(json.loads, done.stdout.splitlines())] == [(0, 0), (1, 1)]
    with broker(tmp_path / "data") as (_, store):
        assert store.fetch("late")[info.id, 1].offset == 1
