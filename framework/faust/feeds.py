"""The records of one partition on their way to Faust, and which of them it has finished with.

        frontier            handed                 next read
    ------ | x   x x ......... | ---- read ----------- |
           first that is not finished   not handed yet

Faust is handed records one by one, and says of each, in any order, when it has finished it. What may be committed is
the frontier: everything before it was finished, or is no record (compacted, or a control record). So nobody has to
know of gaps, and one that is as long as the log costs nothing.

Faust may drop what it was given and has not looked at: the next `take` begins behind what was handed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from operator import attrgetter

from framework.log import Log, Partition, StoredRecord, decode
from framework.log.errors import OffsetOutOfRange

READ_BYTES = 256 << 10
"""How much is read of a partition at a time."""
NEAR_BYTES = 8 << 20
"""What lies so close to the end of the log was written just now, and need not be waited for."""
OnReset = Callable[[int, int], int]
_offset = attrgetter("offset")


class Feed:
    """One partition, from a position on. Not thread-safe, but for `take`, which may run in a thread meanwhile."""

    def __init__(self, log: Log, partition: Partition, on_reset: OnReset) -> None:
        """It has nothing to give before it is told where to begin: `seek`.

        Where the log has none such, *on_reset* is told the log start and the high watermark and says where to go on.
        """
        offset = partition.log_start
        self.partition = partition
        self._reader = log.reader(partition, offset)
        self._on_reset = on_reset
        self._records: list[StoredRecord] = []
        self._behind = self._next = offset
        """Behind the last record that was read, and where the next read begins: between the two there is none."""
        self.handed: deque[int] = deque()
        """The offsets that were handed out from the frontier on; it is for whoever hands out to append to it."""
        self.finished: set[int] = set()
        """Those of them that are finished."""
        self.begin = self.frontier = offset
        """Where it was told to begin, and how far it is finished."""
        self.acknowledged = True
        """Whether Faust says what it has finished; otherwise it has with all that it was handed."""
        self._has_begun = self._taking = self._closed = False

    @property
    def position(self) -> int:
        """Where the next record comes from."""
        return self.handed[-1] + 1 if self.handed else self.frontier

    def count(self, *, acknowledged: bool) -> None:
        """Set `acknowledged`."""
        if acknowledged != self.acknowledged:
            self.frontier = self.position
            self.handed = deque() if acknowledged else deque(maxlen=1)
            self.acknowledged = acknowledged

    def advance(self, more: set[int]) -> int:
        """The frontier, now that *more* are finished, too, of which only this keeps account from here on."""
        handed, finished = self.handed, self.finished
        finished |= more
        more.clear()
        while handed and handed[0] in finished:
            offset = handed.popleft()
            self.frontier = offset + 1
            finished.discard(offset)
        if not handed:
            finished.clear()  # What is left was handed out before the last seek.
        return self.frontier

    def seek(self, offset: int) -> None:
        """Go on at *offset*; what was in hand will be handed out, and finished, again."""
        self.handed.clear()
        self.finished.clear()
        self.begin = self.frontier = offset
        self._has_begun = True

    # Reading.

    @property
    def is_ready(self) -> bool:
        """Whether there is more from the position on, or no such position."""
        if not self._has_begun:
            return False
        if self._has_rest:
            return True
        self._records = []  # However many partitions wait, none of them holds what it has handed out.
        position = self._next if self._goes_on else self.position
        return self.partition.high_watermark > position or position > self.partition.log_end

    @property
    def _has_rest(self) -> bool:
        """Whether some of what was read last was not handed out."""
        return bool(self._records) and self._records[0].offset <= self.position <= self._records[-1].offset

    @property
    def _goes_on(self) -> bool:
        """Whether the next read gives what comes behind the position."""
        return self._behind <= self.position <= self._next

    @property
    def is_near(self) -> bool:
        """Whether reading need not wait for the disk."""
        behind = self._reader.behind_bytes
        return behind is not None and behind <= NEAR_BYTES

    def take(self, max_bytes: int = READ_BYTES) -> list[StoredRecord]:
        """The records from the position on that one read gives; none at the high watermark.

        It stays where it is: what is handed of them moves it.

        Raises:
            Damaged: The log cannot give them.
            OffsetOutOfRange: *on_reset* has raised it.
        """
        self._taking = True
        try:
            position = self.position
            if self._has_rest:
                return self._records[bisect_left(self._records, position, key=_offset) :]
            if not self._goes_on:
                self._go_to(position)
            self._records = []
            if self._next > self.partition.log_end:
                self._reset()
            while not self._records and self.partition.high_watermark > self._next:
                self._read(max_bytes)
            return self._records
        finally:
            self._taking = False
            if self._closed:
                self._reader.close()

    def _read(self, max_bytes: int) -> None:
        first = self._next
        limit = self.partition.topic.settings.most_uncompressed_bytes
        try:
            fetched = self._reader.read(max_bytes)
        except OffsetOutOfRange:
            self._reset()
            return
        records: list[StoredRecord] = []
        for header, batch in fetched.batches:
            found = decode(batch, limit)
            # The first batch may begin before it.
            records += found if header.base_offset >= first else [each for each in found if each.offset >= first]
        self._records, self._next = records, fetched.next_offset
        if records:
            self._behind = records[-1].offset + 1

    def _reset(self) -> None:
        self._go_to(self._on_reset(self.partition.log_start, self.partition.high_watermark))

    def _go_to(self, offset: int) -> None:
        self._reader.seek(offset)
        self._behind = self._next = offset

    def close(self) -> None:
        """Close its file, when nobody reads from it any more."""
        self._closed = True
        if not self._taking:
            self._reader.close()
