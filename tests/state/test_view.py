"""Committed state from outside: while a worker commits, after it, and where there is none yet."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from framework.log import Log, partition_of
from framework.state import rows
from framework.state.shards import Shards
from framework.state.store import Commit
from framework.state.view import REFRESH_S, StateView
from tests.log.conftest import ManualClock

WORKER = """
from framework.state import rows
from framework.state.shards import Shards
from framework.state.store import Commit
log = Log(sys.argv[1])
topic = log.topic("in")

def work(command):
    number = int(command)
    for partition in range(topic.partitions):
        changes = [(rows.owner_key("sums"), b"fold")]
        changes += [(rows.offset_key("fold", topic.id, partition), rows.pack_u64(number))]
        changes += [
            (rows.table_prefix("sums", partition) + key, b"%d" % number)
            for key in (b"k%d" % each for each in range(40))
            if partition_of(key, topic.partitions) == partition
        ]
        shards.of_partition(partition).commit(Commit(changes))
    shards.of_jobs().commit(Commit([(rows.run_prefix("nightly") + b"%d" % number, b"{}")]))

shards = Shards(log)
while True:
    command = hear()
    if command == "restart":
        shards.close()
        shards = Shards(log)
    else:
        work(command)
    say("done")
"""
KEYS = [b"k%d" % each for each in range(40)]


@pytest.fixture
def clock() -> ManualClock:
    """Stands still, so that a view refreshes when a test says so."""
    return ManualClock()


@pytest.fixture
def log(open_log: Any, clock: ManualClock) -> Log:
    """A log with a topic of ten partitions: two of them share a shard with another one."""
    log: Log = open_log(clock=clock)
    log.create_topic("in", 10)
    return log


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary directories are made."""
    path = tmp_path / "scratch"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


@pytest.fixture
def view(log: Log, scratch: Path) -> Iterator[StateView]:
    """A view of the data directory; closed after the test."""
    view = StateView(log)
    yield view
    view.close()


@pytest.fixture
def work(data: Path, log: Log, child: Any) -> Callable[[object], None]:
    """Has a worker, another process, commit a number everywhere; or start anew."""
    worker = child(WORKER, data)

    def order(command: object) -> None:
        worker.say(str(command))
        assert worker.hear() == "done"

    return order


def test_where_there_is_no_state_a_view_is_empty_and_makes_none(data: Path, log: Log, view: StateView) -> None:
    assert view.table_row("sums", b"k") is None
    assert list(view.table_rows("sums")) == []
    assert view.owners() == {}
    assert view.offset("fold", log.topic("in"), 3) is None
    assert view.offsets() == []
    assert view.job_rows(b"r") == []
    assert not (data / "state").exists()


def test_a_view_that_saw_nothing_sees_what_comes(view: StateView, work: Any) -> None:
    assert view.table_row("sums", b"k1") is None
    work(1)
    assert view.table_row("sums", b"k1") == b"1"


def test_what_another_process_has_committed_is_there_while_it_runs(log: Log, view: StateView, work: Any) -> None:
    work(1)
    topic = log.topic("in")
    assert view.owners() == {"sums": "fold"}
    assert sorted(view.offsets()) == [("fold", topic.id, partition, 1) for partition in range(10)]
    assert [view.offset("fold", topic, partition) for partition in range(10)] == [1] * 10
    assert [view.offset("other", topic, partition) for partition in range(10)] == [None] * 10
    assert {key: view.table_row("sums", key) for key in KEYS} == dict.fromkeys(KEYS, b"1")
    assert view.table_row("sums", b"k99") is None
    assert view.table_row("counts", b"k1") is None
    assert view.job_rows(rows.run_prefix("nightly")) == [(rows.run_prefix("nightly") + b"1", b"{}")]


def test_the_rows_of_a_table_come_partition_by_partition_in_the_order_of_their_keys(view: StateView, work: Any) -> None:
    """Every one once, although partitions 0 and 8 share a database."""
    work(1)
    expected = sorted(KEYS, key=lambda key: (partition_of(key, 10), key))
    assert list(view.table_rows("sums")) == [(key, b"1") for key in expected]
    assert [key for key, _ in view.table_rows("sums", b"k1")] == [key for key in expected if key.startswith(b"k1")]


def test_a_view_is_refreshed_when_it_is_older_than_a_tenth_of_a_second(
    clock: ManualClock, view: StateView, work: Any
) -> None:
    """Not oftener, which is what bounds its cost."""
    work(1)
    assert view.table_row("sums", b"k1") == b"1"
    work(2)
    clock.ms += int(REFRESH_S * 1000)
    assert view.table_row("sums", b"k1") == b"1"
    clock.ms += 1
    assert view.table_row("sums", b"k1") == b"2"
    assert dict(view.table_rows("sums")) == dict.fromkeys(KEYS, b"2")


def test_a_view_follows_a_worker_that_starts_anew(clock: ManualClock, view: StateView, work: Any) -> None:
    """Whose databases have other files then."""
    for number in range(1, 6):
        work(number)
        clock.ms += 1000
        assert view.table_row("sums", b"k1") == b"%d" % number
        work("restart")
        clock.ms += 1000
        assert dict(view.table_rows("sums")) == dict.fromkeys(KEYS, b"%d" % number)


def test_a_view_reads_what_a_worker_has_left(log: Log, view: StateView) -> None:
    """A closed database, and one in this very process."""
    shards = Shards(log)
    topic = log.topic("in")
    key = rows.offset_key("fold", topic.id, 3)
    shards.of_partition(3).commit(Commit([(key, rows.pack_u64(7))]))
    assert view.offset("fold", topic, 3) == 7
    shards.close()
    other = StateView(log)
    assert other.offset("fold", topic, 3) == view.offset("fold", topic, 3) == 7
    other.close()


def test_a_table_that_a_job_writes_lies_in_the_database_of_the_jobs(log: Log, view: StateView) -> None:
    shards = Shards(log)
    prefix = rows.table_prefix("report", 0)
    changes = [(prefix + b"b", b"2"), (prefix + b"a", b"1"), (rows.owner_key("report"), b"nightly")]
    shards.of_jobs().commit(Commit([*changes]))
    assert view.owners() == {"report": "nightly"}
    assert view.table_row("report", b"a") == b"1"
    assert list(view.table_rows("report")) == [(b"a", b"1"), (b"b", b"2")]
    shards.close()


def test_a_closed_view_leaves_nothing_behind(scratch: Path, view: StateView, work: Any) -> None:
    work(1)
    assert dict(view.table_rows("sums"))
    assert len(list(scratch.glob("framework-view-*"))) >= 8
    view.close()
    assert list(scratch.iterdir()) == []
    assert view.table_row("sums", b"k1") == b"1", "and can be used again"
