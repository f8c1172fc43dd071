"""The one shared file of a data directory: marks, locks and doorbell of every partition.

    shared = page slot*                                     64-bit words in the machine's byte order
    page   = magic version boot_id:16 inode device catalogue_version       padded to 4096 bytes
    slot   = written end[2] durable mark[2] last_stable flags changes hold 128 bytes, one a partition
    end    = position segment append_second
    mark   = position segment

`changes` counts the replacements of the partition's manifest, and `hold` is one more than the offset up to which the
agents and jobs of this directory have read, 0 if there are none: retention waits for them.

`written` and `durable` hold `offset * 2 + which`: the offset, and which of the two records beside it says where
in the file that is. The other record is filled first and then the one word is stored, so neither a kill
between two stores nor a reader on another core ever sees half a mark. `durable` is stored by `pwrite`, because
a store through the map would not wake those who watch the file.

Locks are POSIX record locks on bytes far behind the end of the file. They belong to the process, die with it, and
name their holder; closing *any* descriptor of the file would drop them all, which is why a process opens it
once (`open_shared`), and threads of one process take a mutex first.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from framework.log.errors import Damaged, NewerFormat, OpenAfterFork, PartitionBusy
from framework.log.files import Files

VERSION = 1
PAGE_BYTES = 4096
SLOT_BYTES = 128
SLOTS_STEP = 256
LOCK_TIMEOUT_S = 10.0

OPEN_LOCK, ALIVE_LOCK, CATALOGUE_LOCK, JOBS_LOCK = 1 << 40, (1 << 40) + 1, (1 << 40) + 2, (1 << 40) + 3
RETENTION_LOCK = (1 << 40) + 4
SHARD_LOCK, PARTITION_LOCK = (1 << 40) + 64, 1 << 41

IN_USE, FAILED, DELETED = 1, 2, 4
_MAGIC = int.from_bytes(b"framelog", sys.byteorder)
_WORD = struct.Struct("=Q")
# Words of the page, and of a slot from its start.
_VERSION, _BOOT_ID, _INODE, _DEVICE, _CATALOGUE = 1, 2, 4, 5, 6
_WRITTEN, _ENDS, _DURABLE, _MARKS, _LAST_STABLE, _FLAGS, _CHANGES, _HOLD = 0, 1, 7, 8, 12, 13, 14, 15
_FLOCK = struct.Struct("=qqihh" if sys.platform == "darwin" else "@hhqqi4x")


class Mark(NamedTuple):
    """An offset and where it lies: *position* in the file of the segment based at *segment*."""

    offset: int
    position: int
    segment: int

    def contradicts(self, durable: Mark) -> bool:
        """Whether *durable* cannot be with this one written, so that one of them is damaged: they have no checksum."""
        ahead = durable.offset > self.offset or durable.position > self.position
        torn = (durable.offset == self.offset) != (durable.position == self.position)
        return durable.segment == self.segment and (ahead or torn)


class Shared:
    """The open shared file of one data directory; one a process, thread-safe."""

    def __init__(self, path: Path, files: Files, boot_id: bytes) -> None:
        """Open or make the file; `alone` says whether no other process has the directory open."""
        self.path, self.files, self.forked = path, files, False
        self._mutexes: dict[int, threading.Lock] = {}
        self._guard = threading.Lock()
        self.recovered = threading.Event()
        self.fd = files.open(path, create=True)
        try:
            self._hold_record_lock(OPEN_LOCK, fcntl.LOCK_EX, LOCK_TIMEOUT_S)
            self.alone = self._try_record_lock(ALIVE_LOCK, fcntl.LOCK_EX)
            if not self.alone:
                self._hold_record_lock(ALIVE_LOCK, fcntl.LOCK_SH, LOCK_TIMEOUT_S)
            self._map_file()
            self.trusted = self._check_page(boot_id)
        except BaseException:
            self._close_file()
            raise

    def opened(self) -> None:
        """Let the next opener in; called when recovery, if it was ours to do, is finished."""
        if self.alone:
            self._hold_record_lock(ALIVE_LOCK, fcntl.LOCK_SH, LOCK_TIMEOUT_S)
        fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, OPEN_LOCK)
        self.recovered.set()

    def adopt(self, boot_id: bytes) -> None:
        """Write this boot and this file's identity into the page: from now on the slots are true."""
        if not self.same_file:
            # A copy's slots spoke of the original: none may be left on the disk when the page says that they are true.
            self.files.fdatasync(self.fd)
        stat = os.fstat(self.fd)
        page = _WORD.pack(_MAGIC) + _WORD.pack(VERSION) + boot_id
        page += _WORD.pack(stat.st_ino) + _WORD.pack(stat.st_dev)
        self.files.pwrite(self.fd, page, 0)
        self.files.fdatasync(self.fd)
        self.trusted = True

    def grow(self, slots: int) -> None:
        """Have room for *slots*, as written zeros; under the catalogue lock."""
        have = (self.files.size(self.fd) - PAGE_BYTES) // SLOT_BYTES
        if slots > have:
            wanted = -(-slots // SLOTS_STEP) * SLOTS_STEP
            zeros = bytes((wanted - have) * SLOT_BYTES)
            # Written, not just extended: a store into a hole of a full disk would be a SIGBUS.
            self.files.pwrite(self.fd, zeros, PAGE_BYTES + have * SLOT_BYTES)
            self.files.fdatasync(self.fd)
            self._map_file()

    # The marks of a slot.

    def written(self, slot: int) -> Mark:
        """The end of what has been appended."""
        words, at = self._words_of(slot)
        while True:
            word = words[at + _WRITTEN]
            record = at + _ENDS + 3 * (word & 1)
            mark = Mark(word >> 1, words[record], words[record + 1])
            # Two marks later the record is filled anew, maybe between the loads.
            if words[at + _WRITTEN] == word:
                return mark

    def written_offset(self, slot: int) -> int:
        """The log end offset; one load, true at any time in any thread."""
        words, at = self._words_of(slot)
        return words[at + _WRITTEN] >> 1

    def append_second(self, slot: int) -> int:
        """The second of the last append, never smaller than one before it."""
        words, at = self._words_of(slot)
        while True:
            word = words[at + _WRITTEN]
            second = words[at + _ENDS + 3 * (word & 1) + 2]
            if words[at + _WRITTEN] == word:
                return second

    def publish_written(self, slot: int, mark: Mark, second: int, *, ring: bool = False) -> None:
        """Move the end to *mark*, and with *ring* wake those who read up to there; under the partition's lock.

        After the write.
        """
        words, at = self._words_of(slot)
        which = ~words[at + _WRITTEN] & 1
        record = at + _ENDS + 3 * which
        words[record], words[record + 1], words[record + 2] = mark.position, mark.segment, second
        if ring:
            place = PAGE_BYTES + slot * SLOT_BYTES + 8 * _WRITTEN
            self.files.pwrite(self.fd, _WORD.pack(mark.offset << 1 | which), place)
        else:
            words[at + _WRITTEN] = mark.offset << 1 | which

    def durable(self, slot: int) -> Mark:
        """The end of what would survive a power cut."""
        words, at = self._words_of(slot)
        while True:
            word = words[at + _DURABLE]
            record = at + _MARKS + 2 * (word & 1)
            mark = Mark(word >> 1, words[record], words[record + 1])
            if words[at + _DURABLE] == word:
                return mark

    def durable_offset(self, slot: int) -> int:
        """The high watermark of level `group`; one load, true at any time in any thread."""
        words, at = self._words_of(slot)
        return words[at + _DURABLE] >> 1

    def publish_durable(self, slot: int, mark: Mark) -> None:
        """Move the high watermark up to *mark* and ring; under the partition's lock, after the fdatasync."""
        words, at = self._words_of(slot)
        if words[at + _DURABLE] >> 1 >= mark.offset:
            return
        which = ~words[at + _DURABLE] & 1
        record = at + _MARKS + 2 * which
        words[record], words[record + 1] = mark.position, mark.segment
        words[at + _LAST_STABLE] = mark.offset  # No transactions yet: everything durable is stable.
        place = PAGE_BYTES + slot * SLOT_BYTES + 8 * _DURABLE
        self.files.pwrite(self.fd, _WORD.pack(mark.offset << 1 | which), place)

    def reset(self, slot: int, mark: Mark, second: int) -> None:
        """Set both marks to *mark*, whatever they were: recovery, in a process that is alone."""
        words, at = self._words_of(slot)
        # A reader may know the count of changes, and the hold stays what it was.
        words[at + _CHANGES] += 1
        self.publish_written(slot, mark, second)
        # As when a mark is published, the record first and then the word that points to it: a kill or a power cut in
        # between must not leave the offset of one mark with the place of another.
        which = ~words[at + _DURABLE] & 1
        record = at + _MARKS + 2 * which
        words[record], words[record + 1] = mark.position, mark.segment
        words[at + _DURABLE] = mark.offset << 1 | which
        words[at + _LAST_STABLE] = mark.offset
        words[at + _FLAGS] = IN_USE  # Last: a failed partition whose rebuilding was killed must be rebuilt again.

    def flags(self, slot: int) -> int:
        """The slot's flags: IN_USE, FAILED, DELETED."""
        words, at = self._words_of(slot)
        return words[at + _FLAGS]

    def set_flags(self, slot: int, flags: int) -> None:
        """Store the slot's flags; under the partition's lock."""
        words, at = self._words_of(slot)
        words[at + _FLAGS] = flags

    def changes(self, slot: int) -> int:
        """How often the partition's manifest has been replaced."""
        words, at = self._words_of(slot)
        return words[at + _CHANGES]

    def bump_changes(self, slot: int) -> None:
        """Say that the manifest has been replaced; under the partition's lock."""
        words, at = self._words_of(slot)
        words[at + _CHANGES] += 1

    def hold(self, slot: int) -> int | None:
        """Up to which offset the agents and jobs of this directory have read; None if there are none."""
        words, at = self._words_of(slot)
        return words[at + _HOLD] - 1 if words[at + _HOLD] else None

    def set_hold(self, slot: int, offset: int | None) -> None:
        """Say up to where they have read; by the worker."""
        words, at = self._words_of(slot)
        words[at + _HOLD] = 0 if offset is None else offset + 1

    @property
    def catalogue_version(self) -> int:
        """Counts the changes of the catalogue."""
        return self._words[_CATALOGUE]

    def bump_catalogue(self) -> None:
        """Say that the catalogue has changed, and ring."""
        self.files.pwrite(self.fd, _WORD.pack(self.catalogue_version + 1), 8 * _CATALOGUE)

    # Locks.

    @contextmanager
    def locked(self, byte: int, what: str, timeout: float = LOCK_TIMEOUT_S) -> Iterator[None]:
        """Hold the lock on *byte* against other threads and other processes.

        Raises:
            PartitionBusy: Another held it for *timeout* seconds; names the process.
        """
        mutex = self._mutexes.get(byte) or self._mutexes.setdefault(byte, threading.Lock())
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

    def try_own(self, byte: int) -> int | None:
        """Take the lock on *byte* until `disown` or the end of the process; else the pid that has it.

        A second `try_own` of one process is refused with its own pid.
        """
        mutex = self._mutexes.setdefault(byte, threading.Lock())
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

    # The file itself.

    def _map_file(self) -> None:
        size = self.files.size(self.fd)
        if size < PAGE_BYTES:
            self.files.pwrite(self.fd, bytes(PAGE_BYTES - size), size)
            size = PAGE_BYTES
        size -= size % SLOT_BYTES
        # The old map stays alive as long as somebody looks through it.
        self._words = memoryview(mmap.mmap(self.fd, size)).cast("Q")

    def _words_of(self, slot: int) -> tuple[memoryview, int]:
        at = (PAGE_BYTES + slot * SLOT_BYTES) // 8
        if at + SLOT_BYTES // 8 > len(self._words):
            with self._guard:
                self._map_file()
            if at + SLOT_BYTES // 8 > len(self._words):
                raise Damaged(f"{self.path} has no slot {slot}: it is {len(self._words) * 8} bytes long")
        return self._words, at

    def _check_page(self, boot_id: bytes) -> bool:
        """Whether the slots are true: written in this boot, and in this very file."""
        words = self._words
        self.same_file = False
        if words[0] == 0:
            return False
        if words[0] != _MAGIC:
            raise Damaged(f"{self.path} does not begin as a shared file does")
        if words[_VERSION] > VERSION:
            raise NewerFormat(
                f"{self.path} has format {words[_VERSION]}, this version reads up to {VERSION}: "
                "upgrade framework-streams"
            )
        stat = os.fstat(self.fd)
        self.same_file = (words[_INODE], words[_DEVICE]) == (stat.st_ino, stat.st_dev)
        return self.same_file and bytes(words[_BOOT_ID : _BOOT_ID + 2]) == boot_id

    def _close_file(self) -> None:
        os.close(self.fd)


_open: dict[tuple[int, int], tuple[Shared, int]] = {}
_open_guard = threading.Lock()


def open_shared(path: Path, files: Files, boot_id: bytes) -> tuple[Shared, bool]:
    """This process's one `Shared` for *path*, and whether this call opened it."""
    with _open_guard:
        if path.exists():
            stat = path.stat()
            known = _open.get((stat.st_dev, stat.st_ino))
            if known is not None:
                _open[(stat.st_dev, stat.st_ino)] = (known[0], known[1] + 1)
                return known[0], False
        shared = Shared(path, files, boot_id)
        stat = os.fstat(shared.fd)
        _open[(stat.st_dev, stat.st_ino)] = (shared, 1)
        return shared, True


def close_shared(shared: Shared) -> None:
    """Undo one `open_shared`; the last one closes the file, which drops this process's locks."""
    if shared.forked:
        return  # Not even closed: that would drop the locks of the child's own log.
    with _open_guard:
        stat = os.fstat(shared.fd)
        _, users = _open[(stat.st_dev, stat.st_ino)]
        if users > 1:
            _open[(stat.st_dev, stat.st_ino)] = (shared, users - 1)
        else:
            del _open[(stat.st_dev, stat.st_ino)]
            shared._close_file()


def _after_fork() -> None:
    for shared, _ in _open.values():
        shared.forked = True
    _open.clear()


os.register_at_fork(after_in_child=_after_fork)
