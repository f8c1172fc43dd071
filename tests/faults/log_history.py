"""What a log was asked and what it answered; `log_checks` holds a log after a crash against it.

A `History` drives a real `Log` in the thread of the test: the committer's own code appends, syncs and acknowledges,
so that every operation has its place in the order. At each operation it can note what a crash must keep: `Expected`.
What is removed on purpose, by retention, compaction or with its topic, is looked at before it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from framework.log import Files, Log, NewRecord, Partition, TopicSettings, appended, decode, encode
from framework.log.committer import Append
from framework.log.errors import UnknownTopic
from framework.log.header import CRC_START, read_header
from framework.log.producers import TASK_PRODUCER_BIT
from tests.faults.log_stream import Found, Key, Marks, Sent, Stream, Violation, What, records_of

SMALL = TopicSettings(segment_bytes=4096, index_interval_bytes=512, max_message_bytes=1 << 20)
RETAINED = replace(SMALL, retention_bytes=8000, retention_ms=60_000)
COMPACTED = replace(SMALL, cleanup_policy="compact", delete_retention_ms=60_000)
UNSYNCED = replace(SMALL, durability="os")
SETTINGS = {"kept": RETAINED, "table": COMPACTED, "unsynced": UNSYNCED}
"""Topics of other names are `SMALL`."""


class DirectLog(Log):
    """A log whose committer works in the thread that asks, so that every operation has its place in the order."""

    removing: Callable[[Partition, Callable[[], object]], None] | None = None
    """Is given what may remove records, to run it."""

    def __enter__(self) -> DirectLog:
        return self

    def commit(self, partition: Partition, batches: Iterable[bytes | bytearray]) -> int:
        """Append *batches* and sync: the first offset, -1 for what was there."""
        append = Append(partition, [bytearray(batch) for batch in batches])
        self._committer._commit({partition: [append]})
        return append.done.result(0)

    def sync(self, partition: Partition) -> Future[int]:
        """Bring to disk what any process has written."""
        done = Future[int]()
        done.set_result(self.commit(partition, []))
        return done

    def _rolled(self, partition: Partition) -> None:
        """Retention as ever; nothing is compacted but when a test says so."""
        if self.removing is None or partition.topic.settings.retention_bytes < 0:
            partition.retain()
        else:
            self.removing(partition, partition.retain)


class SteppingClock:
    """A clock that moves when it is told to."""

    def __init__(self, ms: int = 1_700_000_000_000) -> None:
        self.ms = ms

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return self.ms

    def monotonic(self) -> float:
        """The same in seconds."""
        return self.ms / 1000


@dataclass(frozen=True)
class Expected:
    """What a crash at one moment must keep."""

    history: History
    topics: dict[str, str]
    streams: dict[Key, Stream]
    marks: dict[Key, Marks]
    ms: int
    deleting: frozenset[str] = frozenset()
    """Topics that may be there, as they were, or gone."""
    deleted: frozenset[str] = frozenset()
    """Ids of topics that are gone."""
    settings: dict[str, tuple[TopicSettings, ...]] = field(default_factory=dict)
    """What an altered topic may have."""


class History:
    """Drives one log."""

    def __init__(self, files: Files, data: Path, before: Expected | None = None) -> None:
        """*before* is what an earlier history, which ended in a crash, left to be kept."""
        self.files, self.data, self.before = files, data, before
        self.clock = SteppingClock(before.ms if before else 1_700_000_000_000)
        self.log: DirectLog | None = None
        self.logs: list[DirectLog] = []
        self.acting: Log | None = None
        """The log that was used last."""
        self.topics: dict[str, str] = dict(before.topics) if before else {}
        self.visible = {key: marks.visible for key, marks in before.marks.items()} if before else {}
        self.streams: dict[Key, Stream] = {}
        self.deleting = set(before.deleting) if before else set()
        self.deleted = set(before.deleted) if before else set()
        self.settings = dict(before.settings) if before else {}
        for key, marks in before.marks.items() if before else ():
            assert before is not None
            self.streams[key] = before.streams[key].after_a_crash(marks)
        self._made: int = before.history._made if before else 0

    # Driving.

    def open(self) -> DirectLog:
        """Open the log; what is sent from now on goes there, unless it says otherwise."""
        self.log = None
        self.log = DirectLog(self.data, create=True, files=self.files, clock=self.clock)
        self.log.removing = self._removing
        self.logs.append(self.log)
        return self.log

    def close(self, but: DirectLog | None = None) -> None:
        """Close what is open. Without a committer's thread that writes nothing: a killed process looks the same."""
        for log in self.logs:
            if log is not but:
                log.close()
        self.logs, self.log = [but] if but else [], but

    def partition(self, key: Key, log: Log | None = None) -> Partition:
        """The partition *key*, whose topic is made if need be."""
        log = self.acting = log or self.log
        assert log is not None
        try:
            topic = log.topic(key[0])
        except UnknownTopic:
            self.gone(key[0])
            topic = log.create_topic(key[0], 2, SETTINGS.get(key[0], SMALL))
        if topic.name not in self.topics:
            self.topics[topic.name] = topic.id
        self.deleting.discard(topic.name)  # Who uses a topic has seen that it is there.
        return log.partition(topic, key[1])

    def send(self, key: Key, *batches: What, producer: int | None = None, log: DirectLog | None = None) -> int:
        """Append *batches*; an idempotent producer sends first again what was not acknowledged."""
        log = log or self.log
        assert log is not None
        partition = self.partition(key, log)
        stream = self.streams.setdefault(key, Stream())
        places = stream.outbox.pop(producer, []) if producer is not None else []
        for what in batches:
            places.append(len(stream.sent))
            stream.sent.append(self.make(stream, what, producer))
        if producer is not None:
            stream.outbox[producer] = list(places)
        first = log.commit(partition, [stream.sent[at].batch for at in places])
        self.visible[key] = max(self.visible.get(key, 0), log.shared.durable_offset(partition.slot))
        offset, fresh = first, 0 if first >= 0 else len(places)
        if first >= 0:  # The first ones may have been there; the last ones are not.
            end = partition.log_end
            fresh = next(at for at in range(len(places)) if first + self._records(stream, places[at:]) == end)
        for number, at in enumerate(places):
            answer = -1 if number < fresh else offset
            offset += 0 if number < fresh else read_header(stream.sent[at].batch).last_offset_delta + 1
            stream.answers.append((at, answer))
        if producer is not None:
            stream.outbox[producer] = []
        return first

    def retain(self, key: Key, log: DirectLog | None = None) -> None:
        """Remove what retention does not keep."""
        partition = self.partition(key, log)
        self._removing(partition, partition.retain)

    def delete_records(self, key: Key, before: int, log: DirectLog | None = None) -> None:
        """Move the log start to offset *before*."""
        partition = self.partition(key, log)
        self.streams[key].asked = before
        self._removing(partition, lambda: partition.delete_records(before))
        self.streams[key].asked = None

    def compact(self, key: Key, log: DirectLog | None = None) -> None:
        """Keep only the last record of each key in all closed segments; tombstones for as long as they must be."""
        partition, stream, now_ms = self.partition(key, log), self.streams[key], self.clock.now_ms()
        self.look(partition)
        end = max((segment.base_offset for segment in partition.segments()), default=0)
        for offset, record in records_of(stream.final).items():
            if record.value is None and offset < end:
                since_ms = stream.marked.setdefault(offset, now_ms)
                if since_ms + partition.topic.settings.delete_retention_ms <= now_ms:
                    stream.droppable.add(offset)
        partition.compact(force=True)
        stream.compacted_to = end

    def alter(self, name: str, settings: TopicSettings, partitions: int, log: DirectLog | None = None) -> None:
        """Give a topic other settings and more partitions."""
        log = log or self.log
        assert log is not None
        self.settings[name] = (*self.settings.get(name, (log.topic(name).settings,)), settings)
        log.alter_topic(name, settings, partitions)
        self.settings[name] = (settings,)

    def delete_topic(self, name: str, log: DirectLog | None = None) -> None:
        """Delete a topic; that it is gone already is an answer too."""
        log = log or self.log
        assert log is not None
        for key in self.streams:
            if key[0] == name and name in log.topics() and name not in self.deleting:
                self.look(self.partition(key, log))
        self.deleting.add(name)
        with suppress(UnknownTopic):
            log.delete_topic(name)
        self.gone(name)

    def gone(self, name: str) -> None:
        """Somebody was told that the topic *name* is not there."""
        if name in self.deleting:
            self.deleted.add(self.topics.pop(name))
            self.deleting.discard(name)
            self.settings.pop(name, None)
            for key in [key for key in self.streams if key[0] == name]:
                del self.streams[key]
                self.visible.pop(key, None)

    def tick(self, seconds: int = 1) -> None:
        """Time goes by."""
        self.clock.ms += 1000 * seconds

    # What is there.

    def expected(self) -> Expected:
        """What must be kept if everything stopped now."""
        marks = {}
        for key, stream in self.streams.items():
            if self.log is not None and key[0] in self.topics and key[0] in self.log.topics():
                topic = self.log.topic(key[0])
                mark = self.log.shared.durable_offset(topic.slots[key[1]])
                if mark < self.visible.get(key, 0):
                    raise Violation("high watermark", f"{key} went from {self.visible[key]} back to {mark}")
                self.visible[key] = mark
            visible, answers = self.visible.get(key, 0), len(stream.answers)
            if key[0] == "unsynced":
                answers = next((at for at, (_, offset) in enumerate(stream.answers) if offset >= visible), answers)
            starts, droppable = len(stream.starts), frozenset(stream.droppable)
            counts = (visible, answers, len(stream.sent), starts, stream.moving, stream.compacted_to, droppable)
            marks[key] = Marks(*counts)
        gone = frozenset(self.deleting), frozenset(self.deleted)
        return Expected(self, dict(self.topics), dict(self.streams), marks, self.clock.ms, *gone, dict(self.settings))

    def end(self) -> None:
        """Look at what there is; everything before is judged by it. Then close the log."""
        log = self.open() if self.log is None else self.log
        for key, stream in self.streams.items():
            if key[0] in log.topics():
                self.look(log.partition(log.topic(key[0]), key[1]))
                if stream.moving:
                    stream.starts.append(log.partition(log.topic(key[0]), key[1]).log_start)
        self.close()

    def look(self, partition: Partition) -> None:
        """Learn what there is, before something of it goes."""
        assert self.log is not None
        stream = self.streams[partition.topic.name, partition.number]
        stamps = {sent.stamp: sent for sent in stream.sent}
        for header, body in read(self.log, partition, partition.log_start):
            sent = stamps.get(header.max_timestamp)
            was_sent = sent.body if sent and partition.topic.settings.compacts else body
            stream.final.setdefault(header.base_offset, was_sent)
        for base, second in append_times(partition):
            if base < partition.high_watermark:
                stream.times.setdefault(base, second)

    @contextmanager
    def _moving(self, partition: Partition) -> Iterator[None]:
        stream = self.streams[partition.topic.name, partition.number]
        seen = partition.log_start if stream.moving and stream.asked is None else -1
        stream.moving = True
        yield
        if partition.log_start != seen:  # Else retention has only seen what one who was killed had done.
            stream.starts.append(partition.log_start)
            stream.moving = False

    def _removing(self, partition: Partition, run: Callable[[], object]) -> None:
        self.look(partition)
        with self._moving(partition):
            run()

    def make(self, stream: Stream, what: What, producer: int | None) -> Sent:
        """A batch."""
        self._made += 1
        value = b"%06d:" % self._made
        if isinstance(what, int):
            pairs: list[tuple[bytes | None, bytes | None]] = [(b"k", value.ljust(what, b".")), (None, value)]
        else:
            pairs = [(key, None if size is None else value.ljust(size, b".")) for key, size in what]
        options: dict[str, Any] = {}
        if producer is not None:
            base = stream.sequences.get(producer, 0)
            options = {"producer_id": producer | TASK_PRODUCER_BIT, "producer_epoch": 0, "base_sequence": base}
            stream.sequences[producer] = base + len(pairs)
        records = [NewRecord(key, value, self._made) for key, value in pairs]
        [batch] = encode(records, max_batch_bytes=1 << 20, **options)
        return Sent(bytes(batch), producer, what, self._made)

    def _records(self, stream: Stream, places: Iterable[int]) -> int:
        return sum(read_header(stream.sent[at].batch).last_offset_delta + 1 for at in places)


def read(log: Log, partition: Partition, offset: int = 0, max_bytes: int = 1 << 20) -> Found:
    """Every batch from the one at *offset* up to the high watermark."""
    reader, found = log.reader(partition, offset), []
    try:
        while batches := reader.read(max_bytes).batches:
            found += [(header, bytes(batch[CRC_START:])) for header, batch in batches]
            for _, batch in batches:
                decode(batch)
    finally:
        reader.close()
    return found


def append_times(partition: Partition) -> list[tuple[int, int]]:
    """Offset and second of every entry; not of those that a killed writer left behind the end of a segment."""
    rows: list[tuple[int, int]] = []
    segments = partition.segments()
    for segment, end in zip(segments, [*(one.base_offset for one in segments[1:]), 1 << 62], strict=False):
        begin = len(rows)
        entries = appended.append_times(segment.appended_path.read_bytes())
        rows += [(base, second) for second, base in entries if base < end]
        if any(base < segment.base_offset for base, _ in rows[begin:]):
            raise Violation("append times", f"{partition.name}: {rows[begin:]} in the segment at {segment.base_offset}")
    if rows != sorted(rows) or [second for _, second in rows] != sorted(second for _, second in rows):
        raise Violation("append times", f"{partition.name}: they go back: {rows}")
    return rows
