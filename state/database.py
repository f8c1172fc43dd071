"""RocksDB as the commit needs it, and the seam at which tests stop a commit."""

from __future__ import annotations

import logging
import shutil
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Checkpoint,
    DbClosedError,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    RdictIter,
    WriteBatch,
    WriteOptions,
)

from framework.state.errors import DiskFull, StateDamaged, StateFailed, refused
from framework.state.rows import Change

WRITE_BUFFER_BYTES = 32 << 20
BLOOM_BITS = 10
"""A row: about one look in a hundred for a row that is not there reads a block."""
STALL_TIMEOUT_S = 60.0
_IN_USE = "lock hold by current process"
"""RocksDB keeps its lock as long as an iterator of a closed database lives."""
_RECORD, _BLOCK_BYTES = struct.Struct("<4xHB"), 32768
"""Checksum, length and kind before each record of RocksDB's log format, and the blocks that no record crosses."""
logger = logging.getLogger("framework.state")


class Database:
    """One RocksDB; raw bytes in, raw bytes out. Thread-safe."""

    def __init__(self, path: Path) -> None:
        """Open or make the database at *path*.

        Raises:
            StateDamaged: RocksDB cannot open it.
            DiskFull, DiskFailed: The disk refused what opening it writes.
        """
        self.path = path
        self._opening = threading.Lock()
        path.mkdir(parents=True, exist_ok=True)
        self._db = self._open()

    def _open(self) -> Rdict:
        self._opened = _manifest(self.path, _whole_length)
        try:
            return _rdict(self.path, _options())
        except Exception as error:  # rocksdict raises nothing more exact
            text = f"cannot open the state in {self.path}"
            if _is_of_the_disk(error):
                raise refused(text, error, self.path) from error
            raise _damaged(text, error) from error

    def reopen(self) -> None:
        """Close it and open it anew, after a failure: RocksDB takes no more writes then.

        What was written last is there, whole, or it is not. If it cannot be opened, it can still be read.

        Raises:
            StateDamaged: It cannot be opened, nor read.
            DiskFull, DiskFailed: The disk still refuses; try again.
        """
        with self._opening:
            _close(self._db, self.path)
            try:
                self._db = self._open()
            except (StateFailed, StateDamaged) as error:
                # Agents in the middle of a record read on; this takes no lock and writes nothing.
                self._db = _open_read_only(self.path)
                if _IN_USE in str(error):
                    text = f"{self.path} cannot be opened anew while an agent iterates over a table in it"
                    raise DiskFull(text, self.path) from error
                raise

    def manifest_mark(self) -> bytes:
        """What `check_manifest` compares with; to be written with every commit."""
        return b"%b %d" % _manifest(self.path)

    def check_manifest(self, mark: bytes | None) -> None:
        """Compare the manifest that was opened with the *mark* of the last commit that was found.

        RocksDB takes one that was cut short for whole: the rows of a file that it then does not know are missing,
        and those of later commits, which it finds in its write-ahead log, are there.

        Raises:
            StateDamaged: It was longer then.
        """
        name, _, size = (mark or b"").partition(b" ")
        if size and name == self._opened[0] and self._opened[1] < int(size):
            raise _damaged(
                f"the state in {self.path} is damaged",
                Exception(
                    f"{name.decode()} is {self._opened[1]} bytes long as far as it can be read, it was {int(size)}"
                ),
            )

    @property
    def sequence(self) -> int:
        """Counts the changes of rows that were ever written."""
        return int(self._db.latest_sequence_number())

    def get(self, key: bytes) -> bytes | None:
        """The value of row *key*.

        Raises:
            StateDamaged: The block it lies in is damaged.
        """
        try:
            return _get(self._db, self.path, key)
        except DbClosedError:
            with self._opening:
                return _get(self._db, self.path, key)

    def write(self, changes: Sequence[Change]) -> None:
        """All *changes* in one step: after a kill, all or none are there; after a power cut, once synced.

        Raises:
            StateFailed: RocksDB refused; `reopen` it.
        """
        deadline = time.monotonic() + STALL_TIMEOUT_S
        options = WriteOptions()
        # A stalled write would hold the interpreter's lock; refused, it can be tried again.
        options.no_slowdown = True
        while True:
            batch = WriteBatch(raw_mode=True)
            put, delete = batch.put, batch.delete
            for key, value in changes:
                if value is None:
                    delete(key)
                else:
                    put(key, value)
            try:
                self._db.write(batch, options)
                return
            except Exception as error:  # rocksdict raises nothing more exact
                if "Incomplete" not in str(error) or time.monotonic() > deadline:
                    size = sum(len(key) + len(value or b"") for key, value in changes)
                    raise refused(f"a commit to {self.path} failed", error, self.path, size) from error
            time.sleep(0.005)

    def sync(self) -> None:
        """Return when everything written would survive a power cut.

        Raises:
            StateFailed: The disk refused; whether it is there is known only after `reopen`.
        """
        try:
            self._db.flush_wal(True)
        except Exception as error:  # rocksdict raises nothing more exact
            raise refused(f"a commit to {self.path} could not be synced", error, self.path) from error

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """The rows whose keys begin with *prefix*, from *prefix + start* on, in the order of their keys.

        Raises:
            StateDamaged: A block is damaged; without this check RocksDB would just end early.
        """
        try:
            rows = _iter(self._db)
        except DbClosedError:
            with self._opening:
                rows = _iter(self._db)
        return _scan(rows, self.path, prefix, start)

    def flush(self) -> None:
        """Write to table files what is in memory only, while others go on.

        Raises:
            StateFailed: The disk refused.
        """
        try:
            self._db.flush(True)
        except Exception as error:  # rocksdict raises nothing more exact
            raise StateFailed(f"the state in {self.path} could not be flushed: {error}") from error

    def checkpoint(self, path: Path) -> None:
        """Make a copy at *path*, where nothing may be, of all that is written; it shares the table files.

        It flushes too, but holds the interpreter's lock meanwhile: call `flush` first.

        Raises:
            StateFailed: The disk refused.
        """
        try:
            # Kept alive, the object would keep the database open behind its `close`.
            Checkpoint(self._db).create_checkpoint(str(path))
        except Exception as error:  # rocksdict raises nothing more exact
            raise StateFailed(f"no checkpoint of {self.path} could be made: {error}") from error

    def close(self) -> None:
        """Close the database; what was synced is there, whatever becomes of it now."""
        _close(self._db, self.path)


class Snapshot:
    """The committed rows of a database that another process, or this one, has open. Read only."""

    def __init__(self, path: Path) -> None:
        """Follow the database at *path*.

        Raises:
            StateDamaged: RocksDB cannot open it.
        """
        self.path = path
        self._open()

    def _open(self) -> None:
        manifest, scratch = self._current(), tempfile.mkdtemp(prefix="framework-view-")
        try:
            self._db = _rdict(self.path, _options(secondary=True), AccessType.secondary(scratch))
        except Exception as error:  # rocksdict raises nothing more exact
            shutil.rmtree(scratch, ignore_errors=True)
            raise _damaged(f"cannot read the state in {self.path}", error) from error
        self._manifest, self._scratch = manifest, scratch

    def _current(self) -> bytes:
        """Names the manifest, of which each start of the database makes a new one."""
        return (self.path / "CURRENT").read_bytes()

    def refresh(self) -> None:
        """See what has been committed by now.

        Raises:
            StateDamaged: It cannot be read any more.
        """
        if self._current() == self._manifest:
            try:
                self._db.try_catch_up_with_primary()
            except Exception as error:  # rocksdict raises nothing more exact
                raise _damaged(f"cannot read the state in {self.path}", error) from error
            return
        # What it has read from the write-ahead log of an earlier start would hide what came later. The
        # old one is not closed: somebody may still be scanning it.
        scratch = self._scratch
        self._open()
        shutil.rmtree(scratch, ignore_errors=True)

    def get(self, key: bytes) -> bytes | None:
        """The value of row *key*.

        Raises:
            StateDamaged: The block it lies in is damaged.
        """
        return _get(self._db, self.path, key)

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """The rows whose keys begin with *prefix*, as `Database.scan`."""
        return _scan(self._db.iter(), self.path, prefix, start)

    def close(self) -> None:
        """Stop following."""
        self._db.close()
        shutil.rmtree(self._scratch, ignore_errors=True)


def _rdict(path: Path, options: Options, access: AccessType | None = None) -> Rdict:
    # Left to itself it would take the options of before from a file of RocksDB's, which forgets the filter.
    families = {"default": options}
    return Rdict(str(path), options, column_families=families, access_type=access or AccessType.read_write())


def _options(*, secondary: bool = False) -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(not secondary)
    # The default would accept damage in the middle of the log and lose what came after it.
    options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_keep_log_file_num(2)
    blocks = BlockBasedOptions()
    # A new key is in no file: without the filter each file unpacks the block it would be in, which beside large outbox
    # rows takes 0.2 ms.
    blocks.set_bloom_filter(BLOOM_BITS, False)
    options.set_block_based_table_factory(blocks)
    if secondary:
        options.set_max_open_files(-1)
    return options


def _length(path: Path) -> int:
    return path.stat().st_size


def _manifest(path: Path, length: Callable[[Path], int] = _length) -> tuple[bytes, int]:
    """Name and length of RocksDB's list of files; nothing if the database is new, or has lost it."""
    try:
        name = (path / "CURRENT").read_bytes().strip()
        return name, length(path / name.decode())
    except (OSError, ValueError):
        return b"", 0


def _whole_length(path: Path) -> int:
    """Up to where RocksDB reads a file of its log format: a length that is too large ends it like a torn write."""
    data, at = path.read_bytes(), 0
    while at + _RECORD.size <= len(data):
        left = _BLOCK_BYTES - at % _BLOCK_BYTES
        if left < _RECORD.size:
            at += left
            continue
        size, kind = _RECORD.unpack_from(data, at)
        end = at + _RECORD.size + size
        if end > len(data) or not kind:
            break
        at = end
    return at


def _damaged(what: str, error: Exception) -> StateDamaged:
    return StateDamaged(
        f"{what}: {error}. Restore state and log from one backup, or remove this part of the state: its agents then "
        "begin anew, with empty tables"
    )


def _is_of_the_disk(error: Exception) -> bool:
    """Whether opening failed because of the disk, and not because of what is in the files."""
    text = str(error)
    return "IO error" in text and any(
        part in text for part in ("No space left", "quota exceeded", "Input/output error", "Read-only file system")
    )


def _open_read_only(path: Path) -> Rdict:
    try:
        return _rdict(path, _options(), AccessType.read_only())
    except Exception as error:  # rocksdict raises nothing more exact
        raise _damaged(f"cannot read the state in {path}", error) from error


def _close(db: Rdict, path: Path) -> None:
    """It flushes what is only in the write-ahead log, for which there may be no space: it is as good there."""
    try:
        db.close()
    except Exception as error:  # rocksdict raises nothing more exact
        logger.debug("closing %s: %s", path, error)


def _get(db: Rdict, path: Path, key: bytes) -> bytes | None:
    try:
        value = db.get(key)
    except DbClosedError:
        raise
    except Exception as error:  # rocksdict raises nothing more exact
        _check_open(error)
        raise _damaged(f"the state in {path} is damaged", error) from error
    assert value is None or isinstance(value, bytes)
    return value


def _iter(db: Rdict) -> RdictIter:
    try:
        return db.iter()
    except RuntimeError as error:
        _check_open(error)
        raise


def _check_open(error: Exception) -> None:
    """Another thread is in the middle of `close` when it cannot be borrowed.

    Raises:
        DbClosedError: So it is.
    """
    if "borrowed" in str(error):
        raise DbClosedError(str(error)) from error


def _scan(rows: RdictIter, path: Path, prefix: bytes, start: bytes) -> Iterator[tuple[bytes, bytes]]:
    rows.seek(prefix + start)
    while rows.valid():
        key = rows.key()
        if not key.startswith(prefix):
            return
        yield key, rows.value()
        rows.next()
    try:
        rows.status()
    except Exception as error:  # rocksdict raises nothing more exact
        raise _damaged(f"the state in {path} is damaged", error) from error
