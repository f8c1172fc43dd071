"""The records a task reads ahead: one read of the log at a time, handed out a slice at a time.

Of most records an agent needs the value only. So the values are taken out of their batches at once, as plain bytes,
which the garbage collector has not to look through, and everything else about a record (key, timestamp,
headers) is decoded when somebody asks for it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from operator import attrgetter

from framework.log import Fetched, Headers, Partition, Reader, StoredRecord, decode, decode_values
from framework.log.codec import decode_stamped
from framework.log.compression import MAX_UNCOMPRESSED_BYTES
from framework.log.errors import OffsetOutOfRange
from framework.log.reader import MAX_READ_BYTES

OnGap = Callable[[int, int], None]


class Buffer:
    """The records of one read, by their index in it."""

    def __init__(
        self, fetched: Fetched, max_uncompressed_bytes: int = MAX_UNCOMPRESSED_BYTES, *, stamped: bool = False
    ) -> None:
        """Decodes the values; *max_uncompressed_bytes* is as much as a batch may hold.

        With *stamped* it decodes what `stamps` gives with them, which is faster than when that is called.
        """
        self.values: list[bytes | None] = []
        self.next_offset = fetched.next_offset
        self._batches, self._starts, self._bases = fetched.batches, list[int](), list[int]()
        self._decoded, self._records = -1, list[StoredRecord]()
        self._max_uncompressed_bytes = max_uncompressed_bytes
        self._stamps: tuple[list[int], dict[int, Headers]] | None = ([], {}) if stamped else None
        for header, batch in fetched.batches:
            self._starts.append(len(self.values))
            self._bases.append(header.base_offset)
            if self._stamps is None:
                self.values += decode_values(batch, max_uncompressed_bytes)
            else:
                self.values += self._stamp(batch, *self._stamps)

    def record(self, index: int) -> StoredRecord:
        """The whole record."""
        at = bisect_right(self._starts, index) - 1
        return self._records_of(at)[index - self._starts[at]]

    def stamps(self) -> tuple[list[int], dict[int, Headers]]:
        """The timestamps of all records, and the headers of those that have any, by index."""
        if self._stamps is None:
            self._stamps = ([], {})
            for _, batch in self._batches:
                self._stamp(batch, *self._stamps)
        return self._stamps

    @property
    def is_stamped(self) -> bool:
        """Whether `stamps` was asked for, as it will be of the next records, too."""
        return self._stamps is not None

    def _stamp(self, batch: memoryview, stamps: list[int], headers: dict[int, Headers]) -> list[bytes | None]:
        values, more, some = decode_stamped(batch, self._max_uncompressed_bytes)
        headers |= {len(stamps) + at: found for at, found in some.items()}
        stamps += more
        return values

    def offset(self, index: int) -> int:
        """The offset of a record; behind the last one, where the next read begins."""
        if index >= len(self.values):
            return self.next_offset
        at = bisect_right(self._starts, index) - 1
        header, _ = self._batches[at]
        if header.dense:
            return header.base_offset + index - self._starts[at]
        return self.record(index).offset

    def index(self, offset: int) -> int:
        """The first record at or behind *offset*."""
        at = bisect_right(self._bases, offset) - 1
        if at < 0:
            return 0
        header, _ = self._batches[at]
        if header.dense:
            return self._starts[at] + min(offset - header.base_offset, header.records)
        return self._starts[at] + bisect_left(self._records_of(at), offset, key=attrgetter("offset"))

    def _records_of(self, at: int) -> list[StoredRecord]:
        if at != self._decoded:
            self._decoded, self._records = at, decode(self._batches[at][1], self._max_uncompressed_bytes)
        return self._records


EMPTY = Buffer(Fetched([], 0))


class Fetch:
    """A reader of one partition with a buffer of at most one read, about `max_read_bytes`."""

    def __init__(self, reader: Reader, *, max_read_bytes: int = MAX_READ_BYTES, on_gap: OnGap | None = None) -> None:
        """Begins where *reader* stands.

        Where the next records were removed, *on_gap* is called with the offset and the log start, and reading goes on
        there; without, that is an error.
        """
        self.partition: Partition = reader.partition
        self.offset = reader.offset
        """Where the next `take` begins."""
        self.buffer = EMPTY
        self._reader, self._max_read_bytes = reader, max_read_bytes
        self._next = 0
        self._on_gap, self._gap_end = on_gap, 0

    def ready(self, offset: int) -> bool:
        """Whether there are records from *offset* on."""
        return self.partition.high_watermark > max(offset, self._gap_end)

    def fill(self) -> bool:
        """Have records buffered, reading if there are none; False at the high watermark.

        Raises:
            Damaged, OffsetOutOfRange: The log cannot give them.
        """
        while self._next >= len(self.buffer.values):
            if not self.ready(self.offset):
                return False
            try:
                fetched = self._reader.read(self._max_read_bytes)
            except OffsetOutOfRange:
                if not self._skip_gap():
                    raise
                continue
            most = self.partition.topic.settings.most_uncompressed_bytes
            self.buffer = Buffer(fetched, most, stamped=self.buffer.is_stamped)
            # The first batch may begin below the offset; what it has there has been handled.
            self._next = self.buffer.index(self.offset)
            if self._next >= len(self.buffer.values):
                self.offset = self.buffer.next_offset
        return True

    def take(self, count: int, stop: int | None = None) -> range:
        """The next *count* records of the buffer, fewer at its end or at offset *stop*, by their indexes."""
        end = min(self._next + count, len(self.buffer.values))
        if stop is not None:
            end = max(self._next, min(end, self.buffer.index(stop)))
        taken = range(self._next, end)
        self._next, self.offset = end, self.buffer.offset(end)
        return taken

    def back_to(self, offset: int) -> None:
        """Go on with the first record at or behind *offset*, which may lie before or behind the buffer's place."""
        self.offset = offset
        values = self.buffer.values
        if values and self.buffer.offset(0) <= offset <= self.buffer.next_offset:
            self._next = self.buffer.index(offset)
            return
        self.buffer, self._next = EMPTY, 0
        self._reader.seek(offset)

    def _skip_gap(self) -> bool:
        """Go on at the log start, if that is allowed and a way out."""
        start = self.partition.log_start
        if self._on_gap is None or self.offset >= start:
            return False
        self._on_gap(self.offset, start)
        self._gap_end = start
        self.back_to(start)
        return True

    def close(self) -> None:
        """Close the reader's file."""
        self._reader.close()
