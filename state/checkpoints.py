"""Checkpoints: copies of the state databases as they were, from which an agent can be taken back.

    state/checkpoints/<shard>/<time>/        one RocksDB; time is UTC, as in 20260131T120000.000Z
    state/checkpoints/<shard>/<time>*.tmp/   one that is being made or removed; nobody reads it

RocksDB never changes a table file, so a checkpoint shares them with the database by hard links, and costs only what the
database has replaced since. A commit is one atomic write, so a checkpoint always lies between two: its offsets, tables
and outbox belong together.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from framework.log import Log
from framework.log.clock import EPOCH
from framework.log.files import Files
from framework.state.store import Store

INTERVAL_MS = 3_600_000
"""How often a checkpoint is made."""
_UNFINISHED = ".tmp"
_TIME = "%Y%m%dT%H%M%S"
logger = logging.getLogger("framework.state")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A database as it was at one time."""

    shard: str
    time_ms: int
    path: Path

    @property
    def size_bytes(self) -> int:
        """The length of its files, most of which the database and other checkpoints share."""
        return sum(file.stat().st_size for file in self.path.iterdir())


def checkpoints(data: Path, shard: str) -> list[Checkpoint]:
    """The finished checkpoints of *shard* in the data directory *data*, the oldest first."""
    folder = _folder(data, shard)
    if not folder.is_dir():
        return []
    found = [(_time_of(path.name), path) for path in folder.iterdir()]
    return sorted(
        (Checkpoint(shard, time_ms, path) for time_ms, path in found if time_ms is not None),
        key=lambda checkpoint: checkpoint.time_ms,
    )


class Checkpoints:
    """Makes the checkpoints of the stores of one process, and removes old ones."""

    def __init__(self, log: Log, *, keep: int) -> None:
        """*keep* is how many of each shard stay; with 0 none are made. The time is that of the clock of *log*."""
        self._log, self._keep = log, keep
        self._last_ms: dict[str, int] = {}
        self._written: dict[str, int] = {}

    def clean(self) -> None:
        """Remove what a kill left unfinished, and what is too many; by whoever owns all the shards."""
        for folder in (self._log.path / "state" / "checkpoints").glob("*"):
            for unfinished in folder.glob("*" + _UNFINISHED):
                shutil.rmtree(unfinished)
            self._thin_out(folder.name)

    def is_due(self, store: Store) -> bool:
        """Whether the last checkpoint of *store* is an hour old, or there is none."""
        if not self._keep:
            return False
        now_ms, shard = self._log.clock.now_ms(), store.path.name
        last_ms = self._last_ms.get(shard)
        if last_ms is None or last_ms > now_ms:  # Not known yet, or the clock was set back.
            earlier = [each.time_ms for each in checkpoints(self._log.path, shard) if each.time_ms <= now_ms]
            last_ms = self._last_ms[shard] = earlier[-1] if earlier else now_ms - INTERVAL_MS
        return now_ms - last_ms >= INTERVAL_MS

    def make(self, store: Store) -> Checkpoint | None:
        """A durable checkpoint of *store* as it is between two commits; None if nothing was written since the last.

        Blocks for as long as it takes to write what RocksDB has in memory, at most two buffers; commits wait for a
        small part of that only.

        Raises:
            StateFailed, OSError: The disk refused; there is no checkpoint, and the store is as it was.
        """
        now_ms, shard, files = self._log.clock.now_ms(), store.path.name, self._log.files
        # Of an idle worker all checkpoints would be the same, and push out the older ones that are not.
        with store.lock:  # Or it might be closed meanwhile, to be opened anew.
            if store.failure is not None or store.database.sequence == self._written.get(shard):
                self._last_ms[shard] = now_ms
                return None
        path = _made(files, _folder(self._log.path, shard)) / _name_of(now_ms)
        unfinished = path.with_name(path.name + _UNFINISHED)
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            store.database.flush()
            with store.lock:
                written = store.database.sequence
                store.database.checkpoint(unfinished)
            for file in unfinished.iterdir():
                _sync(files, file)
            files.sync_directory(unfinished)
            if path.exists():  # The clock has been here before.
                self._remove(path)
            files.rename(unfinished, path)
            files.sync_directory(path.parent)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        finally:
            self._last_ms[shard] = now_ms  # What failed is not tried again every second.
        self._written[shard] = written
        self._thin_out(shard)
        return Checkpoint(shard, now_ms, path)

    def _thin_out(self, shard: str) -> None:
        there = checkpoints(self._log.path, shard)
        for checkpoint in there[: max(0, len(there) - self._keep)]:
            self._remove(checkpoint.path)

    def _remove(self, path: Path) -> None:
        """Take it out of sight in one step first: half of one must never be taken for a whole one."""
        gone = path.with_name(path.name + ".gone" + _UNFINISHED)
        self._log.files.rename(path, gone)
        self._log.files.sync_directory(path.parent)
        shutil.rmtree(gone)


def _folder(data: Path, shard: str) -> Path:
    return data / "state" / "checkpoints" / shard


def _made(files: Files, folder: Path) -> Path:
    for path in (folder.parent, folder):
        if not path.is_dir():
            files.mkdir(path)
    return folder


def _sync(files: Files, path: Path) -> None:
    fd = files.open(path)
    try:
        files.fdatasync(fd)
    finally:
        files.close(fd)


def _name_of(time_ms: int) -> str:
    return f"{(EPOCH + timedelta(milliseconds=time_ms)).strftime(_TIME)}.{time_ms % 1000:03}Z"


def _time_of(name: str) -> int | None:
    """The time that a directory is named by, None if it is none of ours, or unfinished."""
    seconds, _, rest = name.partition(".")
    if len(rest) != 4 or not rest.endswith("Z") or not rest[:3].isdecimal():
        return None
    try:
        time = datetime.strptime(seconds, _TIME).replace(tzinfo=UTC)
    except ValueError:
        return None
    return (time - EPOCH) // timedelta(milliseconds=1) + int(rest[:3])
