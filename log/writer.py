"""The open files of an active segment: writing to them, and bringing them to disk."""

from __future__ import annotations

from pathlib import Path

from framework.log.errors import Damaged
from framework.log.files import Files
from framework.log.segment import APPENDED_MAGIC, ENTRY, Segment, first_second


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
        self._synced_second = -1  # Whoever noted a second last may have died before its sync.

    def cut_to(self, end: int) -> None:
        """Remove what stands behind *end*: a write that was killed, never appended.

        Raises:
            Damaged: The file ends before.
        """
        size = self._files.size(self.fd)
        if size < end:
            raise Damaged(f"{self.segment.path} is {size} bytes long, but {end} were appended")
        if size > end:
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
        end = self._files.size(self._appended_fd)
        if end < len(APPENDED_MAGIC):
            raise Damaged(f"{self.segment.appended_path} is {end} bytes long, too few for its magic number")
        end -= (end - len(APPENDED_MAGIC)) % ENTRY.size  # A torn entry is written over.
        self._files.pwrite(self._appended_fd, ENTRY.pack(second, base_offset), end)
        if self.first_second is None:
            self.first_second = second

    def sync(self, append_second: int) -> None:
        """Bring both files to disk; the second one has changed only if *append_second* has."""
        if append_second != self._synced_second:
            self._files.fdatasync(self._appended_fd)
            self._synced_second = append_second
        self._files.fdatasync(self.fd)

    def close(self) -> None:
        """Close both files."""
        self._files.close(self.fd)
        self._files.close(self._appended_fd)


def _open(files: Files, path: Path) -> int:
    try:
        return files.open(path)
    except FileNotFoundError:
        raise Damaged(f"{path} is missing; the manifest names it as the active segment's") from None
