"""The files of a data directory, looked at from outside: nothing is opened or locked, and nothing believed."""

from __future__ import annotations

import os
import stat
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from fastcrc import crc32

from framework.log import shared
from framework.log.catalogue import read_catalogue
from framework.log.errors import Conflict, Damaged, Error
from framework.log.header import CRC_START, HEADER_BYTES, MAGIC, Header, read_header
from framework.log.locks import ALIVE_LOCK, LOCK_TIMEOUT_S, OPEN_LOCK, RecordLocks
from framework.log.machine import boot_id
from framework.log.segment import Segment
from framework.log.shared import PAGE_BYTES, SLOT_BYTES, Mark

MAX_DOCUMENT_BYTES = 64 << 20
MAX_FAULTS = 100
"""In one log file; the rest of it is not checked then."""
_CHUNK_BYTES = 1 << 20
_EPOCH_AND_MAGIC = struct.pack(">ib", 0, MAGIC)  # Bytes 12 to 16 of every batch.
MISSING, EMPTY = "is missing", "holds nothing yet"
_UNSOUND = (Error, OSError, ValueError, ArithmeticError, TypeError, LookupError, AttributeError, EOFError)
_PAGE, _SLOT = struct.Struct("=2Q16s2Q"), struct.Struct("=16Q")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong in one place: `damage`, or a `note` of something odd that does no harm."""

    path: Path
    text: str
    position: int | None = None
    offset: int | None = None
    severity: Literal["damage", "note"] = "damage"
    repairable: bool = False

    def __str__(self) -> str:
        """One line: the path, the place in it, the text."""
        place = [] if self.position is None else [f"byte {self.position}"]
        place += [] if self.offset is None else [f"offset {self.offset}"]
        note = "note: " if self.severity == "note" else ""
        return f"{self.path}: {', '.join(place)}{': ' if place else ''}{note}{self.text}"


class Slot(NamedTuple):
    """One slot of the shared file."""

    written: Mark = Mark(0, 0, 0)
    second: int = 0
    durable: Mark = Mark(0, 0, 0)
    last_stable: int = 0
    flags: int = 0


class SharedFile:
    """The shared file, of which nothing is mapped and nothing changed."""

    def __init__(self, path: Path) -> None:
        """Nothing is read yet."""
        self.path, self.sound, self.in_use, self.trusted = path, False, False, False

    def fault(self) -> tuple[int | None, str] | None:
        """What is wrong with its page, and where; finds out about `in_use`, and whether the slots can be `trusted`.

        Raises:
            Conflict: Another process has been opening the directory for too long.
        """
        page = read_soundly(self.path, self._read_page, limit=None)
        if isinstance(page, str):
            return None, page
        (magic, version, stored, *place), identity, size = page
        if not magic and not version:
            return None, EMPTY
        if magic != shared._MAGIC:
            return 0, "does not begin as a shared file does"
        if version != shared.VERSION:
            return 8, f"has format {version}, this version reads {shared.VERSION}"
        if size < PAGE_BYTES or (size - PAGE_BYTES) % SLOT_BYTES:
            return size, f"its {size} bytes are no whole number of slots"
        self.sound, self.trusted = True, place == identity and stored == boot_id()
        return None

    def slot(self, number: int) -> Slot:
        """The slot *number*, each of its marks whole.

        Raises:
            EOFError: The file ends before it.
            Damaged: A mark has a wrong checksum.
        """
        place = PAGE_BYTES + number * SLOT_BYTES
        with self._opened() as fd:
            before, data = b"", os.pread(fd, SLOT_BYTES, place)
            # A record that a mark points to is filled anew two marks later; until then it is true.
            while (before[:8], before[56:64]) != (data[:8], data[56:64]):
                before, data = data, os.pread(fd, SLOT_BYTES, place)
        if len(data) < SLOT_BYTES:
            raise EOFError(f"ends before slot {number}, which begins at byte {place}")
        words = _SLOT.unpack(data)
        end, mark = 1 + 3 * (words[0] & 1), 8 + 2 * (words[7] & 1)
        written = Mark(words[0] >> 1, words[end] & shared.POSITION_MASK, words[end + 1])
        durable = Mark(words[7] >> 1, words[mark] & shared.POSITION_MASK, words[mark + 1])
        sealed = (shared.sealed(written, words[end + 2]), shared.sealed(durable))
        if sealed != (words[end], words[mark]):
            raise Damaged(f"a mark of slot {number} has a wrong checksum: written {written}, durable {durable}")
        return Slot(written, words[end + 2], durable, words[12], words[13])

    def _read_page(self) -> tuple[tuple[int, int, bytes, int, int], list[int], int]:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            with self._opened() as fd:
                locks = RecordLocks(self.path, fd)
                opener, user = locks.holder(OPEN_LOCK), locks.holder(ALIVE_LOCK)
                status, data = os.fstat(fd), os.pread(fd, _PAGE.size, 0)
                self.in_use = user is not None or (status.st_dev, status.st_ino) in shared._open
            if opener is None:
                page = _PAGE.unpack(data.ljust(_PAGE.size, b"\0"))
                return page, [status.st_ino, status.st_dev], status.st_size
            if time.monotonic() > deadline:
                raise Conflict(f"process {opener} is still opening {self.path.parent}")
            time.sleep(0.02)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        # Closing any descriptor of it drops the locks of the process: one that has it open must use that one.
        with shared._open_guard:
            status = self.path.stat()
            known = shared._open.get((status.st_dev, status.st_ino))
            fd = known[0].fd if known else os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                yield fd
            finally:
                if not known:
                    os.close(fd)


def read_soundly(path: Path | None, read: Callable[[], T], *, limit: int | None = MAX_DOCUMENT_BYTES) -> T | str:
    """What *read* makes of the file at *path*, or what is wrong with it, whatever that may be.

    Raises:
        Conflict: *read* does.
    """
    try:
        if path is not None:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                return "is not a regular file"  # Opening one might wait for ever.
            if limit is not None and status.st_size > limit:
                return f"is {status.st_size} bytes long, more than such a file can be"
        return read()
    except Conflict:
        raise
    except FileNotFoundError:
        return MISSING
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except (*_UNSOUND, RecursionError) as error:
        return str(error).removeprefix(f"{path} ") or type(error).__name__


def entries(directory: Path, ending: str = "") -> list[Path]:
    """What is in *directory*; nothing where there is none."""
    try:
        return sorted(entry for entry in directory.iterdir() if entry.name.endswith(ending))
    except OSError:
        return []


def log_bytes(directory: Path) -> int:
    """The size of all segments in the directory of a partition."""
    try:
        return sum(entry.stat().st_size for entry in entries(directory, ".log"))
    except OSError:
        return 0  # It is being deleted.


class IndexCheck:
    """An index file against the batches of its segment."""

    def __init__(self, segment: Segment) -> None:
        """Load it."""
        self._segment, self._next, self._max_timestamp = segment, 0, -1
        self._fault = read_soundly(segment.index_path, segment.load_index, limit=None)
        if self._fault is None and not segment.is_walked:
            self._fault = "its checksum or its length is wrong"

    def add(self, position: int, header: Header) -> None:
        """The next batch: the next row stands for it, or for one behind it."""
        rows, self._max_timestamp = self._segment, max(self._max_timestamp, header.max_timestamp)
        if self._fault is None and self._next < len(rows._positions) and rows._positions[self._next] <= position:
            row = (rows._positions[self._next], rows._offsets[self._next], rows._timestamps[self._next])
            if row != (position, header.base_offset, self._max_timestamp):
                self._fault = f"says byte {row[0]} for offset {row[1]} and timestamp {row[2]}, which is wrong"
            self._next += 1

    def fault(self) -> str | None:
        """What is wrong with it, once all batches are added."""
        rows, size = self._segment, self._segment.size_bytes
        end = (rows._walked_to, rows.max_timestamp, len(rows._positions), bool(rows._positions))
        if self._fault is None and end != (size, self._max_timestamp, self._next, bool(size)):
            self._fault = f"ends at byte {end[0]} with timestamp {end[1]}, not at {size} with {self._max_timestamp}"
        return self._fault


class Scan:
    """The sound batches of one log file in order, and the faults between them."""

    def __init__(
        self,
        path: Path,
        fd: int,
        at: tuple[int, int],
        end: int,
        end_offset: int = 1 << 62,
        *,
        gaps: bool = False,
        max_faults: int = MAX_FAULTS,
    ) -> None:
        """From position and offset *at* up to byte *end*, where *end_offset* is next; *gaps* may be between batches."""
        self.faults: list[Finding] = []
        self.good, self.offset = at  # Behind the last sound batch.
        self.path, self.torn, self._max_faults = path, False, max_faults
        self._fd, self._end, self._end_offset, self._gaps = fd, end, end_offset, gaps
        self._chunk, self._chunk_at = b"", 0
        self._effort = 4 * end + _CHUNK_BYTES  # Bytes that may be read to find the next sound batch, in all.

    def batches(self) -> Iterator[tuple[int, Header]]:
        """Position and header of each."""
        position = self.good
        while position < self._end and len(self.faults) < self._max_faults:
            header, reason = self.look(position, gaps=self._gaps)
            if header is not None and reason is None:
                self.good, self.offset, self.torn = position + header.size, header.next_offset, False
                yield position, header
                position = self.good
                continue
            found = (header and self._next_sound(position + header.size)) or self._search(position + 1)
            again = f"; sound again from byte {found[0]}, offset {found[1]}" if found else ""
            more = "; what follows is not checked" if len(self.faults) + 1 == MAX_FAULTS else again
            self.faults.append(Finding(self.path, f"{reason}{more}", position, self.offset))
            self.torn = found is None
            position, self.offset = found or (self._end, self.offset)

    def read(self, position: int, size: int) -> bytes:
        """*size* bytes, fewer where the file ends."""
        at = position - self._chunk_at
        if at < 0 or at + size > len(self._chunk):
            self._chunk, self._chunk_at, at = os.pread(self._fd, max(size, _CHUNK_BYTES), position), position, 0
        return self._chunk[at : at + size]

    def look(self, position: int, *, gaps: bool) -> tuple[Header | None, str | None]:
        """The header at *position*, and what is wrong with it or its batch."""
        left = self._end - position
        head = self.read(position, HEADER_BYTES)
        if left < HEADER_BYTES or len(head) < HEADER_BYTES:
            return None, f"{left} bytes are too few for a batch header"
        header = read_header(head)
        if not HEADER_BYTES <= header.size <= left:
            return None, f"batch length {header.length} does not fit in the {left} bytes left"
        if header.magic != MAGIC or header.leader_epoch != 0:
            return header, f"magic is {header.magic}, leader epoch {header.leader_epoch}, not {MAGIC} and 0"
        if header.base_offset < self.offset or (header.base_offset > self.offset and not gaps):
            return header, f"batch offset is {header.base_offset}, not {self.offset}"
        if not header.base_offset < header.next_offset <= self._end_offset:
            return header, f"batch offset {header.base_offset}+{header.last_offset_delta} is above {self._end_offset}"
        found, at, end = 0, position + CRC_START, position + header.size
        while at < end and (data := self.read(at, min(end - at, _CHUNK_BYTES))):
            found, at = crc32.iscsi(data, found), at + len(data)
        return header, None if found == header.crc else f"checksum is {found:#010x}, the header says {header.crc:#010x}"

    def _next_sound(self, position: int) -> tuple[int, int] | None:
        header, reason = self.look(position, gaps=True)
        self._effort -= 256 if header is None else header.size
        return None if header is None or reason is not None else (position, header.base_offset)

    def _search(self, start: int) -> tuple[int, int] | None:
        """The first sound batch at or behind *start*, by what all batches have in common."""
        while start < self._end and self._effort > 0:
            data = os.pread(self._fd, _CHUNK_BYTES + 17, start)
            at = data.find(_EPOCH_AND_MAGIC, 12)
            while at >= 0 and self._effort > 0:
                found = self._next_sound(start + at - 12)
                if found is not None:
                    return found
                at = data.find(_EPOCH_AND_MAGIC, at + 1)
            start += _CHUNK_BYTES
        return None


def newest_append_second(directory: Path) -> int:
    """When anything was last appended in the data directory, 0 where nothing was, or where it cannot be told."""
    file = SharedFile(directory / "shared")
    path = directory / "catalogue"
    topics = read_soundly(path, lambda: read_catalogue(path)[0])
    if isinstance(topics, str) or file.fault() is not None:
        return 0
    slots = [read_soundly(file.path, partial(file.slot, slot)) for info in topics.values() for slot in info.slots]
    return max((slot.second for slot in slots if not isinstance(slot, str)), default=0)
