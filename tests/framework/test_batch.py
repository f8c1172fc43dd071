"""Batches outside jobs: what `topic.read` selects, and reading it, once or again, whole or in chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework import App, Topic
from framework.errors import DecodeError
from framework.log import Cursor, Files, Log, NewRecord, Partition, Range, Reader, TopicSettings, encode
from framework.log.errors import NoDataDirectory, OffsetOutOfRange
from framework.log.manifest import Manifest
from tests.log.conftest import ManualClock

SMALL = TopicSettings(segment_bytes=4096, max_message_bytes=1024, index_interval_bytes=512)
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
NOON_MS = int(NOON.timestamp() * 1000)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    """An app that is open, at noon."""
    clock = ManualClock()
    clock.ms = NOON_MS
    app = App("reading", data=tmp_path / "data", clock=clock)
    app.open(create=True)
    yield app
    app.close()


@pytest.fixture
def numbers(app: App) -> Topic[int]:
    """A topic of three partitions with records 0 to 29, ten in each."""
    topic = app.topic("numbers", int, partitions=3)
    app.topic_info(topic)
    for number in range(30):
        append(app, topic, number // 10, b"%d" % number)
    return topic


def append(app: App, topic: Topic[Any], partition: int, *values: bytes | None, timestamp: int = NOON_MS) -> None:
    """Append *values* as one batch."""
    put(app.log, the(app, topic, partition), [NewRecord(b"k", value, timestamp) for value in values])


def put(log: Log, partition: Partition, records: list[NewRecord]) -> None:
    """Append *records* as one batch."""
    log.append(partition, encode(records, max_batch_bytes=1 << 20)).result(60)


def the(app: App, topic: Topic[Any], partition: int = 0) -> Partition:
    """One partition of *topic*."""
    return app.log.partition(app.topic_info(topic), partition)


# What is read.


def test_a_batch_holds_the_records_of_all_partitions_one_after_the_other(numbers: Topic[int]) -> None:
    batch = numbers.read()
    assert list(batch) == list(range(30))
    assert [(r.partition, r.offset, r.value) for r in batch.records()] == [(n // 10, n % 10, n) for n in range(30)]


def test_a_batch_is_read_as_often_as_one_likes(numbers: Topic[int]) -> None:
    """Each reading is its own, also one begun while another goes on."""
    batch = numbers.read()
    assert [list(batch), list(batch), len(batch)] == [list(range(30)), list(range(30)), 30]
    first, second = iter(batch), iter(batch)
    assert [next(first), next(first), next(second), next(first)] == [0, 1, 0, 2]
    assert len(batch) == 30


def test_a_batch_ends_where_the_log_ended_when_it_was_asked_for(app: App, numbers: Topic[int]) -> None:
    batch = numbers.read()
    append(app, numbers, 0, b"99")
    assert list(batch) == list(range(30))
    assert len(batch) == 30
    assert len(numbers.read()) == 31


def test_offsets_cut_each_partition_wherever_batches_begin(app: App) -> None:
    topic = app.topic("t", int, partitions=2)
    for partition in (0, 1):
        append(app, topic, partition, b"0", b"1", b"2")
        append(app, topic, partition, b"3", b"4", b"5")
    for start in range(8):
        for end in range(8):
            expected = list(range(start, min(end, 6)))
            batch = topic.read(start, end)
            assert (list(batch), len(batch)) == (expected * 2, 2 * len(expected)), (start, end)


def test_tombstones_count_and_show_only_as_records(app: App) -> None:
    topic = app.topic("t", int)
    append(app, topic, 0, b"1", None, b"3")
    batch = topic.read()
    assert (list(batch), len(batch)) == ([1, 3], 3)
    assert [record.value for record in batch.records()] == [1, None, 3]


def test_a_topic_that_was_never_used_is_empty_and_is_not_made(app: App) -> None:
    batch = app.topic("t", int).read()
    assert (list(batch), len(batch), list(batch.chunks(3))) == ([], 0, [])
    assert app.log.topics() == {}


def test_reading_makes_no_data_directory(tmp_path: Path) -> None:
    app = App("reading", data=tmp_path / "nowhere")
    with pytest.raises(NoDataDirectory, match="nowhere"):
        app.topic("t", int).read()
    assert not (tmp_path / "nowhere").exists()


def test_what_cannot_be_decoded_is_raised_with_its_place(app: App) -> None:
    topic = app.topic("t", int, partitions=2)
    append(app, topic, 1, b"1", b"2", b"nonsense", b"4")
    batch = topic.read()
    assert len(batch) == 4
    for values in (iter(batch), iter(next(batch.chunks(9)))):
        assert [next(values), next(values)] == [1, 2]
        with pytest.raises(DecodeError, match=r"^t-1@2: not a valid int: "):
            next(values)
    assert list(topic.read(3)) == [4], "what stands behind it can be read"


# Chunks.


@given(st.lists(st.integers(0, 12), min_size=1, max_size=4), st.integers(1, 14))
@settings(max_examples=30)
def test_chunks_hold_every_record_once_and_in_order(tmp_path_factory: Any, sizes: list[int], chunk: int) -> None:
    with App("reading", data=tmp_path_factory.mktemp("data")).opened() as app:
        topic = app.topic("t", int, partitions=len(sizes))
        number = 0
        for partition, size in enumerate(sizes):
            for _ in range(size):
                append(app, topic, partition, b"%d" % number)
                number += 1
        batch = topic.read()
        chunks = list(batch.chunks(chunk))
        assert [value for each in chunks for value in each] == list(range(number)) == list(batch)
        assert [len(each) for each in chunks] == [min(chunk, number - at) for at in range(0, number, chunk)]
        assert [each.number for each in chunks] == list(range(len(chunks)))


def test_chunks_can_be_asked_for_again_and_read_again(numbers: Topic[int]) -> None:
    batch = numbers.read()
    for _ in range(2):
        first = next(batch.chunks(7))
        assert [list(first), list(first), len(first)] == [list(range(7)), list(range(7)), 7]
        assert [record.value for record in first.records()] == list(range(7))


def test_a_chunk_can_be_cut_into_smaller_ones(numbers: Topic[int]) -> None:
    found = [[list(small) for small in chunk.chunks(4)] for chunk in numbers.read().chunks(10)]
    tens = (range(at, at + 10) for at in (0, 10, 20))
    assert found == [[list(ten[:4]), list(ten[4:8]), list(ten[8:])] for ten in tens]


def test_a_chunk_has_at_least_one_record(numbers: Topic[int]) -> None:
    with pytest.raises(ValueError, match=r"chunks\(0\): a chunk has at least 1 record"):
        next(numbers.read().chunks(0))


def test_offsets_may_have_gaps(app: App, numbers: Topic[int]) -> None:
    """As compaction leaves them: at the beginning, inside, at the end, and over a whole partition."""
    kept = {0: [2, 5, 6], 1: [], 2: [0, 9]}

    class Compacted(Reader):
        def read(self, max_bytes: int = 1 << 20) -> Any:
            fetched = super().read(max_bytes)
            wanted = kept[self.partition.number]
            return replace(fetched, batches=[pair for pair in fetched.batches if pair[0].base_offset in wanted])

    def cursor() -> Cursor:
        ranges = [Range(the(app, numbers, partition), 0, 10) for partition in range(3)]
        return Cursor(lambda partition, offset: Compacted(partition, Files(), offset), ranges)

    assert [int(record.value or b"") for _, record in cursor().records()] == [2, 5, 6, 20, 29]
    assert cursor().count() == 5
    taking = cursor()
    assert [[int(record.value or b"") for _, record in taking.take(2)] for _ in range(4)] == [[2, 5], [6, 20], [29], []]
    assert [part.start for part in taking.ranges] == [10, 10, 10]


def test_a_range_that_the_log_does_not_hold_is_refused_and_not_waited_for(app: App, numbers: Topic[int]) -> None:
    """The plan of a run outlives the log it was made for, when an older one is put in its place."""
    reads = 0

    def reader(partition: Partition, offset: int) -> Reader:
        class Counted(Reader):
            def read(self, max_bytes: int = 1 << 20) -> Any:
                nonlocal reads
                reads += 1
                assert reads < 100, "it would read for ever"
                return super().read(max_bytes)

        return Counted(partition, Files(), offset)

    cursor = Cursor(reader, [Range(the(app, numbers), 5, 15)])
    with pytest.raises(OffsetOutOfRange, match="numbers-0"):
        list(cursor.records())
    with pytest.raises(OffsetOutOfRange, match="numbers-0"):
        cursor.copy().count()


# Places.


def test_a_place_is_a_word_an_offset_a_time_or_an_age(app: App) -> None:
    topic = app.topic("t", int)
    for number in range(6):
        append(app, topic, 0, b"%d" % number, timestamp=NOON_MS + 1000 * (number - 6))
    assert list(topic.read("beginning", "end")) == [0, 1, 2, 3, 4, 5]
    assert list(topic.read("end")) == []
    assert list(topic.read(4)) == [4, 5]
    assert list(topic.read(4, 1)) == []
    assert list(topic.read(-7, 99)) == [0, 1, 2, 3, 4, 5]
    assert list(topic.read(NOON - timedelta(seconds=4))) == [2, 3, 4, 5]
    assert list(topic.read(NOON - timedelta(seconds=3.999), NOON - timedelta(seconds=1))) == [3, 4]
    assert list(topic.read((NOON - timedelta(seconds=2)).replace(tzinfo=None))) == [4, 5], "naive is UTC"
    assert list(topic.read(timedelta(seconds=3))) == [3, 4, 5]
    assert list(topic.read(timedelta(days=9), timedelta(seconds=3))) == [0, 1, 2]
    assert list(topic.read(timedelta(0))) == []


TIMES = st.integers(-40, 40)
GROUPS = st.lists(st.lists(TIMES, min_size=1, max_size=5), max_size=12)
PLACES = st.one_of(st.just("beginning"), st.just("end"), st.integers(-3, 60), TIMES.map(lambda s: ("time", s)))


@given(GROUPS, st.lists(PLACES, min_size=1, max_size=6), st.booleans(), st.integers(0, 60))
@settings(max_examples=60)
def test_every_place_is_where_a_search_from_the_log_start_finds_it(
    tmp_path_factory: Any, groups: list[list[int]], places: list[Any], reopened: bool, start: int
) -> None:
    """Times in any order, several segments, a log start inside a batch; before and after indexes are read anew."""
    data, clock = tmp_path_factory.mktemp("data"), ManualClock()
    clock.ms = NOON_MS
    app = App("reading", data=data, clock=clock)
    with Log(data, create=True, clock=clock) as log:
        partition = log.partition(log.create_topic("t", 1, SMALL), 0)
        for group in groups:
            put(log, partition, [NewRecord(None, bytes(250), NOON_MS + 1000 * time) for time in group])
        end = partition.log_end
        start = min(start, end)
        if start:
            manifest = Manifest.read(partition.directory)
            kept = [*(row for row in manifest.segments if row.base_offset <= start)][-1]
            segments = manifest.segments[manifest.segments.index(kept) :]
            replace(manifest, log_start=start, segments=segments).write(Files(), partition.directory)
            reopened = True
        if not reopened:
            app.open(create=False, log=log)
            check(app, log.partition(log.topic("t"), 0), groups, places, start)
    if reopened:
        with app.opened(create=False):
            check(app, app.log.partition(app.log.topic("t"), 0), groups, places, start)


def check(app: App, partition: Partition, groups: list[list[int]], places: list[Any], start: int) -> None:
    """Compare `Log.offset_of` with a plain search."""
    times = [time for group in groups for time in group]
    for place in places:
        if isinstance(place, tuple):
            time = place[1]
            expected = next((at for at in range(start, len(times)) if times[at] >= time), len(times))
            assert app.log.offset_of(partition, NOON + timedelta(seconds=time)) == expected, place
            assert app.log.offset_of(partition, timedelta(seconds=-time)) == expected, place
        else:
            expected = {"beginning": start, "end": len(times)}.get(place, place)
            if expected < 0:
                expected += len(times)
            assert app.log.offset_of(partition, place) == min(max(expected, start), len(times)), place


def test_a_time_is_found_in_a_segment_that_others_filled_and_closed(tmp_path: Path) -> None:
    """A program that read it when it was shorter knows only the times of that part."""
    clock = ManualClock()
    clock.ms = NOON_MS
    with Log(tmp_path, create=True) as writer, App("reading", data=tmp_path, clock=clock).opened() as app:
        ours = writer.partition(writer.create_topic("t", 1, SMALL), 0)
        theirs = app.log.partition(app.log.topic("t"), 0)
        for number in range(30):
            put(writer, ours, [NewRecord(None, bytes(1000), NOON_MS + 1000 * number)])
            if number % 2:  # It looks now and then, so of some segments it sees a part.
                assert len(list(app.topic("t", bytes).read(number))) == 1
        assert len(theirs.segments()) > 5
        for number in range(30):
            assert app.log.offset_of(theirs, NOON + timedelta(seconds=number)) == number
