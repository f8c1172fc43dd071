"""Waking many who wait for instants of the wall clock, with one timer.

The machine may sleep, and its clock may be set: so nobody sleeps longer than `HOP_S` at a time, and what counts is
always what the wall clock shows. A clock that was set forward makes due at once what lies behind it; one that was set
back makes nobody's instant come twice, and all look again what they are waiting for.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from datetime import datetime

from framework.clock import Waker, after, timer_of
from framework.log import Clock

HOP_S = 30.0
SET_BACK_S = 60.0
"""By how much a clock goes back that was set; by less it may be adjusted at any time."""


class Alarm:
    """Instants that somebody waits for. A thousand of them cost one sleep."""

    def __init__(self, clock: Clock) -> None:
        """Nobody waits yet."""
        self._clock = clock
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._left = 0
        self._waker: Waker | None = None

    async def run(self) -> None:
        """Serve until cancelled."""
        timer = timer_of(self._clock)
        self._waker, shown = Waker(timer), 0.0
        while True:
            self._waker.clear()
            now = self._clock.now_ms() / 1000
            was_set_back, shown = now < shown - SET_BACK_S, now
            while self._waiting and (was_set_back or self._waiting[0][0] <= now or self._waiting[0][2].done()):
                _, _, reached = heapq.heappop(self._waiting)
                if not reached.done():
                    reached.set_result(None)
            hop = min(HOP_S, self._waiting[0][0] - now) if self._waiting else HOP_S
            await self._waker.wait(after(timer.time(), hop))

    async def until(self, when: datetime) -> None:
        """Return when the clock shows *when*, or later; or was set back."""
        entry = (when.timestamp(), next(self._numbers), asyncio.get_running_loop().create_future())
        heapq.heappush(self._waiting, entry)
        if self._waiting[0] is entry and self._waker is not None:
            self._waker.set()
        try:
            await entry[2]
        finally:
            if entry[2].cancelled() or entry[2].cancel():
                self._leave()

    def _leave(self) -> None:
        """Somebody waits no longer; those who have left are removed when they are the most."""
        self._left += 1
        if 2 * self._left > len(self._waiting):
            self._waiting = [entry for entry in self._waiting if not entry[2].done()]
            heapq.heapify(self._waiting)
            self._left = 0
