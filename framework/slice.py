"""A few records on their way to an agent."""

from __future__ import annotations

from collections.abc import Sequence
from operator import length_hint
from typing import Any

from framework.fetch import EMPTY, Buffer
from framework.log import StoredRecord


class Slice:
    """Records handed out by an iterator; how far the agent has come is how far the iterator has.

    That costs nothing per record: `length_hint` asks the list iterator where it stands.
    """

    def __init__(self, buffer: Buffer = EMPTY, indexes: Sequence[int] = (), *, whole: bool = False) -> None:
        """The records of *buffer* at *indexes*, as their values' bytes or, if *whole*, as stored records."""
        self._buffer, self._indexes, self.whole = buffer, indexes, whole
        self._items: list[Any]
        if whole:
            self._items = buffer.records(indexes)
        elif isinstance(indexes, range):
            self._items = buffer.values[indexes.start : indexes.stop]
        else:
            self._items = [buffer.values[index] for index in indexes]
        self.iterator = iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    @property
    def _in_hand(self) -> int:
        handed = len(self._items) - length_hint(self.iterator)
        return self._indexes[max(handed, 1) - 1]

    @property
    def record(self) -> StoredRecord:
        """The record that was taken last, or the first one; of a slice that is not empty."""
        return self._buffer.record(self._in_hand)

    @property
    def offset(self) -> int:
        """The offset of `record`."""
        return self._buffer.offset(self._in_hand)

    def cut(self) -> int | None:
        """Let nothing follow the record that was taken last; the offset of what would have, None if nothing."""
        left = length_hint(self.iterator)
        if left == 0:
            return None
        first = len(self._items) - left
        # The iterator runs over this very list, and ends with it.
        del self._items[first:]
        return self._buffer.offset(self._indexes[first])
