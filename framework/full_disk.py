"""What becomes of a commit that the disk takes not: it is made again, for as long as there is hope.

A full disk is waited for, however long it takes: whoever runs the machine makes room, and the agents go on where they
stopped, in the same process. A disk that fails is tried `IO_RETRIES` times more, each time with the database opened
anew, because after a failed write or sync only that tells what is on it; then the worker ends. Either way nothing is
lost and nothing done twice, for a commit that is made again is there once. Meanwhile the tasks of that database
stop at their next record boundary; those of others go on.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from concurrent.futures import Executor

from framework.state.errors import DiskFailed, DiskFull, StateFailed
from framework.state.store import Commit, Store

DISK_RETRY_S = 1.0
"""How long to wait before a commit is tried again that the disk refused."""
DISK_WARNING_INTERVAL_S = 60.0
"""How often to say that agents are waiting for space."""
IO_RETRIES = 3
WAYS_OUT = (
    "What was not committed will be handled again at the next start. Look at the disk (dmesg, smartctl); if it is well "
    "again, stop everything that has the directory open and start the worker; if not, restore a backup elsewhere"
)
logger = logging.getLogger("framework.worker")


class Outage:
    """The time in which one store takes no commits; made at its first refusal."""

    def __init__(self, store: Store, give_up: asyncio.Event) -> None:
        """Waiting ends when *give_up* is set: the worker is told to stop."""
        self._store, self._give_up = store, give_up
        self._began = asyncio.get_running_loop().time()
        self._warned: float | None = None
        self._failures = 0

    async def wait(self, error: StateFailed) -> None:
        """Say what is wrong, and return when it is time to try again.

        Raises:
            StateFailed: There is no use in it.
        """
        if isinstance(error, DiskFull):
            self._warn(error)
        elif isinstance(error, DiskFailed) and self._failures < IO_RETRIES:
            self._failures += 1
            logger.warning("%s; retry %d of %d in %g s", error, self._failures, IO_RETRIES, DISK_RETRY_S)
        else:
            raise type(error)(f"{error}. {WAYS_OUT}") from error
        try:
            async with asyncio.timeout(DISK_RETRY_S):
                await self._give_up.wait()
        except TimeoutError:
            return
        raise StateFailed(
            f"stopped while waiting for the disk: {error}. What was not committed will be handled at the next start"
        ) from error

    def over(self) -> None:
        """A commit has been made."""
        seconds = asyncio.get_running_loop().time() - self._began
        logger.warning("%s takes commits again, after %.1f s; its agents go on", self._store.path, seconds)

    def _warn(self, error: DiskFull) -> None:
        now = asyncio.get_running_loop().time()
        if self._warned is not None and now - self._warned < DISK_WARNING_INTERVAL_S:
            return
        self._warned = now
        free = shutil.disk_usage(error.path).free
        needed = f"a commit needs {error.needed_bytes} bytes" if error.needed_bytes else "a commit needs more"
        logger.warning(
            "the disk of %s is full: %d bytes are free, %s. The agents of %s wait, and go on when there is space: %s",
            error.path,
            free,
            needed,
            self._store.path,
            error,
        )


async def commit_in_the_end(store: Store, commit: Commit, executor: Executor, give_up: asyncio.Event) -> None:
    """Make *commit* in a thread of *executor*, however long the disk is full.

    Raises:
        StateFailed: The disk fails, or *give_up* was set meanwhile; the store takes no more commits.
    """
    loop = asyncio.get_running_loop()
    outage: Outage | None = None
    while True:
        try:
            await loop.run_in_executor(executor, _commit_again if outage else Store.commit, store, commit)
        except StateFailed as error:
            outage = outage or Outage(store, give_up)
            await outage.wait(error)
        else:
            break
    if outage is not None:
        outage.over()


def _commit_again(store: Store, commit: Commit) -> None:
    with store.lock:
        store.reopen()
        store.commit(commit)
