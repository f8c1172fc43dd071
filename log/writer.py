"""The open files of an active segment: writing to them, bringing them to disk, and how many may be open."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

from framework.log.appended import APPENDED_MAGIC, ENTRY_BYTES, entry_at, first_second, pack_entry
from framework.log.errors import Damaged
from framework.log.files import Files
from framework.log.segment import Segment
from framework.log.shared import Mark

MAX_OPEN_WRITERS = 256
"""How many partitions a process keeps open for appending, with two files each."""


class Writer:
    """The two open files of an active segment."""

    def __init__(self, files: Files, segment: Segment) -> None:
        """Open them.

        Raises:
            Damaged: One is missing.
        """
        self._files, self.segment = files, segment
        self.fd = _open(files, segment.path)
        try:
            self._appended_fd = _open(files, segment.appended_path)
        except BaseException:
            files.close(self.fd)
            raise
        self.first_second = first_second(segment.appended_path)
        """When the first batch was appended; None while there is none."""
        self._synced_second: int | None = None  # Whoever noted a second last may have died before its sync.

    def cut_to(self, end: int, offset: int) -> None:
        """Remove what stands behind *end*, where *offset* comes next: a write that was killed, never appended.

        Raises:
            Damaged: The file ends before.
        """
        size = self._files.size(self.fd)
        if size < end:
            raise Damaged(f"{self.segment.path} is {size} bytes long, but {end} were appended")
        if size > end:
            # First: as long as there are bytes behind the end, the next one here does it again.
            self._cut_seconds(offset)
            self._files.truncate(self.fd, end)
            # Synced, or a power cut could bring the old bytes back behind newer ones.
            self._files.fdatasync(self.fd)

    def read(self, size: int, position: int) -> bytes:
        """Up to *size* bytes of the log file."""
        return self._files.pread(self.fd, size, position)

    def write(self, buffers: list[bytearray], position: int) -> None:
        """Write *buffers* at *position*."""
        self._files.pwritev(self.fd, buffers, position)

    def note_second(self, second: int, base_offset: int) -> None:
        """From *base_offset* on, batches are appended in *second* or later.

        Raises:
            Damaged: The file has lost its head.
        """
        size = self._files.size(self._appended_fd)
        if size < len(APPENDED_MAGIC):
            raise Damaged(f"{self.segment.appended_path} is {size} bytes long, too few for its magic number")
        end = self._end_of_entries(size, base_offset)
        self._files.pwrite(self._appended_fd, pack_entry(second, base_offset), end)
        if size > end + ENTRY_BYTES:
            self._files.truncate(self._appended_fd, end + ENTRY_BYTES)
        if self.first_second is None:
            self.first_second = second

    def _cut_seconds(self, offset: int) -> None:
        """Remove entries of batches from *offset* on.

        The next append may be of an earlier second, by a clock that was set back, and would not write over them.
        """
        size = self._files.size(self._appended_fd)
        end = self._end_of_entries(size, offset)
        if len(APPENDED_MAGIC) <= end < size:
            self._files.truncate(self._appended_fd, end)
            self._files.fdatasync(self._appended_fd)

    def _end_of_entries(self, size: int, offset: int) -> int:
        """Where the entries of batches below *offset* end."""
        end = size - (size - len(APPENDED_MAGIC)) % ENTRY_BYTES  # A torn entry is written over.
        while end > len(APPENDED_MAGIC) and self._base_offset_at(end - ENTRY_BYTES) >= offset:
            end -= ENTRY_BYTES  # And one of a batch whose writer was killed before it published it.
        return end

    def _base_offset_at(self, position: int) -> int:
        entry = entry_at(self._files.pread(self._appended_fd, ENTRY_BYTES, position), 0)
        return entry[1] if entry else -1

    def sync(self, append_second: int | None, end: int) -> None:
        """Bring both files to disk, up to *end*; the second one has changed only if *append_second* has.

        None for one that was raised, and will be noted by the next append.
        """
        if append_second is None or append_second != self._synced_second:
            self._files.fdatasync(self._appended_fd)
            # The first batch of a segment notes its second even if that has not changed.
            self._synced_second = append_second if end else None
        self._files.fdatasync(self.fd)

    def close(self) -> None:
        """Close both files."""
        self._files.close(self.fd)
        self._files.close(self._appended_fd)


class ActiveWriter:
    """The writer of a partition's active segment, while it is open; its files are not closed while they are synced."""

    def __init__(self, files: Files, open_writers: OpenWriters, mutex: threading.Lock) -> None:
        """Opens nothing yet; *mutex* is held by whoever attaches and writes."""
        self._files, self._open_writers, self._mutex = files, open_writers, mutex
        self._syncing = threading.Lock()
        self._writer: Writer | None = None

    def attach(self, segment: Segment) -> Writer:
        """The writer of *segment*, which is opened if it is not."""
        if self._writer is None or self._writer.segment.base_offset != segment.base_offset:
            self.close()
            with self._syncing:
                self._writer = Writer(self._files, segment)
        self._open_writers.use(self)
        return self._writer

    def sync(self, mark: Mark, append_second: int | None) -> bool:
        """Bring to disk what was written up to *mark*; False if its segment is not open.

        Not under the partition's lock. If another segment is open by now, the roll to it has synced that one.
        """
        with self._syncing:
            if self._writer is None or self._writer.segment.base_offset < mark.segment:
                return False
            is_its = self._writer.segment.base_offset == mark.segment
            self._writer.sync(append_second, mark.position if is_its else 0)
            return True

    def close(self) -> None:
        """Close the files; `attach` opens them anew."""
        with self._syncing:
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    def close_unless_used(self) -> bool:
        """Close the files if nobody writes or syncs just now; whether they are closed."""
        if not self._mutex.acquire(blocking=False):
            return False
        try:
            if self._syncing.locked():
                return False
            self.close()
            return True
        finally:
            self._mutex.release()


class OpenWriters:
    """Which writers of a process are open, so that their files are no more than the system allows."""

    def __init__(self, limit: int) -> None:
        """At most *limit* stay open, except those that are being used."""
        self._limit, self._guard = limit, threading.Lock()
        self._open: OrderedDict[ActiveWriter, None] = OrderedDict()

    def use(self, writer: ActiveWriter) -> None:
        """*writer* is open; close those that were not used for the longest time if there are too many."""
        with self._guard:
            self._open[writer] = None
            self._open.move_to_end(writer)
            for other in list(self._open)[: max(0, len(self._open) - self._limit)]:
                if other is not writer and other.close_unless_used():
                    del self._open[other]


def _open(files: Files, path: Path) -> int:
    try:
        return files.open(path)
    except FileNotFoundError:
        raise Damaged(f"{path} is missing; the manifest names it as the active segment's") from None
