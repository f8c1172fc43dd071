"""Finding the end of a partition after a power cut, or in a directory that was copied.

Not needed after a kill: the slots of the shared file are true for as long as the machine runs. Otherwise the
active segment is scanned from the recovery point, the `durable` mark: behind it a bad batch is a tail that was
never synced, and is cut off; before it everything was synced, and is left for readers to check.
Closed segments were synced before the manifest closed them.

A failed sync is another matter: what it did not bring to disk is copied (`rebuild_partition`).
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from framework.log.appended import APPENDED_MAGIC, ENTRY_BYTES, entry_at, first_second, last_second, pack_entry
from framework.log.catalogue import TopicInfo
from framework.log.errors import Damaged
from framework.log.files import Files
from framework.log.header import HEADER_BYTES, fault, read_header
from framework.log.manifest import Manifest, SegmentRow
from framework.log.producers import Producers
from framework.log.segment import Segment, begin_segment
from framework.log.shared import Mark, Shared

_CHUNK_BYTES = 4 << 20
logger = logging.getLogger(__name__)


def recover_partition(directory: Path, topic: TopicInfo, number: int, shared: Shared, files: Files) -> None:
    """Find the partition's end, cut off what is torn, sync the rest and publish it; in a process that is alone.

    Raises:
        Damaged: Something that was durable is gone.
    """
    slot = topic.slots[number]
    point = _recovery_point(shared, slot)
    try:
        manifest = Manifest.read(directory)
    except FileNotFoundError:
        if point.offset > 0:
            raise Damaged(f"{directory} has no manifest, but {point.offset} offsets were durable") from None
        if any(path.stat().st_size for path in directory.glob("*.log")):
            raise Damaged(f"{directory} has no manifest, but segments with batches in them") from None
        shared.reset(slot, Mark(0, 0, 0), 0)
        return
    active = manifest.active
    if point.segment != active.base_offset:
        point = Mark(active.base_offset, 0, active.base_offset)
    path = directory / f"{active.stem}.log"
    try:
        fd = files.open(path)
    except FileNotFoundError:
        raise Damaged(f"{path} is missing; the manifest names it as the active segment") from None
    try:
        size = files.size(fd)
        if size < point.position:
            raise Damaged(f"{path} is {size} bytes long, but {point.position} were durable")
        end = _scan(files, fd, point, size)
        if end.position < size:
            files.truncate(fd, end.position)
        files.fdatasync(fd)
    finally:
        files.close(fd)
    second = _cut_append_times(directory, active, end.offset, files)
    for row in reversed(manifest.segments[:-1]):
        # Nothing is appended to the active one yet, and after a power cut the clock may be wrong.
        second = second or last_second(directory / f"{row.stem}.appended")
    second = _restore_first_time(directory / f"{active.stem}.appended", active.base_offset, end.offset, second, files)
    remove_garbage(directory, manifest, files)  # Only now: of a damaged partition nothing is thrown away.
    shared.reset(slot, end, second)


def _recovery_point(shared: Shared, slot: int) -> Mark:
    """What was durable for certain: nothing where the marks are another file's, or are damaged."""
    if not shared.same_file:
        return Mark(0, 0, 0)
    try:
        return shared.durable(slot)
    except Damaged as error:
        logger.warning("%s; the end of its partition is looked for in the whole segment", error)
        return Mark(0, 0, 0)


def rebuild_partition(directory: Path, topic: TopicInfo, number: int, shared: Shared, files: Files) -> None:
    """Take a partition whose sync failed into use again; in a process that is alone.

    The kernel has marked the pages of the failed sync clean, so syncing them again would say yes and write nothing.
    What was never durable is copied into a new segment, and that is synced.

    Raises:
        Damaged: Something that was durable is gone.
        OSError: The disk still refuses; the partition stays as it was.
    """
    slot = topic.slots[number]
    manifest, durable = Manifest.read(directory), shared.durable(slot)
    active = manifest.active
    if durable.segment != active.base_offset:
        durable = Mark(active.base_offset, 0, active.base_offset)
    old = Segment(directory, active, topic.settings.index_interval_bytes)
    producers = Producers.read(old.producers_path)
    fd = files.open(old.path)
    try:
        producers.fold(lambda size, position: files.pread(fd, size, position), 0, durable.position, old.path)
        # The mark is that of the segment before, if an earlier rebuilding was killed behind its manifest.
        size = min(files.size(fd), shared.written(slot).position)
        end = _scan(files, fd, durable, max(durable.position, size))
        data = files.pread(fd, end.position - durable.position, durable.position)
        old.walk_to(files, fd, durable.position)
    finally:
        files.close(fd)
    files.replace(old.index_path, old.index_bytes())
    rolled = manifest.rolled(durable.offset, durable.position)
    if durable.position == 0:  # Nothing of the old segment was durable: the new one takes its place.
        rolled = replace(rolled, segments=(*manifest.segments[:-1], rolled.active))
    new = Segment(directory, rolled.active, topic.settings.index_interval_bytes)
    begin_segment(files, new, producers)
    second = shared.append_second(slot)
    files.write(new.path, data)
    files.write(new.appended_path, APPENDED_MAGIC + (pack_entry(second, durable.offset) if data else b""))
    rolled.write(files, directory)
    shared.reset(slot, Mark(end.offset, len(data), durable.offset), second)
    if durable.position:
        _truncate(old.path, durable.position, files)
    remove_garbage(directory, rolled, files)


def _truncate(path: Path, size: int, files: Files) -> None:
    fd = files.open(path)
    try:
        files.truncate(fd, size)
        files.fdatasync(fd)
    finally:
        files.close(fd)


def _scan(files: Files, fd: int, point: Mark, size: int) -> Mark:
    """The end of the sound batches behind *point*."""
    offset, position = point.offset, point.position
    chunk = _CHUNK_BYTES
    while position < size:
        data = memoryview(files.pread(fd, min(chunk, size - position), position))
        at = 0
        while len(data) - at >= HEADER_BYTES:
            header = read_header(data, at)
            if header.size > len(data) - at and position + len(data) < size and header.size <= size - position:
                break  # It may be whole: read more.
            if fault(data, at, offset) is not None:
                return Mark(offset, position + at, point.segment)
            at, offset = at + header.size, header.next_offset
        if at == 0:
            if position + len(data) >= size:
                break
            chunk = max(_CHUNK_BYTES, read_header(data).size)
        position += at
    return Mark(offset, position, point.segment)


def _cut_append_times(directory: Path, active: SegmentRow, end: int, files: Files) -> int:
    """Remove entries of batches that are gone; returns the last second left."""
    fd = files.open(directory / f"{active.stem}.appended", create=True)
    try:
        size = files.size(fd)
        data = files.pread(fd, size, 0)
        if data[: len(APPENDED_MAGIC)] != APPENDED_MAGIC:
            data, size = APPENDED_MAGIC, -1
        second, base, keep = 0, active.base_offset, len(APPENDED_MAGIC)
        # One may be of a batch that is gone, or not have been on the disk yet.
        while (entry := entry_at(data, keep)) and base <= entry[1] < end and entry[0] >= second:
            second, base, keep = *entry, keep + ENTRY_BYTES
        if keep != size:
            files.truncate(fd, keep)
            files.pwrite(fd, data[:keep], 0)
            files.fdatasync(fd)
    finally:
        files.close(fd)
    return int(second)


def _restore_first_time(appended: Path, base_offset: int, end: int, second: int, files: Files) -> int:
    """Write anew the first entry of a segment whose append times were lost, or retention would keep it for ever.

    Returns the last second: no later append may have an earlier one.
    """
    if end == base_offset or first_second(appended) is not None:
        return second
    fd = files.open(appended)
    try:
        # No earlier than the batches before it; no later than the file's last change, which a power cut leaves alone.
        second = second or int(appended.with_suffix(".log").stat().st_mtime)
        files.pwrite(fd, pack_entry(second, base_offset), len(APPENDED_MAGIC))
        files.fdatasync(fd)
    finally:
        files.close(fd)
    return second


def remove_garbage(directory: Path, manifest: Manifest, files: Files) -> None:
    """Unlink what a killed process left: files that the manifest does not name."""
    stems, garbage = {row.stem for row in manifest.segments}, list[Path]()
    for path in sorted(directory.iterdir()):
        stem, _, _ = path.name.rpartition(".")
        if path.name != "manifest" and (path.name.endswith(".tmp") or stem not in stems):
            garbage.append(path)
    if garbage:
        # Who replaced the manifest may have been killed before it was durable, and the one before names these files.
        files.sync_directory(directory)
    for path in garbage:
        files.unlink(path)
