"""The time that agents and jobs wait by: the event loop's, or that of a clock which a test moves.

What only limits how long the disk or another process may take goes by the operating system's clock either way.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Protocol

from framework.log import Clock
from framework.log.clock import to_ms

START = datetime(2024, 1, 1, tzinfo=UTC)
"""A Monday, midnight: where a test's clock begins, so that a test that passes today passes tomorrow."""


class Handle(Protocol):
    """A call that is to come."""

    def cancel(self) -> None:
        """Have it not come."""


class Timer(Protocol):
    """Calls back when a time has come; every event loop is one."""

    def time(self) -> float:
        """Seconds since some moment."""

    def call_at(self, when: float, callback: Callable[[], object]) -> Handle:
        """Have *callback* called in this event loop when `time` is *when*."""


class ManualClock:
    """A clock that stands still until it is told to advance; thread-safe."""

    def __init__(self, start: datetime = START) -> None:
        """It is *start*; in UTC if that does not say."""
        self._start_ms, self._passed = to_ms(start), timedelta(0)
        self._calls: list[tuple[float, int, _Call]] = []
        self._numbers = itertools.count()
        self._guard = threading.Lock()

    @property
    def now(self) -> datetime:
        """What it shows."""
        return datetime.fromtimestamp(self._start_ms / 1000, UTC) + self._passed

    def advance(self, by: timedelta) -> None:
        """Let *by* pass at one stroke, as for a machine that slept: what was due meanwhile is due now, once.

        Raises:
            ValueError: *by* is negative.
        """
        if by < timedelta(0):
            raise ValueError(f"advance({by}): the clock does not go back")
        with self._guard:
            self._passed += by
            now, due = self.time(), []
            while self._calls and self._calls[0][0] <= now:
                due.append(heapq.heappop(self._calls)[2])
        for call in due:
            call.soon()

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return self._start_ms + self._passed // timedelta(milliseconds=1)

    def monotonic(self) -> float:
        """Seconds; unlike the rest this goes on, for it tells how long the disk and other processes take."""
        return time.monotonic() + self.time()

    def time(self) -> float:
        """Seconds since the start, in whole milliseconds as `now_ms`: what is due by one is due by the other."""
        return self._passed // timedelta(milliseconds=1) / 1000

    def call_at(self, when: float, callback: Callable[[], object]) -> Handle:
        """Have *callback* called in this event loop when `time` is *when*."""
        call = _Call(asyncio.get_running_loop(), callback)
        with self._guard:
            if when > self.time():
                heapq.heappush(self._calls, (when, next(self._numbers), call))
                return call
        call.soon()
        return call


class _Call:
    """A callback of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
        self._loop, self._callback, self._cancelled = loop, callback, False

    def soon(self) -> None:
        """Call it in the next turn of its loop."""
        with suppress(RuntimeError):  # The loop is closed, and nobody waits any more.
            self._loop.call_soon_threadsafe(self._run)

    def cancel(self) -> None:
        """Have it not come."""
        self._cancelled = True

    def _run(self) -> None:
        if not self._cancelled:
            self._callback()


class Waker:
    """What somebody waits with: to be woken, or for a time to come."""

    def __init__(self, timer: Timer) -> None:
        """Times are those of *timer*."""
        self.timer = timer
        self.until: float | None = None
        """When the wait that is going on ends, None if that is open."""
        self.pausing = False
        """Whether the wait is one between two attempts at the same thing."""
        self._waiting = False
        self._woken = asyncio.Event()

    def set(self) -> None:
        """End the wait, or the next one at once."""
        self._woken.set()

    def clear(self) -> None:
        """Forget to have been woken."""
        self._woken.clear()

    async def wait(self, until: float | None = None) -> None:
        """Return when woken, or at the time *until*."""
        call = None if until is None else self.timer.call_at(until, self._woken.set)
        self._waiting, self.until = True, until
        try:
            await self._woken.wait()
        finally:
            self._waiting = False
            if call is not None:
                call.cancel()

    async def pause(self, seconds: float, *, counts: bool = True) -> None:
        """Return when *seconds* have passed before something is tried again, or when woken.

        *counts*: until then there is something left to do, for which a test passes the time.
        """
        self._woken.clear()
        self.pausing = counts
        try:
            await self.wait(after(self.timer.time(), seconds))
        finally:
            self.pausing = False

    @property
    def asleep(self) -> bool:
        """Whether the wait goes on as long as nobody ends it and the clock stands still."""
        due = self.until is not None and self.until <= self.timer.time()
        return self._waiting and not due and not self._woken.is_set()


def timer_of(clock: Clock) -> Timer:
    """What calls back by *clock*: itself if it is moved by hand, else the running event loop."""
    return clock if isinstance(clock, ManualClock) else asyncio.get_running_loop()


async def sleep(timer: Timer, seconds: float) -> None:
    """Return when *seconds* have passed on *timer*."""
    await Waker(timer).wait(after(timer.time(), seconds))


def after(now: float, seconds: float) -> float:
    """The time *seconds* after *now*, to the microsecond: a clock moved by as much shows it, and not a hair less."""
    return round(now + seconds, 6)
