"""The records on their way to one agent: a slice at a time, each as long as the agent can take in a moment."""

from __future__ import annotations

from collections.abc import Sequence

from framework.fetch import Fetch
from framework.log import StoredRecord
from framework.slice import Slice

FIRST_SLICE, MAX_SLICE = 64, 8192
SLICE_S = 0.005


class Feed:
    """What a task has read and its agent has taken of it."""

    def __init__(self, fetch: Fetch) -> None:
        """Nothing has been taken yet."""
        self.fetch = fetch
        self.slice, self.taken = Slice(), Slice()
        """What the agent is at, and what it was at last."""
        self.end = fetch.offset
        """The offset behind the slice."""
        self.size = FIRST_SLICE
        """How many records the next slice has."""
        self.alone = False
        """Whether the slice has one record because that may be the one that fails."""
        self.tombstones = False
        """Whether the topic has tombstones, which only an agent that takes records sees."""

    def begin(self, isolated: tuple[int, int] | None, until: int | None, *, as_records: bool) -> Slice:
        """Take the next records, up to offset *until*; one by one those of the offsets *isolated*."""
        stop, size = until, self.size
        if isolated is not None:
            start, end = isolated
            if self.end < start:
                stop = start if until is None else min(start, until)
            elif self.end < end:
                size = 1
        self.alone = isolated is not None and size == 1
        buffer = self.fetch.buffer
        indexes: Sequence[int] = self.fetch.take(size, stop)
        self.end = self.fetch.offset
        if self.tombstones and not as_records:
            indexes = [index for index in indexes if buffer.values[index] is not None]
        self.slice = Slice(buffer, indexes, whole=as_records)
        return self.slice

    def finish(self) -> None:
        """The agent has taken all of the slice."""
        if self.slice:
            self.taken, self.slice = self.slice, Slice()

    def cut(self) -> None:
        """Let the slice end behind the record that was taken last; what it had more comes with the next."""
        next_offset = self.slice.cut()
        if next_offset is not None:
            self.back_to(next_offset)

    def back_to(self, offset: int) -> None:
        """Records from *offset* on come again with the next slice."""
        self.fetch.back_to(offset)
        self.end = offset

    def adapt(self, seconds: float) -> float:
        """The slice took *seconds*: the next one is as long as fits between two commits and holds not up the loop."""
        if seconds > 2 * SLICE_S:
            self.size = max(1, self.size // 2)
        elif seconds < SLICE_S:
            self.size = min(MAX_SLICE, self.size * 2)
        return seconds

    @property
    def in_hand(self) -> Slice:
        """The slice that the record being handled, or handled last, is in."""
        return self.slice or self.taken

    def failed_range(self, held: int | None, committed: int) -> tuple[int, int] | None:
        """The offsets of which one has failed; None if the agent has taken no record since *committed*.

        *held* is where the list begins that is being handled, if it is one.
        """
        if self.slice:
            offset = self.slice.offset
            return (offset if held is None else held), offset + 1
        if self.alone and self.taken and self.taken.offset >= committed:
            return self.taken.offset, self.taken.offset + 1
        return (committed, self.end) if self.end > committed else None

    def failed_record(self, failed: tuple[int, int] | None) -> StoredRecord | None:
        """The record of the offsets *failed*, if it can only be one."""
        if failed is None or not self.in_hand:
            return None
        record = self.in_hand.record
        return record if failed == (record.offset, record.offset + 1) else None
