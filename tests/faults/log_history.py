"""What a log was asked and what it answered, and whether a log after a crash still fits that.

A `History` drives a real `Log` in the thread of the test: the committer's own code appends, syncs and acknowledges,
so that every operation has its place in the order. At each operation it can note what a crash must keep: `Expected`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from framework.log import Files, Log, NewRecord, Partition, TopicSettings, appended, decode, encode
from framework.log.committer import Append
from framework.log.errors import UnknownTopic
from framework.log.header import CRC_START, Header, read_header
from framework.log.producers import TASK_PRODUCER_BIT

SMALL = TopicSettings(segment_bytes=4096, index_interval_bytes=512, max_message_bytes=1 << 20)
Key = tuple[str, int]
Found = list[tuple[Header, bytes]]


class Violation(AssertionError):
    """A promise that was not kept; `check` names it."""

    def __init__(self, check: str, what: str) -> None:
        super().__init__(f"{check}: {what}")
        self.check = check


@dataclass(frozen=True)
class Sent:
    """One batch that was handed to the log, once or more often; `body` is what the log never changes of it."""

    batch: bytes
    producer: int | None
    size: int

    @property
    def body(self) -> bytes:
        """Everything from the attributes on."""
        return self.batch[CRC_START:]


class DirectLog(Log):
    """A log whose committer works in the thread that asks, so that every operation has its place in the order."""

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
    visible: dict[Key, int]
    acknowledged: dict[Key, int]
    sent: dict[Key, int]
    ms: int


@dataclass
class Stream:
    """One partition as its writers know it: every batch in the order it was first sent, and the answers."""

    sent: list[Sent] = field(default_factory=list)
    answers: list[tuple[int, int]] = field(default_factory=list)
    """Of each acknowledged batch: its place in `sent`, and its offset, -1 for a duplicate."""
    outbox: dict[int, list[int]] = field(default_factory=dict)
    sequences: dict[int, int] = field(default_factory=dict)
    final: list[tuple[int, bytes]] = field(default_factory=list)
    """Offset and body of every batch at the end of the history."""
    times: list[tuple[int, int]] = field(default_factory=list)
    """Where each append second began, at the end of the history."""


class History:
    """Drives one log."""

    def __init__(self, files: Files, data: Path, before: Expected | None = None) -> None:
        """*before* is what an earlier history, which ended in a crash, left to be kept."""
        self.files, self.data, self.before = files, data, before
        self.clock = SteppingClock(before.ms if before else 1_700_000_000_000)
        self.log: DirectLog | None = None
        self.logs: list[DirectLog] = []
        self.topics: dict[str, str] = dict(before.topics) if before else {}
        self.visible: dict[Key, int] = dict(before.visible) if before else {}
        self.streams: dict[Key, Stream] = {}
        self._made = 0
        for key, old in before.history.streams.items() if before else ():
            count, stream = before.sent.get(key, 0) if before else 0, Stream()
            stream.sent, stream.answers = (
                old.sent[:count],
                old.answers[: before.acknowledged.get(key, 0)] if before else [],
            )
            answered = {at for at, _ in stream.answers}
            for at, sent in enumerate(stream.sent):
                if sent.producer is not None:
                    header = read_header(sent.batch)
                    stream.sequences[sent.producer] = header.last_sequence + 1
                    if at not in answered:
                        stream.outbox.setdefault(sent.producer, []).append(at)
            self.streams[key] = stream
        self._made = before.history._made if before else 0

    # Driving.

    def open(self) -> DirectLog:
        """Open the log; what is sent from now on goes there, unless it says otherwise."""
        self.log = None
        self.log = DirectLog(self.data, create=True, files=self.files, clock=self.clock)
        self.logs.append(self.log)
        return self.log

    def close(self) -> None:
        """Close all that is open. Without a committer's thread that writes nothing: a killed process looks the same."""
        for log in self.logs:
            log.close()
        self.logs, self.log = [], None

    def partition(self, key: Key, log: Log | None = None) -> Partition:
        """The partition *key*, whose topic is made if need be."""
        log = log or self.log
        assert log is not None
        try:
            topic = log.topic(key[0])
        except UnknownTopic:
            topic = log.create_topic(key[0], 2, SMALL)
        if topic.name not in self.topics:
            self.topics[topic.name] = topic.id
        return log.partition(topic, key[1])

    def send(self, key: Key, *sizes: int, producer: int | None = None, log: DirectLog | None = None) -> int:
        """Append a batch of each size; an idempotent producer sends first again what was not acknowledged."""
        log = log or self.log
        assert log is not None
        partition = self.partition(key, log)
        stream = self.streams.setdefault(key, Stream())
        places = stream.outbox.pop(producer, []) if producer is not None else []
        for size in sizes:
            places.append(len(stream.sent))
            stream.sent.append(self._make(stream, size, producer))
        if producer is not None:
            stream.outbox[producer] = list(places)
        first = log.commit(partition, [stream.sent[at].batch for at in places])
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

    def tick(self, seconds: int = 1) -> None:
        """Time goes by."""
        self.clock.ms += 1000 * seconds

    def expected(self) -> Expected:
        """What must be kept if everything stopped now."""
        if self.log is not None:
            for key in self.streams:
                if key[0] in self.topics and key[0] in self.log.topics():
                    topic = self.log.topic(key[0])
                    mark = self.log.shared.durable_offset(topic.slots[key[1]])
                    if mark < self.visible.get(key, 0):
                        raise Violation("high watermark", f"{key} went from {self.visible[key]} back to {mark}")
                    self.visible[key] = mark
        return Expected(
            self,
            dict(self.topics),
            dict(self.visible),
            {key: len(stream.answers) for key, stream in self.streams.items()},
            {key: len(stream.sent) for key, stream in self.streams.items()},
            self.clock.ms,
        )

    def end(self) -> None:
        """Read what there is; everything before is judged by it. Then close the log."""
        log = self.open() if self.log is None else self.log
        for key, stream in self.streams.items():
            if key[0] in log.topics():
                found = read(log, self.partition(key, log))
                stream.final = [(header.base_offset, body) for header, body in found]
                stream.times = append_times(self.partition(key, log))
        self.close()

    def _make(self, stream: Stream, size: int, producer: int | None) -> Sent:
        self._made += 1
        value = b"%06d:" % self._made
        records = [NewRecord(b"k", value.ljust(size, b"."), self._made), NewRecord(None, value, self._made)]
        options: dict[str, Any] = {}
        if producer is not None:
            base = stream.sequences.get(producer, 0)
            options = {"producer_id": producer | TASK_PRODUCER_BIT, "producer_epoch": 0, "base_sequence": base}
            stream.sequences[producer] = base + len(records)
        [batch] = encode(records, max_batch_bytes=1 << 20, **options)
        return Sent(bytes(batch), producer, size)

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


def check(history: History, expected: Expected, rng: random.Random) -> None:
    """Open *history*, whose files a crash left, and hold it against *expected*; it can then go on.

    Raises:
        Violation: Something is not as it was promised.
    """
    try:
        log = history.open()
    except Exception as error:
        raise Violation("opens", repr(error)) from error
    topics = {name: info.id for name, info in log.topics().items()}
    if lost := {name for name, was in expected.topics.items() if topics.get(name) != was}:
        raise Violation("topics", f"{lost} were acknowledged, there are {topics}")
    for key in expected.sent:
        if key[0] in topics:
            _guarded(partial(_check_partition, history, key, expected, rng))
        elif expected.visible.get(key):
            raise Violation("topics", f"{key} had records, its topic is gone")


def check_going_on(history: History, expected: Expected) -> None:
    """What was sent is sent again, as after a crash, and stored once; new records come behind it."""
    _guarded(partial(_check_going_on, history, expected))


def _guarded(run: Callable[[], None]) -> None:
    """Whatever a log raises is a violation too."""
    try:
        run()
    except Violation:
        raise
    except Exception as error:
        raise Violation("reads and appends", repr(error)) from error


def _check_partition(history: History, key: Key, expected: Expected, rng: random.Random) -> None:
    assert history.log is not None
    partition = history.partition(key)
    found, old = read(history.log, partition), expected.history.streams[key]
    ends = [header.next_offset for header, _ in found]
    if [header.base_offset for header, _ in found] != [0, *ends][: len(found)]:
        raise Violation("dense offsets", f"{key}: {[header.base_offset for header, _ in found]}")
    if not partition.high_watermark == partition.log_end == (ends[-1] if ends else 0):
        raise Violation("log end", f"{key}: {partition.high_watermark}, {partition.log_end}, read to {ends[-1:]}")
    now, visible = [(header.base_offset, body) for header, body in found], expected.visible.get(key, 0)
    kept = [row for row in old.final if row[0] < visible]
    if now[: len(kept)] != kept:
        raise Violation("visible records", f"{key}: of {visible} visible there are {ends[-1:]}, or they are others")
    for at, offset in old.answers[: expected.acknowledged.get(key, 0)]:
        if offset >= visible:
            raise Violation("acknowledged records", f"{key}: offset {offset} was acknowledged, {visible} was visible")
        if offset >= 0 and (offset, old.sent[at].body) not in kept:
            raise Violation("acknowledged records", f"{key}: offset {offset} is not what was sent")
    _check_order(key, old, [body for _, body in now], expected.sent[key])
    _check_times(partition, old, visible)
    if ends:  # By the index, from the middle.
        start = rng.randrange(ends[-1])
        again = read(history.log, partition, start, rng.choice([1, 200, 5000]))
        if again != [row for row in found if row[0].next_offset > start]:
            raise Violation("visible records", f"{key}: reading from {start} gives others")


def _check_order(key: Key, old: Stream, bodies: list[bytes], sent: int) -> None:
    """Only what was sent, once, in order; nothing of a producer's without what it sent before."""
    place = {one.body: at for at, one in enumerate(old.sent[:sent])}
    if unknown := [body[:80] for body in bodies if body not in place]:
        raise Violation("known batches", f"{key}: {unknown} were never sent")
    places = [place[body] for body in bodies]
    if len(set(places)) < len(places):
        raise Violation("order", f"{key}: batches {places}")
    for producer in {old.sent[at].producer for at in places} - {None}:
        of_one = [at for at, one in enumerate(old.sent[:sent]) if one.producer == producer]
        if (there := [at for at in places if old.sent[at].producer == producer]) != of_one[: len(there)]:
            raise Violation("producer order", f"{key}: {there} of {of_one} sent by {producer}")
    final = [body for _, body in old.final]
    if bodies != final[: len(bodies)]:  # Then what differs was written by one who was killed, and is the last.
        same = next((at for at, pair in enumerate(zip(bodies, final, strict=False)) if pair[0] != pair[1]), len(final))
        if any(after <= before for before, after in pairwise(places[same:])):
            raise Violation("order", f"{key}: batches {places}")


def append_times(partition: Partition) -> list[tuple[int, int]]:
    """Offset and second of every entry."""
    rows: list[tuple[int, int]] = []
    for segment in partition.segments():
        data = segment.appended_path.read_bytes()
        begin = len(rows)
        rows += [(base, second) for second, base in appended.append_times(data)]
        if any(base < segment.base_offset for base, _ in rows[begin:]):
            raise Violation("append times", f"{partition.name}: {rows[begin:]} in the segment at {segment.base_offset}")
    if rows != sorted(rows) or [second for _, second in rows] != sorted(second for _, second in rows):
        raise Violation("append times", f"{partition.name}: they go back: {rows}")
    return rows


def _check_times(partition: Partition, old: Stream, visible: int) -> None:
    rows = append_times(partition)
    for offset in (base for base, _ in old.final if base < visible):
        before = [second for base, second in old.times if base <= offset][-1:]
        if (now := [second for base, second in rows if base <= offset][-1:]) != before:
            raise Violation("append times", f"{partition.name}: offset {offset} was appended at {before}, now {now}")


def _check_going_on(history: History, expected: Expected) -> None:
    assert history.log is not None
    for key in expected.sent:
        stream, partition = history.streams[key], history.partition(key)
        producers = sorted({one.producer for one in stream.sent if one.producer is not None})
        for producer in producers:
            batches = [one.batch for one in stream.sent if one.producer == producer]
            for batch in batches:
                history.log.commit(partition, [batch])
        end = partition.log_end
        if history.log.commit(partition, [history._make(stream, 300, None).batch]) != end:
            raise Violation("appends", f"{key} did not go on at {end}")
        bodies = [body for _, body in read(history.log, partition)]
        for producer in producers:
            of_one = [one.body for one in stream.sent if one.producer == producer]
            stored = [body for body in bodies if body in set(of_one)]
            if stored != of_one:
                raise Violation("producers", f"{key}: {len(of_one)} batches sent, {len(stored)} stored")
