"""What the tests of batches share: a topic whose log batches they append one by one, and a reading that remembers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from framework import App, Batch, Run, Topic
from framework.errors import DecodeError
from framework.frames import frame_of
from framework.log import Cursor, NewRecord, Partition, Range, StoredRecord, Times, encode
from framework.reading import Reading
from tests.log.conftest import ManualClock

RUN = Run("job-1", datetime(2024, 3, 8, tzinfo=UTC), 1)
BAD = b"nonsense"


class Told(Reading):
    """Lets all pass, and remembers what it was told."""

    def __init__(self, times: Times | None = None) -> None:
        self.times = times or Times()
        self.pauses = 0
        self.bads, self.gaps, self.commits = list[int](), list[tuple[int, int]](), list[tuple[list[int], int]]()
        self.threads = set[int]()

    def pause(self) -> None:
        self.pauses += 1
        self.threads.add(threading.get_ident())

    def bad(self, partition: Partition, record: StoredRecord, error: DecodeError) -> None:
        self.bads.append(record.offset)

    def gap(self, partition: Partition, start: int, end: int) -> None:
        self.gaps.append((start, end))

    def commit(self, cursor: Cursor, records: int) -> None:
        self.commits.append(([part.start for part in cursor.ranges], records))
        self.threads.add(threading.get_ident())


class Shelf:
    """An app with a topic of numbers, whose records a test appends batch by batch."""

    def __init__(self, data: Path) -> None:
        self.app = App("reading", data=data, clock=ManualClock())
        self.app.open(create=True)
        self._topics = 0
        self.topic: Topic[Any] = self.app.topic("numbers", int, partitions=2)

    def append(self, values: Sequence[int | bytes | None], times: Sequence[int] | None = None, at: int = 0) -> None:
        """Append *values* as one batch."""
        raws = [b"%d" % value if isinstance(value, int) else value for value in values]
        stamps = times or [0] * len(raws)
        records = [NewRecord(b"k", raw, stamp) for raw, stamp in zip(raws, stamps, strict=True)]
        self.app.log.append(self.partition(at), encode(records, max_batch_bytes=1 << 20)).result(60)

    def partition(self, number: int = 0) -> Partition:
        return self.app.log.partition(self.app.topic_info(self.topic), number)

    def batch(self, reading: Reading, *ranges: tuple[int, int, int], run: Run | None = RUN, **more: Any) -> Batch[Any]:
        """A batch of *ranges* (partition, start, end), or of all there is."""
        numbers = range(2)
        listed = [Range(self.partition(number), start, end) for number, start, end in ranges] or [
            Range(part, part.log_start, part.high_watermark) for part in map(self.partition, numbers)
        ]
        return Batch(reading.cursor(self.app.log.reader, listed), self.topic, run=run, reading=reading, **more)

    def stored(
        self, value_type: Any, raws: Sequence[bytes | None], reading: Reading | None = None, **options: Any
    ) -> Batch[Any]:
        """A batch of *raws* in a topic of their own, half of them in another log batch."""
        self._topics += 1
        self.topic = self.app.topic(f"t{self._topics}", value_type, **options)
        return self.more(raws, reading or Told())

    def more(self, raws: Sequence[bytes | None], reading: Reading) -> Batch[Any]:
        """A batch of *raws*, appended to the topic there is."""
        part = self.partition()
        start = part.high_watermark
        for half in (raws[: len(raws) // 2], raws[len(raws) // 2 :]):
            if half:
                batches = encode([NewRecord(None, raw, 0) for raw in half], max_batch_bytes=1 << 20)
                self.app.log.append(part, batches).result(60)
        return self.batch(reading, (0, start, part.high_watermark))


def both(batch: Batch[Any]) -> pl.DataFrame:
    """The frame of *batch*, which is the same when each value is decoded."""
    fast, slow = batch.to_polars(), frame_of(batch, trusting=False)
    assert fast.schema == slow.schema
    assert fast.equals(slow), (fast, slow)
    return fast


def only_fast(batch: Batch[Any]) -> pl.DataFrame:
    """The frame of *batch*, of which no value may be decoded."""

    def refuse(_: bytes) -> Any:
        raise AssertionError("a value was decoded")

    serde = batch.topic.value_serde
    parse, serde.parse = serde.parse, refuse
    try:
        return batch.to_polars()
    finally:
        serde.parse = parse
