"""What the tests of batches share: a topic whose log batches they append one by one, and a reading that remembers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from framework import App, Batch, Run, Topic
from framework.errors import DecodeError
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
        assert record.value == BAD
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
