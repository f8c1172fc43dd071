"""Batches: bounded reads of a topic, for jobs and for programs that just want to look."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from framework.errors import DecodeError
from framework.log import Log, Partition, Reader, StoredRecord, decode
from framework.log.errors import OffsetOutOfRange, UnknownTopic
from framework.log.header import Header
from framework.record import Record, to_ms

if TYPE_CHECKING:
    from framework.app import App
    from framework.topic import At, Topic

V = TypeVar("V")
K = TypeVar("K", default=str)
Bad = Callable[[Partition, StoredRecord, DecodeError], None]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a job: `nominal` is when it was due, `attempt` counts from 1."""

    id: str
    nominal: datetime
    attempt: int


@dataclass(slots=True)
class Range:
    """The offsets [start, end) of one partition; `start` moves as they are read."""

    partition: Partition
    start: int
    end: int


class Batch(Generic[V, K]):
    """The records of some offset ranges, partition by partition; read while iterating, never all in memory."""

    def __init__(self, cursor: Cursor, topic: Topic[V, K], *, run: Run | None = None) -> None:
        """Made by the framework."""
        self.run, self.number, self.begun = run, 0, False
        self.open_records = 0
        self._cursor, self._topic = cursor, topic
        self._records: Sequence[tuple[Partition, StoredRecord]] | None = None
        self._on_chunk: Callable[[Cursor, int], None] | None = None

    def __iter__(self) -> Iterator[V]:
        """The values, without tombstones."""
        return (record.value for record in self.records() if record.value is not None)

    def __len__(self) -> int:
        """How many records there are, tombstones and undecodable ones among them; reads their headers."""
        if self._records is not None:
            return len(self._records)
        return self._cursor.copy().count()

    def records(self) -> Iterator[Record[V, K]]:
        """The records, tombstones (value None) among them.

        Raises:
            DecodeError: One cannot be decoded; in a job it goes to the dead-letter topic instead.
        """
        stored = iter(self._records) if self._records is not None else self._cursor.copy().records()
        for partition, record in stored:
            yield from self._decoded(partition, record)

    def chunks(self, records: int) -> Iterator[Batch[V, K]]:
        """Batches of *records* records, the last of fewer; in a job, asking for the next commits the one before.

        Raises:
            ValueError: *records* is below 1.
        """
        if records < 1:
            raise ValueError(f"chunks({records}): a chunk has at least 1 record")
        self.begun = True
        number = self.number
        cursor = self._cursor if self._on_chunk else self._cursor.copy()
        while taken := self._take(cursor, records, number - self.number):
            chunk: Batch[V, K] = Batch(cursor, self._topic, run=self.run)
            chunk._records, chunk.number = taken, number
            self.open_records = len(taken)
            yield chunk
            self.open_records = 0
            number += 1
            if self._on_chunk is not None:
                self._on_chunk(cursor, len(taken))

    def _take(self, cursor: Cursor, records: int, times: int) -> Sequence[tuple[Partition, StoredRecord]]:
        """The next *records*, after it was asked so many *times*."""
        if self._records is None:
            return cursor.take(records)
        return self._records[times * records : (times + 1) * records]

    def _decoded(self, partition: Partition, record: StoredRecord) -> Iterator[Record[V, K]]:
        value: Any = None
        if record.value is not None:
            try:
                value = self._topic.value_serde.decode(record.value)
            except DecodeError as error:
                if self._cursor.on_bad is None:
                    raise DecodeError(f"{partition.name}@{record.offset}: {error}") from error
                self._cursor.on_bad(partition, record, error)
                return
        yield Record(self._topic, partition.number, record, value)


class Cursor:
    """A position in several partitions, which are read one after the other."""

    def __init__(self, open_reader: Callable[[Partition, int], Reader], ranges: Sequence[Range]) -> None:
        """*open_reader* makes a reader of a partition at an offset."""
        self._open_reader = open_reader
        self.ranges = [Range(r.partition, r.start, r.end) for r in ranges]
        self.on_bad: Bad | None = None
        self._iterator: Iterator[tuple[Partition, StoredRecord]] | None = None

    def copy(self) -> Cursor:
        """Another cursor at the same position."""
        cursor = Cursor(self._open_reader, self.ranges)
        cursor.on_bad = self.on_bad
        return cursor

    def take(self, count: int) -> list[tuple[Partition, StoredRecord]]:
        """The next *count* records, fewer at the end; moves on."""
        if self._iterator is None:
            self._iterator = self.records()
        taken = [pair for _, pair in zip(range(count), self._iterator, strict=False)]
        if len(taken) < count:
            for done in self.ranges:
                done.start = done.end
        return taken

    def records(self) -> Iterator[tuple[Partition, StoredRecord]]:
        """All records from here on; moves on with each.

        Raises:
            OffsetOutOfRange: The log does not hold all of a range.
        """
        for part in self.ranges:
            for _, batch in self._batches(part):
                for record in decode(batch):
                    if part.start <= record.offset < part.end:
                        part.start = record.offset + 1
                        yield part.partition, record
            # Offsets may have gaps, so the end is a position and not a record.
            part.start = part.end

    def count(self) -> int:
        """How many records there are from here on.

        Raises:
            OffsetOutOfRange: The log does not hold all of a range.
        """
        total = 0
        for part in self.ranges:
            for header, batch in self._batches(part):
                if part.start <= header.base_offset and header.next_offset <= part.end:
                    total += header.records
                else:
                    total += sum(part.start <= record.offset < part.end for record in decode(batch))
        return total

    def _batches(self, part: Range) -> Iterator[tuple[Header, memoryview]]:
        """The batches in which the records of *part* lie."""
        reader = self._open_reader(part.partition, part.start)
        try:
            while reader.offset < part.end:
                before = reader.offset
                yield from reader.read().batches
                if reader.offset == before:
                    raise OffsetOutOfRange(
                        f"{part.partition.name} has no offsets {before} to {part.end - 1}: "
                        f"log end is {part.partition.log_end}"
                    )
        finally:
            reader.close()


def read_batch(app: App, topic: Topic[V, K], start: At, end: At) -> Batch[V, K]:
    """The records of *topic* between two places; see `Topic.read`."""
    log = app.open(create=False)
    try:
        info = app.topic_info(topic, create=False)
    except UnknownTopic:
        return Batch(Cursor(log.reader, []), topic)
    ranges = []
    for number in range(info.partitions):
        partition = log.partition(info, number)
        first, last = resolve(app, partition, start), resolve(app, partition, end)
        ranges.append(Range(partition, first, max(first, last)))
    return Batch(Cursor(log.reader, ranges), topic)


def resolve(app: App, partition: Partition, at: At) -> int:
    """The offset that *at* means in *partition*, between log start and high watermark."""
    start, end = partition.log_start, partition.high_watermark
    if at == "beginning":
        return start
    if at == "end":
        return end
    if isinstance(at, timedelta):
        return first_at(app.log, partition, app.clock.now_ms() - at // timedelta(milliseconds=1))
    if isinstance(at, datetime):
        return first_at(app.log, partition, to_ms(at))
    assert isinstance(at, int)
    return min(max(at, start), end)


def first_at(log: Log, partition: Partition, timestamp: int) -> int:
    """The first offset whose record is stamped *timestamp* (ms) or later; the high watermark if there is none."""
    start, end = partition.log_start, partition.high_watermark
    for segment in partition.segments():
        if segment.is_walked and segment.max_timestamp < timestamp:
            continue
        reader = log.reader(partition, max(segment.offset_below_time(timestamp), start))
        try:
            while reader.offset < end:
                for header, batch in reader.read().batches:
                    if header.max_timestamp >= timestamp:
                        for record in decode(batch):
                            if record.offset >= start and record.timestamp >= timestamp:
                                return record.offset
        finally:
            reader.close()
        return end
    return end
