"""Waiting for records in an event loop: until one of some partitions has more, or somebody says that it is enough."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from framework.faust.feeds import Feed
from framework.log import Log
from framework.log.doorbell import POLL_S


class Alert:
    """The doorbell of the directory, for one who waits at a time. Use it in one event loop."""

    def __init__(self, log: Log) -> None:
        """Listens from now on."""
        self._doorbell = log.doorbell()
        self._loop = asyncio.get_running_loop()
        self._feeds: Sequence[Feed] = ()
        self._waiter: asyncio.Future[None] | None = None
        if not self._doorbell.polls:
            self._loop.add_reader(self._doorbell.fd, self._rung)

    async def wait(self, feeds: Sequence[Feed], timeout_s: float) -> None:
        """Return when one of *feeds* is ready, when `end_wait` is called, or after *timeout_s*."""
        assert self._waiter is None, "one waits at a time"
        self._doorbell.drain()
        if any(feed.is_ready for feed in feeds):  # After that, for it forgets earlier rings.
            return
        self._feeds, self._waiter = feeds, self._loop.create_future()
        poll = self._loop.call_later(POLL_S, self._poll) if self._doorbell.polls else None
        end = self._loop.call_later(timeout_s, self.end_wait)
        try:
            await self._waiter
        finally:
            self._feeds, self._waiter = (), None
            end.cancel()
            if poll is not None:
                poll.cancel()

    def end_wait(self) -> None:
        """Whoever waits has waited long enough."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """Listen no longer."""
        self.end_wait()
        if not self._doorbell.polls:
            self._loop.remove_reader(self._doorbell.fd)
        self._doorbell.close()

    def _rung(self) -> None:
        # It rings for other partitions too, so it is no sign of a record.
        self._doorbell.drain()
        if any(feed.is_ready for feed in self._feeds):
            self.end_wait()

    def _poll(self) -> None:
        self.end_wait()
