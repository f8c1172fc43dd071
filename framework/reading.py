"""What whoever runs a handler has to say to the reading of its batch."""

from __future__ import annotations

from collections.abc import Sequence

from framework.errors import DecodeError
from framework.log import Cursor, Partition, Range, StoredRecord, Times
from framework.log.cursor import OpenReader
from framework.log.errors import OffsetOutOfRange

SLICE_RECORDS = 256
"""How many records are decoded and handed out at once: few enough that garbage collections find them gone."""


class Reading:
    """How a batch is read: this one, of batches outside jobs, never waits, commits nothing, and raises what is wrong.

    All of it is called in the thread that reads: that of a `def` handler, that of the event loop where an `async def`
    handler iterates over values, and a thread of its own where it asks for chunks with `async for`.
    """

    times = Times()
    """Records stamped outside are left out."""

    def pause(self) -> None:
        """Called now and then: may raise, if the run is over, or wait for its turn."""

    def turn(self) -> int:
        """Called before records are handed out: how many of them; may raise and wait as `pause`."""
        self.pause()
        return SLICE_RECORDS

    def bad(self, partition: Partition, record: StoredRecord, error: DecodeError) -> None:
        """Called with what cannot be decoded, whenever it is read; when it returns, reading goes on behind it."""
        raise DecodeError(f"{partition.name}@{record.offset}: {error}") from error

    def gap(self, partition: Partition, start: int, end: int) -> None:
        """Called where offsets [*start*, *end*) were removed, whenever they are to be read."""
        raise OffsetOutOfRange(f"{partition.name}: records {start} to {end - 1} were removed before they were read")

    def commit(self, cursor: Cursor, records: int) -> None:
        """Called when the chunk after one of *records* records is asked for; *cursor* stands between the two."""

    def cursor(self, open_reader: OpenReader, ranges: Sequence[Range]) -> Cursor:
        """A cursor over *ranges* that is read so."""
        return Cursor(open_reader, ranges, times=self.times, on_gap=self.gap)
