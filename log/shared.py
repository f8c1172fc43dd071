"""The one shared file of a data directory: marks, locks and doorbell of every partition.

    shared = page slot*                                     64-bit words in the machine's byte order
    page   = magic version boot_id:16 inode device catalogue_version       padded to 4096 bytes
    slot   = written end[2] durable mark[2] last_stable flags changes hold 128 bytes, one a partition
    end    = place segment append_second
    mark   = place segment
    place  = position:u32 crc:u32       CRC-32C of offset, position, segment, append second; without it for a zero page

`changes` counts the replacements of the partition's manifest, and `hold` is one more than the offset up to which the
agents and jobs of this directory have read, 0 if there are none: retention waits for them.

`written` and `durable` hold `offset * 2 + which`: the offset, and which of the two records beside it says where
in the file that is. The other record is filled first and then the one word is stored, so neither a kill
between two stores nor a reader on another core ever sees half a mark. `durable` is stored by `pwrite`, because
a store through the map would not wake those who watch the file.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import sys
import threading
from pathlib import Path
from typing import NamedTuple

from fastcrc import crc32

from framework.log.errors import Damaged, LogClosed, NewerFormat
from framework.log.files import Files
from framework.log.locks import ALIVE_LOCK, LOCK_TIMEOUT_S, OPEN_LOCK, RecordLocks

VERSION = 2
PAGE_BYTES = 4096
SLOT_BYTES = 128
SLOTS_STEP = 256

IN_USE, FAILED, RAISED, DAMAGED, DELETED = 1, 2, 4, 8, 0xDE1E7ED0
"""Flags of a slot. What is deleted is gone, so that one is many bits: a flipped one must not do it.

RAISED: the append second was raised without an append, and the file of append times does not know it yet."""
_MAGIC = int.from_bytes(b"framelog", sys.byteorder)
_WORD, _MARK = struct.Struct("=Q"), struct.Struct("=4Q")
POSITION_MASK = (1 << 32) - 1
_NOTHING = memoryview(b"").cast("Q")
_ZERO_CRC = crc32.iscsi(bytes(_MARK.size))
# Words of the page, and of a slot from its start.
_VERSION, _BOOT_ID, _INODE, _DEVICE, _CATALOGUE = 1, 2, 4, 5, 6
_WRITTEN, _ENDS, _DURABLE, _MARKS, _LAST_STABLE, _FLAGS, _CHANGES, _HOLD = 0, 1, 7, 8, 12, 13, 14, 15


class Mark(NamedTuple):
    """An offset and where it lies: *position* in the file of the segment based at *segment*."""

    offset: int
    position: int
    segment: int


def is_deleted(flags: int) -> bool:
    """Whether a topic with these *flags* has been deleted."""
    return flags & DELETED == DELETED


def is_usable(flags: int) -> bool:
    """Whether a partition with these *flags* takes appends and upkeep."""
    return not flags & (FAILED | DAMAGED) and not is_deleted(flags)


def sealed(mark: Mark, second: int = 0) -> int:
    """The position of *mark* with the checksum of all of it above."""
    crc = crc32.iscsi(_MARK.pack(mark.offset, mark.position, mark.segment, second)) ^ _ZERO_CRC
    return int(crc << 32 | mark.position)


class Shared(RecordLocks):
    """The open shared file of one data directory; one a process, thread-safe."""

    def __init__(self, path: Path, files: Files, boot_id: bytes) -> None:
        """Open or make the file; `alone` says whether no other process has the directory open."""
        super().__init__(path, files.open(path, create=True))
        self.files, self._guard, self._closed = files, threading.Lock(), False
        self._words, self._maps = _NOTHING, list[memoryview]()
        self.recovered = threading.Event()
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
        """The end of what has been appended.

        Raises:
            Damaged: The mark is not what was stored.
        """
        return self._end(slot)[0]

    def written_offset(self, slot: int) -> int:
        """The log end offset; one load, true at any time in any thread."""
        words, at = self._words_of(slot)
        return words[at + _WRITTEN] >> 1

    def append_second(self, slot: int) -> int:
        """The second of the last append, never smaller than one before it.

        Raises:
            Damaged: The mark is not what was stored.
        """
        return self._end(slot)[1]

    def _end(self, slot: int) -> tuple[Mark, int]:
        words, at = self._words_of(slot)
        while True:
            word = words[at + _WRITTEN]
            record = at + _ENDS + 3 * (word & 1)
            place, segment, second = words[record], words[record + 1], words[record + 2]
            # Two marks later the record is filled anew, maybe between the loads.
            if words[at + _WRITTEN] == word:
                return self._checked(slot, word >> 1, place, segment, second), second

    def publish_written(self, slot: int, mark: Mark, second: int, *, ring: bool = False) -> None:
        """Move the end to *mark*, and with *ring* wake those who read up to there; under the partition's lock.

        After the write.
        """
        words, at = self._words_of(slot)
        which = ~words[at + _WRITTEN] & 1
        record = at + _ENDS + 3 * which
        words[record], words[record + 1], words[record + 2] = sealed(mark, second), mark.segment, second
        if ring:
            place = PAGE_BYTES + slot * SLOT_BYTES + 8 * _WRITTEN
            self.files.pwrite(self.fd, _WORD.pack(mark.offset << 1 | which), place)
        else:
            words[at + _WRITTEN] = mark.offset << 1 | which

    def durable(self, slot: int) -> Mark:
        """The end of what would survive a power cut.

        Raises:
            Damaged: The mark is not what was stored.
        """
        words, at = self._words_of(slot)
        while True:
            word = words[at + _DURABLE]
            record = at + _MARKS + 2 * (word & 1)
            place, segment = words[record], words[record + 1]
            if words[at + _DURABLE] == word:
                return self._checked(slot, word >> 1, place, segment, 0)

    def _checked(self, slot: int, offset: int, place: int, segment: int, second: int) -> Mark:
        mark = Mark(offset, place & POSITION_MASK, segment)
        if sealed(mark, second) != place:
            at = PAGE_BYTES + slot * SLOT_BYTES
            raise Damaged(f"{self.path} is damaged at byte {at}: a mark of slot {slot}, {mark}, has a wrong checksum")
        return mark

    def durable_offset(self, slot: int) -> int:
        """The high watermark of level `group`; one load, true at any time in any thread."""
        words, at = self._words_of(slot)
        return words[at + _DURABLE] >> 1

    def publish_durable(self, slot: int, mark: Mark) -> None:
        """Move the high watermark up to *mark* and ring; under the partition's lock, after the fdatasync."""
        words, at = self._words_of(slot)
        if self.durable(slot).offset >= mark.offset:
            return
        which = ~words[at + _DURABLE] & 1
        record = at + _MARKS + 2 * which
        words[record], words[record + 1] = sealed(mark), mark.segment
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
        words[record], words[record + 1] = sealed(mark), mark.segment
        words[at + _DURABLE] = mark.offset << 1 | which
        words[at + _LAST_STABLE] = mark.offset
        words[at + _FLAGS] = IN_USE  # Last: a failed partition whose rebuilding was killed must be rebuilt again.

    def flags(self, slot: int) -> int:
        """The slot's flags: IN_USE, FAILED, DELETED, DAMAGED."""
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
        words, _ = self._words_of(0) if self._closed else (self._words, 0)
        return words[_CATALOGUE]

    def bump_catalogue(self) -> None:
        """Say that the catalogue has changed, and ring."""
        self.files.pwrite(self.fd, _WORD.pack(self.catalogue_version + 1), 8 * _CATALOGUE)

    def slots(self) -> bytes:
        """All slots as they are, to see whether any of them has changed: much cheaper than a look at each."""
        return self._words[PAGE_BYTES // 8 :].tobytes()

    # The file itself.

    def _map_file(self) -> None:
        size = self.files.size(self.fd)
        if size < PAGE_BYTES:
            self.files.pwrite(self.fd, bytes(PAGE_BYTES - size), size)
            size = PAGE_BYTES
        size -= size % SLOT_BYTES
        # A map has a descriptor of its own, and closes it when it is collected, which would drop every lock of this
        # process: so an old map is kept, not only for those who still look through it.
        self._words = memoryview(mmap.mmap(self.fd, size)).cast("Q")
        self._maps.append(self._words)

    def _words_of(self, slot: int) -> tuple[memoryview, int]:
        at = (PAGE_BYTES + slot * SLOT_BYTES) // 8
        if at + SLOT_BYTES // 8 > len(self._words):
            with self._guard:
                if self._closed:
                    raise LogClosed(f"the log in {self.path.parent} is closed")
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
        # The marks of version 1 had no checksums: they are found anew, as in a copy.
        self.same_file = (words[_VERSION], words[_INODE], words[_DEVICE]) == (VERSION, stat.st_ino, stat.st_dev)
        return self.same_file and bytes(words[_BOOT_ID : _BOOT_ID + 2]) == boot_id

    def _close_file(self) -> None:
        """Close every descriptor of the file: one that is left would drop the locks of whoever opens it next."""
        with self._guard:
            self._closed = True
            os.close(self.fd)
            maps, self._maps, self._words = self._maps, [], _NOTHING
            for view in maps:
                mapped = view.obj
                view.release()
                assert isinstance(mapped, mmap.mmap)
                mapped.close()


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


_inherited: list[Shared] = []
"""What was open when this process was forked: closing any of it would drop the locks that this process takes."""


def _after_fork() -> None:
    for shared, _ in _open.values():
        shared.forked = True
        _inherited.append(shared)
    _open.clear()


os.register_at_fork(after_in_child=_after_fork)
