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
from framework.log.piece import ALWAYS, Piece, Times, take
from framework.log.reader import Reader

At = Literal["beginning", "end"] | datetime | timedelta | int
"""A place in each partition: an end of it, the first record stamped then or later, so long ago, or an offset.

A negative number counts back from the end."""
OpenReader = Callable[[Partition, int], Reader]
OnGap = Callable[[Partition, int, int], None]


@dataclass(slots=True)
class Range:
    """The offsets [start, end) of one partition; `start` moves as they are read."""

    partition: Partition
    start: int
    end: int


class Cursor:
    """A position in several partitions, which are read one after the other."""

    def __init__(
        self,
        open_reader: OpenReader,
        ranges: Sequence[Range],
        *,
        times: Times = ALWAYS,
        on_gap: OnGap | None = None,
    ) -> None:
        """*open_reader* makes a reader of a partition at an offset; records stamped outside *times* are left out.

        Where records were removed before they were read, *on_gap* is called with the partition and their offsets, from
        and up to, and reading goes on behind them; without, that is an error.
        """
        self._open_reader, self._times, self._on_gap = open_reader, times, on_gap
        self.ranges = [Range(r.partition, r.start, r.end) for r in ranges]
        self._iterator: Iterator[tuple[Partition, StoredRecord]] | None = None
        self._pieces: Iterator[Piece] | None = None
        self._rest: Piece | None = None

    def __iter__(self) -> Iterator[tuple[Partition, StoredRecord]]:
        """The records from here on, each with its partition; does not move."""
        return self.copy().records()

    def copy(self) -> Cursor:
        """Another cursor at the same position."""
        return Cursor(self._open_reader, self.ranges, times=self._times, on_gap=self._on_gap)

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

    def take_pieces(self, max_records: int, pause: Callable[[], None]) -> tuple[list[Piece], int]:
        """The next records, at most *max_records*, as pieces, and how many these are; moves on.

        Calls *pause* before each piece. None at the end only.
        """
        if self._pieces is None:
            self._pieces = self.pieces(pause)
        if self._rest is not None:
            self._move(self._rest.start, self._rest.end, self._rest.partition)
        taken, count, self._rest = take(self._pieces, self._rest, max_records)
        if self._rest is not None:
            self._move(self._rest.end, self._rest.start, self._rest.partition)
        return taken, count

    def _move(self, start: int, to: int, partition: Partition) -> None:
        """Let the range of *partition* that begins at *start* begin at *to*: what was cut off is still to be read."""
        next(part for part in self.ranges if part.partition is partition and part.start == start).start = to

    def records(self) -> Iterator[tuple[Partition, StoredRecord]]:
        """All records from here on; moves on with each.

        Raises:
            OffsetOutOfRange: The log does not hold all of a range.
        """
        for part in self.ranges:
            for piece in self._pieces_of(part):
                for record in piece.records():
                    part.start = record.offset + 1
                    yield part.partition, record
            # Offsets may have gaps, so the end is a position and not a record.
            part.start = part.end

    def pieces(self, pause: Callable[[], None] | None = None) -> Iterator[Piece]:
        """All records from here on, by the batches they lie in; moves on with each piece, and calls *pause* before.

        Raises:
            OffsetOutOfRange: The log does not hold all of a range.
        """
        for part in self.ranges:
            for piece in self._pieces_of(part):
                if pause is not None:
                    pause()
                part.start = piece.end
                yield piece
            part.start = part.end

    def count(self) -> int:
        """How many records there are from here on; reads the headers of their batches.

        Raises:
            OffsetOutOfRange: The log does not hold all of a range.
        """
        return sum(piece.count() for piece in self.copy().pieces())

    def _pieces_of(self, part: Range) -> Iterator[Piece]:
        for header, batch in self._batches(part):
            if header.base_offset >= part.end:
                return
            yield Piece(part.partition, header, batch, part.start, part.end, self._times)

    def _batches(self, part: Range) -> Iterator[tuple[Header, memoryview]]:
        """The batches in which the records of *part* lie."""
        reader = self._open_reader(part.partition, part.start)
        try:
            while reader.offset < part.end:
                before = reader.offset
                try:
                    fetched = reader.read()
                except OffsetOutOfRange:
                    if not self._skip_gap(part, reader):
                        raise
                    continue
                yield from fetched.batches
                if reader.offset == before:
                    raise OffsetOutOfRange(
                        f"{part.partition.name} has no offsets {before} to {part.end - 1}: "
                        f"log end is {part.partition.log_end}"
                    )
        finally:
            reader.close()

    def _skip_gap(self, part: Range, reader: Reader) -> bool:
        """Go on at the log start, if that is allowed and a way out."""
        log_start = part.partition.log_start
        if self._on_gap is None or reader.offset >= log_start:
            return False
        end = min(log_start, part.end)
        self._on_gap(part.partition, reader.offset, end)
        part.start = end
        reader.seek(end)
        return True


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
