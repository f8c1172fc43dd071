"""Batches: bounded reads of a topic, for jobs and for programs that just want to look."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from framework.errors import DecodeError, MissingExtra
from framework.log import At, Cursor, Piece
from framework.log.errors import UnknownTopic
from framework.reading import Reading
from framework.record import Record
from framework.serdes import SERDE_ERRORS

if TYPE_CHECKING:
    from polars import DataFrame

    from framework.app import App
    from framework.chunks import Chunks
    from framework.topic import Topic

V = TypeVar("V")
K = TypeVar("K", default=str)
OUTSIDE = Reading()


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a job: `nominal` is when it was due, `attempt` counts from 1.

    The run of a backfill between two times has them in `since` and `until`, and its batch only the records stamped
    there.
    """

    id: str
    nominal: datetime
    attempt: int
    since: datetime | None = None
    until: datetime | None = None


class Batch(Generic[V, K]):
    """The records of some offset ranges, partition by partition; read while iterating, never all in memory."""

    def __init__(
        self,
        cursor: Cursor,
        topic: Topic[V, K],
        *,
        run: Run | None = None,
        reading: Reading = OUTSIDE,
        number: int = 0,
        resumed: bool = False,
        taken: Sequence[Piece] | None = None,
    ) -> None:
        """Made by the framework. Of a chunk, *taken* is what it holds, read already."""
        self.run = run
        self.number = number
        """Of a chunk, how many came before it in its run, whichever attempt had them; of a batch, its next chunk's."""
        self.resumed = resumed
        """Whether an earlier attempt at the run has begun, and may have left something outside."""
        self.begun, self.open_records = False, 0
        """Whether chunks were asked for, and how many records the last one has that is not committed."""
        self.counted: int | None = None
        """How many records a pass over all of it has had, if there was one."""
        self._cursor, self._topic, self._reading, self._taken = cursor, topic, reading, taken

    def __iter__(self) -> Iterator[V]:
        """The values, without tombstones.

        Raises:
            DecodeError: One cannot be decoded; in a job it goes to the dead-letter topic instead.
            OffsetOutOfRange: Retention was faster.
        """
        # Lists are handed on, not values: going through a generator would cost more per value than decoding it.
        return chain.from_iterable(chain.from_iterable(map(self.slices_of, self.pieces())))

    def __len__(self) -> int:
        """How many records there are, tombstones and undecodable ones among them; mostly reads headers only."""
        return sum(piece.count() for piece in self.pieces())

    def records(self) -> Iterator[Record[V, K]]:
        """The records, tombstones (value None) among them.

        Raises:
            DecodeError, OffsetOutOfRange: As when iterating over the values.
        """
        for piece in self.pieces():
            stored = piece.records()
            for at, end in self._turns(len(stored)):
                for record in stored[at:end]:
                    value: Any = None
                    if record.value is not None:
                        try:
                            value = self._topic.value_serde.decode(record.value)
                        except DecodeError as error:
                            self._reading.bad(piece.partition, record, error)
                            continue
                    yield Record(self._topic, piece.partition.number, record, value)

    def chunks(self, records: int) -> Chunks[V, K]:
        """Batches of *records* records, the last of fewer; in a job, asking for the next commits the one before.

        With `for`, or with `async for`, which reads and commits in a thread while the event loop goes on. A chunk is in
        memory, as it is stored.

        Raises:
            ValueError: *records* is below 1.
        """
        from framework.chunks import Chunks

        return Chunks(self, records)

    def to_polars(self) -> DataFrame:
        """The values as a frame of Polars, without tombstones: a column for each field, or one called `value`.

        Times are UTC to the microsecond, decimals and enums strings, models structs. What has no type of its own, such
        as the fields of a `dict`, is inferred from all of the values; where those of a column are of several kinds, it
        holds strings: JSON of what is none. The frame is in memory.

        Raises:
            DecodeError, OffsetOutOfRange: As when iterating over the values.
            MissingExtra: Polars is not installed.
        """
        try:
            from framework.frames import frame_of
        except ModuleNotFoundError as error:
            if error.name not in ("polars", "numpy"):
                raise
            raise MissingExtra("to_polars needs Polars: pip install 'framework-streams[polars]'") from error
        return frame_of(self)

    # For the framework.

    @property
    def topic(self) -> Topic[V, K]:
        """The topic that it is of."""
        return self._topic

    @property
    def reading(self) -> Reading:
        """How it is read."""
        return self._reading

    @property
    def is_chunk(self) -> bool:
        """Whether it is one of another batch's chunks."""
        return self._taken is not None

    def pieces(self) -> Iterator[Piece]:
        """What the log has of it, from the beginning."""
        if self._taken is not None:
            return iter(self._taken)
        return self._counting(self._cursor.copy().pieces(self._reading.pause))

    def _counting(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        """*pieces*, which are counted, so that a run need not read them once more to know."""
        count = 0
        for piece in pieces:
            yield piece
            count += piece.count()
        self.counted = count

    def cursor(self) -> Cursor:
        """Where its chunks are read from: in a run its own place, which moves, and else another one each time."""
        return self._cursor if self.run is not None else self._cursor.copy()

    def chunk(self, number: int, taken: Sequence[Piece]) -> Batch[V, K]:
        """The chunk of it that holds what was *taken*."""
        return Batch(
            self._cursor,
            self._topic,
            run=self.run,
            reading=self._reading,
            number=number,
            resumed=self.resumed,
            taken=taken,
        )

    def slices_of(self, piece: Piece) -> Iterator[list[V]]:
        """The values of *piece*, in lists of a few hundred at most."""
        values = piece.values()
        for at, end in self._turns(len(values)):
            decoded = self._decoded(values[at:end])
            if decoded is None:
                yield from self._one_by_one(piece, at, end)
            else:
                yield decoded

    def _decoded(self, values: Sequence[bytes | None]) -> list[V] | None:
        """What is in *values*, but tombstones; None if one of them cannot be decoded."""
        try:
            return self._topic.value_serde.parse_all(values)
        except SERDE_ERRORS:
            if None not in values:
                return None
        return self._decoded([value for value in values if value is not None])

    def _turns(self, records: int) -> Iterator[tuple[int, int]]:
        """Slices of so many *records*, as many at once as the reading lets."""
        at = 0
        while at < records:
            end = at + self._reading.turn()
            yield at, end
            at = end

    def _one_by_one(self, piece: Piece, start: int, end: int) -> Iterator[list[V]]:
        """The values of some records of *piece*, in lists that end where one cannot be decoded."""
        good = list[V]()
        for record in piece.records()[start:end]:
            if record.value is None:
                continue
            try:
                good.append(self._topic.value_serde.decode(record.value))
            except DecodeError as error:
                yield good
                good = []
                self._reading.bad(piece.partition, record, error)
        yield good


def read_batch(app: App, topic: Topic[V, K], start: At, end: At) -> Batch[V, K]:
    """The records of *topic* between two places; see `Topic.read`."""
    log = app.open(create=False)
    try:
        return Batch(log.read(topic.name, start, end), topic)
    except UnknownTopic:
        return Batch(Cursor(log.reader, []), topic)
