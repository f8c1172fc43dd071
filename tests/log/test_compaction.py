"""Compaction keeps the last record of each key, at its offset and as it was; all else about a partition stays."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiokafka.record.memory_records import MemoryRecords as MemoryRecordsOfAiokafka
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kafka.record import MemoryRecords

from framework.log import Log, NewRecord, TopicSettings, encode
from framework.log.compaction import Compacted
from framework.log.compression import COMPRESSIONS
from framework.log.errors import InvalidSetting
from framework.log.header import DELETE_HORIZON, read_header
from framework.log.manifest import Manifest
from tests.log import foreign
from tests.log.compacted_log import (
    TORTURE,
    Model,
    batches_of,
    fill,
    findings,
    keyed,
    limited_map,
    make,
    offsets_of,
    open_quiet,
    put,
    records_of,
    scratch,
)
from tests.log.conftest import ManualClock

HOUR_MS = 3600 * 1000


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where the data directory of a test is, in memory if that can be: no disk is under test."""
    with scratch() as path:
        yield path


@pytest.fixture
def log(directory: Path, clock: ManualClock) -> Iterator[Log]:
    """A log that compacts only when it is told to."""
    with open_quiet(directory, clock) as log:
        yield log


# Any history, against a model.

a_key = st.none() | st.sampled_from([b"", b"a", b"b", b"c" * 15, b"d" * 16, b"e" * 40, b"d" * 16 + b"!"])
a_value = st.none() | st.none() | st.binary(max_size=20) | st.integers(1, 900)
a_header = st.lists(st.tuples(st.text(max_size=3), st.none() | st.binary(max_size=5)), max_size=2)
a_record = st.tuples(a_key, a_value, st.integers(0, 5000) | st.just(1 << 41), a_header)
"""A whole number as a value stands for so many zeros."""
an_append = st.tuples(st.just("append"), st.lists(a_record, min_size=1, max_size=9), st.sampled_from([*COMPRESSIONS]))
a_filler: Any = st.integers(1, 4).map(lambda n: ("append", [(b"filler", 1000, 0, [])] * n, "uncompressed"))
a_compaction = st.tuples(st.just("compact")) | st.tuples(st.just("compact"), st.integers(1, 4))
an_advance = st.tuples(st.just("advance"), st.sampled_from([1, 1000, HOUR_MS, 30 * HOUR_MS]))
any_step = st.one_of(
    an_append,
    an_append,
    a_filler,
    a_filler,
    a_compaction,
    a_compaction,
    an_advance,
    st.tuples(st.just("delete_records"), st.floats(0, 1)),
    st.tuples(st.just("retain")),
    st.tuples(st.just("reopen")),
)
any_settings = st.fixed_dictionaries(
    {
        "cleanup_policy": st.sampled_from(["compact", "compact", "compact,delete"]),
        "delete_retention_ms": st.sampled_from([0, HOUR_MS]),
        "min_compaction_lag_ms": st.sampled_from([0, 0, HOUR_MS]),
        "retention_ms": st.just(24 * HOUR_MS),
    }
)


@pytest.mark.slow
@settings(max_examples=2000 if TORTURE else 120)
@given(any_settings, st.lists(any_step, min_size=4, max_size=25))
@example({"delete_retention_ms": 0}, [("append", [(b"a", b"", 0, []), (b"a", None, 0, [])], "zstd"), ("compact",)])
def test_any_history_leaves_the_last_record_of_each_key_and_what_was_not_compacted(how: Any, steps: Any) -> None:
    """`Model` says of every step what must be there then; in the end it is read from every offset."""
    with scratch() as path:
        model = Model(path, **how)
        try:
            for name, *arguments in [*steps, ("compact",), ("compact",)]:
                if name == "advance":
                    model.clock.ms += arguments[0]
                else:
                    getattr(model, name)(*arguments)
            model.check_everywhere()
        finally:
            model.log.close()


@pytest.mark.slow
@pytest.mark.parametrize("max_keys", [1, 5])
def test_a_map_that_is_too_small_takes_more_compactions_to_the_same_result(seed: int, max_keys: int) -> None:
    found = []
    for limit in (1 << 30, max_keys):
        chance = random.Random(seed)
        with scratch() as path, open_quiet(path) as log, limited_map(limit):
            partition = make(log)
            for _ in range(24):
                value = chance.choice([None, chance.randbytes(300)])
                put(log, partition, *[keyed(b"%d" % chance.randrange(12), value)] * chance.randrange(1, 4))
            rounds = 0
            while Manifest.read(partition.directory).compacted_to < partition.segments()[-1].base_offset:
                before = Manifest.read(partition.directory).compacted_to
                log.compact("t")
                rounds += 1
                assert Manifest.read(partition.directory).compacted_to > before
            assert (rounds > 1) == (limit == max_keys)
            found.append(records_of(log))
    assert found[0] == found[1]


# What is compacted, and when.


def test_the_dirty_ratio_decides_unless_it_is_forced(log: Log) -> None:
    partition = make(log, min_cleanable_dirty_ratio=0.5)
    fill(log, partition, 13, keys=100)
    assert partition.compact().segments == 0, "all keys differ, so there was nothing to copy"
    assert Manifest.read(partition.directory).compacted_to == 12
    fill(log, partition, 8, keys=1)
    assert partition.compact() == Compacted()
    dirt = partition.dirt()
    assert dirt is not None
    assert (dirt.dirty_bytes, 0.3 < dirt.ratio < 0.5) == (dirt.clean_bytes * 2 // 3, True)
    fill(log, partition, 8, keys=1)
    assert partition.compact().segments > 0
    fill(log, partition, 4, keys=1)
    assert log.compact("t").segments > 0


def test_segments_whose_last_append_is_younger_than_the_lag_are_left(log: Log, clock: ManualClock) -> None:
    partition = make(log, min_compaction_lag_ms=HOUR_MS)
    fill(log, partition, 8, keys=1)
    clock.ms += HOUR_MS - 1000
    fill(log, partition, 5, keys=1)
    log.compact("t")
    assert offsets_of(log) == list(range(13))
    clock.ms += 1000
    log.compact("t")
    assert offsets_of(log) == list(range(7, 13))
    clock.ms += HOUR_MS
    log.compact("t")
    assert offsets_of(log) == [11, 12]


def test_a_clock_that_was_set_back_does_not_stop_compaction(log: Log, clock: ManualClock) -> None:
    """Append times never go back, so all would have to wait until the clock is where it once was."""
    partition = make(log)
    fill(log, partition, 5, keys=1)
    clock.ms -= 1000 * HOUR_MS
    fill(log, partition, 8, keys=1)
    log.compact("t")
    assert offsets_of(log) == [11, 12]


def test_neighbours_that_became_small_become_one_segment_and_no_larger_than_asked_for(log: Log) -> None:
    partition = make(log)
    fill(log, partition, 41, keys=9)
    for _ in range(4):
        log.compact("t")
    segments = partition.segments()
    assert [segment.closed for segment in segments] == [True] * (len(segments) - 1) + [False]
    sizes = [segment.size_bytes or 0 for segment in segments[:-1]]
    assert all(size <= 4096 for size in sizes)
    assert all(one + other > 4096 for one, other in pairwise(sizes))
    assert [segment.base_offset for segment in segments][:: len(segments) - 1] == [0, 40]


def test_a_topic_that_is_not_compacted_is_refused(log: Log) -> None:
    make(log, cleanup_policy="delete")
    with pytest.raises(InvalidSetting, match=r"topic 't' has cleanup.policy=delete: say compact"):
        log.compact("t")


def test_a_topic_is_compacted_by_the_settings_that_it_has_now(log: Log) -> None:
    partition = make(log, cleanup_policy="delete")
    fill(log, partition, 9, keys=1)
    log.alter_topic("t", TopicSettings(cleanup_policy="compact", segment_bytes=4096))
    assert log.compact("t").segments == 2
    assert offsets_of(log) == [7, 8]
    log.alter_topic("t", TopicSettings(cleanup_policy="delete", segment_bytes=4096))
    assert offsets_of(log, 3) == [7, 8], "gaps stay gaps"
    assert findings(log.path) == []


# Tombstones.


def test_a_tombstone_stays_for_its_time_from_the_compaction_that_saw_it_first(log: Log, clock: ManualClock) -> None:
    partition = make(log, delete_retention_ms=HOUR_MS)
    put(log, partition, NewRecord(b"a", b"1", 5000), NewRecord(b"b", b"1", 6000))
    put(log, partition, NewRecord(b"a", None, 7000, [("why", b"gone")]), NewRecord(b"c", b"1", 4000))
    fill(log, partition, 5, keys=1)
    clock.ms += 100 * HOUR_MS
    log.compact("t")
    seen, left = clock.ms, [(1, b"b", b"1", 6000, []), (2, b"a", None, 7000, [("why", b"gone")])]
    left.append((3, b"c", b"1", 4000, []))
    assert records_of(log)[:3] == left
    marked = read_header(batches_of(log, partition)[2])
    assert (marked.attributes & DELETE_HORIZON, marked.first_timestamp) == (DELETE_HORIZON, seen + HOUR_MS)
    clock.ms += HOUR_MS - 1
    log.compact("t")
    assert records_of(log)[:3] == left
    clock.ms += 1
    log.compact("t")
    assert records_of(log)[:2] == [left[0], left[2]]


def test_a_key_that_was_deleted_and_set_again_keeps_what_came_last(log: Log, clock: ManualClock) -> None:
    partition = make(log, delete_retention_ms=0)
    for value in (b"1", None, b"2", None, b"3"):
        put(log, partition, keyed(b"a", value))
        put(log, partition, keyed(b"b", value))
        log.compact("t")
    put(log, partition, keyed(b"b", None))
    fill(log, partition, 9)
    for _ in range(3):
        log.compact("t")
    assert next(record[1:3] for record in records_of(log)) == (b"a", b"3")
    assert b"b" not in [record[1] for record in records_of(log)]


def test_a_tombstone_behind_the_map_is_not_counted_as_seen(log: Log) -> None:
    """Or it could go before the record that it deletes, which would be the last of its key then."""
    partition = make(log, delete_retention_ms=0)
    for key, value in ((b"gone", b"1"), (b"a", b"1"), (b"b", b"1"), (b"c", b"1"), (b"gone", None)):
        put(log, partition, keyed(key, value))
    fill(log, partition, 5, keys=1)
    for _ in range(4):
        with limited_map(1):
            log.compact("t")
        assert [record[2] for record in records_of(log) if record[1] == b"gone"] in ([b"1", None], [None], [])
    for _ in range(3):
        log.compact("t")
    assert b"gone" not in [record[1] for record in records_of(log)]


def test_everything_of_a_segment_may_go_and_the_log_is_read_over_the_gap(log: Log) -> None:
    """At the log start, in the middle, and up to the active segment."""
    partition = make(log, delete_retention_ms=0)
    for keys in ([b"a"], [b"a"], [b"b"], [b"b"], [b"b"]):
        put(log, partition, *[keyed(key, None if len(keys) == 1 else b"") for key in keys])
        put(log, partition, keyed(b"x", bytes(3950)))
    put(log, partition, keyed(b"x", b"active"))
    for _ in range(3):
        log.compact("t")
    assert [record[1] for record in records_of(log)][-1] == b"x"
    for offset in range(partition.high_watermark):
        assert offsets_of(log, offset)[-1] == 10
        assert log.read("t", offset).count() == len(offsets_of(log, offset))
    assert offsets_of(log, -1) == [10]
    assert findings(log.path) == []


# What else knows a partition.


def test_what_an_idempotent_producer_sent_is_known_after_its_records_are_gone(log: Log, directory: Path) -> None:
    """An outbox that is sent again is all duplicates, before and after the log is opened anew."""
    partition = make(log)
    sent = []
    for at in range(12):
        batches = encode(
            [keyed(b"k", b"%d" % at + bytes(900))], max_batch_bytes=4096, producer_id=1 << 62, base_sequence=at
        )
        sent.append([bytes(batch) for batch in batches])
        log.append(partition, batches).result(60)
    assert log.compact("t").segments > 0
    assert len(offsets_of(log)) < 12

    def send_again(log: Log) -> list[int]:
        place = log.partition(log.topic("t"), 0)
        return [log.append(place, [bytearray(batch) for batch in batches]).result(60) for batches in sent]

    assert send_again(log) == [-1] * 12
    log.close()
    with open_quiet(directory) as log:
        assert send_again(log) == [-1] * 12
        assert log.partition(log.topic("t"), 0).last_sequence(1 << 62) == 11
        assert len(offsets_of(log)) < 12


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("decoder", [MemoryRecords, MemoryRecordsOfAiokafka])
def test_a_foreign_decoder_reads_compacted_segment_files(log: Log, seed: int, compression: str, decoder: Any) -> None:
    partition, chance = make(log), random.Random(seed)
    for _ in range(30):
        records = [
            NewRecord(b"%d" % chance.randrange(20), chance.choice([None, bytes(300)]), 1_700_000_000_000, [("h", b"x")])
            for _ in range(6)
        ]
        put(log, partition, *records, compression=compression)
        put(log, partition, keyed(b"%d" % chance.randrange(20), chance.randbytes(1000)))
    assert log.compact("t").segments > 5
    found = []
    with foreign.codecs():
        for segment in partition.segments():
            batches = decoder(segment.path.read_bytes())
            while (batch := batches.next_batch()) is not None:
                assert batch.validate_crc()
                found += [(r.offset, r.key, r.value, r.timestamp, list(r.headers)) for r in batch]
    assert found == records_of(log)


def test_a_batch_longer_than_what_is_read_at_once_is_compacted(log: Log) -> None:
    """Larger than the chunk of a megabyte in which compaction reads, and than the buffer in which it writes."""
    partition = make(log, segment_bytes=8 << 20, max_message_bytes=4 << 20)
    for at in range(4):
        records = [keyed(b"same", b"%d" % at), keyed(b"%d" % at, bytes(3 << 20))]
        log.append(partition, encode(records, max_batch_bytes=4 << 20)).result(60)
    assert log.compact("t").segments > 0
    assert offsets_of(log) == [1, 2, 3, 4, 5, 6, 7]
    assert findings(log.path) == []
