"""The commit: state first, then what was sent, each of them once, whatever operation the process dies at."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from framework.log import Log, NewRecord, Partition, TopicInfo, TopicSettings, encode
from framework.log.errors import RecordTooLarge
from framework.state import rows
from framework.state.database import Database
from framework.state.errors import StateFailed
from framework.state.store import SEQUENCE_MASK, Commit, Store
from tests.state.conftest import Crash, CrashingDatabase, numbered, numbers_in

SMALL = TopicSettings(max_message_bytes=1024, segment_bytes=4096)


@pytest.fixture
def out(log: Log) -> TopicInfo:
    """A topic to send to; its batches hold few records, and its segments few batches."""
    return log.create_topic("out", 2, SMALL)


def commit_of(store: Store, topic: TopicInfo, *numbers: int, partition: int = 0) -> Commit:
    """A commit that sends *numbers* and says so in a row."""
    commit = Commit([(b"ttable\0\0\0\0\0last", b"%d" % max(numbers))])
    store.send(commit, {(topic, partition): numbered(*numbers)})
    return commit


def rows_in(store: Store, prefix: bytes) -> list[bytes]:
    """The keys of the rows that begin with *prefix*."""
    return [key for key, _ in store.database.scan(prefix)]


def sequences_in(log: Log, partition: Partition) -> list[tuple[int, int, int]]:
    """Producer id, base sequence and last sequence of every batch."""
    reader, found = log.reader(partition, 0), []
    while batches := reader.read().batches:
        found += [(header.producer_id, header.base_sequence, header.last_sequence) for header, _ in batches]
    reader.close()
    return found


# What a commit does.


def test_a_commit_writes_offsets_tables_and_outputs(log: Log, out: TopicInfo, open_store: Any) -> None:
    store = open_store(log)
    commit = Commit(
        [(rows.offset_key("fold", out.id, 1), rows.pack_u64(0)), (rows.table_prefix("sums", 0) + b"k", b"7")]
    )
    store.send(commit, {(out, 0): numbered(1, 2)})
    store.send(commit, {(out, 1): numbered(3)})
    store.send(commit, {(out, 0): numbered(4)})
    store.commit(commit)
    store.close()
    store = open_store(log)
    assert store.offset("fold", out, 1) == 0
    assert store.offset("fold", out, 0) is None
    assert store.offset("other", out, 1) is None
    assert store.database.get(rows.table_prefix("sums", 0) + b"k") == b"7"
    assert numbers_in(log, log.partition(out, 0)) == [1, 2, 4]
    assert numbers_in(log, log.partition(out, 1)) == [3]


def test_a_commit_leaves_no_outbox_behind(log: Log, out: TopicInfo, open_store: Any) -> None:
    store = open_store(log)
    store.commit(commit_of(store, out, *range(500)))
    assert rows_in(store, b"x") == []
    store.close()
    assert open_store(log).replayed == 0


def test_what_is_sent_is_in_the_log_after_the_commit_is_synced_and_not_before(
    log: Log, out: TopicInfo, open_store: Any
) -> None:
    """And the outbox goes when the log has all of it, durably."""
    partition, seen = log.partition(out, 0), []

    class Watched(Database):
        def write(self, changes: Any) -> None:
            super().write(changes)
            seen.append(("write", partition.log_end, partition.high_watermark))

        def sync(self) -> None:
            super().sync()
            seen.append(("sync", partition.log_end, partition.high_watermark))

    store = open_store(log, open_database=Watched)
    seen.clear()
    commit = commit_of(store, out, 1, 2, 3)
    assert partition.log_end == 0
    store.commit(commit)
    assert seen == [("write", 0, 0), ("sync", 0, 0), ("write", 3, 3)]


def test_batches_carry_the_producer_and_run_on_in_sequence_by_target(log: Log, out: TopicInfo, open_store: Any) -> None:
    store = open_store(log)
    for first in (0, 300, 600):
        commit = commit_of(store, out, *range(first, first + 300))
        store.send(commit, {(out, 1): numbered(first)})
        store.commit(commit)
    batches = sequences_in(log, log.partition(out, 0))
    assert len(batches) > 6, "each commit became several batches"
    assert {producer for producer, _, _ in batches} == {store.producer_id}
    assert [first for _, first, _ in batches] == [0, *(last + 1 for _, _, last in batches[:-1])]
    assert sequences_in(log, log.partition(out, 1)) == [(store.producer_id, n, n) for n in range(3)]


def test_threads_that_hold_the_lock_from_send_to_commit_share_a_store(
    log: Log, out: TopicInfo, open_store: Any
) -> None:
    """As jobs do: their outputs come in the order of the commits, and none is lost or refused."""
    store, order = open_store(log), list[int]()

    def work(first: int) -> None:
        for number in range(first, first + 10):
            with store.lock:
                order.append(number)
                store.commit(commit_of(store, out, number))

    threads = [threading.Thread(target=work, args=(100 * first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(order) == 40
    assert numbers_in(log, log.partition(out, 0)) == order


# What a crash leaves, and what the next start makes of it.

OPERATIONS = ["write", "sync", "write"]


@pytest.mark.parametrize("count", [1, 1000], ids=["one batch", "many batches"])
@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_commit_that_stops_at_any_operation_is_nothing_or_whole_after_a_restart(
    log: Log, out: TopicInfo, open_store: Any, left: int, count: int
) -> None:
    """Nothing before the write, whole behind it; and what the log had already, it does not take again."""
    partition = log.partition(out, 0)
    store = open_store(log, open_database=CrashingDatabase)
    store.commit(commit_of(store, out, *range(count)))
    producer, store.database.left = store.producer_id, left
    commit = commit_of(store, out, *range(count, 2 * count))
    batches = len(commit.outbox)
    assert (batches > 10) == (count == 1000)
    with pytest.raises(Crash, match=OPERATIONS[left]):
        store.commit(commit)
    assert partition.log_end == (2 * count if left == 2 else count)
    store.database.close()

    store = open_store(log)
    there = count if left == 0 else 2 * count
    assert store.producer_id == producer
    assert store.replayed == (0 if left == 0 else batches)
    assert rows_in(store, b"x") == []
    assert store.database.get(b"ttable\0\0\0\0\0last") == b"%d" % (there - 1)
    assert numbers_in(log, partition) == list(range(there))
    store.commit(commit_of(store, out, *range(there, there + count)))
    assert numbers_in(log, partition) == list(range(there + count))


def test_a_replay_that_stops_half_way_is_done_again(log: Log, out: TopicInfo, open_store: Any) -> None:
    """At its end the outbox is forgotten; until then any number of starts append nothing twice."""
    store = open_store(log, open_database=CrashingDatabase)
    store.database.left = 2
    with pytest.raises(Crash):
        store.commit(commit_of(store, out, *range(1000)))
    store.database.close()

    def crashing(path: Path) -> Database:
        database = CrashingDatabase(path)
        database.left = 0
        return database

    for _ in range(3):
        with pytest.raises(Crash, match="write"):
            open_store(log, open_database=crashing)
    assert open_store(log).replayed > 10
    assert numbers_in(log, log.partition(out, 0)) == list(range(1000))


def test_a_killed_process_leaves_its_outbox_and_the_next_one_sends_it(
    data: Path, log: Log, out: TopicInfo, open_store: Any, child: Any
) -> None:
    script = """
    from framework.state.database import Database
    from framework.state.store import *
    class Killed(Database):
        armed = False
        def sync(self):
            super().sync()
            if self.armed:
                os.kill(os.getpid(), signal.SIGKILL)
    log = Log(sys.argv[1])
    store, out = Store(Path(sys.argv[1]) / "state" / "0", log, os.urandom, open_database=Killed), log.topic("out")
    commit = Commit()
    store.send(commit, {(out, 0): [NewRecord(None, b"%d" % number, 0) for number in range(1000)]})
    store.database.armed = True
    store.commit(commit)
    """
    assert child(script, data).hear_rest() == []
    assert numbers_in(log, log.partition(out, 0)) == []
    assert open_store(log).replayed > 10
    assert numbers_in(log, log.partition(out, 0)) == list(range(1000))


def test_numbers_of_outbox_rows_go_on_behind_those_that_were_replayed(
    log: Log, out: TopicInfo, open_store: Any
) -> None:
    """A row whose deletion a power cut undoes is never written over, and what was sent last is replayed last."""
    last = -1
    for turn in range(3):
        store = open_store(log, open_database=CrashingDatabase)
        store.database.left = 1
        with pytest.raises(Crash):
            store.commit(commit_of(store, out, *range(1000 * turn, 1000 * turn + 1000)))
        numbers = list(map(rows.outbox_number, rows_in(store, b"x")))
        assert numbers == list(range(last + 1, last + 1 + len(numbers)))
        last = numbers[-1]
        store.database.close()
    open_store(log)
    assert numbers_in(log, log.partition(out, 0)) == list(range(3000))


# Sequence numbers.


def test_sequence_numbers_wrap(log: Log, out: TopicInfo, open_store: Any) -> None:
    """Kafka's have 31 bits; a replay behind the wrap is still a replay."""
    store = open_store(log)
    partition, base = log.partition(out, 0), SEQUENCE_MASK - 3
    batches = encode(
        numbered(0), max_batch_bytes=1024, producer_id=store.producer_id, producer_epoch=0, base_sequence=base
    )
    log.append(partition, batches).result(60)
    store.commit(Commit([(rows.sequence_key(out.id, 0), rows.pack_u64(SEQUENCE_MASK - 2))]))
    store.close()
    store = open_store(log, open_database=CrashingDatabase)
    store.commit(commit_of(store, out, 1, 2))
    store.database.left = 2
    with pytest.raises(Crash):
        store.commit(commit_of(store, out, 3, 4, 5))
    store.database.close()
    store = open_store(log)
    assert store.replayed == 1
    store.commit(commit_of(store, out, 6))
    assert numbers_in(log, partition) == [0, 1, 2, 3, 4, 5, 6]
    assert [last for _, _, last in sequences_in(log, partition)[1:]] == [SEQUENCE_MASK - 1, 1, 2]


def test_what_is_in_the_outbox_is_final(log: Log, out: TopicInfo, open_store: Any) -> None:
    """The very bytes of the outbox go to the log, which sets base offset and leader epoch, and nothing else."""
    written: list[bytes] = []

    class Watched(Database):
        def write(self, changes: Any) -> None:
            written.extend(value for key, value in changes if key.startswith(b"x") and value)
            super().write(changes)

    store = open_store(log, open_database=Watched)
    store.commit(commit_of(store, out, *range(500)))
    reader = log.reader(log.partition(out, 0), 0)
    found: list[bytes] = []
    while batches := reader.read().batches:
        found += [bytes(batch) for _, batch in batches]
    reader.close()
    sent = [bytes(rows.split_outbox(value)[2]) for value in written]
    assert len(sent) > 5
    assert [(batch[8:12], batch[16:]) for batch in found] == [(batch[8:12], batch[16:]) for batch in sent]


# Failures.


def test_a_commit_that_is_given_up_uses_no_sequence_numbers(log: Log, out: TopicInfo, open_store: Any) -> None:
    """A later record of it was refused: what was sent before that will be sent again, behind no gap."""
    store = open_store(log)
    store.commit(commit_of(store, out, 0))
    commit = commit_of(store, out, 1, 2)
    with pytest.raises(RecordTooLarge):
        store.send(commit, {(out, 1): [NewRecord(None, bytes(2000), 0)]})
    store.commit(commit_of(store, out, 1, 2))
    assert numbers_in(log, log.partition(out, 0)) == [0, 1, 2]
    store.close()
    assert open_store(log).replayed == 0


def test_a_failed_write_commits_and_sends_nothing(log: Log, out: TopicInfo, open_store: Any) -> None:
    class Full(Database):
        full = False

        def write(self, changes: Any) -> None:
            if self.full:
                raise StateFailed("the disk is full")
            super().write(changes)

    store = open_store(log, open_database=Full)
    store.database.full = True
    with pytest.raises(StateFailed):
        store.commit(commit_of(store, out, 1))
    store.database.close()
    store = open_store(log)
    assert store.database.get(b"ttable\0\0\0\0\0last") is None
    store.commit(commit_of(store, out, 2))
    assert numbers_in(log, log.partition(out, 0)) == [2]


def test_owners_of_tables_are_known_to_all_stores_that_share_them(data: Path, log: Log, open_store: Any) -> None:
    store = open_store(log)
    store.commit(Commit([(rows.owner_key("sums"), b"fold"), (rows.owner_key("counts"), b"count")]))
    store.close()
    shutil.copytree(data / "state" / "0", data / "elsewhere")
    owners = {"other": "agent"}
    store = open_store(log, owners=owners)
    assert store.owners is owners
    assert owners == {"other": "agent", "sums": "fold", "counts": "count"}
