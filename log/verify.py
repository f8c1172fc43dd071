"""Checking a data directory: every checksum, offset, mark, index and list. Nothing is locked, and nothing written.

It may run beside processes that append: what the `durable` mark covered when a partition's turn came is checked, and
bytes behind it are no damage. Where the slots are not true (another boot, or a copy of the directory) the marks are
still the least that must be there, and what follows is read as recovery would read it.

Offsets may have gaps in segments that compaction wrote. Not seen are lost entries at the end of a closed segment's
append times, and wrong offsets of a compacted segment that are in order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

from framework.log.appended import APPENDED_MAGIC, ENTRY_BYTES, entry_at
from framework.log.catalogue import TopicInfo, read_catalogue
from framework.log.codec import decode
from framework.log.errors import NoDataDirectory, UnknownTopic
from framework.log.files import Files
from framework.log.manifest import Manifest
from framework.log.outside import (
    EMPTY,
    MISSING,
    Finding,
    IndexCheck,
    Scan,
    SharedFile,
    Slot,
    entries,
    log_bytes,
    read_soundly,
)
from framework.log.producers import TASK_PRODUCER_BIT, Producers
from framework.log.segment import Segment
from framework.log.shared import DAMAGED, FAILED, IN_USE, PAGE_BYTES, RAISED, SLOT_BYTES, Mark, is_deleted


class Verification:
    """One check of a data directory, and how far it has come."""

    def __init__(
        self,
        directory: Path,
        topics: Sequence[str] = (),
        *,
        deep: bool = False,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        """Check *topics*, or else all; *deep* decodes every record; *progress* is called after every batch.

        Raises:
            NoDataDirectory: There is none.
        """
        self.partitions = self.segments = self.batches = self.records = self.bytes = self.total_bytes = 0
        self.directory, self._wanted, self.deep, self.progress = directory.absolute(), topics, deep, progress
        self.shared, self.files = SharedFile(self.directory / "shared"), Files()
        if not any((self.directory / name).exists() for name in ("shared", "catalogue", "topics")):
            raise NoDataDirectory(f"there is no data directory at {self.directory}")

    def findings(self) -> Iterator[Finding]:
        """Check, and give what is found as soon as it is; whatever the files hold, that raises nothing.

        Raises:
            UnknownTopic: There is no topic of a wanted name.
            Conflict: Another process has been opening the directory for too long.
        """
        path = self.directory / "catalogue"
        strays = {entry.name for entry in entries(self.directory / "topics")}
        topics, fault = read_soundly(path, lambda: read_catalogue(path)[0]), self.shared.fault()
        if fault is not None and (path.exists() or fault[1] not in (MISSING, EMPTY)):
            yield Finding(self.shared.path, fault[1], fault[0], repairable=fault[1] in (MISSING, EMPTY))
        if topics == MISSING and not strays:
            topics = {}  # None was ever made.
        if isinstance(topics, str):
            yield Finding(path, topics)
            return
        if unknown := sorted(set(self._wanted) - set(topics)):
            raise UnknownTopic(f"there is no topic {unknown[0]!r} in {self.directory}")
        for stray in set() if self.shared.in_use else strays - {topic.id for topic in topics.values()}:
            yield Finding(self.directory / "topics" / stray, "belongs to no topic", severity="note")
        wanted = [topic for name, topic in sorted(topics.items()) if name in self._wanted or not self._wanted]
        checks = [PartitionCheck(self, topic, number) for topic in wanted for number in range(topic.partitions)]
        self.total_bytes = sum(log_bytes(check.directory) for check in checks)
        for check in checks:
            self.partitions += 1
            yield from check.findings()


class PartitionCheck:
    """The check of one partition."""

    def __init__(self, run: Verification, topic: TopicInfo, number: int) -> None:
        """Part of *run*, which counts."""
        self.directory = run.directory / "topics" / topic.id / str(number)
        self._run, self._topic, self._number = run, topic, number
        self._manifest, self._slot = Manifest.empty(topic.id, number), Slot()
        self._folded: Producers | None = None

    def findings(self) -> Iterator[Finding]:
        """Everything about the partition; a segment that is deleted meanwhile says nothing."""
        run, path = self._run, self.directory / "manifest"
        manifest, slot = self._read_both(path)
        if isinstance(slot, str):
            yield self._shared_finding(slot)
        else:
            self._slot = slot
        if is_deleted(self._slot.flags) and run.shared.in_use:
            return
        if isinstance(manifest, str):
            if manifest != MISSING or self._slot.written.offset or log_bytes(self.directory):
                yield Finding(path, manifest)
            return
        self._manifest, rows = manifest, manifest.segments
        if fault := self._manifest_fault():
            yield Finding(path, fault)
            return
        yield from self._check_marks()
        for at, row in enumerate(rows):
            found = list(self._check_segment(at))
            if found:
                now, then = self._read_both(path)
                if not isinstance(then, str) and is_deleted(then.flags):
                    return
                if not isinstance(now, str) and row.generation not in {kept.generation for kept in now.segments}:
                    continue
            yield from found
        if not run.shared.in_use:  # Else it may be a roll that is under way.
            stems = {row.stem for row in rows}
            for name in (entry.name for entry in entries(self.directory)):
                if name != "manifest" and (name.endswith(".tmp") or name.rpartition(".")[0] not in stems):
                    text = "the manifest does not name it: a process was killed in between"
                    yield Finding(self.directory / name, text, severity="note", repairable=True)

    def _read_both(self, path: Path) -> tuple[Manifest | str, Slot | str]:
        """The manifest and the slot of one moment."""
        shared, slot_number = self._run.shared, self._topic.slots[self._number]
        manifest = read_soundly(path, lambda: Manifest.read(self.directory))
        for _ in range(100):
            slot = read_soundly(shared.path, lambda: shared.slot(slot_number)) if shared.sound else Slot()
            before, manifest = manifest, read_soundly(path, lambda: Manifest.read(self.directory))
            if before == manifest:
                break
        return manifest, slot

    def _manifest_fault(self) -> str | None:
        manifest, rows = self._manifest, self._manifest.segments
        numbers = [manifest.log_start, manifest.next_generation, *(row.size_bytes for row in rows[:-1])]
        numbers += [number for row in rows for number in (row.base_offset, row.generation)]
        if not rows or not all(isinstance(number, int) and number >= 0 for number in numbers):
            return f"names {len(rows)} segments, not all of them by numbers"
        if (manifest.topic_id, manifest.partition) != (self._topic.id, self._number):
            return f"belongs to partition {manifest.partition} of topic id {manifest.topic_id}"
        if rows[-1].size_bytes is not None or any(a.base_offset >= b.base_offset for a, b in pairwise(rows)):
            return "its segments are not in order, or the last one is closed"
        if len({row.generation for row in rows} | {manifest.next_generation}) <= len(rows):
            return "a generation is used twice"
        if manifest.log_start < rows[0].base_offset:
            return f"log start {manifest.log_start} is below the first segment, {rows[0].base_offset}"
        return None

    def _check_marks(self) -> Iterator[Finding]:
        """The slot against the manifest and against itself."""
        slot, active, shared = self._slot, self._manifest.active.base_offset, self._run.shared
        end, durable, faults = slot.written, slot.durable, []
        if durable.offset > active and durable.segment not in {row.base_offset for row in self._manifest.segments}:
            faults.append(f"durable is offset {durable.offset} of segment {durable.segment}, which there is not")
        if shared.trusted:
            if end.segment != active and end.offset != active:
                faults.append(f"written is offset {end.offset} of segment {end.segment}, the last one is {active}")
            # Last stable is stored before durable, so a kill can leave it ahead.
            if max(slot.last_stable, durable.offset, self._manifest.log_start) > end.offset:
                faults.append(f"durable {durable.offset} or last stable {slot.last_stable} is above {end.offset}")
            if not slot.flags & IN_USE or slot.flags & ~(IN_USE | FAILED | RAISED | DAMAGED):
                faults.append(f"flags are {slot.flags}")
            if slot.flags & FAILED:
                text = "a sync failed; it takes no appends until the directory is opened by a process that is alone"
                yield Finding(self.directory, text, severity="note")
            if slot.flags & DAMAGED:
                yield Finding(self.directory, "had lost what was durable when it was opened, and takes no appends")
        for text in faults:
            yield self._shared_finding(f"{self._topic.name}-{self._number}: {text}")

    def _mark_finding(self, mark: Mark, path: Path) -> Finding:
        text = f"durable is offset {mark.offset} at byte {mark.position} of {path}, which it is not"
        return self._shared_finding(text)

    def _shared_finding(self, text: str) -> Finding:
        place = PAGE_BYTES + self._topic.slots[self._number] * SLOT_BYTES
        return Finding(self._run.shared.path, text, place)

    def _check_segment(self, at: int) -> Iterator[Finding]:
        rows, run, slot = self._manifest.segments, self._run, self._slot
        row, run.segments = rows[at], run.segments + 1
        segment = Segment(self.directory, row, self._topic.settings.index_interval_bytes)
        snapshot = read_soundly(segment.producers_path, lambda: Producers.read(segment.producers_path))
        if isinstance(snapshot, str):
            yield Finding(segment.producers_path, snapshot)
        elif self._folded is not None and not _agree(snapshot, self._folded):
            yield Finding(segment.producers_path, "is not what the segments before it add up to")
        self._folded = None if isinstance(snapshot, str) or row.compacted else snapshot
        durable = slot.durable if slot.durable.segment == row.base_offset else Mark(row.base_offset, 0, 0)
        if row.size_bytes is not None:
            durable = Mark(rows[at + 1].base_offset, row.size_bytes, row.base_offset)
        fd = read_soundly(segment.path, lambda: run.files.open(segment.path, write=False), limit=None)
        if isinstance(fd, str):
            self._folded = None
            yield Finding(segment.path, fd, offset=row.base_offset)
            return
        try:
            end, faults = self._check_batches(segment, fd, durable)
        finally:
            run.files.close(fd)
        yield from faults
        if any(fault.severity == "damage" for fault in faults):
            self._folded = None
        yield from self._check_append_times(segment, end, needed=durable.offset > row.base_offset)

    def _check_batches(self, segment: Segment, fd: int, durable: Mark) -> tuple[int, list[Finding]]:
        """The offset behind the segment, and what is wrong up to there and with its index."""
        path, size = segment.path, os.fstat(fd).st_size
        scan = Scan(
            path, fd, (0, segment.base_offset), min(durable.position, size), durable.offset, gaps=segment.compacted
        )
        index = IndexCheck(segment) if segment.closed else None
        found = list(self._read_batches(scan, index))
        if size < durable.position:
            text = f"is {size} bytes long, {durable.position} bytes are in the log"
            found = [*found[: -1 if scan.torn else None], Finding(path, text, scan.good, scan.offset)]
        elif not scan.faults and scan.offset != durable.offset and not segment.compacted:
            wrong = Finding(path, f"offset {durable.offset} comes next", durable.position, scan.offset)
            # In the active segment everything is there, and only the mark says otherwise.
            found.append(wrong if segment.closed else self._mark_finding(durable, path))
        elif scan.faults and not segment.closed:
            last = scan.faults[-1]
            probe = Scan(path, fd, (last.position or 0, last.offset or 0), size)
            if probe.look(probe.good, gaps=False)[1] is None:
                found[-1] = self._mark_finding(durable, path)
        tail = size - durable.position
        if not found and tail > 0 and not segment.closed and not self._run.shared.trusted:
            behind = Scan(path, fd, (scan.good, scan.offset), size, max_faults=1)
            list(self._read_batches(behind, None))
            durable, tail = Mark(behind.offset, behind.good, 0), size - behind.good
        if not found and tail > 0 and not self._run.shared.in_use:
            text = f"{tail} bytes stand behind what is durable"
            found.append(Finding(path, text, durable.position, durable.offset, severity="note"))
        if index is not None and not scan.faults and size >= durable.position and (fault := index.fault()):
            found.append(Finding(segment.index_path, fault, repairable=True))
        return durable.offset, found

    def _read_batches(self, scan: Scan, index: IndexCheck | None) -> Iterator[Finding]:
        run = self._run
        for position, header in scan.batches():
            run.batches, run.bytes = run.batches + 1, run.bytes + header.size
            run.progress()
            if index is not None:
                index.add(position, header)
            if header.producer_id >= 0 and self._folded is not None:
                self._folded.add(header, header.base_offset)
            if run.deep:
                offsets = read_soundly(None, partial(self._offsets, scan.read(position, header.size)))
                if isinstance(offsets, str):
                    yield Finding(scan.path, offsets, position, header.base_offset)
                    continue
                run.records += len(offsets)
                bounded = [header.base_offset - 1, *offsets, header.next_offset]
                if len(offsets) != header.records or any(a >= b for a, b in pairwise(bounded)):
                    text = f"its {len(offsets)} records are not the {header.records} of its header"
                    yield Finding(scan.path, text, position, header.base_offset)
        yield from scan.faults

    def _offsets(self, batch: bytes) -> list[int]:
        return [record.offset for record in decode(batch, self._topic.settings.most_uncompressed_bytes)]

    def _check_append_times(self, segment: Segment, end: int, *, needed: bool) -> Iterator[Finding]:
        """The entries below offset *end*: in order, and from the first batch on where one is *needed*."""
        path, base, closed = segment.appended_path, segment.base_offset, segment.closed
        data = read_soundly(path, path.read_bytes)
        if isinstance(data, str):
            yield Finding(path, data, offset=base)
            return
        if data[: len(APPENDED_MAGIC)] != APPENDED_MAGIC:
            yield Finding(path, f"does not begin with {APPENDED_MAGIC!r}", 0, base)
            return
        before = last = (0, base - 1)
        dense, slot = not segment.compacted, self._slot
        at_end = self._run.shared.trusted and not closed and base < end == slot.written.offset
        for position in range(len(APPENDED_MAGIC), len(data) - ENTRY_BYTES + 1, ENTRY_BYTES):
            entry = entry_at(data, position)
            if entry is None:
                torn_write = not closed and position + ENTRY_BYTES >= len(data)
                if not torn_write:
                    yield Finding(path, "an entry has a wrong checksum", position, last[1])
                return
            second, offset = entry
            if offset >= end and (offset == end or not closed):
                break  # Of a write that was killed, or is not durable yet.
            if offset != last[1]:  # Else that write was killed, and the next one began at the same offset.
                before = last
            if offset >= end or offset <= before[1] or second < before[0] or (before[1] < base < offset and dense):
                text = f"second {second} from offset {offset} on cannot follow second {before[0]}, {before[1]}"
                yield Finding(path, text, position, offset)
                return
            last = (second, offset)
        torn = (len(data) - len(APPENDED_MAGIC)) % ENTRY_BYTES
        if needed and base > last[1] and dense:
            yield Finding(path, "has no entry for the first batch", len(data) - torn, base)
        elif at_end and last[0] < slot.second and not slot.flags & RAISED:
            text = f"ends with second {last[0]}, the last append was in {slot.second}"
            yield Finding(path, text, len(data) - torn, last[1])
        elif torn and closed and len(data) % 512:  # A kill tears a write at the end of a page only.
            yield Finding(path, f"ends with {torn} bytes of an entry", len(data) - torn)


def _agree(snapshot: Producers, folded: Producers) -> bool:
    """Whether *snapshot* is what was folded; only a task's producer must still be there, others expire."""
    known = snapshot._states.items() <= folded._states.items()
    return known and all(pid in snapshot._states for pid in folded._states if pid & TASK_PRODUCER_BIT)
