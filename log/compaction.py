"""Compaction: of the closed segments of a partition, only the last record of each key is kept.

    |-- compacted before --|-- dirty --------------|-- active, not touched --|
    log start              compacted to            ^ its base offset         log end

The keys of the dirty part and the last offset of each are put into a map, as far as its limit allows. Then every
closed segment up to there is copied, front to back, without the records of which the map knows a later one; small
neighbours become one. What is left of a batch keeps its offsets, times, producer and sequence numbers. Each copy takes
its place in the manifest when it is durable, and only then are the old files unlinked.

A tombstone stays for `delete.retention.ms` from the time it was first compacted, so that a reader who has the record
before it learns that it is gone: bit 6 of its batch's attributes is set, and the first timestamp, from which those of
the records count, is then the time at which it may go, as in Kafka (KIP-534). Records without a key stay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from framework.log.appended import APPENDED_MAGIC, ENTRY_BYTES, last_second
from framework.log.codec import StoredRecord, decode, rewrite
from framework.log.errors import Damaged
from framework.log.files import Files
from framework.log.header import CONTROL, DELETE_HORIZON, HEADER_BYTES, Header, fault, read_header
from framework.log.manifest import Manifest, SegmentRow
from framework.log.segment import FILE_SUFFIXES, Segment
from framework.log.segments import Segments
from framework.log.settings import TopicSettings

MAX_KEYS = 500_000
"""In the map of one compaction, at some 150 bytes each; a later one goes on where it ended."""
_CHUNK_BYTES = 1 << 20
_KEY_BYTES = 16

Batch = tuple[Header, memoryview]
Keys = Mapping[bytes, int]


class Stopped(Exception):
    """The log is being closed; what was done so far stays."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction did."""

    segments: int = 0
    """How many were copied."""
    freed_bytes: int = 0

    def __add__(self, other: Compacted) -> Compacted:
        return Compacted(self.segments + other.segments, self.freed_bytes + other.freed_bytes)


@dataclass(frozen=True, slots=True)
class Dirt:
    """What compaction would work on."""

    rows: tuple[SegmentRow, ...]
    end_offset: int
    clean_bytes: int
    dirty_bytes: int

    @property
    def ratio(self) -> float:
        """Which part of the closed segments has not been compacted."""
        return self.dirty_bytes / (self.clean_bytes + self.dirty_bytes) if self.dirty_bytes else 0.0


def dirt_of(directory: Path, manifest: Manifest, settings: TopicSettings, now_s: int) -> Dirt:
    """The closed segments of *manifest* that are old enough."""
    rows = list[SegmentRow]()
    clean = dirty = 0
    end_offset = manifest.segments[0].base_offset
    for row, behind in pairwise(manifest.segments):
        appended_s = last_second(directory / f"{row.stem}.appended") or now_s
        # Without a lag the clock has no say: it may have been set back since.
        if 0 < settings.min_compaction_lag_ms > (now_s - appended_s) * 1000:
            break
        rows.append(row)
        end_offset = behind.base_offset
        if end_offset <= manifest.compacted_to:
            clean += row.size_bytes or 0
        else:
            dirty += row.size_bytes or 0
    return Dirt(tuple(rows), end_offset, clean, dirty)


def compact(
    segments: Segments, compactor: Compactor, locked: Callable[[], AbstractContextManager[None]], *, force: bool
) -> Compacted:
    """Compact *segments* if enough of them is dirty, or by *force*; *locked* holds the partition's lock.

    The lock is held to look and to put a copy in its place, not while one is made.
    """
    with locked():
        manifest = segments.reread()
        if manifest is None:
            return Compacted()
        dirt = compactor.dirt(manifest)
        if not dirt.rows or not (force or compactor.is_enough(dirt)):
            return Compacted()
        groups = compactor.groups(dirt)
        # Nobody else may use these generations, although no manifest names them yet.
        segments.replace(manifest.reserving(len(groups)))
    done, rows = Compacted(), dirt.rows
    try:
        keys, end_offset = compactor.map_keys(dirt, manifest.compacted_to)
        for generation, rows in enumerate(groups, manifest.next_generation):
            made = compactor.copy(rows, generation, keys, end_offset)
            if made is None:
                continue
            there = _put(segments, compactor, locked, rows, made)
            if not there:  # Retention was faster; what is left comes next time.
                return done
            done += Compacted(len(rows), sum(row.size_bytes or 0 for row in rows) - (made.size_bytes or 0))
    except FileNotFoundError as error:
        with locked():
            there_now = segments.reread()
        if there_now is not None and set(rows) <= set(there_now.segments):
            raise Damaged(f"{error.filename} is missing, the manifest names it") from error
        return done  # Retention was faster here too.
    with locked():
        manifest = segments.reread()
        if manifest is not None and manifest.compacted_to < end_offset:
            segments.replace(manifest.with_compacted_to(end_offset))
    return done


def _put(
    segments: Segments,
    compactor: Compactor,
    locked: Callable[[], AbstractContextManager[None]],
    rows: tuple[SegmentRow, ...],
    made: SegmentRow,
) -> bool:
    """Put *made* in the place of *rows*, if they are still there; otherwise, and where it fails, remove it."""
    try:
        with locked():
            there = segments.put_compacted(rows, made)
    except BaseException:
        # The manifest may name it already: then only its sync, or the end of an old file, failed.
        if not segments.names(made):
            compactor.remove(made)
        raise
    if not there:
        compactor.remove(made)
    return there


class Compactor:
    """One compaction of one partition; `stop` is asked now and then, and true ends it."""

    def __init__(
        self, directory: Path, settings: TopicSettings, files: Files, now_ms: int, stop: Callable[[], bool]
    ) -> None:
        """Reads and writes nothing yet."""
        self._directory, self._settings, self._files = directory, settings, files
        self._now_ms, self._stop = now_ms, stop

    def dirt(self, manifest: Manifest) -> Dirt:
        """What there is to do."""
        return dirt_of(self._directory, manifest, self._settings, self._now_ms // 1000)

    def is_enough(self, dirt: Dirt) -> bool:
        """Whether it pays by the topic's settings."""
        return dirt.dirty_bytes > 0 and dirt.ratio >= self._settings.min_cleanable_dirty_ratio

    def groups(self, dirt: Dirt) -> list[tuple[SegmentRow, ...]]:
        """The segments in groups, each of which becomes one of at most `segment.bytes`."""
        groups: list[tuple[SegmentRow, ...]] = []
        for row in dirt.rows:
            together = (*groups[-1], row) if groups else (row,)
            if groups and sum(one.size_bytes or 0 for one in together) <= self._settings.segment_bytes:
                groups[-1] = together
            else:
                groups.append((row,))
        return groups

    def map_keys(self, dirt: Dirt, start: int, max_keys: int = MAX_KEYS) -> tuple[Keys, int]:
        """The last offset of each key from offset *start* on, and up to which offset the map goes.

        Raises:
            Damaged: A batch is not what was appended.
            Stopped: The log is being closed.
        """
        keys: dict[bytes, int] = {}
        for row in dirt.rows:
            for header, batch in self._batches(row):
                if header.next_offset <= start or header.attributes & CONTROL:
                    continue
                if len(keys) >= max_keys:
                    return keys, header.base_offset
                for record in self._records(batch):
                    if record.key is not None:
                        keys[_short(record.key)] = record.offset
        return keys, dirt.end_offset

    def copy(self, rows: Sequence[SegmentRow], generation: int, keys: Keys, end_offset: int) -> SegmentRow | None:
        """One durable segment with what is kept of *rows*; None, and no files, if that is all of one segment.

        Raises:
            Damaged: A batch is not what was appended.
            Stopped: The log is being closed.
            OSError: The disk refuses; no files are left.
        """
        made = SegmentRow(rows[0].base_offset, generation, 0, compacted=True)
        segment = Segment(self._directory, made, self._settings.index_interval_bytes)
        try:
            size, changed = self._copy_batches(rows, segment, keys, end_offset)
            if len(rows) == 1 and not changed:
                self.remove(made)
                return None
            self._files.write(segment.appended_path, APPENDED_MAGIC + b"".join(map(self._append_times, rows)))
            self._files.write(segment.producers_path, self._read(rows[0], ".producers"))
            self._files.replace(segment.index_path, segment.index_bytes())  # This makes all four names durable.
        except BaseException:
            self.remove(made)
            raise
        return SegmentRow(made.base_offset, generation, size, compacted=True)

    def _copy_batches(
        self, rows: Sequence[SegmentRow], segment: Segment, keys: Keys, end_offset: int
    ) -> tuple[int, bool]:
        """Write the log file of *segment*; its size, and whether anything was left out or changed."""
        pending, position, size, changed = list[bytes | bytearray | memoryview](), 0, 0, False
        fd = self._files.open(segment.path, create=True)
        try:
            self._files.truncate(fd, 0)
            for row in rows:
                for header, batch in self._batches(row):
                    kept = self._kept(header, batch, keys, end_offset)
                    changed |= kept is not batch
                    if kept is None:
                        continue
                    segment.note(header.base_offset, size, len(kept), header.max_timestamp)
                    pending.append(kept)
                    size += len(kept)
                    if size - position >= _CHUNK_BYTES:
                        position += self._files.pwritev(fd, pending, position)
                        pending = []
            self._files.pwritev(fd, pending, position)
            self._files.fdatasync(fd)
        finally:
            self._files.close(fd)
        return size, changed

    def _kept(self, header: Header, batch: memoryview, keys: Keys, end_offset: int) -> bytearray | memoryview | None:
        """What is kept of a batch: it itself if that is all, None if it is nothing."""
        if header.attributes & CONTROL:
            return batch
        marked = bool(header.attributes & DELETE_HORIZON)
        expired = marked and header.first_timestamp <= self._now_ms
        keep, tombstones = list[bool](), False
        for record in self._records(batch):
            is_last = record.key is None or record.offset >= keys.get(_short(record.key), -1)
            is_tombstone = record.key is not None and record.value is None
            keep.append(is_last and not (is_tombstone and expired))
            tombstones |= is_tombstone and keep[-1]
        # What the map does not cover may have earlier records yet.
        horizon = None
        if tombstones and not marked and header.next_offset <= end_offset:
            horizon = self._now_ms + self._settings.delete_retention_ms
        if all(keep) and horizon is None:
            return batch
        return rewrite(batch, keep, horizon, self._settings.most_uncompressed_bytes) if any(keep) else None

    def _records(self, batch: memoryview) -> list[StoredRecord]:
        return decode(batch, self._settings.most_uncompressed_bytes)

    def _batches(self, row: SegmentRow) -> Iterator[Batch]:
        """The batches of a closed segment, each checked; none is served that is damaged."""
        path, position, size = self._directory / f"{row.stem}.log", 0, row.size_bytes or 0
        fd, offset, chunk = self._files.open(path, write=False), row.base_offset, _CHUNK_BYTES
        try:
            while position < size:
                if self._stop():
                    raise Stopped
                wanted = min(chunk, size - position)
                data = memoryview(self._files.pread(fd, wanted, position))
                if len(data) < wanted:
                    raise Damaged(f"{path} ends at byte {position + len(data)}, it should have {size}")
                at, chunk = 0, _CHUNK_BYTES
                while len(data) - at >= HEADER_BYTES:
                    header = read_header(data, at)
                    if len(data) - at < header.size <= size - position - at:
                        chunk = max(chunk, header.size)
                        break
                    if reason := fault(data, at, offset):
                        raise Damaged(f"{path} is damaged at byte {position + at}, near offset {offset}: {reason}")
                    yield header, data[at : at + header.size]
                    at, offset = at + header.size, header.next_offset
                if at == 0 and chunk == _CHUNK_BYTES:  # And not because a batch is larger than that.
                    raise Damaged(f"{path} is damaged at byte {position}: {wanted} bytes are no batch")
                position += at
        finally:
            self._files.close(fd)

    def _append_times(self, row: SegmentRow) -> bytes:
        """The entries of *row*, without one at the end that a kill may have torn."""
        entries = self._read(row, ".appended")[len(APPENDED_MAGIC) :]
        return entries[: len(entries) - len(entries) % ENTRY_BYTES]

    def _read(self, row: SegmentRow, suffix: str) -> bytes:
        return (self._directory / f"{row.stem}{suffix}").read_bytes()

    def remove(self, row: SegmentRow) -> None:
        """Unlink the files of *row*, a copy that nobody names."""
        for suffix in (*FILE_SUFFIXES, ".index.tmp"):
            with suppress(FileNotFoundError):
                self._files.unlink(self._directory / f"{row.stem}{suffix}")


def _short(key: bytes) -> bytes:
    """What stands for *key* in the map: a digest of 16 bytes, or the key itself if it is shorter than that."""
    return key if len(key) < _KEY_BYTES else hashlib.blake2b(key, digest_size=_KEY_BYTES).digest()
