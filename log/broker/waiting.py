"""Waiting for the log without threads: news of other threads, and of other processes, in the event loop.

A broker has one doorbell, however many fetches wait. When it rings, one word of each partition that somebody waits for
says whether that was meant. As long as nobody waits it is not listened to: it rings at each append.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

from framework.log.doorbell import POLL_S
from framework.log.log import Log
from framework.log.partition import Partition


class Relay:
    """Calls that other threads want made in the event loop; the loop is woken once for all that come meanwhile."""

    def __init__(self) -> None:
        """Use it in the loop that is running now."""
        self._loop = asyncio.get_running_loop()
        self._calls: deque[Callable[[], None]] = deque()
        self._guard = threading.Lock()
        self._scheduled = False

    def post(self, call: Callable[[], None]) -> None:
        """Have *call* made soon, in the order of the posts; from any thread."""
        with self._guard:
            self._calls.append(call)
            if self._scheduled:
                return
            self._scheduled = True
        with suppress(RuntimeError):  # The loop is closed, and nobody waits any more.
            self._loop.call_soon_threadsafe(self._make)

    def _make(self) -> None:
        with self._guard:
            calls, self._calls, self._scheduled = self._calls, deque(), False
        for call in calls:
            call()


class Waiter:
    """A fetch that waits until one of its partitions has more."""

    __slots__ = ("future", "partitions")

    def __init__(self, partitions: Iterable[tuple[Partition, int]]) -> None:
        """*partitions* with the offsets up to which each has been read."""
        self.partitions = tuple(partitions)
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Bell:
    """The doorbell of one broker, and who waits for it by partition."""

    def __init__(self, log: Log) -> None:
        """Listens to *log* from now on, until `close`."""
        self._log, self._doorbell = log, log.doorbell()
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[Partition, dict[Waiter, int]] = {}
        self._catalogue_version = log.catalogue_version
        self._timer: asyncio.TimerHandle | None = None
        self._is_listening = self._is_closed = False

    @property
    def waiting(self) -> int:
        """For how many partitions somebody waits."""
        return len(self._waiting)

    async def wait(self, partitions: Iterable[tuple[Partition, int]], deadline_s: float) -> bool:
        """Wait until one of *partitions* has more than up to the offset beside it, or is another; whether it has.

        False at *deadline_s* by the clock of the loop, or when the broker ends.
        """
        waiter = Waiter(partitions)
        if self._is_closed:
            return False
        self._listen()
        # After that, for it forgets earlier rings.
        if self._has_new_catalogue():
            return True
        for partition, offset in waiter.partitions:
            if partition.high_watermark > offset:
                return True
        for partition, offset in waiter.partitions:
            self._waiting.setdefault(partition, {})[waiter] = offset
        try:
            async with asyncio.timeout_at(deadline_s):
                await waiter.future
        except TimeoutError:
            return False
        finally:
            self._forget(waiter)
        return not self._is_closed

    def end_waits(self) -> None:
        """Wake everybody, and let nobody wait any more."""
        self._is_closed = True
        self._wake_all()

    def close(self) -> None:
        """Stop listening; more calls do nothing."""
        self.end_waits()
        self._ignore()
        self._doorbell.close()

    def _listen(self) -> None:
        if self._is_listening:
            return
        self._is_listening = True
        self._doorbell.drain()
        if self._doorbell.polls:
            self._timer = self._loop.call_later(POLL_S, self._poll)
        else:
            self._loop.add_reader(self._doorbell.fd, self._rung)

    def _ignore(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._is_listening and not self._doorbell.polls:
            self._loop.remove_reader(self._doorbell.fd)
        self._is_listening = False

    def _poll(self) -> None:
        self._timer = self._loop.call_later(POLL_S, self._poll)
        self._rung()

    def _rung(self) -> None:
        if not self._waiting:
            self._ignore()
            return
        self._doorbell.drain()
        if self._has_new_catalogue():
            return
        for partition, waiters in self._waiting.items():
            high_watermark = partition.high_watermark
            for waiter, offset in waiters.items():
                if high_watermark > offset and not waiter.future.done():
                    waiter.future.set_result(None)

    def _has_new_catalogue(self) -> bool:
        """Whether there is one, and everybody is told: a topic may be gone, and whoever reads it finds out."""
        version = self._log.catalogue_version
        if version == self._catalogue_version:
            return False
        self._catalogue_version = version
        self._wake_all()
        return True

    def _wake_all(self) -> None:
        for waiters in self._waiting.values():
            for waiter in waiters:
                if not waiter.future.done():
                    waiter.future.set_result(None)

    def _forget(self, waiter: Waiter) -> None:
        for partition, _ in waiter.partitions:
            waiters = self._waiting.get(partition)
            if waiters is not None:
                waiters.pop(waiter, None)
                if not waiters:
                    del self._waiting[partition]
