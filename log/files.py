"""The file seam: every byte the log writes, and every sync, rename and unlink, goes through here.

Tests pass a subclass that fails, tears, drops or kills at a chosen operation; nothing else in
`log/` calls `os.pwrite`, `os.fsync`, `os.rename` or `os.unlink`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from collections.abc import Sequence
from mmap import mmap
from pathlib import Path

_F_FULLFSYNC = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: fsync alone stops at the drive's cache.
_FADVISE = getattr(os, "posix_fadvise", None)  # Neither it nor the next two are on macOS.
_DIRECT = getattr(os, "O_DIRECT", None)
_NOWAIT = getattr(os, "RWF_NOWAIT", None)


class Files:
    """The operating system's files.

    Every method raises `OSError` as the system call does; a write is complete when it returns.
    """

    def open(self, path: Path, *, create: bool = False, write: bool = True) -> int:
        """Open *path* and return its descriptor, closed on exec."""
        flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        return os.open(path, flags, 0o644)

    def close(self, fd: int) -> None:
        """Close *fd*."""
        os.close(fd)

    def pread(self, fd: int, size: int, position: int) -> bytes:
        """Up to *size* bytes at *position*; fewer only at the end of the file."""
        return os.pread(fd, size, position)

    def read_ahead(self, fd: int, position: int, size: int) -> None:
        """Have *size* bytes at *position* in memory soon; returns at once, and does nothing where the system cannot."""
        if _FADVISE is not None:
            _FADVISE(fd, position, size, os.POSIX_FADV_WILLNEED)

    def is_cached(self, fd: int, position: int) -> bool:
        """Whether a read of the byte at *position* would not wait for the disk; true where the system cannot say."""
        if _NOWAIT is None:
            return True
        try:
            os.preadv(fd, [bytearray(1)], position, _NOWAIT)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def forget(self, fd: int, position: int, size: int) -> None:
        """Take *size* bytes at *position* out of the page cache, where the system can."""
        if _FADVISE is not None:
            _FADVISE(fd, position, size, os.POSIX_FADV_DONTNEED)

    def open_direct(self, path: Path) -> int:
        """Open *path* for `read_into`, around the page cache."""
        if _DIRECT is None:
            raise OSError(errno.EINVAL, "This system always reads through the page cache", str(path))
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | _DIRECT)

    def read_into(self, fd: int, buffer: mmap, position: int) -> int:
        """Fill *buffer* from *position* on; how many bytes there were."""
        return os.preadv(fd, [buffer], position)

    def size(self, fd: int) -> int:
        """The length of the file in bytes."""
        return os.fstat(fd).st_size

    def pwrite(self, fd: int, data: bytes | memoryview, position: int) -> None:
        """Write all of *data* at *position*."""
        view = memoryview(data)
        while view:
            # A nearly full disk takes a part first and refuses only the next call.
            written = os.pwrite(fd, view, position)
            view, position = view[written:], position + written

    def pwritev(self, fd: int, buffers: Sequence[bytes | bytearray | memoryview], position: int) -> int:
        """Write all *buffers*, one behind the other, at *position*; return their length in bytes."""
        total = sum(map(len, buffers))
        if len(buffers) <= _IOV_MAX and os.pwritev(fd, buffers, position) == total:
            return total
        self.pwrite(fd, b"".join(buffers), position)
        return total

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file to *size* bytes."""
        os.ftruncate(fd, size)

    def fdatasync(self, fd: int) -> None:
        """Return when the file's bytes (and its length) would survive a power cut."""
        if _F_FULLFSYNC is not None:
            fcntl.fcntl(fd, _F_FULLFSYNC)
        elif sys.platform == "darwin":
            os.fsync(fd)
        else:
            os.fdatasync(fd)

    def sync_directory(self, path: Path) -> None:
        """Return when the names in directory *path* would survive a power cut."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def mkdir(self, path: Path) -> None:
        """Make directory *path*, whose parent exists, and make its name durable."""
        os.mkdir(path)
        self.sync_directory(path.parent)

    def rename(self, source: Path, target: Path) -> None:
        """Rename, replacing *target* in one step."""
        os.rename(source, target)

    def unlink(self, path: Path) -> None:
        """Remove the name *path*."""
        os.unlink(path)

    def write(self, path: Path, data: bytes) -> None:
        """Make *data* the content of *path*, durably; not in one step, and its name is not durable."""
        fd = self.open(path, create=True)
        try:
            self.truncate(fd, 0)
            self.pwrite(fd, data, 0)
            self.fdatasync(fd)
        finally:
            self.close(fd)

    def replace(self, path: Path, data: bytes) -> None:
        """Make *data* the content of *path*, durably and in one step: readers see the old or the new."""
        temporary = path.with_name(path.name + ".tmp")
        self.write(temporary, data)
        self.rename(temporary, path)
        self.sync_directory(path.parent)


_IOV_MAX = 1024
