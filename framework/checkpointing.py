"""The hourly checkpoints of a running worker."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Executor

from framework.log import Log
from framework.log.errors import Error
from framework.state.checkpoints import Checkpoints
from framework.state.shards import Shards

POLL_S = 1.0
"""How often it is looked whether one is due: the clock may be set, or belong to a test."""
logger = logging.getLogger("framework.worker")


async def make_checkpoints(log: Log, shards: Shards, executor: Executor, *, keep: int) -> None:
    """Make a checkpoint of each open store of *shards* every hour, and keep *keep*; until cancelled.

    They are made in *executor*, as commits are. The worker goes on without one that cannot be made.
    """
    checkpoints, loop = Checkpoints(log, keep=keep), asyncio.get_running_loop()
    await loop.run_in_executor(executor, checkpoints.clean)
    while True:
        # First, so that the agents have committed where they begin.
        await asyncio.sleep(POLL_S)
        for store in filter(checkpoints.is_due, shards.open_stores()):
            try:
                await loop.run_in_executor(executor, checkpoints.make, store)
            except (Error, OSError) as error:
                logger.warning("no checkpoint of %s was made: %s", store.path, error)
