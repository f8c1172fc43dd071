"""What is wanted of one batch of the log: its records in a range of offsets and in a range of time.

Most of the time that is all of them, and of each only the value. Then neither records are made nor offsets compared;
where a batch is compacted, or times matter, what is wanted is found record by record.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from framework.log.codec import StoredRecord, decode, decode_stamped, decode_values
from framework.log.header import Header
from framework.log.partition import Partition


class Times(NamedTuple):
    """Timestamps in [since_ms, until_ms); None is no bound."""

    since_ms: int | None = None
    until_ms: int | None = None

    def hold(self, timestamp: int) -> bool:
        """Whether *timestamp* is one of them."""
        since, until = self
        return (since is None or since <= timestamp) and (until is None or timestamp < until)


ALWAYS = Times()


class _Kept:
    """What was decoded of a batch that is cut, so that each of many pieces need not decode all of it."""

    def __init__(self) -> None:
        self.values: list[bytes | None] | None = None
        self.records: list[StoredRecord] | None = None


class Piece:
    """The wanted records of one batch."""

    __slots__ = ("_batch", "_count", "_header", "_kept", "_times", "end", "partition", "start")

    def __init__(
        self,
        partition: Partition,
        header: Header,
        batch: memoryview,
        start: int,
        end: int,
        times: Times = ALWAYS,
        *,
        kept: _Kept | None = None,
    ) -> None:
        """Those at offsets [*start*, *end*), stamped in *times*; *kept* is for `cut`."""
        self.partition, self.start, self.end = partition, max(start, header.base_offset), min(end, header.next_offset)
        self._header, self._batch, self._times, self._kept = header, batch, times, kept
        self._count: int | None = None

    def values(self) -> list[bytes | None]:
        """The values of the records; None for a tombstone."""
        if self._is_early or self.start >= self.end:
            return []
        if self._times != ALWAYS:
            values = self._values_in_time()
            self._count = len(values)
            return values
        if not self._is_whole and not self._header.dense:
            return [record.value for record in self.records()]
        values = self._all_values()
        if self._is_whole:
            return values
        return values[self.start - self._header.base_offset : self.end - self._header.base_offset]

    def records(self) -> list[StoredRecord]:
        """The records."""
        if self._is_early or self.start >= self.end:
            return []
        hold, timed = self._times.hold, self._times != ALWAYS
        return [
            record
            for record in self._all_records()
            if self.start <= record.offset < self.end and (not timed or hold(record.timestamp))
        ]

    def count(self) -> int:
        """How many records there are; decodes only what must be."""
        if self._is_early or self.start >= self.end:
            return 0
        if self._times == ALWAYS and self._is_whole:
            return self._header.records
        if self._times == ALWAYS and self._header.dense:
            return self.end - self.start
        if self._count is None:
            self._count = len(self.values())
        return self._count

    def cut(self, records: int) -> tuple[Piece, Piece]:
        """The first *records*, of which there are more, and the rest."""
        if self._kept is None:
            self._kept = _Kept()
        if self._times == ALWAYS and self._header.dense:
            offset = self.start + records
        else:
            offset = self.records()[records].offset
        return self._part(self.start, offset), self._part(offset, self.end)

    def _part(self, start: int, end: int) -> Piece:
        return Piece(self.partition, self._header, self._batch, start, end, self._times, kept=self._kept)

    @property
    def _is_whole(self) -> bool:
        return self.start == self._header.base_offset and self.end == self._header.next_offset

    @property
    def _is_early(self) -> bool:
        """Whether all of the batch was stamped before the times, as its header says."""
        since = self._times.since_ms
        return since is not None and self._header.max_timestamp < since

    def _values_in_time(self) -> list[bytes | None]:
        if self._kept is not None or not self._header.dense:
            return [record.value for record in self.records()]
        values, stamps, _ = decode_stamped(self._batch, self._most_bytes)
        base, hold = self._header.base_offset, self._times.hold
        wanted = slice(self.start - base, self.end - base)
        return [value for value, stamp in zip(values[wanted], stamps[wanted], strict=True) if hold(stamp)]

    def _all_values(self) -> list[bytes | None]:
        if self._kept is None:
            return decode_values(self._batch, self._most_bytes)
        if self._kept.values is None:
            self._kept.values = decode_values(self._batch, self._most_bytes)
        return self._kept.values

    def _all_records(self) -> list[StoredRecord]:
        if self._kept is None:
            return decode(self._batch, self._most_bytes)
        if self._kept.records is None:
            self._kept.records = decode(self._batch, self._most_bytes)
        return self._kept.records

    @property
    def _most_bytes(self) -> int:
        return self.partition.topic.settings.most_uncompressed_bytes


def take(pieces: Iterator[Piece], rest: Piece | None, records: int) -> tuple[list[Piece], int, Piece | None]:
    """Pieces of *rest* and then of *pieces* that hold the next *records*; how many these are; and what is cut off.

    Fewer than asked for only at the end of *pieces*.
    """
    taken, missing = list[Piece](), records
    while missing and (piece := rest or next(pieces, None)) is not None:
        rest = None
        count = piece.count()
        if count > missing:
            piece, rest = piece.cut(missing)
            count = missing
        if count:
            taken.append(piece)
            missing -= count
    return taken, records - missing, rest
