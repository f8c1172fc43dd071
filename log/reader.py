"""Pull reads: whole batches, in order, from an offset up to the high watermark."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass

from framework.log.cold import ColdReads
from framework.log.errors import Damaged, Error
from framework.log.files import Files
from framework.log.header import CONTROL, HEADER_BYTES, Header, fault, read_header
from framework.log.partition import Partition
from framework.log.segment import Segment

MAX_READ_BYTES = 256 << 10
READ_AHEAD_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Fetched:
    """Whole batches, sound and in order; the first may begin below the offset that was asked for."""

    batches: list[tuple[Header, memoryview]]
    next_offset: int


class Reader:
    """A position in one partition; moves only by `read` and `seek`. Not thread-safe."""

    def __init__(
        self, partition: Partition, files: Files, offset: int, cold_turns: threading.Semaphore | None = None
    ) -> None:
        """Opens no file before the first `read`; *cold_turns* are for `ColdReads`, without any there are none."""
        self.partition, self.offset = partition, offset
        self._files = files
        self._segment: Segment | None = None
        self._next_base: int | None = None
        self._fd, self._position, self._expected = -1, 0, 0
        self._cold, self._ahead = ColdReads(files, cold_turns or threading.Semaphore(0)), 0

    @property
    def behind_bytes(self) -> int | None:
        """How much of the segment that is appended to lies before it; None if it has another one open, or none."""
        segment = self._segment
        if segment is None or self._next_base is not None:
            return None
        end = self.partition.readable
        return end.position - self._position if end.segment == segment.base_offset else None

    def seek(self, offset: int) -> None:
        """Go on at *offset*."""
        self.close()
        self.offset = offset

    def read(self, max_bytes: int = MAX_READ_BYTES) -> Fetched:
        """The next batches, at most *max_bytes* of them or else exactly one; empty at the high watermark.

        Raises:
            OffsetOutOfRange: The offset is below the log start or above the log end.
            Damaged: A batch below the high watermark is not what was appended.
        """
        end = self.partition.high_watermark
        if self.offset >= end:
            if self.offset > self.partition.log_end:
                self.partition.segment_of(self.offset)
            return Fetched([], self.offset)
        while True:
            self._go_to_segment()
            stop = end if self._next_base is None else min(end, self._next_base)
            batches = self._read_batches(stop, max_bytes)
            # Behind the last batch, and behind the control batches and compacted offsets that follow it.
            self.offset = max(self.offset, self._expected)
            if batches or self.offset >= end:
                return Fetched(batches, self.offset)

    def _go_to_segment(self) -> None:
        """Have the segment open that holds the offset."""
        if self._segment is None:
            self._attach()
        elif self._next_base is None:
            segment, self._next_base = self.partition.segment_of(self.offset)
            if segment is not self._segment:  # Another one, or what compaction has left of it.
                self._attach()
        if self._next_base is not None and self.offset >= self._next_base:
            self._attach()

    def close(self) -> None:
        """Close the file; `read` opens it anew."""
        self._cold.close()
        self._close_segment()

    def _close_segment(self) -> None:
        self._cold.end()
        if self._fd >= 0:
            self._files.close(self._fd)
        self._fd, self._segment = -1, None

    def _attach(self) -> None:
        """Open the segment that holds the offset and go to a batch at or before it."""
        self._close_segment()
        segment, next_base = self.partition.segment_of(self.offset)
        try:
            self._fd = self._files.open(segment.path, write=False)
        except FileNotFoundError:
            # Retention may have been faster; then the manifest says so now.
            if self.partition.segment_of(self.offset)[0] is not segment:
                self._attach()
                return
            raise Damaged(f"{segment.path} is missing, the manifest names it") from None
        # Not before: without its file the segment is none that could be read on in, should there be no descriptor left.
        self._segment, self._next_base = segment, next_base
        self._position, self._expected = 0, self._segment.base_offset
        if self.offset > self._segment.base_offset:
            readable = self.partition.readable
            in_segment = readable.segment == self._segment.base_offset
            size = readable.position if in_segment else self._segment.size_bytes or 0
            self._segment.walk_to(self._files, self._fd, size)
            self._skip_to(*self._segment.place_below(self.offset))
        # The first megabytes are left to the kernel: whoever has read them is likely to read on.
        self._ahead = self._position + (0 if self._cold.holds_buffers else READ_AHEAD_BYTES)

    def _skip_to(self, position: int, base_offset: int) -> None:
        """Go from a batch at or before the offset to the one that holds it, by the headers.

        What they say of offsets no checksum covers: each must follow the one before it. Where one does not, the batch
        before it is where to begin, because either may be wrong.
        """
        assert self._segment is not None
        self._position, self._expected = position, base_offset
        while len(head := self._files.pread(self._fd, HEADER_BYTES, position)) == HEADER_BYTES:
            header = read_header(head)
            if header.base_offset < base_offset or (header.base_offset > base_offset and not self._segment.compacted):
                break
            self._position, self._expected = position, header.base_offset
            if header.size < HEADER_BYTES or header.next_offset > self.offset:
                break
            position, base_offset = position + header.size, header.next_offset

    def _read_batches(self, stop: int, max_bytes: int) -> list[tuple[Header, memoryview]]:
        """Batches of this segment below offset *stop*."""
        batches: list[tuple[Header, memoryview]] = []
        segment = self._segment
        assert segment is not None
        self._read_ahead()
        while not batches:
            if segment.compacted and self._position >= (segment.size_bytes or 0):
                self._expected = stop  # The last offsets of the segment are gone.
                break
            data = memoryview(self._read(max(max_bytes, HEADER_BYTES)))
            position, expected = 0, self._expected
            while len(data) - position >= HEADER_BYTES:
                header = read_header(data, position)
                if header.base_offset >= stop or HEADER_BYTES <= header.size > len(data) - position:
                    break
                reason = fault(data, position, expected)
                if reason is None and header.base_offset != expected and not segment.compacted:
                    reason = f"batch offset is {header.base_offset}, not {expected}"
                if reason is not None:
                    if batches:
                        break
                    raise self._damaged(position, reason)
                if header.next_offset > self.offset and not header.attributes & CONTROL:
                    batches.append((header, data[position : position + header.size]))
                position, expected = position + header.size, header.next_offset
            self._position, self._expected = self._position + position, expected
            if position == 0:
                max_bytes = self._size_of_one(data, stop, max_bytes)
            elif not batches and expected >= stop:
                break
        return batches

    def _read(self, size: int) -> bytes:
        cold = self._cold.read(size, self._position)
        return self._files.pread(self._fd, size, self._position) if cold is None else cold

    def _read_ahead(self) -> None:
        """Let the disk read while the caller decodes: a backlog has left the page cache."""
        segment = self._segment
        assert segment is not None
        if self._cold.is_reading:
            if self._cold.is_ahead and self._next_base is not None:
                with suppress(Error):  # It is said when it is read, if it still is.
                    behind, _ = self.partition.segment_of(self._next_base)
                    self._cold.prepare(behind.path, 0, behind.size_bytes)
        elif self._position + READ_AHEAD_BYTES // 2 > self._ahead:
            start = max(self._ahead, self._position)
            if not self._cold.begin(segment.path, start, segment.size_bytes):
                self._files.read_ahead(self._fd, start, READ_AHEAD_BYTES)
                self._ahead = start + READ_AHEAD_BYTES

    def _size_of_one(self, data: memoryview, stop: int, max_bytes: int) -> int:
        """The bytes of the one batch that did not fit into *data*."""
        if len(data) < HEADER_BYTES:
            raise self._damaged(0, f"the file ends {len(data)} bytes behind it, offset {stop - 1} is missing")
        header = read_header(data)
        if header.base_offset >= stop:
            raise self._damaged(0, f"offset {self.offset} is missing before batch {header.base_offset}")
        if header.size <= max_bytes or header.size > self._files.size(self._fd) - self._position:
            raise self._damaged(0, fault(data, 0, -1) or "batch length is wrong")
        return header.size

    def _damaged(self, position: int, reason: str) -> Damaged:
        assert self._segment is not None
        at = self._position + position
        return Damaged(f"{self._segment.path} is damaged at byte {at}, near offset {self.offset}: {reason}")
