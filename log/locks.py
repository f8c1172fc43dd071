"""Locks on bytes of the shared file, which die with their process and name their holder.

POSIX record locks, on bytes far behind the end of the file. They belong to the process, and closing *any* descriptor of
the file would drop them all, which is why a process opens it once (`shared.open_shared`). Threads of one process take a
mutex first.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from framework.log.errors import OpenAfterFork, PartitionBusy

LOCK_TIMEOUT_S = 10.0
OPEN_LOCK, ALIVE_LOCK, CATALOGUE_LOCK, JOBS_LOCK = 1 << 40, (1 << 40) + 1, (1 << 40) + 2, (1 << 40) + 3
RETENTION_LOCK, COMPACTION_LOCK, BROKER_LOCK, GROUPS_LOCK = (1 << 40) + 4, (1 << 40) + 5, (1 << 40) + 6, (1 << 40) + 7
SHARD_LOCK, PARTITION_LOCK = (1 << 40) + 64, 1 << 41
_FLOCK = struct.Struct("=qqihh" if sys.platform == "darwin" else "@hhqqi4x")


class RecordLocks:
    """The locks of this process on the open file *fd*; thread-safe."""

    def __init__(self, path: Path, fd: int) -> None:
        """*path* is for messages."""
        self.path, self.fd, self.forked = path, fd, False
        self._mutexes: dict[int, threading.Lock] = {}

    @contextmanager
    def locked(self, byte: int, what: str, timeout: float = LOCK_TIMEOUT_S) -> Iterator[None]:
        """Hold the lock on *byte* against other threads and other processes.

        Raises:
            PartitionBusy: Another held it for *timeout* seconds; names the process.
        """
        mutex = self.mutex(byte)
        if not mutex.acquire(timeout=timeout):
            raise PartitionBusy(f"{what} is locked by another thread of this process for {timeout:g} s")
        try:
            self._hold_record_lock(byte, fcntl.LOCK_EX, timeout, what)
            try:
                yield
            finally:
                fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, byte)
        finally:
            mutex.release()

    def mutex(self, byte: int) -> threading.Lock:
        """What threads of this process take before the lock on *byte*."""
        return self._mutexes.get(byte) or self._mutexes.setdefault(byte, threading.Lock())

    def try_own(self, byte: int) -> int | None:
        """Take the lock on *byte* until `disown` or the end of the process; else the pid that has it.

        A second `try_own` of one process is refused with its own pid.
        """
        mutex = self.mutex(byte)
        if not mutex.acquire(blocking=False):
            return os.getpid()
        if self._try_record_lock(byte, fcntl.LOCK_EX):
            return None
        mutex.release()
        return self.holder(byte) or 0

    def disown(self, byte: int) -> None:
        """Give back what `try_own` took."""
        fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, byte)
        self._mutexes[byte].release()

    def holder(self, byte: int) -> int | None:
        """The pid of another process that holds the lock on *byte*; for messages, never for decisions."""
        darwin = sys.platform == "darwin"
        asked = (byte, 1, 0, fcntl.F_WRLCK, 0) if darwin else (fcntl.F_WRLCK, 0, byte, 1, 0)
        answer = _FLOCK.unpack(fcntl.fcntl(self.fd, fcntl.F_GETLK, _FLOCK.pack(*asked)))
        kind, pid = (answer[3], answer[2]) if darwin else (answer[0], answer[4])
        return None if kind == fcntl.F_UNLCK else pid

    def check_fork(self) -> None:
        """Raise `OpenAfterFork` in a process that was forked while the file was open."""
        if self.forked:
            raise OpenAfterFork(f"{self.path.parent} was open when this process was forked; open it anew here")

    def _try_record_lock(self, byte: int, kind: int) -> bool:
        self.check_fork()
        try:
            fcntl.lockf(self.fd, kind | fcntl.LOCK_NB, 1, byte)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            return False
        return True

    def _hold_record_lock(self, byte: int, kind: int, timeout: float, what: str = "the data directory") -> None:
        if self._try_record_lock(byte, kind):
            return
        deadline, pause = time.monotonic() + timeout, 0.0001
        while not self._try_record_lock(byte, kind):
            if time.monotonic() > deadline:
                raise PartitionBusy(f"{what} is locked by process {self.holder(byte)} for {timeout:g} s")
            time.sleep(pause)
            pause = min(pause * 2, 0.02)
