"""Waking many who wait for instants of the wall clock, with one timer.

The machine may sleep, and its clock may be set: so nobody sleeps longer than `HOP_S` at a time, and what counts is
always what the wall clock shows. A clock that was set forward makes due at once what lies behind it; one that was set
back makes everybody wait longer, and nobody twice.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from datetime import datetime

from framework.clock import Waker, after, timer_of
from framework.log import Clock

HOP_S = 30.0


class Alarm:
    """Instants that somebody waits for. A thousand of them cost one sleep."""

    def __init__(self, clock: Clock) -> None:
        """Nobody waits yet."""
        self._clock = clock
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._waker: Waker | None = None

    async def run(self) -> None:
        """Serve until cancelled."""
        timer = timer_of(self._clock)
        self._waker = Waker(timer)
        while True:
            self._waker.clear()
            now = self._clock.now_ms() / 1000
            while self._waiting and (self._waiting[0][0] <= now or self._waiting[0][2].done()):
                _, _, reached = heapq.heappop(self._waiting)
                if not reached.done():
                    reached.set_result(None)
            hop = min(HOP_S, self._waiting[0][0] - now) if self._waiting else HOP_S
            await self._waker.wait(after(timer.time(), hop))

    async def until(self, when: datetime) -> None:
        """Return when the clock shows *when*, or later."""
        entry = (when.timestamp(), next(self._numbers), asyncio.get_running_loop().create_future())
        heapq.heappush(self._waiting, entry)
        if self._waiting[0] is entry and self._waker is not None:
            self._waker.set()
        try:
            await entry[2]
        finally:
            entry[2].cancel()
