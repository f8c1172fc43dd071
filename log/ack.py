"""Acknowledgements: what `send` returns."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Protocol
from weakref import WeakKeyDictionary


@dataclass(frozen=True, slots=True)
class Sent:
    """Where a record went; `offset` is None when it joined a commit, or had been sent before."""

    topic: str
    partition: int
    offset: int | None


class Sender(Protocol):
    """Who holds a batch back, for a moment, to gather more records."""

    def flush(self) -> None:
        """Send it now."""

    def hurry(self) -> None:
        """Send it now, unless the running event loop will."""


class Delivery(Future[int]):
    """The base offset of a batch, once it is durable; any number of tasks, loops and threads may wait for it.

    An event loop is woken once for all who wait in it: to wake it costs more than everything else about a record.
    """

    def __init__(self, sender: Sender) -> None:
        """*sender* holds the batch."""
        super().__init__()
        self.sender = sender
        self._calls: dict[asyncio.AbstractEventLoop, list[Callable[[], None]]] = {}
        # A waiter that gives up cannot cancel it: the records are on their way.
        self.set_running_or_notify_cancel()

    def __await__(self) -> Generator[Any, None, int]:
        if not self.done():
            self.sender.hurry()
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.call_back(partial(_release, waiter))
            yield from waiter
        return self.result()

    def call_back(self, call: Callable[[], None]) -> None:
        """Have *call* called in the event loop that runs, in a later turn of it, when this is done."""
        loop = asyncio.get_running_loop()
        if self.done():
            loop.call_soon(call)
            return
        calls = self._calls.get(loop)
        if calls is None:
            calls, turn = [], _turns.setdefault(loop, _Turn())
            self._calls[loop] = calls
            self.add_done_callback(lambda _: turn.add(loop, calls))
        # Not too late: what is done meanwhile wakes this loop, which makes the calls in a later turn.
        calls.append(call)


class Ack(Awaitable[Sent]):
    """A record that was taken; await it, or ask for its `result`, to know that it is durable.

    Sent by an agent or job it is part of the commit, and the acknowledgement is there at once: nothing
    can be waited for that only happens when the record being handled is finished.
    """

    __slots__ = ("_also", "_done", "_index", "_partition", "_topic")

    def __init__(self, topic: str, partition: int, done: Delivery | None = None, index: int = 0) -> None:
        """The *index*-th record of a batch; without one it joins a commit."""
        self._topic, self._partition, self._done, self._index = topic, partition, done, index
        self._also: Sequence[Ack] = ()

    @property
    def partition(self) -> int:
        """The partition the record went to."""
        return self._partition

    @classmethod
    def of_all(cls, acks: Sequence[Ack]) -> Ack:
        """The last of *acks*, which also waits for the others."""
        last = acks[-1]
        ack = cls(last._topic, last._partition, last._done, last._index)
        ack._also = acks[:-1]
        return ack

    @property
    def done(self) -> bool:
        """Whether it is acknowledged, or has failed."""
        return (self._done is None or self._done.done()) and all(ack.done for ack in self._also)

    def __await__(self) -> Generator[Any, None, Sent]:
        for ack in self._also:
            yield from ack.__await__()
        if self._done is not None:
            yield from self._done.__await__()
        return self._sent()

    def result(self, timeout: timedelta | None = None) -> Sent:
        """Wait until it is durable; for code without an event loop.

        Raises:
            TimeoutError: It is not, after *timeout*.
        """
        for ack in self._also:
            ack.result(timeout)
        if self._done is not None and not self._done.done():
            self._done.sender.flush()
            self._done.result(None if timeout is None else timeout.total_seconds())
        return self._sent()

    def _sent(self) -> Sent:
        if self._done is None:
            return Sent(self._topic, self._partition, None)
        base = self._done.result()
        return Sent(self._topic, self._partition, base + self._index if base >= 0 else None)


class _Turn:
    """What is called in the next turn of a loop.

    However much that is, one byte wakes the loop for it: the socket for these takes a few hundred, signals go through
    it, too, and one that finds it full is lost.
    """

    def __init__(self) -> None:
        self._calls = deque[Callable[[], None]]()
        self._is_woken = False

    def add(self, loop: asyncio.AbstractEventLoop, calls: Iterable[Callable[[], None]]) -> None:
        """Have *calls* made, too; from any thread."""
        self._calls.extend(calls)
        if not self._is_woken:
            self._is_woken = True
            with suppress(RuntimeError):  # The loop is closed, and nobody waits any more.
                loop.call_soon_threadsafe(self._make, loop)

    def _make(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_woken = False  # First: whoever comes from now on wakes the loop again.
        try:
            while self._calls:
                self._calls.popleft()()
        finally:
            if self._calls:  # That one has raised, and the others are called all the same.
                self.add(loop, ())


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turn] = WeakKeyDictionary()


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():  # It may have been cancelled.
        waiter.set_result(None)
