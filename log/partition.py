"""One partition as one process sees it: its segments, appending to it and bringing it to disk.

Only the committer thread appends. Everything here that changes the partition happens under its lock in the
shared file and starts from the `written` mark, so it does not matter which process changed it last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from framework.log.appended import append_times
from framework.log.catalogue import Catalogue, TopicInfo
from framework.log.clock import Clock
from framework.log.compaction import Compacted, Compactor, Dirt, compact, dirt_of
from framework.log.errors import (
    Damaged,
    Error,
    OffsetOutOfRange,
    OutOfOrderSequence,
    PartitionFailed,
    ProducerFenced,
    UnknownTopic,
)
from framework.log.files import Files
from framework.log.header import read_header, set_base_offset
from framework.log.locks import PARTITION_LOCK
from framework.log.producers import FoldedProducers, Producers
from framework.log.retention import segments_to_remove
from framework.log.segment import Segment, begin_segment
from framework.log.segments import Segments
from framework.log.shared import DAMAGED, DELETED, FAILED, RAISED, Mark, Shared, is_deleted, is_usable
from framework.log.writer import ActiveWriter, OpenWriters, Writer

Placed = tuple[bytearray, int, int, int]
"""A batch to write, its base offset, position in the file, and largest timestamp."""


@dataclass(frozen=True, slots=True)
class Place:
    """What partitions need of the log they lie in."""

    directory: Path
    shared: Shared
    files: Files
    clock: Clock
    catalogue: Catalogue
    open_writers: OpenWriters


class Partition:
    """The log of one partition."""

    def __init__(self, place: Place, topic: TopicInfo, number: int) -> None:
        """Touches no file."""
        self.topic, self.number, self.slot = topic, number, topic.slots[number]
        self.name = f"{topic.name}-{number}"
        self.directory = place.directory / "topics" / topic.id / str(number)
        self._shared, self._files, self._clock = place.shared, place.files, place.clock
        self._catalogue, self._catalogue_version = place.catalogue, -1
        self._reads_written = topic.settings.durability == "os"
        self._segments = Segments(self.directory, topic, number, place.shared, place.files)
        self._active = ActiveWriter(place.files, place.open_writers, place.shared.mutex(PARTITION_LOCK + self.slot))
        self._folded = FoldedProducers()
        self.rolled = False
        """Whether a segment was closed since somebody set this to false: then retention may have something to do."""

    # What readers ask.

    @property
    def log_start(self) -> int:
        """The first offset that is kept."""
        manifest = self._segments.manifest()
        return manifest.log_start if manifest else 0

    @property
    def high_watermark(self) -> int:
        """The first offset that cannot be read yet."""
        if self._reads_written:
            return self._shared.written_offset(self.slot)
        return self._shared.durable_offset(self.slot)

    @property
    def readable(self) -> Mark:
        """The high watermark, and where in the files it is."""
        return self._shared.written(self.slot) if self._reads_written else self._shared.durable(self.slot)

    @property
    def is_synced(self) -> bool:
        """Whether everything that was appended would survive a power cut."""
        return self._shared.durable_offset(self.slot) >= self._shared.written_offset(self.slot)

    @property
    def log_end(self) -> int:
        """The next offset to be written."""
        return self._shared.written_offset(self.slot)

    def segment_of(self, offset: int) -> tuple[Segment, int | None]:
        """The segment that holds *offset*, and the base offset of the one behind it.

        Raises:
            OffsetOutOfRange: It is below the log start or above the log end.
            UnknownTopic: The topic has been deleted.
        """
        self.check_exists()
        return self._segments.of(offset)

    def segments(self) -> list[Segment]:
        """Every segment in order, the active one last."""
        return self._segments.all()

    def check_exists(self) -> None:
        """Raise `UnknownTopic` if the topic has been deleted."""
        if is_deleted(self._shared.flags(self.slot)):
            raise UnknownTopic(f"topic {self.topic.name!r} has been deleted")

    # What the committer does.

    def append(self, groups: list[list[bytearray]]) -> list[int | Error]:
        """Write the batches of all *groups* and publish them; the base offset of each group.

        A group whose batches were all sent before answers -1: nothing is written again, and the caller
        acknowledges it, like any other, when what is written now is durable.

        Raises:
            PartitionFailed, OSError: The last groups were not appended.
        """
        with self._locked():
            self.check_exists()
            self._check_not_failed()
            self._refresh_topic()
            writer, mark = self._attach_writer()
            try:
                return self._append(groups, mark, writer)
            except BaseException:
                self._folded.forget()
                raise

    def sync(self) -> Mark:
        """Bring what is written to disk; returns up to where. Call `advance` with it afterwards."""
        mark = self._shared.written(self.slot)
        while not self._synced(mark):
            with self._locked_existing():
                _, mark = self._attach_writer()
        return mark

    def _synced(self, mark: Mark) -> bool:
        try:
            return self._active.sync(mark, self._noted_second())
        except OSError:
            with self._locked():
                self._shared.set_flags(self.slot, self._shared.flags(self.slot) | FAILED)
            raise

    def _noted_second(self) -> int | None:
        """The append second, if the file of append times knows it."""
        second = self._shared.append_second(self.slot)  # Read first: whoever raises it sets the flag before.
        return None if self._shared.flags(self.slot) & RAISED else second

    def advance(self, mark: Mark) -> None:
        """Move the high watermark up to *mark*, which a finished `sync` returned."""
        with self._locked():
            self._check_not_failed()
            self._shared.publish_durable(self.slot, mark)

    def last_sequence(self, producer_id: int) -> int | None:
        """The sequence of *producer_id*'s last record, None if it has none."""
        with self._locked():
            if self._segments.manifest() is None and not self._shared.written_offset(self.slot):
                return None
            writer, mark = self._attach_writer()
            return self._producers_at(mark, writer).last_sequence(producer_id)

    def end_before(self, second: int, *, known: int | None = None) -> int:
        """Up to which offset records were appended before *second*; from now on none is.

        Later appends get that second or a later one, whatever the clock does, so the answer stays what it is. Where
        nothing was appended behind offset *known*, nothing has to be said: it is the answer.
        """
        with self._locked():
            self.check_exists()
            mark, last = self._shared.written(self.slot), self._shared.append_second(self.slot)
            if mark.offset == known:
                return mark.offset
            if last >= second:
                return self._segments.end_before(second)
            # The flag says that the second is in the mark only: the next append has to note it, even in that second.
            self._shared.set_flags(self.slot, self._shared.flags(self.slot) | RAISED)
            self._shared.publish_written(self.slot, mark, second)
            return mark.offset

    @property
    def append_second(self) -> int:
        """The second of the last append, in seconds since the epoch; appends never go below it."""
        return self._shared.append_second(self.slot)

    # What keeps it in bounds.

    def retain(self) -> int:
        """Remove the closed segments that retention does not keep; the log start."""
        with self._locked():
            if not is_usable(self._shared.flags(self.slot)) or self._segments.manifest() is None:
                return self.log_start
            self._refresh_topic()
            writer, mark = self._attach_writer()
            now_s = self._clock.now_ms() // 1000
            age_s = now_s - self._shared.append_second(self.slot)
            if mark.position and 0 <= self.topic.settings.retention_ms < age_s * 1000:
                writer, mark = self._roll(writer)  # All of it is too old, so it need not wait for the next append.
            closed, hold = self._segments.closed(now_s), self._shared.hold(self.slot)
            count = segments_to_remove(closed, mark.position, self.topic.settings, now_s, hold)
            if count:
                self._segments.start_at(closed[count - 1].next_offset)
            return self.log_start

    def delete_records(self, before: int) -> int:
        """Move the log start up to offset *before*; whole segments below it are removed. Returns the log start.

        Raises:
            OffsetOutOfRange: *before* is above the high watermark.
        """
        with self._locked():
            self.check_exists()
            if before > self.high_watermark:
                raise OffsetOutOfRange(f"{self.name} ends at {self.high_watermark}, its start cannot be {before}")
            writer, mark = self._attach_writer()
            if before > self._shared.durable_offset(self.slot):
                # At level `os`. Or after a power cut the log would end below its start, and hide what comes next.
                self._check_not_failed()
                self._sync_to(mark, writer)
            self._segments.start_at(before)
            return self.log_start

    def dirt(self) -> Dirt | None:
        """What compaction would work on; None before the first append."""
        manifest, now_s = self._segments.manifest(), self._clock.now_ms() // 1000
        return None if manifest is None else dirt_of(self.directory, manifest, self.topic.settings, now_s)

    def compact(self, *, force: bool = False, stop: Callable[[], bool] = lambda: False) -> Compacted:
        """Keep only the last record of each key in the closed segments, if enough of them is dirty, or by *force*.

        Raises:
            Damaged: A batch is not what was appended.
            Stopped: *stop* said so.
        """
        with self._locked():
            if not is_usable(self._shared.flags(self.slot)) or self._segments.reread() is None:
                return Compacted()
            self._refresh_topic()
        compactor = Compactor(self.directory, self.topic.settings, self._files, self._clock.now_ms(), stop)
        return compact(self._segments, compactor, self._locked_existing, force=force)

    def set_hold(self, offset: int | None) -> None:
        """Say up to where the agents and jobs of this directory have read; by the worker."""
        self._shared.set_hold(self.slot, offset)

    def mark_deleted(self) -> None:
        """Refuse appends and reads from now on, in all processes; this one lets go of the files."""
        with self._locked():
            self._shared.set_flags(self.slot, self._shared.flags(self.slot) | DELETED)
            self._active.close()

    def _check_not_failed(self) -> None:
        if self._shared.flags(self.slot) & FAILED:
            raise PartitionFailed(f"{self.name} failed to sync and takes no appends until it is reopened")
        if self._shared.flags(self.slot) & DAMAGED:
            raise Damaged(f"{self.name} has lost what was durable and takes no appends; `framework verify` says more")

    def _refresh_topic(self) -> None:
        """Take over settings that have been altered."""
        version = self._shared.catalogue_version
        if version != self._catalogue_version:
            self.topic = self._catalogue.by_id(self.topic.id) or self.topic
            self._reads_written = self.topic.settings.durability == "os"
            self._catalogue_version = version

    def _locked(self) -> AbstractContextManager[None]:
        return self._shared.locked(PARTITION_LOCK + self.slot, f"partition {self.name}")

    @contextmanager
    def _locked_existing(self) -> Iterator[None]:
        with self._locked():
            self.check_exists()
            yield

    def close(self) -> None:
        """Close the files that are open for appending."""
        self._active.close()

    # Under the lock.

    def _attach_writer(self) -> tuple[Writer, Mark]:
        """The open active segment, cut to the end of what has been appended."""
        mark = self._shared.written(self.slot)
        manifest = self._segments.reread()  # A process that was killed while rolling could not say so.
        if manifest is None:
            if mark.offset:
                raise Damaged(f"{self.directory / 'manifest'} is missing, but the log end is {mark.offset}")
            manifest = self._segments.create()
        self._segments.sync_names(manifest)
        if manifest.active.base_offset != mark.segment:
            # Killed between the new manifest and the mark: the roll is as good as done.
            if manifest.active.base_offset != mark.offset:
                raise Damaged(
                    f"{self.directory / 'manifest'} ends with segment {manifest.active.base_offset}, "
                    f"the log end is {mark.offset} in segment {mark.segment}"
                )
            mark = Mark(mark.offset, 0, mark.offset)
            self._shared.publish_written(self.slot, mark, self._shared.append_second(self.slot))
        writer = self._active.attach(self._segments.segment(manifest, len(manifest.segments) - 1))
        writer.cut_to(mark.position, mark.offset)
        return writer, mark

    def _append(self, groups: list[list[bytearray]], mark: Mark, writer: Writer) -> list[int | Error]:
        """Give each new batch its offset and write it; roll where the active segment is full."""
        answers: list[int | Error] = []
        pending: list[Placed] = []
        offset, position = mark.offset, mark.position
        for group in groups:
            answer: int | Error = -1
            for batch in group:
                header = read_header(batch)
                try:
                    if header.producer_id >= 0 and self._producers_at(mark, writer).is_duplicate(header):
                        continue
                except (OutOfOrderSequence, ProducerFenced) as error:
                    answer = error
                    break
                if position and (position + len(batch) > self.topic.settings.segment_bytes or self._is_old(writer)):
                    self._write(writer, pending, Mark(offset, position, writer.segment.base_offset))
                    pending = []
                    writer, mark = self._roll(writer)
                    position = 0
                set_base_offset(batch, offset)
                if header.producer_id >= 0:
                    self._producers_at(mark, writer).add(header, offset)
                pending.append((batch, offset, position, header.max_timestamp))
                answer = offset if answer == -1 else answer
                offset, position = offset + header.last_offset_delta + 1, position + len(batch)
            answers.append(answer)
        self._write(writer, pending, Mark(offset, position, writer.segment.base_offset))
        return answers

    def _is_old(self, writer: Writer) -> bool:
        """Whether the active segment has been open for longer than `segment.ms`."""
        begun = writer.first_second
        return begun is not None and self._clock.now_ms() - begun * 1000 >= self.topic.settings.segment_ms

    def _producers_at(self, mark: Mark, writer: Writer) -> Producers:
        return self._folded.as_of(mark, writer.segment, writer.read)

    def _write(self, writer: Writer, pending: list[Placed], mark: Mark) -> None:
        if not pending:
            return
        before = self._shared.written(self.slot)
        last_second = self._shared.append_second(self.slot)
        second = max(last_second, self._clock.now_ms() // 1000)
        writer.write([batch for batch, *_ in pending], before.position)
        flags = self._shared.flags(self.slot)
        if second != last_second or before.position == 0 or flags & RAISED:
            writer.note_second(second, before.offset)
        self._shared.publish_written(self.slot, mark, second, ring=self._reads_written)
        if flags & RAISED:
            self._shared.set_flags(self.slot, flags & ~RAISED)
        for batch, offset, position, max_timestamp in pending:
            writer.segment.note(offset, position, len(batch), max_timestamp)
        self._folded.move(before, mark)

    def _sync_to(self, mark: Mark, writer: Writer) -> None:
        try:
            writer.sync(self._noted_second(), mark.position)
        except OSError:
            self._shared.set_flags(self.slot, self._shared.flags(self.slot) | FAILED)
            raise
        self._shared.publish_durable(self.slot, mark)

    def _roll(self, writer: Writer) -> tuple[Writer, Mark]:
        """Close the active segment, durably, and begin the next one at the log end."""
        known = self._segments.manifest()
        assert known is not None
        mark = self._shared.written(self.slot)
        producers = self._producers_at(mark, writer)
        second, expiration_ms = self._shared.append_second(self.slot), self.topic.settings.producer_id_expiration_ms
        producers.expire(append_times(writer.segment.appended_path.read_bytes()), second, expiration_ms)
        # Whoever syncs the new segment later says that everything below it is on disk too.
        self._sync_to(mark, writer)
        writer.segment.walk_to(self._files, writer.fd, mark.position)
        self._files.replace(writer.segment.index_path, writer.segment.index_bytes())
        manifest = known.rolled(mark.offset, mark.position)
        segment = Segment(self.directory, manifest.active, self.topic.settings.index_interval_bytes)
        begin_segment(self._files, segment, producers)
        self._segments.replace(manifest)
        self._segments.segment(manifest, len(manifest.segments) - 2)
        before, mark = mark, Mark(mark.offset, 0, mark.offset)
        self._shared.publish_written(self.slot, mark, second)
        self._folded.move(before, mark)
        self.rolled = True
        return self._attach_writer()
