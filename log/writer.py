"""The open files of an active segment: writing to them, and bringing them to disk."""

from __future__ import annotations

from framework.log.files import Files
from framework.log.segment import APPENDED_MAGIC, ENTRY, Segment, first_second


class Writer:
    """The two open files of an active segment."""

    def __init__(self, files: Files, segment: Segment) -> None:
        """Open them."""
        self._files, self.segment = files, segment
        self.fd = files.open(segment.path)
        self._appended_fd = files.open(segment.appended_path)
        self.first_second = first_second(segment.appended_path)
        """When the first batch was appended; None while there is none."""
        self._synced_second = -1  # Whoever noted a second last may have died before its sync.

    def cut_to(self, end: int) -> None:
        """Remove what stands behind *end*: a write that was killed, never appended."""
        if self._files.size(self.fd) > end:
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
        """From *base_offset* on, batches are appended in *second* or later."""
        size = end = self._files.size(self._appended_fd)
        end -= (end - len(APPENDED_MAGIC)) % ENTRY.size  # A torn entry is written over.
        while end > len(APPENDED_MAGIC) and self._base_offset_at(end - ENTRY.size) >= base_offset:
            end -= ENTRY.size  # And one of a batch whose writer was killed before it published it.
        self._files.pwrite(self._appended_fd, ENTRY.pack(second, base_offset), end)
        if size > end + ENTRY.size:
            self._files.truncate(self._appended_fd, end + ENTRY.size)
        if self.first_second is None:
            self.first_second = second

    def _base_offset_at(self, position: int) -> int:
        return int(ENTRY.unpack(self._files.pread(self._appended_fd, ENTRY.size, position))[1])

    def sync(self, append_second: int, end: int) -> None:
        """Bring both files to disk, up to *end*; the second one has changed only if *append_second* has."""
        if append_second != self._synced_second:
            self._files.fdatasync(self._appended_fd)
            # The first batch of a segment notes its second even if that has not changed.
            self._synced_second = append_second if end else -1
        self._files.fdatasync(self.fd)

    def close(self) -> None:
        """Close both files."""
        self._files.close(self.fd)
        self._files.close(self._appended_fd)
