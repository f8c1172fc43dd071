"""At its start a store is compared with the log: what does not belong together is refused, with the ways out."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from framework import App, Stream
from framework.log import Files, Log, TopicInfo, TopicSettings, encode
from framework.log.errors import NewerFormat, OffsetOutOfRange
from framework.log.manifest import Manifest
from framework.state import rows
from framework.state.database import Database
from framework.state.errors import StateAhead, StateBehind
from framework.state.store import Commit, Store
from framework.worker import Worker
from tests.state.conftest import Crash, CrashingDatabase, numbered, numbers_in

BIT_62, BIT_63 = 1 << 62, 1 << 63


@pytest.fixture
def out(log: Log) -> TopicInfo:
    """A topic to read from and to send to."""
    return log.create_topic("out", 2, TopicSettings(max_message_bytes=1024, segment_bytes=4096))


def send(store: Store, topic: TopicInfo, *numbers: int, partition: int = 0) -> None:
    """Commit one output for each number."""
    commit = Commit()
    store.send(commit, {(topic, partition): numbered(*numbers)})
    store.commit(commit)


def set_offset(store: Store, topic: TopicInfo, offset: int) -> None:
    """Commit that `fold` has read partition 0 up to *offset*."""
    store.commit(Commit([(rows.offset_key("fold", topic.id, 0), rows.pack_u64(offset))]))


def put_back(copy: Path, place: Path) -> None:
    """Restore a backup."""
    shutil.rmtree(place)
    shutil.copytree(copy, place)


# The producer.


def test_a_new_database_draws_a_producer_id_with_bit_62(log: Log, tmp_path: Path) -> None:
    """Set, so that the log never forgets it; below bit 63, because a negative one means none."""
    drawn = []
    for number, token in enumerate([bytes(8), b"\xff" * 8, b"\x12\x34\x56\x78\x9a\xbc\xde\xf0"]):
        store = Store(tmp_path / f"{number}", log, lambda size, token=token: token[:size])  # type: ignore[misc]
        drawn.append(store.producer_id)
        store.close()
    assert drawn == [BIT_62, BIT_63 - 1, BIT_62 | 0x123456789ABCDEF0 & (BIT_62 - 1)]


def test_the_producer_id_is_drawn_once_and_at_random(log: Log, tmp_path: Path, open_store: Any) -> None:
    first = open_store(log)
    first.close()
    assert open_store(log).producer_id == first.producer_id
    others = set()
    for number in range(3):
        store = Store(tmp_path / f"{number}", log, os.urandom)
        others.add(store.producer_id)
        store.close()
    assert len(others | {first.producer_id}) == 4


def test_outputs_of_a_state_that_begins_anew_are_new_records(
    data: Path, log: Log, out: TopicInfo, open_store: Any
) -> None:
    """With the sequence numbers of the old one, but another producer: nothing is taken for a duplicate."""
    store = open_store(log)
    send(store, out, 1, 2, 3)
    store.close()
    shutil.rmtree(data / "state")
    again = open_store(log)
    assert again.producer_id != store.producer_id
    send(again, out, 1, 2, 3)
    assert numbers_in(log, log.partition(out, 0)) == [1, 2, 3, 1, 2, 3]


def test_a_state_of_a_newer_format_is_refused(data: Path, log: Log, open_store: Any) -> None:
    open_store(log).close()
    database = Database(data / "state" / "0")
    database.write([(rows.meta_key("store"), json.dumps({"version": 2, "producer_id": 1}).encode())])
    database.close()
    with pytest.raises(NewerFormat, match=r"state/0 has format 2, this version reads up to 1: upgrade"):
        open_store(log)


# A state that is older than the log.


@pytest.mark.parametrize("before", [1, 500], ids=["after one output", "after several segments"])
def test_a_state_restored_from_before_its_last_outputs_is_refused(
    data: Path, tmp_path: Path, log: Log, out: TopicInfo, open_store: Any, before: int
) -> None:
    """Its next outputs would have sequence numbers that the log has seen."""
    store = open_store(log)
    send(store, out, *range(before))
    store.close()
    shutil.copytree(data / "state", tmp_path / "backup")
    store = open_store(log)
    send(store, out, *range(before, 2 * before))
    store.close()
    put_back(tmp_path / "backup", data / "state")
    expected = (
        rf"state/0 is older than the log: out-0 holds its sequence {2 * before - 1}, the state would send {before} "
        "next. Restore the state that belongs to this log, or remove it to start with empty state"
    )
    for _ in range(2):
        with pytest.raises(StateBehind, match=expected):
            open_store(log)
    assert len(numbers_in(log, log.partition(out, 0))) == 2 * before


def test_a_state_restored_from_before_its_very_first_output_swallows_nothing(
    data: Path, tmp_path: Path, log: Log, out: TopicInfo, open_store: Any
) -> None:
    """The copy knows nothing of the target yet, but its producer is the one whose records are there."""
    store = open_store(log)
    store.close()
    shutil.copytree(data / "state", tmp_path / "backup")
    store = open_store(log)
    send(store, out, 1, 2, 3)
    store.close()
    put_back(tmp_path / "backup", data / "state")
    with pytest.raises(StateBehind, match="is older than the log: out-0 holds its sequence 2"):
        send(open_store(log), out, 4)


async def test_a_worker_whose_state_is_from_before_its_first_output_stops_and_buries_nothing(
    data: Path, tmp_path: Path
) -> None:
    """No record is to blame: tried again and taken for a dead letter, all input would end there."""

    def app() -> App:
        app = App("shop", data=data)
        numbers, doubled = app.topic("numbers", int), app.topic("doubled", int)

        @app.agent(numbers)
        async def double(stream: Stream[int]) -> None:
            async for number in stream:
                doubled.send(2 * number)

        return app

    await Worker(app()).run(until_idle=True)
    shutil.copytree(data / "state", tmp_path / "backup")
    with (first := app()).opened():
        first.topics["numbers"].send(1)
    await Worker(first).run(until_idle=True)
    put_back(tmp_path / "backup", data / "state")
    async with asyncio.timeout(60):
        with pytest.raises(StateBehind, match="is older than the log: doubled-0 holds its sequence 0"):
            await Worker(app()).run(until_idle=True)
    with Log(data) as log:
        assert "shop.double.dead-letter" not in log.topics()


def test_an_outbox_that_is_not_yet_in_the_log_is_no_older_state(log: Log, out: TopicInfo, open_store: Any) -> None:
    """The log is behind the state's sequence numbers for once, and the outbox brings it up."""
    store = open_store(log, open_database=CrashingDatabase)
    send(store, out, 1)
    store.database.left = 2
    with pytest.raises(Crash):
        send(store, out, 2)
    store.database.close()
    assert open_store(log).replayed == 1
    assert numbers_in(log, log.partition(out, 0)) == [1, 2]


# A state that is newer than the log.


@pytest.fixture
def older_log(
    data: Path, tmp_path: Path, log: Log, out: TopicInfo, open_store: Any, open_log: Any
) -> Callable[[], Log]:
    """Commits two more outputs, then puts the log back to when it held the first one."""
    store = open_store(log)
    send(store, out, 0)
    store.close()
    shutil.copytree(data, tmp_path / "backup")
    store = open_store(log)
    send(store, out, 1, 2)
    store.close()

    def restore() -> Log:
        log.close()
        shutil.rmtree(tmp_path / "backup" / "state")
        shutil.move(data / "state", tmp_path / "backup" / "state")
        put_back(tmp_path / "backup", data)
        restored: Log = open_log()
        return restored

    return restore


def test_a_log_older_than_the_offsets_that_were_read_is_refused(log: Log, open_store: Any) -> None:
    topic = log.create_topic("in", 1)
    store = open_store(log)
    store.commit(Commit([(rows.offset_key("fold", topic.id, 0), rows.pack_u64(3))]))
    expected = (
        "is newer than the log: fold has read in-0 up to 3, the log ends at 0. Restore the log that belongs to this "
        "state, or remove the state to start anew"
    )
    with pytest.raises(StateAhead, match=expected):
        store.offset("fold", topic, 0)


def test_a_log_older_than_the_outputs_that_were_sent_is_refused(older_log: Any, open_store: Any) -> None:
    """Its outputs are gone. Going on would leave a gap in them, and in an outbox that the log never takes."""
    log = older_log()
    with pytest.raises(StateAhead, match="is newer than the log"):
        open_store(log)
    assert numbers_in(log, log.partition(log.topic("out"), 0)) == [0]


def test_an_offset_at_the_log_end_is_fine(log: Log, out: TopicInfo, open_store: Any) -> None:
    store = open_store(log)
    send(store, out, 0, 1, 2)
    set_offset(store, out, 3)
    assert store.offset("fold", out, 0) == 3
    set_offset(store, out, 4)
    with pytest.raises(StateAhead, match="up to 4, the log ends at 3"):
        store.offset("fold", out, 0)


def test_records_that_were_removed_before_they_were_read_are_named(
    log: Log, out: TopicInfo, open_store: Any, open_log: Any
) -> None:
    store = open_store(log)
    send(store, out, *range(900))
    set_offset(store, out, 7)
    store.close()
    directory = log.partition(out, 0).directory
    log.close()
    manifest = Manifest.read(directory)
    base = manifest.segments[1].base_offset
    replace(manifest, log_start=base, segments=manifest.segments[1:]).write(Files(), directory)

    log = open_log()
    store = open_store(log)
    expected = (
        f"fold would go on at out-0 offset 7, but the log starts at {base}: records 7 to {base - 1} were removed "
        "before it read them"
    )
    with pytest.raises(OffsetOutOfRange, match=expected):
        store.offset("fold", out, 0)
    set_offset(store, out, base)
    assert store.offset("fold", out, 0) == base, "the first that is kept"


# Targets that are gone.


def test_what_was_sent_to_a_deleted_topic_is_dropped_and_logged(
    data: Path, log: Log, open_store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing could ever take it, and a commit cannot wait for that."""
    open_store(log).close()
    database = Database(data / "state" / "0")
    database.write([(rows.outbox_key(0), rows.pack_outbox("ab" * 16, 0, b"batch"))])
    database.close()
    store = open_store(log)
    assert store.replayed == 1
    assert (
        f"1 batches that were sent are dropped, 1 since the start: the topic with id {'ab' * 16} has been deleted"
        in caplog.text
    )
    store.close()
    assert open_store(log).replayed == 0


def test_a_topic_deleted_between_commit_and_append_is_no_failure_of_the_commit(
    log: Log, out: TopicInfo, open_store: Any
) -> None:
    store = open_store(log)
    send(store, out, 1)
    log.delete_topic(out.name)
    commit = Commit()
    store.send(commit, {(out, 0): numbered(2)})
    store.commit(commit)
    assert store.dropped == 1


def test_a_refused_store_is_closed_and_can_be_opened_when_the_reason_is_gone(
    data: Path, log: Log, open_store: Any
) -> None:
    open_store(log).close()
    database = Database(data / "state" / "0")
    meta = database.get(rows.meta_key("store"))
    database.write([(rows.meta_key("store"), b'{"version": 99}')])
    database.close()
    with pytest.raises(NewerFormat):
        open_store(log)
    database = Database(data / "state" / "0")
    database.write([(rows.meta_key("store"), meta)])
    database.close()
    assert open_store(log).replayed == 0


def test_input_that_is_only_written_is_synced_before_the_state_counts_it(log: Log, open_store: Any) -> None:
    """F30: else a power cut would leave a state that has read records which are gone."""
    info = log.create_topic("quick", 1, TopicSettings(durability="os"))
    partition, store = log.partition(info, 0), open_store(log)
    log.append(partition, encode(numbered(1, 2), max_batch_bytes=1 << 20)).result()
    order: list[bool] = []
    write = store.database.write

    def watched(changes: Any) -> None:
        order.append(partition.is_synced)
        write(changes)

    store.database.write = watched
    store.commit(Commit([(rows.offset_key("fold", info.id, 0), rows.pack_u64(2))], inputs=[partition]))
    assert order == [True]
