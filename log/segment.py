"""One segment: a file of batches, and a sparse index of it.

    log      = batch*                                        `<base>.<generation>.log`, see `header`
    index    = "FWINDEX1" crc32c:u32 count:u32 size:i64 max_timestamp:i64 row*     `<base>.<generation>.index`
    row      = offset:i64 position:i64 max_timestamp:i64     one every `index.interval.bytes`, big-endian

The index can be rebuilt by walking the headers, and for the active segment it exists in memory only: two
processes that append would otherwise have to share an index file too. Beside the two stand the append times
(`appended`) and what producers had sent when the segment began (`producers`).
"""

from __future__ import annotations

import struct
import threading
from array import array
from bisect import bisect_left, bisect_right
from pathlib import Path

from fastcrc import crc32

from framework.log.appended import APPENDED_MAGIC
from framework.log.files import Files
from framework.log.header import HEADER_BYTES, Header, read_header, walk
from framework.log.manifest import SegmentRow
from framework.log.producers import Producers

FILE_SUFFIXES = (".log", ".index", ".appended", ".producers")
INDEX_MAGIC = b"FWINDEX1"
_WALK_BYTES = 1 << 20
_INDEX_HEAD = struct.Struct(">8sII")


class Segment:
    """The index of one segment file, filled as far as somebody has walked it; thread-safe."""

    def __init__(self, directory: Path, row: SegmentRow, interval_bytes: int) -> None:
        """The segment that *row* of the manifest in *directory* names."""
        self.base_offset, self.closed = row.base_offset, row.size_bytes is not None
        self.size_bytes, self.compacted = row.size_bytes, row.compacted
        self.path = directory / f"{row.stem}.log"
        self.index_path = directory / f"{row.stem}.index"
        self.appended_path = directory / f"{row.stem}.appended"
        self.producers_path = directory / f"{row.stem}.producers"
        self._interval_bytes = interval_bytes
        self._offsets, self._positions, self._timestamps = array("q"), array("q"), array("q")
        self._walked_to, self._max_timestamp, self._row_at = 0, -1, -1
        self._next_offset = row.base_offset
        self._guard = threading.Lock()

    def note(self, base_offset: int, position: int, size: int, max_timestamp: int) -> None:
        """A batch stands at *position*; ignored unless everything before it is known."""
        with self._guard:
            if position == self._walked_to:
                self._note(base_offset, position, size, max_timestamp)
                self._next_offset = -1  # Not said; whatever a walk finds next follows.

    def walk_to(self, files: Files, fd: int, end: int) -> None:
        """Read the headers up to byte *end* that have not been seen yet."""
        with self._guard:
            while self._walked_to < end:
                start = self._walked_to
                data = files.pread(fd, min(_WALK_BYTES, end - start), start)
                for position, _, size in walk(data):
                    self._note_walked(read_header(data, position), start + position, size)
                if self._walked_to == start:
                    # A batch larger than a chunk: its header says how much to skip.
                    head = files.pread(fd, HEADER_BYTES, start)
                    if len(head) < HEADER_BYTES:
                        return
                    header = read_header(head)
                    if header.size < HEADER_BYTES or start + header.size > end:
                        return
                    self._note_walked(header, start, header.size)

    def _note_walked(self, header: Header, position: int, size: int) -> None:
        """No checksum covers the base offset: a batch that does not follow the one before it gets no row."""
        follows = header.base_offset == self._next_offset or self._next_offset < 0
        follows |= self.compacted and header.base_offset > self._next_offset
        self._note(header.base_offset, position, size, header.max_timestamp, row=follows)
        self._next_offset = header.next_offset

    def _note(self, base_offset: int, position: int, size: int, max_timestamp: int, *, row: bool = True) -> None:
        self._max_timestamp = max(self._max_timestamp, max_timestamp)
        self._walked_to = position + size
        if not row:
            return
        if self._row_at < 0 or position - self._row_at >= self._interval_bytes:
            self._row_at = position
            self._offsets.append(base_offset)
            self._positions.append(position)
            self._timestamps.append(self._max_timestamp)

    def place_below(self, offset: int) -> tuple[int, int]:
        """Position and base offset of a batch at or before the one that holds *offset*."""
        at = bisect_right(self._offsets, offset) - 1
        return (self._positions[at], self._offsets[at]) if at >= 0 else (0, self.base_offset)

    def offset_below_time(self, timestamp: int) -> int:
        """An offset at or before the first record stamped *timestamp* or later."""
        at = bisect_left(self._timestamps, timestamp) - 1
        return self._offsets[at] if at >= 0 else self.base_offset

    @property
    def is_walked(self) -> bool:
        """Whether all of it is known: it is closed, and every batch has been seen."""
        return self.size_bytes is not None and self._walked_to >= self.size_bytes

    @property
    def max_timestamp(self) -> int:
        """The largest record timestamp in the part that has been walked."""
        return self._max_timestamp

    def index_bytes(self) -> bytes:
        """The index as its file holds it."""
        rows = b"".join(
            struct.pack(">qqq", *row) for row in zip(self._offsets, self._positions, self._timestamps, strict=True)
        )
        last = struct.pack(">qq", self._walked_to, self._max_timestamp)
        return _INDEX_HEAD.pack(INDEX_MAGIC, crc32.iscsi(last + rows), len(self._offsets)) + last + rows

    def load_index(self) -> None:
        """Take over the index file of a closed segment; without a sound one the headers are walked instead."""
        try:
            data = self.index_path.read_bytes()
        except FileNotFoundError:
            return
        if len(data) < _INDEX_HEAD.size + 16:
            return
        magic, crc, count = _INDEX_HEAD.unpack_from(data)
        rest = data[_INDEX_HEAD.size :]
        if magic != INDEX_MAGIC or crc != crc32.iscsi(rest) or len(rest) != 16 + 24 * count:
            return
        with self._guard:
            self._walked_to, self._max_timestamp = struct.unpack_from(">qq", rest)
            columns = list(zip(*struct.iter_unpack(">qqq", rest[16:]), strict=True)) or [(), (), ()]
            self._offsets, self._positions = array("q", columns[0]), array("q", columns[1])
            self._timestamps = array("q", columns[2])


def begin_segment(files: Files, segment: Segment, producers: Producers) -> None:
    """Make the files of a new, empty segment, which begins with the state of *producers*; durably."""
    files.write(segment.path, b"")
    files.write(segment.appended_path, APPENDED_MAGIC)
    producers.write(files, segment.producers_path)  # This also makes the two names durable.
