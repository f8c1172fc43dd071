"""The segments of one partition as one process sees them: its manifest, reread when somebody has replaced it."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from framework.log.appended import append_times, first_offset_at_second, last_second
from framework.log.catalogue import TopicInfo
from framework.log.errors import Damaged, OffsetOutOfRange
from framework.log.files import Files
from framework.log.manifest import Manifest, SegmentRow
from framework.log.producers import Producers
from framework.log.retention import ClosedSegment
from framework.log.segment import FILE_SUFFIXES, Segment, begin_segment
from framework.log.shared import Shared


class Segments:
    """The manifest of a partition, and what is known of each segment file it names; thread-safe for readers."""

    def __init__(self, directory: Path, topic: TopicInfo, number: int, shared: Shared, files: Files) -> None:
        """Reads nothing yet."""
        self.directory, self.name, self._slot = directory, f"{topic.name}-{number}", topic.slots[number]
        self._topic_id, self._number = topic.id, number
        self._index_interval_bytes = topic.settings.index_interval_bytes
        self._shared, self._files = shared, files
        self._seen: tuple[Manifest | None, tuple[int, int] | None, int] = (None, None, -1)
        """The manifest as it was read last, its file, and the count of changes then: one value, for threads."""
        self._known: dict[int, Segment] = {}
        self._named_generation = 0
        """Of which active segment it is known that its names are durable."""

    def manifest(self) -> Manifest | None:
        """The newest manifest; None before the first append."""
        changes, active = self._shared.changes(self._slot), self._shared.written(self._slot).segment
        manifest, _, seen = self._seen
        if manifest is None or seen != changes or manifest.active.base_offset != active:
            identity = self._identify()
            if identity is None:
                return None
            manifest = Manifest.read(self.directory)
            self._seen = (manifest, identity, changes)
            names = {row.generation for row in manifest.segments}
            self._known = {generation: known for generation, known in self._known.items() if generation in names}
        return manifest

    def reread(self) -> Manifest | None:
        """The manifest that is there, even if it was replaced by a process that was killed before it could say so."""
        if self._seen[1] != self._identify():
            self._seen = (None, None, -1)
        return self.manifest()

    def replace(self, manifest: Manifest) -> None:
        """Make *manifest* the partition's, durably; under the partition's lock."""
        manifest.write(self._files, self.directory)
        self._shared.bump_changes(self._slot)
        self._seen = (manifest, self._identify(), self._shared.changes(self._slot))
        self._named_generation = manifest.active.generation

    def create(self) -> Manifest:
        """Make the partition's directory, first segment and manifest, durably; under the partition's lock."""
        for directory in (self.directory.parent.parent, self.directory.parent, self.directory):
            try:
                self._files.mkdir(directory)
            except FileExistsError:
                # Whoever made it may have been killed before its name was durable.
                self._files.sync_directory(directory.parent)
        manifest = Manifest.empty(self._topic_id, self._number)
        begin_segment(self._files, Segment(self.directory, manifest.active, self._index_interval_bytes), Producers())
        self.replace(manifest)
        return manifest

    def sync_names(self, manifest: Manifest) -> None:
        """Make the names of the active segment and of its manifest durable, unless it is known that they are.

        Who replaced the manifest may have been killed before it was durable: then every process sees the new one, and
        after a power cut the old one is back. Once a batch of the segment is durable, its writer has been here.
        """
        active, durable = manifest.active, self._shared.durable(self._slot)
        if self._named_generation != active.generation:
            if durable.segment != active.base_offset or durable.position == 0:
                self._files.sync_directory(self.directory)
            self._named_generation = active.generation

    def of(self, offset: int) -> tuple[Segment, int | None]:
        """The segment that holds *offset*, and the base offset of the one behind it.

        Raises:
            OffsetOutOfRange: It is below the log start or above the log end.
            Damaged: There is no manifest, although something was appended.
        """
        manifest, end = self.manifest(), self._shared.written_offset(self._slot)
        if manifest is None and end:
            raise Damaged(f"{self.directory / 'manifest'} is missing, but the log end of {self.name} is {end}")
        if manifest is None or not manifest.log_start <= offset <= end:
            start = manifest.log_start if manifest else 0
            raise OffsetOutOfRange(f"{self.name} has no offset {offset}: log start is {start}, log end is {end}")
        bases = [row.base_offset for row in manifest.segments]
        at = bisect_right(bases, offset) - 1
        return self.segment(manifest, at), bases[at + 1] if at + 1 < len(bases) else None

    def all(self) -> list[Segment]:
        """Every segment in order, the active one last."""
        manifest = self.manifest()
        return [self.segment(manifest, at) for at in range(len(manifest.segments))] if manifest else []

    def end_before(self, second: int) -> int:
        """The first offset that was appended in *second* or later, the log end if there is none; for a reader.

        Where append times are missing, which a power cut may have taken, those of the batches before them hold.
        """
        end = self._shared.written_offset(self._slot)
        for segment in reversed(self.all()):
            with suppress(FileNotFoundError):
                data = segment.appended_path.read_bytes()
                found = first_offset_at_second(data, second)
                end = end if found is None else min(end, found)
                first = next(iter(append_times(data)), None)
                if first is not None and first[0] < second:
                    break
        return end

    def closed(self, now_s: int) -> list[ClosedSegment]:
        """What retention has to know of the closed segments."""
        return [
            # Without an entry, which a power cut may have taken, the age is not known, and old is not assumed.
            ClosedSegment(behind.base_offset, segment.size_bytes or 0, last_second(segment.appended_path) or now_s)
            for segment, behind in pairwise(self.all())
        ]

    def segment(self, manifest: Manifest, at: int) -> Segment:
        """The segment in row *at* of *manifest*."""
        row = manifest.segments[at]
        segment = self._known.get(row.generation)
        if segment is None:
            segment = Segment(self.directory, row, self._index_interval_bytes)
            if segment.closed:
                segment.load_index()
            self._known[row.generation] = segment
        if row.size_bytes is not None and not segment.closed:
            if not segment.is_walked:
                segment.load_index()
            segment.closed, segment.size_bytes = True, row.size_bytes
        return segment

    def start_at(self, log_start: int) -> None:
        """Move the log start up and remove the closed segments below it; under the partition's lock."""
        manifest = self.manifest()
        if manifest is None:
            return
        if log_start <= manifest.log_start:
            # Who moved it may have been killed before that was durable.
            self._files.sync_directory(self.directory)
            return
        shorter = manifest.started_at(log_start)
        # Nothing is unlinked before the manifest without it is durable.
        self.replace(shorter)
        self._unlink(manifest.segments[: len(manifest.segments) - len(shorter.segments)])

    def put_compacted(self, rows: tuple[SegmentRow, ...], made: SegmentRow) -> bool:
        """Put *made* in the place of *rows* and remove them, if they are still there; under the partition's lock."""
        manifest = self.reread()
        changed = manifest.with_compacted(rows, made) if manifest else None
        if changed is None:
            return False
        self.replace(changed)
        self._unlink(rows)
        return True

    def names(self, row: SegmentRow) -> bool:
        """Whether the manifest that is on the disk just now names *row*, or cannot be read."""
        try:
            return row in Manifest.read(self.directory).segments
        except FileNotFoundError:
            return False
        except (Damaged, OSError):
            return True

    def _unlink(self, rows: Sequence[SegmentRow]) -> None:
        for row in rows:
            self._known.pop(row.generation, None)
            for suffix in FILE_SUFFIXES:
                path = self.directory / f"{row.stem}{suffix}"
                if path.exists():
                    self._files.unlink(path)

    def _identify(self) -> tuple[int, int] | None:
        try:
            stat = os.stat(self.directory / "manifest")
        except FileNotFoundError:
            return None
        return stat.st_ino, stat.st_mtime_ns
