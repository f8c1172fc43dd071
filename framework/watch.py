"""The time limit for a single record in an agent's loop, of which the loop knows nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


async def within(timeout_s: float | None, in_hand: Callable[[], int | None], running: Awaitable[None]) -> None:
    """Await *running*, in which no record may be in hand for longer than *timeout_s*.

    Raises:
        TimeoutError: One was.
    """
    if timeout_s is None:
        await running
        return
    limit = asyncio.timeout(None)
    try:
        async with limit:
            with Watch(in_hand, timeout_s, limit):
                await running
    except TimeoutError:
        if not limit.expired():
            raise
        raise TimeoutError(f"the record was in hand for more than {timeout_s:g} s") from None


class Watch:
    """Ends a task's run when one record is in hand for too long: it looks a few times within that time."""

    LOOKS = 8

    def __init__(self, in_hand: Callable[[], int | None], timeout_s: float, limit: asyncio.Timeout) -> None:
        """*in_hand* gives the offset of the record that is being handled; *limit* is made to expire."""
        self._in_hand, self._timeout_s, self._limit = in_hand, timeout_s, limit
        self._seen: int | None = None
        self._since_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._look()

    def __exit__(self, *exc: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        offset, now = self._in_hand(), loop.time()
        if offset is None or offset != self._seen:
            self._seen, self._since_s = offset, now
        elif now - self._since_s >= self._timeout_s:
            self._limit.reschedule(now)
            return
        self._timer = loop.call_later(self._timeout_s / self.LOOKS, self._look)
