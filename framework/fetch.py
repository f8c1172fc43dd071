"""The records a task reads ahead: decoded batches, handed out a slice at a time."""

from __future__ import annotations

from framework.log import Partition, Reader, StoredRecord, decode
from framework.log.reader import MAX_READ_BYTES


class Fetch:
    """A reader of one partition with a buffer of at most one read, about `max_read_bytes`."""

    def __init__(self, reader: Reader, *, max_read_bytes: int = MAX_READ_BYTES) -> None:
        """Begins where *reader* stands."""
        self.partition: Partition = reader.partition
        self.offset = reader.offset
        self._reader, self._max_read_bytes = reader, max_read_bytes
        self._records: list[StoredRecord] = []
        self._next = 0

    def ready(self, offset: int) -> bool:
        """Whether there are records from *offset* on."""
        return self.partition.high_watermark > offset

    def fill(self, offset: int) -> bool:
        """Have records buffered, reading if there are none; False at the high watermark.

        Raises:
            Damaged, OffsetOutOfRange: The log cannot give them.
        """
        if self._next < len(self._records):
            return True
        while self.ready(offset):
            fetched = self._reader.read(self._max_read_bytes)
            records = [record for _, batch in fetched.batches for record in decode(batch)]
            if records and records[0].offset < offset:
                records = [record for record in records if record.offset >= offset]
            if records:
                self._records, self._next = records, 0
                return True
            offset = self.offset = fetched.next_offset
        return False

    def take(self, count: int, stop: int | None = None) -> list[StoredRecord]:
        """The next *count* records, fewer at the end of the buffer or at offset *stop*."""
        end = min(self._next + count, len(self._records))
        if stop is not None:
            while end > self._next and self._records[end - 1].offset >= stop:
                end -= 1
        records = self._records[self._next : end]
        self._next = end
        if end < len(self._records):
            self.offset = self._records[end].offset
        else:
            self.offset = self._reader.offset
        return records

    def back_to(self, offset: int) -> None:
        """Go on with the first record at or behind *offset*, which may lie before or behind the buffer's place."""
        self.offset = offset
        if self._records and self._records[0].offset <= offset <= self._records[-1].offset:
            while self._next and self._records[self._next - 1].offset >= offset:
                self._next -= 1
            while self._records[self._next].offset < offset:
                self._next += 1
            return
        self._records, self._next = [], 0
        self._reader.seek(offset)

    def close(self) -> None:
        """Close the reader's file."""
        self._reader.close()
