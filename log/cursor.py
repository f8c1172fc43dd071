"""Reading records of several partitions between two places, and finding the places.

|-- log start (beginning) ------ 1204 ------ 1 h ago ------ -10 ------| high watermark (end)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from framework.log.clock import Clock, to_ms
from framework.log.codec import StoredRecord, decode
from framework.log.errors import OffsetOutOfRange
from framework.log.header import Header
from framework.log.partition import Partition
from framework.log.reader import Reader

At = Literal["beginning", "end"] | datetime | timedelta | int
"""A place in each partition: an end of it, the first record stamped then or later, so long ago, or an offset.

A negative number counts back from the end."""
OpenReader = Callable[[Partition, int], Reader]


@dataclass(slots=True)
class Range:
    """The offsets [start, end) of one partition; `start` moves as they are read."""

    partition: Partition
    start: int
    end: int


class Cursor:
    """A position in several partitions, which are read one after the other."""

    def __init__(self, open_reader: OpenReader, ranges: Sequence[Range]) -> None:
        """*open_reader* makes a reader of a partition at an offset."""
        self._open_reader = open_reader
        self.ranges = [Range(r.partition, r.start, r.end) for r in ranges]
        self._iterator: Iterator[tuple[Partition, StoredRecord]] | None = None

    def __iter__(self) -> Iterator[tuple[Partition, StoredRecord]]:
        """The records from here on, each with its partition; does not move."""
        return self.copy().records()

    def copy(self) -> Cursor:
        """Another cursor at the same position."""
        return Cursor(self._open_reader, self.ranges)

    def take(self, max_records: int, max_bytes: int | None = None) -> list[tuple[Partition, StoredRecord]]:
        """The next records, at most *max_records*, and no more when their keys and values are *max_bytes*; moves on.

        None at the end only.
        """
        if self._iterator is None:
            self._iterator = self.records()
        taken, size = list[tuple[Partition, StoredRecord]](), 0
        while len(taken) < max_records and (max_bytes is None or size < max_bytes):
            pair = next(self._iterator, None)
            if pair is None:
                for done in self.ranges:
                    done.start = done.end
                break
            taken.append(pair)
            if max_bytes is not None:
                size += len(pair[1].key or b"") + len(pair[1].value or b"")
        return taken

    def records(self) -> Iterator[tuple[Partition, StoredRecord]]:
        """All records from here on; moves on with each.

        Raises:
            OffsetOutOfRange: The log does not hold all of a range.
        """
        for part in self.ranges:
            for _, batch in self._batches(part):
                for record in _decoded(part.partition, batch):
                    if part.start <= record.offset < part.end:
                        part.start = record.offset + 1
                        yield part.partition, record
            # Offsets may have gaps, so the end is a position and not a record.
            part.start = part.end

    def count(self) -> int:
        """How many records there are from here on; reads the headers of their batches.

        Raises:
            OffsetOutOfRange: The log does not hold all of a range.
        """
        total = 0
        for part in self.ranges:
            for header, batch in self._batches(part):
                if part.start <= header.base_offset and header.next_offset <= part.end:
                    total += header.records
                else:
                    total += sum(part.start <= record.offset < part.end for record in _decoded(part.partition, batch))
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


def resolve(open_reader: OpenReader, partition: Partition, at: At, clock: Clock) -> int:
    """The offset that *at* means in *partition*, between log start and high watermark."""
    start, end = partition.log_start, partition.high_watermark
    if at == "beginning":
        return start
    if at == "end":
        return end
    if isinstance(at, timedelta):
        return first_at(open_reader, partition, clock.now_ms() - at // timedelta(milliseconds=1))
    if isinstance(at, datetime):
        return first_at(open_reader, partition, to_ms(at))
    assert isinstance(at, int)
    return _last(open_reader, partition, -at) if at < 0 else min(max(at, start), end)


def _last(open_reader: OpenReader, partition: Partition, records: int) -> int:
    """The offset from which on there are so many records; the log start if there are fewer."""
    start, end = partition.log_start, partition.high_watermark
    back = records
    while True:  # Offsets may have gaps, so it may have to look further back.
        first = max(end - back, start)
        cursor = Cursor(open_reader, [Range(partition, first, end)])
        surplus = cursor.count() - records
        if surplus >= 0:
            cursor.take(surplus)
            return cursor.ranges[0].start
        if first == start:
            return start
        back *= 2


def check_kept(partition: Partition, at: At) -> None:
    """Refuse an offset that *partition* does not keep any more; one that it does not have yet is its end.

    Raises:
        OffsetOutOfRange: It is below the log start.
    """
    if isinstance(at, int) and 0 <= at < partition.log_start:
        raise OffsetOutOfRange(
            f"{partition.name} has no offset {at}: log start is {partition.log_start}, log end is {partition.log_end}"
        )


def first_at(open_reader: OpenReader, partition: Partition, timestamp: int) -> int:
    """The first offset whose record is stamped *timestamp* (ms) or later; the high watermark if there is none."""
    end = partition.high_watermark
    found = first_record_at(open_reader, partition, timestamp, end)
    return end if found is None else found[0]


def first_record_at(open_reader: OpenReader, partition: Partition, timestamp: int, end: int) -> tuple[int, int] | None:
    """Offset and timestamp of the first record below *end* that is stamped *timestamp* (ms) or later."""
    start = partition.log_start
    for segment in partition.segments():
        if segment.is_walked and segment.max_timestamp < timestamp:
            continue
        reader = open_reader(partition, max(segment.offset_below_time(timestamp), start))
        try:
            while reader.offset < end:
                for header, batch in reader.read().batches:
                    if header.max_timestamp >= timestamp:
                        for record in _decoded(partition, batch):
                            if record.offset >= start and record.timestamp >= timestamp:
                                return (record.offset, record.timestamp) if record.offset < end else None
        finally:
            reader.close()
        return None
    return None


def _decoded(partition: Partition, batch: memoryview) -> list[StoredRecord]:
    return decode(batch, partition.topic.settings.most_uncompressed_bytes)
