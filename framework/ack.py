"""Acknowledgements: what `send` returns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from typing import Any


@dataclass(frozen=True, slots=True)
class Sent:
    """Where a record went; `offset` is None when it joined a commit, or had been sent before."""

    topic: str
    partition: int
    offset: int | None


class Ack(Awaitable[Sent]):
    """A record that was taken; await it, or ask for its `result`, to know that it is durable.

    Sent by an agent or job it is part of the commit, and the acknowledgement is there at once: nothing
    can be waited for that only happens when the record being handled is finished.
    """

    __slots__ = ("_also", "_done", "_flush", "_index", "_partition", "_topic")

    def __init__(
        self, topic: str, partition: int, done: Future[int] | None, index: int, flush: Callable[[], None]
    ) -> None:
        """The *index*-th record of a batch; *flush* hurries it on its way."""
        self._topic, self._partition, self._done, self._index, self._flush = (
            topic,
            partition,
            done,
            index,
            flush,
        )
        self._also: Sequence[Ack] = ()

    @property
    def partition(self) -> int:
        """The partition the record went to."""
        return self._partition

    @classmethod
    def of_all(cls, acks: Sequence[Ack]) -> Ack:
        """The last of *acks*, which also waits for the others."""
        last = acks[-1]
        ack = cls(last._topic, last._partition, last._done, last._index, last._flush)
        ack._also = acks[:-1]
        return ack

    @property
    def done(self) -> bool:
        """Whether it is acknowledged, or has failed."""
        return (self._done is None or self._done.done()) and all(ack.done for ack in self._also)

    def __await__(self) -> Generator[Any, None, Sent]:
        for ack in self._also:
            yield from ack.__await__()
        if self._done is not None and not self._done.done():
            self._flush()
            yield from asyncio.wrap_future(self._done).__await__()
        return self._sent()

    def result(self, timeout: timedelta | None = None) -> Sent:
        """Wait until it is durable; for code without an event loop.

        Raises:
            TimeoutError: It is not, after *timeout*.
        """
        for ack in self._also:
            ack.result(timeout)
        if self._done is not None and not self._done.done():
            self._flush()
            self._done.result(None if timeout is None else timeout.total_seconds())
        return self._sent()

    def _sent(self) -> Sent:
        if self._done is None:
            return Sent(self._topic, self._partition, None)
        base = self._done.result()
        return Sent(self._topic, self._partition, base + self._index if base >= 0 else None)
