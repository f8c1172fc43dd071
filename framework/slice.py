"""A few records on their way to an agent."""

from __future__ import annotations

from collections.abc import Sequence
from operator import length_hint
from typing import Any

from framework.fetch import EMPTY, Buffer
from framework.log import Headers, StoredRecord


class Slice:
    """Records handed out by an iterator; how far the agent has come is how far the iterator has.

    That costs nothing per record: `length_hint` asks the list iterator where it stands.
    """

    def __init__(self, buffer: Buffer = EMPTY, indexes: Sequence[int] = (), *, whole: bool = False) -> None:
        """The records of *buffer* at *indexes*, as their values' bytes or, if *whole*, as stored records."""
        self._buffer, self._indexes, self.whole = buffer, indexes, whole
        self.items: list[Any]
        """What `iterator` gives; its end may be cut off."""
        if whole:
            self.items = [buffer.record(index) for index in indexes]
        elif isinstance(indexes, range):
            self.items = buffer.values[indexes.start : indexes.stop]
        else:
            self.items = [buffer.values[index] for index in indexes]
        self.iterator = iter(self.items)
        self._latest_ms = self._looked_at = 0

    def __len__(self) -> int:
        return len(self.items)

    @property
    def _in_hand(self) -> int:
        handed = len(self.items) - length_hint(self.iterator)
        return self._indexes[max(handed, 1) - 1]

    @property
    def record(self) -> StoredRecord:
        """The record that was taken last, or the first one; of a slice that is not empty."""
        return self._buffer.record(self._in_hand)

    @property
    def timestamp(self) -> int:
        """That of `record`, in milliseconds; if it is asked for of each, they are all decoded at once."""
        return self._buffer.stamps()[0][self._in_hand]

    @property
    def offset(self) -> int:
        """The offset of `record`."""
        return self._buffer.offset(self._in_hand)

    @property
    def latest_ms(self) -> int:
        """The greatest timestamp of the records taken so far, 0 before the first.

        Tombstones that the agent does not see do not count: whether they are in a slice depends on what came before.
        """
        taken = len(self.items) - length_hint(self.iterator)
        for index in self._indexes[self._looked_at : taken]:
            record = self._buffer.record(index)
            if (self.whole or record.value is not None) and record.timestamp > self._latest_ms:
                self._latest_ms = record.timestamp
        self._looked_at = max(self._looked_at, taken)
        return self._latest_ms

    def stamps(self) -> tuple[list[int], dict[int, Headers]]:
        """The timestamps of `items`, and the headers of those that have any, by their place in it."""
        stamps, headers = self._buffer.stamps()
        found = {at: headers[index] for at, index in enumerate(self._indexes) if index in headers} if headers else {}
        if isinstance(self._indexes, range):
            return stamps[self._indexes.start : self._indexes.stop], found
        return [stamps[index] for index in self._indexes], found

    def cut(self) -> int | None:
        """Let nothing follow the record that was taken last; the offset of what would have, None if nothing."""
        left = length_hint(self.iterator)
        if left == 0:
            return None
        first = len(self.items) - left
        # The iterator runs over this very list, and ends with it.
        del self.items[first:]
        return self._buffer.offset(self._indexes[first])
