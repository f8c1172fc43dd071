"""Waiting in an event loop for what rings no bell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LIMIT_S = 60.0
POLL_S = 0.001
"""How long others run between two looks. A loop that only turned would keep the interpreter from the very threads that
are waited for: Python takes milliseconds to hand it over, and they give it up at every write."""


async def until(condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Return when *condition* holds, which other tasks or threads bring about."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110  # it is any condition, and nobody tells when it holds
            await asyncio.sleep(POLL_S)
