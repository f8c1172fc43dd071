"""Following a topic from a program that is no agent: its values, or records, as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, suppress
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from framework.errors import DecodeError
from framework.log import Follower, Partition, StoredRecord
from framework.log.doorbell import POLL_S
from framework.record import Record

if TYPE_CHECKING:
    from framework.topic import Topic

V = TypeVar("V")
K = TypeVar("K", default=str)


class FollowedRecords(Generic[V, K]):
    """The records of a topic from a place on, tombstones among them; each iteration begins there anew."""

    def __init__(self, open_follower: Callable[[], Follower], topic: Topic[V, K], timeout: timedelta | None) -> None:
        """Use `Topic.follow`."""
        self._open_follower, self._topic = open_follower, topic
        self._timeout_s = None if timeout is None else timeout.total_seconds()

    def __iter__(self) -> Iterator[Record[V, K]]:
        """The records; blocks until the next one comes.

        Raises:
            DecodeError: One cannot be decoded.
            OffsetOutOfRange: Retention was faster.
        """
        with self._open_follower() as follower:
            follower.timeout_s = self._timeout_s
            for partition, stored in follower:
                yield self._decoded(partition, stored)

    async def __aiter__(self) -> AsyncGenerator[Record[V, K], None]:
        """The records; waits for the next one.

        Raises:
            DecodeError: One cannot be decoded.
            OffsetOutOfRange: Retention was faster.
        """
        with self._open_follower() as follower, _Rung(follower) as rung:
            timeout_s = self._timeout_s
            deadline = None if timeout_s is None else monotonic() + timeout_s
            while True:
                rung.clear()
                records = follower.take_nowait()
                for partition, stored in records:
                    yield self._decoded(partition, stored)
                if records:
                    deadline = None if timeout_s is None else monotonic() + timeout_s
                    continue
                # The doorbell rings for other topics too, so it is no sign of a record.
                left = None if deadline is None else deadline - monotonic()
                if left is not None and left <= 0:
                    return
                await rung.wait(left)

    def _decoded(self, partition: Partition, stored: StoredRecord) -> Record[V, K]:
        value: Any = None
        if stored.value is not None:
            try:
                value = self._topic.value_serde.decode(stored.value)
            except DecodeError as error:
                raise DecodeError(f"{partition.name}@{stored.offset}: {error}") from error
        return Record(self._topic, partition.number, stored, value)


class Follow(Generic[V, K]):
    """The values of a topic from a place on, as they come; each iteration begins there anew."""

    def __init__(self, records: FollowedRecords[V, K]) -> None:
        """Use `Topic.follow`."""
        self._records = records

    def records(self) -> FollowedRecords[V, K]:
        """The records, with keys, times, offsets and tombstones."""
        return self._records

    def __iter__(self) -> Iterator[V]:
        """The values without tombstones; blocks until the next one comes."""
        return (record.value for record in self._records if record.value is not None)

    async def __aiter__(self) -> AsyncGenerator[V, None]:
        """The values without tombstones; waits for the next one."""
        async with aclosing(self._records.__aiter__()) as records:
            async for record in records:
                if record.value is not None:
                    yield record.value


class _Rung:
    """Whether a follower's doorbell has rung, for code on an event loop."""

    def __init__(self, follower: Follower) -> None:
        self._doorbell, self._rung = follower.doorbell, asyncio.Event()

    def __enter__(self) -> _Rung:
        if not self._doorbell.polls:
            asyncio.get_running_loop().add_reader(self._doorbell.fd, self._ring)
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._doorbell.polls:
            asyncio.get_running_loop().remove_reader(self._doorbell.fd)

    def clear(self) -> None:
        """Forget the rings so far."""
        self._rung.clear()

    async def wait(self, timeout_s: float | None) -> None:
        """Return when it has rung, or may have, or after *timeout_s* seconds."""
        if self._doorbell.polls:
            await asyncio.sleep(POLL_S if timeout_s is None else min(POLL_S, timeout_s))
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()

    def _ring(self) -> None:
        self._doorbell.drain()
        self._rung.set()
