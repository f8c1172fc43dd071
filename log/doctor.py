"""A data directory and its machine, looked at from outside; and the repair of what can be rebuilt.

What is here believes nothing that stands in a file, opens no log and takes no lock; only `repair` does.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from framework.log import shared
from framework.log.catalogue import Catalogue
from framework.log.clock import Clock, SystemClock
from framework.log.errors import Conflict, Error
from framework.log.files import Files
from framework.log.header import Header
from framework.log.log import Log, _boot_id
from framework.log.manifest import Manifest
from framework.log.segment import Segment
from framework.log.shared import PAGE_BYTES, SLOT_BYTES, Mark, Shared

MAX_DOCUMENT_BYTES = 64 << 20
MISSING, EMPTY = "is missing", "holds nothing yet"
FOREIGN = ("9p", "afs", "beegfs", "ceph", "cifs", "fuse", "gfs2", "lustre", "nfs", "ocfs2", "smb", "virtiofs")
"""How file systems begin that other machines or kernels write to as well: maps and locks do not hold there."""
PASSING = {"tmpfs": "memory", "ramfs": "memory", "overlay": "the container"}
_SYNCS, _SYNC_LIMIT_S, _SMALL, _LARGE, _LARGES = 200, 0.5, bytes(4096), bytes(1 << 20), 16
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
        (magic, version, boot_id, *place), identity, size = page
        if not magic and not version:
            return None, EMPTY
        if magic != shared._MAGIC:
            return 0, "does not begin as a shared file does"
        if version != shared.VERSION:
            return 8, f"has format {version}, this version reads {shared.VERSION}"
        if size < PAGE_BYTES or (size - PAGE_BYTES) % SLOT_BYTES:
            return size, f"its {size} bytes are no whole number of slots"
        self.sound, self.trusted = True, place == identity and boot_id == _boot_id()
        return None

    def slot(self, number: int) -> Slot:
        """The slot *number*, each of its marks whole.

        Raises:
            EOFError: The file ends before it.
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
        written = Mark(words[0] >> 1, words[end], words[end + 1])
        return Slot(written, words[end + 2], Mark(words[7] >> 1, words[mark], words[mark + 1]), words[12], words[13])

    def _read_page(self) -> tuple[tuple[int, int, bytes, int, int], list[int], int]:
        deadline = time.monotonic() + shared.LOCK_TIMEOUT_S
        while True:
            with self._opened() as fd:
                asking = Shared.__new__(Shared)  # Only to ask who holds a lock.
                asking.fd = fd
                opener, user = asking.holder(shared.OPEN_LOCK), asking.holder(shared.ALIVE_LOCK)
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


def repair(directory: Path, findings: Sequence[Finding], clock: Clock | None = None) -> list[str]:
    """Rebuild what can be rebuilt of *findings*, after a copy in `<directory>/repair-<time>`; a line on each.

    Index files are written anew, files that no manifest names are removed, and a missing shared file is made by
    opening the directory, as after a power cut. All else is data.

    Raises:
        Conflict: Somebody else has the directory open.
    """
    files, shared_path = Files(), directory / "shared"
    time_ms = (clock or SystemClock()).now_ms()
    copies = directory / datetime.fromtimestamp(time_ms / 1000, UTC).strftime("repair-%Y%m%dT%H%M%S.%fZ")
    repairable = [finding.path for finding in findings if finding.repairable]
    lines: list[str] = []
    held, first = shared.open_shared(shared_path, files, _boot_id())
    try:
        if not first or not held.alone:
            who = f"process {held.holder(shared.ALIVE_LOCK)}" if first else "this process"
            raise Conflict(f"{directory} cannot be repaired while {who} has it open")
        catalogue = Catalogue(directory, held, files)
        for path in repairable:
            if path != shared_path:
                done = read_soundly(None, partial(_repair_file, path, directory, copies, catalogue, files))
                lines.append(f"{path}: {done}")
        if shared_path in repairable:
            for path in sorted({finding.path for finding in findings if finding.path.suffix == ".log"}):
                for there in (path, path.with_suffix(".appended")):
                    _copy(there, copies / there.relative_to(directory), files)
    finally:
        shared.close_shared(held)
    if shared_path in repairable:
        try:
            Log(directory).close()
            lines.append(f"{shared_path}: made anew")
        except Error as error:
            lines.append(f"{shared_path}: left as it is: {error}")
    return lines


def _repair_file(path: Path, directory: Path, copies: Path, catalogue: Catalogue, files: Files) -> str:
    """Rebuild the index at *path*, or remove what no manifest names; what was done."""
    copy = copies / path.relative_to(directory)
    manifest = Manifest.read(path.parent)
    row = next((row for row in manifest.segments if row.stem == path.stem), None)
    if row is None or path.suffix == ".tmp":
        _copy(path, copy, files)
        files.unlink(path)
        return f"removed; a copy is {copy}"
    topic = catalogue.by_id(path.parent.parent.name)
    if topic is None:
        return "left as it is: its topic has been deleted"
    segment = Segment(path.parent, row, topic.settings.index_interval_bytes)
    with segment.path.open("rb") as file:
        segment.walk_to(files, file.fileno(), row.size_bytes or 0)
    if not segment.is_walked:
        return "left as it is: its segment is damaged too"
    copied = _copy(path, copy, files)
    files.replace(path, segment.index_bytes())
    return f"rebuilt; a copy is {copy}" if copied else "rebuilt"


def _copy(path: Path, copy: Path, files: Files) -> bool:
    """Copy *path*, durably, if it is there."""
    if not path.exists():
        return False
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, copy)
    with copy.open("r+b") as file:
        files.fdatasync(file.fileno())
    files.sync_directory(copy.parent)
    return True


def boot_id() -> str:
    """Which start of the machine this is, as the shared file names it."""
    return _boot_id().hex()


def newest_append_second(directory: Path) -> int:
    """When anything was last appended in the data directory, 0 where nothing was, or where it cannot be told."""
    file = SharedFile(directory / "shared")
    catalogue = Catalogue(directory, Shared.__new__(Shared), Files())
    topics = read_soundly(directory / "catalogue", lambda: catalogue._read()[0])
    if isinstance(topics, str) or file.fault() is not None:
        return 0
    slots = [read_soundly(file.path, partial(file.slot, slot)) for info in topics.values() for slot in info.slots]
    return max((slot.second for slot in slots if not isinstance(slot, str)), default=0)


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing about the machine; `advice` is the way out where it is not as it should be."""

    name: str
    value: str
    advice: str | None = None
    numbers: Mapping[str, float | str] = field(default_factory=dict)


def file_system(place: Path) -> Condition:
    """What kind of file system the existing directory *place* is on."""
    kind, mount = _mount_of(place.resolve())
    advice = None
    if kind.startswith(FOREIGN):
        advice = "maps and locks do not hold on it: put the data directory on a local disk"
    elif kind in PASSING:
        advice = f"it goes with {PASSING[kind]}: put what must last on a disk"
    elif not kind:
        advice = "cannot be told: be sure that it is a local disk"
    return Condition("file system", f"{kind or 'unknown'} at {mount}", advice, {"type": kind, "mount": str(mount)})


def _mount_of(place: Path) -> tuple[str, Path]:
    """(type, mount point) of the last mounted file system that holds *place*."""
    found = ("", Path("/"))
    with suppress(OSError):
        if sys.platform == "linux":
            lines = Path("/proc/self/mountinfo").read_text().splitlines()
            mounts = [(line.partition(" - ")[2].split()[0], line.split()[4]) for line in lines]
        else:
            listed = subprocess.run(["/sbin/mount"], capture_output=True, text=True, check=False).stdout
            mounts = [(kind, at) for at, kind in re.findall(r" on (.+) \((\w+)", listed)]
        for kind, at in mounts:
            mount = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), at))
            if place.is_relative_to(mount) and len(mount.parts) >= len(found[1].parts):
                found = (kind, mount)
    return found


def sync_latency(place: Path) -> list[Condition]:
    """How long a write and `fdatasync` of 4 kB take in *place*, and whether preallocating a file would pay."""
    try:
        growing, filled = (_sync_times(place, filled=filled) for filled in (False, True))
    except OSError as error:
        return [Condition("fdatasync", f"cannot be measured in {place}: {error.strerror}", "make it writable")]
    slow = growing["p99_ms"] > 50
    fast = growing["p50_ms"] < 0.005
    advice = "appends wait so long at times: use a faster or a less busy disk" if slow else None
    advice = "too quick to reach a disk: do not count on what was synced after a power cut" if fast else advice
    pays = preallocation_pays(growing, filled)
    return [
        Condition("fdatasync", _latency(growing), advice, growing),
        Condition("fdatasync, preallocated", f"{_latency(filled)}: {'pays' if pays else 'does not pay'}", None, filled),
    ]


def preallocation_pays(growing: Mapping[str, float], filled: Mapping[str, float]) -> bool:
    """Whether small syncs gain more than a third, and large ones lose less, with the zeros counted."""
    return filled["p50_ms"] < 0.7 * growing["p50_ms"] and filled["mb_s"] > 0.7 * growing["mb_s"]


def _latency(times: Mapping[str, float]) -> str:
    return f"p50 {times['p50_ms']:.2f} ms, p99 {times['p99_ms']:.2f} ms, {times['mb_s']:.0f} MB/s by 1 MB"


def _sync_times(place: Path, *, filled: bool) -> dict[str, float]:
    """Measured in a file without a name, which is gone whatever happens."""
    files, times = Files(), list[float]()
    with tempfile.TemporaryFile(dir=place) as file:
        fd = file.fileno()
        if filled:
            files.pwrite(fd, bytes(_SYNCS * len(_SMALL)), 0)
            files.fdatasync(fd)
        began = time.perf_counter()
        while len(times) < _SYNCS and (len(times) < 10 or time.perf_counter() - began < _SYNC_LIMIT_S):
            start = time.perf_counter()
            files.pwrite(fd, _SMALL, len(times) * len(_SMALL))
            files.fdatasync(fd)
            times.append((time.perf_counter() - start) * 1000)
        end, began = _SYNCS * len(_SMALL), time.perf_counter()
        for at in range(_LARGES):
            # Preallocation writes each byte twice, and its zeros have to be synced as well.
            for _ in range(1 + filled):
                files.pwrite(fd, _LARGE, end + at * len(_LARGE))
                files.fdatasync(fd)
        rate = _LARGES * len(_LARGE) / 1e6 / (time.perf_counter() - began)
    times.sort()
    return {"p50_ms": times[len(times) // 2], "p99_ms": times[len(times) * 99 // 100], "mb_s": rate}
