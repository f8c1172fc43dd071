"""Something that runs beside a block of code, and ends with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager


@asynccontextmanager
async def alongside(watching: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """*watching* runs beside the body and ends with it."""
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(watching)
            try:
                yield
            finally:
                task.cancel()
    except BaseExceptionGroup as failures:
        # The body's own, or what ended it; without the group, because callers look at its type.
        raise failures.exceptions[0] from None
