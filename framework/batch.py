"""Batches: bounded reads of a topic, for jobs and for programs that just want to look."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from framework.errors import DecodeError
from framework.log import At, Cursor, Partition, StoredRecord
from framework.log.errors import UnknownTopic
from framework.record import Record

if TYPE_CHECKING:
    from framework.app import App
    from framework.topic import Topic

V = TypeVar("V")
K = TypeVar("K", default=str)
Bad = Callable[[Partition, StoredRecord, DecodeError], None]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a job: `nominal` is when it was due, `attempt` counts from 1."""

    id: str
    nominal: datetime
    attempt: int


class Batch(Generic[V, K]):
    """The records of some offset ranges, partition by partition; read while iterating, never all in memory."""

    def __init__(self, cursor: Cursor, topic: Topic[V, K], *, run: Run | None = None) -> None:
        """Made by the framework."""
        self.run, self.number, self.begun = run, 0, False
        self.open_records = 0
        self._cursor, self._topic = cursor, topic
        self._records: Sequence[tuple[Partition, StoredRecord]] | None = None
        self._on_chunk: Callable[[Cursor, int], None] | None = None
        self.on_bad: Bad | None = None
        """Takes the records that cannot be decoded; without it they raise."""

    def __iter__(self) -> Iterator[V]:
        """The values, without tombstones."""
        return (record.value for record in self.records() if record.value is not None)

    def __len__(self) -> int:
        """How many records there are, tombstones and undecodable ones among them; reads their headers."""
        if self._records is not None:
            return len(self._records)
        return self._cursor.copy().count()

    def records(self) -> Iterator[Record[V, K]]:
        """The records, tombstones (value None) among them.

        Raises:
            DecodeError: One cannot be decoded; in a job it goes to the dead-letter topic instead.
        """
        stored = iter(self._records) if self._records is not None else self._cursor.copy().records()
        for partition, record in stored:
            yield from self._decoded(partition, record)

    def chunks(self, records: int) -> Iterator[Batch[V, K]]:
        """Batches of *records* records, the last of fewer; in a job, asking for the next commits the one before.

        Raises:
            ValueError: *records* is below 1.
        """
        if records < 1:
            raise ValueError(f"chunks({records}): a chunk has at least 1 record")
        self.begun = True
        number = self.number
        cursor = self._cursor if self._on_chunk else self._cursor.copy()
        while taken := self._take(cursor, records, number - self.number):
            chunk: Batch[V, K] = Batch(cursor, self._topic, run=self.run)
            chunk._records, chunk.number, chunk.on_bad = taken, number, self.on_bad
            self.open_records = len(taken)
            yield chunk
            self.open_records = 0
            number += 1
            if self._on_chunk is not None:
                self._on_chunk(cursor, len(taken))

    def _take(self, cursor: Cursor, records: int, times: int) -> Sequence[tuple[Partition, StoredRecord]]:
        """The next *records*, after it was asked so many *times*."""
        if self._records is None:
            return cursor.take(records)
        return self._records[times * records : (times + 1) * records]

    def _decoded(self, partition: Partition, record: StoredRecord) -> Iterator[Record[V, K]]:
        value: Any = None
        if record.value is not None:
            try:
                value = self._topic.value_serde.decode(record.value)
            except DecodeError as error:
                if self.on_bad is None:
                    raise DecodeError(f"{partition.name}@{record.offset}: {error}") from error
                self.on_bad(partition, record, error)
                return
        yield Record(self._topic, partition.number, record, value)


def read_batch(app: App, topic: Topic[V, K], start: At, end: At) -> Batch[V, K]:
    """The records of *topic* between two places; see `Topic.read`."""
    log = app.open(create=False)
    try:
        return Batch(log.read(topic.name, start, end), topic)
    except UnknownTopic:
        return Batch(Cursor(log.reader, []), topic)
