"""The seams of log and state, with a disk that refuses a chosen operation, and those behind it for a while."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from framework.log import Files
from framework.state.database import Database
from framework.state.errors import refused
from framework.state.rows import Change
from tests.faults.points import kind_of


class Refusals:
    """Counts the operations since `arm`, by name, and refuses some of them."""

    def __init__(
        self,
        number: int = errno.ENOSPC,
        target: tuple[str, int] | None = None,
        count: int = 1,
        *,
        syncs: bool = True,
        lands: bool = False,
    ) -> None:
        """Refuse *count* operations with error *number*, from *target* on: a name, and how many of it come before.

        None refuses nothing. It is not said by how many operations of any name come before, for threads take turns
        as they like. Without *syncs* only the first of them may be a sync: a full disk has room for what it has
        taken. With *lands* a write to the database that is refused is there all the same.
        """
        self.number, self.names, self.refused = number, list[str](), list[str]()
        self._target, self._count, self._syncs, self._armed = target, count, syncs, False
        self._first: int | None = None
        self.lands = lands

    def arm(self) -> None:
        """Count from here on."""
        self._armed = True

    def disarm(self) -> None:
        """Refuse nothing any more."""
        self._armed = False

    def strike(self, name: str) -> bool:
        """An operation begins; whether it is refused."""
        if not self._armed:
            return False
        at = len(self.names)
        self.names.append(name)
        if self._first is None and self._target == (name, self.names.count(name) - 1):
            self._first = at
        if self._first is None or at >= self._first + self._count:
            return False
        if name.startswith("sync") and at != self._first and not self._syncs:
            return False
        self.refused.append(name)
        return True

    def check(self, name: str) -> None:
        """Refuse as the operating system does."""
        if self.strike(name):
            raise OSError(self.number, os.strerror(self.number))


class RefusingFiles(Files):
    """The operating system's files; a write that is refused has written a part, as on a disk that fills up."""

    def __init__(self, refusals: Refusals) -> None:
        self._refusals = refusals
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
        # The shared file is as long as it will be: a full disk does not keep anybody from writing to it.
        if name != "shared" and self._refusals.strike(f"write {name}"):
            super().pwrite(fd, memoryview(data)[: len(data) // 2], position)
            raise OSError(self._refusals.number, os.strerror(self._refusals.number))
        super().pwrite(fd, data, position)

    def pwritev(self, fd: int, buffers: Sequence[bytes | bytearray | memoryview], position: int) -> int:
        if self._refusals.strike(f"write {self._names[fd]}"):
            half = b"".join(buffers)
            super().pwrite(fd, half[: len(half) // 2], position)
            raise OSError(self._refusals.number, os.strerror(self._refusals.number))
        return super().pwritev(fd, buffers, position)

    def truncate(self, fd: int, size: int) -> None:
        self._refusals.check(f"truncate {self._names[fd]}")
        super().truncate(fd, size)

    def fdatasync(self, fd: int) -> None:
        self._refusals.check(f"sync {self._names[fd]}")
        super().fdatasync(fd)

    def sync_directory(self, path: Path) -> None:
        self._refusals.check("sync directory")
        super().sync_directory(path)

    def rename(self, source: Path, target: Path) -> None:
        self._refusals.check(f"rename {kind_of(target)}")
        super().rename(source, target)


class RefusingDatabase(Database):
    """A real RocksDB that, as a real one, takes nothing more after a refusal until it is opened anew."""

    refusals = Refusals()
    broken = False

    def reopen(self) -> None:
        if self.refusals.strike("open database"):
            raise self._refused("open")
        super().reopen()
        self.broken = False

    def write(self, changes: Sequence[Change]) -> None:
        outbox = [value for key, value in changes if key.startswith(b"x")]
        forgets = bool(outbox) and len(outbox) == len(changes) and set(outbox) == {None}
        strikes = self.refusals.strike("write outbox deletion" if forgets else "write commit")
        if self.broken or strikes:
            if strikes and not self.broken and self.refusals.lands:
                super().write(changes)
            self.broken = True
            raise self._refused("write")
        super().write(changes)

    def sync(self) -> None:
        if self.refusals.strike("sync commit") or self.broken:
            self.broken = True
            raise self._refused("sync")
        super().sync()

    def _refused(self, what: str) -> Exception:
        return refused(what, Exception(f"IO error: {os.strerror(self.refusals.number)}"), self.path)
