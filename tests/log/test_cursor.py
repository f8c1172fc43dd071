"""Reading between two places: what each kind of place means, in bounded pieces, from the partitions asked for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from framework.log import Log, NewRecord, Partition, TopicSettings, encode
from framework.log.clock import EPOCH
from framework.log.errors import OffsetOutOfRange, UnknownPartition, UnknownTopic
from tests.log.compacted_log import fill, keyed, make, offsets_of, open_quiet, put, scratch
from tests.log.conftest import ManualClock

MINUTE_MS = 60_000
SMALL = TopicSettings(segment_bytes=4096, index_interval_bytes=512)


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where the data directory of a test is, in memory if that can be: no disk is under test."""
    with scratch() as path:
        yield path


@pytest.fixture
def log(directory: Path, clock: ManualClock) -> Iterator[Log]:
    """A log that nothing is removed from by itself."""
    with open_quiet(directory, clock) as log:
        yield log


@pytest.fixture
def twenty(log: Log, clock: ManualClock) -> Partition:
    """Records 0 to 19 of a minute each, the last of them now; in batches of 3 and small segments, 0 to 6 deleted."""
    partition = log.partition(log.create_topic("t", 1, SMALL), 0)
    start = clock.ms - 19 * MINUTE_MS
    records = [NewRecord(b"%d" % at, bytes(400), start + at * MINUTE_MS) for at in range(20)]
    for at in range(0, 20, 3):
        put(log, partition, *records[at : at + 3])
    partition.delete_records(7)
    assert len(partition.segments()) > 2
    return partition


def minute(at: int, clock: ManualClock) -> datetime:
    """When record *at* of `twenty` is stamped."""
    return EPOCH + timedelta(milliseconds=clock.ms - (19 - at) * MINUTE_MS)


@pytest.mark.parametrize(
    ("start", "first"),
    [
        ("beginning", 7),
        ("end", 20),
        (7, 7),
        (13, 13),
        (19, 19),
        (20, 20),
        (99, 20),
        (-1, 19),
        (-4, 16),
        (-13, 7),
        (-99, 7),
        (timedelta(0), 19),
        (timedelta(minutes=1), 18),
        (timedelta(minutes=1, seconds=-1), 19),
        (timedelta(days=9999), 7),
        (timedelta(minutes=-1), 20),
        (datetime(1970, 1, 1, tzinfo=UTC), 7),
        (datetime(2099, 1, 1), 20),  # noqa: DTZ001  # one without a zone is taken as UTC
    ],
    ids=str,
)
def test_every_kind_of_place_means_an_offset_as_start_and_as_end(
    log: Log, twenty: Partition, start: Any, first: int
) -> None:
    assert log.offset_of(twenty, start) == first
    assert offsets_of(log, start) == list(range(first, 20))
    assert [record.offset for _, record in log.read("t", "beginning", start)] == list(range(7, first))
    cursor = log.read("t", start)
    assert (cursor.count(), len(list(cursor)), len(list(cursor))) == (20 - first,) * 3


def test_a_time_is_the_first_record_stamped_then_or_later_wherever_it_stands(
    log: Log, twenty: Partition, clock: ManualClock
) -> None:
    for at in range(20):
        assert log.offset_of(twenty, minute(at, clock)) == max(7, at)
        assert log.offset_of(twenty, minute(at, clock) + timedelta(milliseconds=1)) == max(7, at + 1)


def test_an_offset_that_is_gone_is_refused_with_start_and_end(log: Log, twenty: Partition) -> None:
    for gone in (0, 6):
        with pytest.raises(OffsetOutOfRange, match=f"t-0 has no offset {gone}: log start is 7, log end is 20"):
            log.read("t", gone)
        with pytest.raises(OffsetOutOfRange, match=f"t-0 has no offset {gone}: log start is 7, log end is 20"):
            log.follow("t", gone)
    assert offsets_of(log, 7) == list(range(7, 20))


def test_one_that_goes_while_it_is_read_is_said_too(log: Log, twenty: Partition) -> None:
    cursor = log.read("t")
    assert [record.offset for _, record in cursor.take(2)] == [7, 8]
    later = cursor.copy()
    twenty.delete_records(15)
    with pytest.raises(OffsetOutOfRange, match="log start is 15"):
        later.take(1)
    with pytest.raises(OffsetOutOfRange, match="log start is 15"):
        later.count()


def test_a_range_that_ends_before_it_begins_is_empty(log: Log, twenty: Partition) -> None:
    cursor = log.read("t", 15, 9)
    assert (list(cursor), cursor.count(), cursor.take(5)) == ([], 0, [])


def test_the_end_is_the_end_at_the_moment_of_the_call(log: Log, twenty: Partition) -> None:
    cursor = log.read("t")
    put(log, twenty, keyed(b"later"))
    assert [record.offset for _, record in cursor] == list(range(7, 20))
    assert cursor.count() == 13


# Taking.


def test_take_moves_on_and_iterating_does_not(log: Log, twenty: Partition) -> None:
    cursor = log.read("t", 8, 18)
    for size in (1, 3, 4):
        at = cursor.ranges[0].start
        assert [record.offset for _, record in cursor] == list(range(at, 18))
        assert [record.offset for _, record in cursor.take(size)] == list(range(at, at + size))
        assert cursor.count() == 18 - at - size
    assert [record.offset for _, record in cursor.copy().take(9)] == [16, 17]
    assert [record.offset for _, record in cursor.take(9)] == [16, 17]
    assert (cursor.take(9), cursor.count(), cursor.ranges[0].start) == ([], 0, 18)


def test_take_ends_with_the_record_that_fills_its_bytes(log: Log, twenty: Partition) -> None:
    """Each is 400 and its key, of one digit or two; none at the end only."""
    cursor = log.read("t")
    taken = [[record.offset for _, record in cursor.take(100, max_bytes)] for max_bytes in (1, 401, 402, 1205, 10**9)]
    assert taken == [[7], [8], [9, 10], [11, 12, 13], [14, 15, 16, 17, 18, 19]]
    assert cursor.take(100, 1) == []


def test_so_many_records_back_are_counted_over_gaps(log: Log) -> None:
    """Compaction leaves gaps, at the end of a range as well."""
    partition = make(log)
    put(log, partition, keyed(b"old"))
    fill(log, partition, 20, keys=3)
    log.compact("t")
    last = partition.segments()[-1].base_offset
    assert offsets_of(log) == [0, last - 3, last - 2, last - 1, *range(last, 21)]
    assert [offsets_of(log, -back) for back in (24 - last, 25 - last)] == [offsets_of(log, 1), offsets_of(log)]
    put(log, partition, keyed(b"next"))


def test_a_range_that_ends_in_a_gap_ends_there(log: Log) -> None:
    partition = make(log)
    fill(log, partition, 21, keys=3)
    log.compact("t")
    assert offsets_of(log) == [17, 18, 19, 20]
    cursor = log.read("t", 2, 18)
    assert cursor.count() == 1
    assert [record.offset for _, record in cursor.take(1)] == [17]
    assert cursor.take(1) == []
    empty = log.read("t", 2, 17)
    assert (empty.count(), empty.take(1), empty.ranges[0].start) == (0, [], 17)
    assert [offsets_of(log, -last) for last in (1, 2, 4, 5)] == [[20], [19, 20], [17, 18, 19, 20], [17, 18, 19, 20]]


# Partitions.


@pytest.fixture
def three(log: Log) -> list[Partition]:
    """Three partitions of 2, 4 and 6 records."""
    topic = log.create_topic("t", 3, SMALL)
    partitions = [log.partition(topic, number) for number in range(3)]
    for number, partition in enumerate(partitions):
        for at in range(2 * number + 2):
            put(log, partition, NewRecord(None, b"%d" % at, at))
    return partitions


def places(cursor: Any) -> list[tuple[int, int]]:
    """(partition, offset) of each record."""
    return [(partition.number, record.offset) for partition, record in cursor]


def test_partitions_are_read_one_after_the_other_in_the_order_asked_for(log: Log, three: list[Partition]) -> None:
    assert places(log.read("t")) == [(number, at) for number in range(3) for at in range(2 * number + 2)]
    assert places(log.read("t", -1, partitions=[2, 0])) == [(2, 5), (0, 1)]
    assert places(log.read("t", 3, 5)) == [(1, 3), (2, 3), (2, 4)]
    assert places(log.read("t", partitions=(number for number in (1,)))) == [(1, 0), (1, 1), (1, 2), (1, 3)]
    cursor = log.read("t")
    assert places(cursor.take(5)) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    assert (cursor.count(), places(cursor.copy().take(2))) == (7, [(1, 3), (2, 0)])


def test_no_partitions_are_none_and_not_all(log: Log, three: list[Partition]) -> None:
    assert places(log.read("t", partitions=[])) == []
    with log.follow("t", "beginning", partitions=[]) as follower:
        assert follower.take_nowait() == []


def test_an_offset_that_one_of_the_partitions_does_not_keep_is_refused(log: Log, three: list[Partition]) -> None:
    three[1].delete_records(2)
    with pytest.raises(OffsetOutOfRange, match="t-1 has no offset 1: log start is 2, log end is 4"):
        log.read("t", 1)
    assert places(log.read("t", 1, partitions=[0])) == [(0, 1)]


def test_what_there_is_not_is_refused_by_the_call(log: Log, three: list[Partition]) -> None:
    with pytest.raises(UnknownTopic, match="there is no topic 'other'"):
        log.read("other")
    with pytest.raises(UnknownPartition, match="topic 't' has partitions 0 to 2, not 3"):
        log.read("t", partitions=[0, 3])
    with pytest.raises(UnknownPartition, match="topic 't' has partitions 0 to 2, not -1"):
        log.follow("t", partitions=[-1])


@pytest.mark.parametrize("start", ["beginning", "end", 0, 5, -3, timedelta(hours=1), EPOCH])
def test_a_partition_that_nothing_was_appended_to_is_empty_from_everywhere(log: Log, start: Any) -> None:
    log.create_topic("t", 2)
    cursor = log.read("t", start)
    assert (list(cursor), cursor.count(), cursor.take(3)) == ([], 0, [])


def test_a_cursor_closes_its_files_when_its_iterator_is_dropped(log: Log, twenty: Partition) -> None:
    import os

    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        iterator = iter(log.read("t"))
        next(iterator)
        del iterator
        assert len(list(log.read("t"))) == 13
    assert len(os.listdir("/proc/self/fd")) == before


def test_records_of_one_batch_are_told_apart_by_their_own_times(log: Log) -> None:
    """They may stand in any order, as producers stamp them."""
    partition = log.partition(log.create_topic("t", 1), 0)
    batch = encode([NewRecord(None, b"", time) for time in (50, 10, 90, 20)], max_batch_bytes=1024)
    log.append(partition, batch).result()
    found = [log.offset_of(partition, EPOCH + timedelta(milliseconds=time)) for time in (0, 10, 50, 51, 90, 91)]
    assert found == [0, 0, 0, 2, 2, 4]
