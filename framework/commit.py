"""The commit loop of one store: one commit at a time, for all its tasks that stand at a record boundary."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from contextlib import suppress
from typing import Protocol

from framework.full_disk import commit_in_the_end
from framework.state.store import Commit, Store

COMMIT_INTERVAL_S = 0.1
MAX_COMMIT_INTERVAL_S = 0.5
IDLE_INTERVAL_S = 1.0
"""A task asks for a commit itself before it is idle, so a thousand idle ones need few looks."""
MAX_COMMIT_SHARE = 0.05
"""Large commits come less often, up to the longer interval, so that they take no larger share of the time."""


class Contributor(Protocol):
    """What takes part in commits: a task."""

    @property
    def committable(self) -> bool:
        """Whether it stands where a commit can be made."""

    @property
    def idle(self) -> bool:
        """Whether it waits for records, and has asked for a commit of what it did before."""

    @property
    def changed(self) -> bool:
        """Whether a commit now would say anything new."""

    def contribute(self, commit: Commit) -> None:
        """Put offset and effects into *commit*."""

    def settled(self) -> None:
        """What was contributed last is committed."""

    def commit_soon(self) -> None:
        """Come to a record boundary, and ask for a commit there."""


class CommitLoop:
    """Commits when asked, and in intervals while there is something to commit."""

    def __init__(self, store: Store, executor: Executor) -> None:
        """Commits run in *executor*, so that a slow disk does not hold up the event loop."""
        self.store, self.tasks = store, list[Contributor]()
        self.commits, self._last_s = 0, 0.0
        self._executor = executor
        self._wanted = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._served: list[asyncio.Future[None]] = []
        self.failure: BaseException | None = None
        """Why there are no more commits."""
        self.busy = False
        self.awake = asyncio.Event()
        """Set when a task that was idle has records again."""
        self.give_up = asyncio.Event()
        """Set when the worker is told to stop: then there is no more waiting for a full disk."""

    def request(self) -> None:
        """Commit soon."""
        self._wanted.set()

    async def commit(self) -> None:
        """Return when a commit that began after this call is durable.

        Raises:
            StateFailed: It could not be; the tasks of this store are stopped.
        """
        if self.failure is not None:
            raise self.failure
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._wanted.set()
        await done

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            StateFailed: A commit failed.
        """
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                waiting, self._served = self._waiting, self._waiting
                self._waiting = []
                await self._commit()
                for done in waiting:
                    if not done.done():
                        done.set_result(None)
        except BaseException as error:
            self._fail(error)
            raise

    async def _commit(self) -> None:
        """One commit of all tasks that stand where they can be committed."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        tasks = [task for task in self.tasks if task.committable and task.changed]
        commit = Commit()
        for task in tasks:
            task.contribute(commit)
        if commit.changes:
            self.busy = True
            try:
                await commit_in_the_end(self.store, commit, self._executor, self.give_up)
            finally:
                self.busy = False
            self.commits += 1
        for task in tasks:
            task.settled()
        self._last_s = loop.time() - started

    async def tick(self) -> None:
        """Ask for a commit every interval, also of tasks in the middle of a slice; until cancelled."""
        while True:
            if all(task.idle for task in self.tasks):
                await self._until_busy()
            longer = min(self._last_s / MAX_COMMIT_SHARE, MAX_COMMIT_INTERVAL_S)
            await asyncio.sleep(max(COMMIT_INTERVAL_S, longer))
            for task in self.tasks:
                task.commit_soon()
            if any(task.changed for task in self.tasks):
                self.request()

    async def _until_busy(self) -> None:
        """Wait for a task to have records again; not for ever, because what else a commit would say rings nowhere."""
        self.awake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(IDLE_INTERVAL_S):
                await self.awake.wait()

    def _fail(self, error: BaseException) -> None:
        self.failure = error
        for done in [*self._served, *self._waiting]:
            if done.done():
                continue
            if isinstance(error, asyncio.CancelledError):
                done.cancel()
            else:
                done.set_exception(error)
