"""The seams of log and state, with a process that dies at a chosen operation of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from framework.log import Files
from framework.log.shared import PAGE_BYTES
from framework.state.database import Database
from framework.state.rows import Change


class Points:
    """Counts the operations since `arm`, by name, and kills the process before or after one of them."""

    def __init__(self, target: tuple[str, int] | None = None, *, after: bool = False) -> None:
        """Die at the *target*: an operation's name, and the how-manieth of its name since `arm`; None lives."""
        self.names: list[str] = []
        self._target, self._after, self._armed = target, after, False
        self.report: int | None = None

    def arm(self) -> None:
        """Count from here on."""
        self._armed = True

    def before(self, name: str) -> bool:
        """An operation begins; returns whether the process dies when it is done."""
        if not self._armed:
            return False
        self.names.append(name)
        chosen = (name, self.names.count(name)) == self._target
        if chosen and not self._after:
            self.die()
        return chosen

    def die(self) -> None:
        """End as a killed process does: nothing is flushed, nothing closed."""
        if self.report is not None:
            os.write(self.report, self.names[-1].encode())
        os.kill(os.getpid(), signal.SIGKILL)


class DyingFiles(Files):
    """The operating system's files, each operation a point."""

    def __init__(self, points: Points) -> None:
        self._points = points
        self._names: dict[int, str] = {}

    def close(self, fd: int) -> None:
        self._names.pop(fd, None)
        super().close(fd)

    def open(self, path: Path, *, create: bool = False, write: bool = True) -> int:
        fd = super().open(path, create=create, write=write)
        self._names[fd] = kind_of(path)
        return fd

    def pwrite(self, fd: int, data: bytes | memoryview, position: int) -> None:
        name = self._names[fd]
        if name == "shared":
            name = "shared durable mark" if position >= PAGE_BYTES else "shared page"
        dies = self._points.before(f"write {name}")
        super().pwrite(fd, data, position)
        if dies:
            self._points.die()

    def pwritev(self, fd: int, buffers: Sequence[bytes | bytearray | memoryview], position: int) -> int:
        dies = self._points.before(f"write {self._names[fd]}")
        total = super().pwritev(fd, buffers, position)
        if dies:
            self._points.die()
        return total

    def truncate(self, fd: int, size: int) -> None:
        dies = self._points.before(f"truncate {self._names[fd]}")
        super().truncate(fd, size)
        if dies:
            self._points.die()

    def fdatasync(self, fd: int) -> None:
        dies = self._points.before(f"sync {self._names[fd]}")
        super().fdatasync(fd)
        if dies:
            self._points.die()

    def sync_directory(self, path: Path) -> None:
        dies = self._points.before("sync directory")
        super().sync_directory(path)
        if dies:
            self._points.die()

    def rename(self, source: Path, target: Path) -> None:
        dies = self._points.before(f"rename {kind_of(target)}")
        super().rename(source, target)
        if dies:
            self._points.die()


class DyingDatabase(Database):
    """A real RocksDB, each write and sync a point."""

    points = Points()

    def write(self, changes: Sequence[Change]) -> None:
        outbox = [value for key, value in changes if key.startswith(b"x")]
        forgets = bool(outbox) and len(outbox) == len(changes) and set(outbox) == {None}
        dies = self.points.before("write outbox deletion" if forgets else "write commit")
        super().write(changes)
        if dies:
            self.points.die()

    def sync(self) -> None:
        dies = self.points.before("sync commit")
        super().sync()
        if dies:
            self.points.die()


def kind_of(path: Path) -> str:
    """What a file is, whatever its offset and generation."""
    parts = path.name.split(".")
    return ".".join(parts[2:]) if parts[0].isdigit() else path.name
