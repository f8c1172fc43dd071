"""Deadlines by key, with the time passed in: setting one again is as cheap as a dictionary, whatever was set before."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
SPARE_ENTRIES = 64
"""So many entries of the heap may be of no use before it is made anew, or else as many as there are deadlines."""


class Timers(Generic[K]):
    """At most one deadline a key.

    A deadline that moves on, as that of a session does with every heartbeat, leaves its entry in the heap where it is:
    when the entry comes up, it goes back behind. So an entry may be early, never late.
    """

    def __init__(self) -> None:
        """Nothing is due."""
        self._due: dict[K, int] = {}
        self._queued: dict[K, int] = {}
        self._heap: list[tuple[int, int, K]] = []
        self._count = 0

    def __len__(self) -> int:
        """How many deadlines there are."""
        return len(self._due)

    @property
    def next_ms(self) -> int | None:
        """When to look again: not after the next deadline, but maybe before it."""
        return self._heap[0][0] if self._heap else None

    def set(self, key: K, at_ms: int) -> None:
        """Let *key* be due at *at_ms*, and no longer when it was before."""
        self._due[key] = at_ms
        queued = self._queued.get(key)
        if queued is None or at_ms < queued:
            self._push(key, at_ms)

    def cancel(self, key: K) -> None:
        """Let *key* not be due; without a deadline nothing happens."""
        self._due.pop(key, None)
        if len(self._heap) > 2 * len(self._due) + SPARE_ENTRIES:
            self._heap.clear()
            self._queued.clear()
            for each, at_ms in self._due.items():
                self._push(each, at_ms)

    def pop(self, now_ms: int) -> K | None:
        """The key that is due for the longest, which has no deadline any more; None if none is due.

        One at a time, because what is done about one may move the deadlines of others.
        """
        while self._heap and self._heap[0][0] <= now_ms:
            queued_ms, _, key = heapq.heappop(self._heap)
            if self._queued.get(key) != queued_ms:
                continue  # It was set to an earlier time since, which has an entry of its own.
            del self._queued[key]
            at_ms = self._due.get(key)
            if at_ms is None:
                continue
            if at_ms == queued_ms:
                del self._due[key]
                return key
            self._push(key, at_ms)
        return None

    def _push(self, key: K, at_ms: int) -> None:
        self._count += 1
        self._queued[key] = at_ms
        heapq.heappush(self._heap, (at_ms, self._count, key))
