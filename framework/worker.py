"""The worker: runs the agents and jobs of one app until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from framework.agent import Agent
from framework.app import App
from framework.commit import CommitLoop
from framework.errors import DeclarationError
from framework.fetch import Fetch
from framework.identity import settle
from framework.job_runner import JobRunner
from framework.log import Log, Partition, Random
from framework.log.doorbell import POLL_S, Doorbell
from framework.log.errors import Error
from framework.state.database import Database
from framework.state.shards import SHARDS, Shards
from framework.state.store import Store
from framework.task import Task

ACCEPT_VARIABLE = "FRAMEWORK_ACCEPT_SCHEMA"
STOP_TIMEOUT_S = 30.0
IDLE_POLL_S = 0.02
DANGLING_POLL_S = 0.05
HOLD_INTERVAL_S = 1.0
RETENTION_INTERVAL_S = 60.0
logger = logging.getLogger("framework.worker")


@dataclass(frozen=True, slots=True)
class Progress:
    """What a worker has done so far."""

    records: int
    lag: int
    running_jobs: int


class Worker:
    """One run of an app's agents and jobs in this process, which owns all shards meanwhile."""

    def __init__(
        self,
        app: App,
        *,
        wait_s: float = 0.0,
        accept_schema: Sequence[str] = (),
        stop_timeout_s: float = STOP_TIMEOUT_S,
        random: Random | None = None,
        open_database: Callable[[Path], Database] = Database,
    ) -> None:
        """*wait_s* is how long to wait for another worker's shards, *stop_timeout_s* for records in hand at the end.

        *accept_schema* names topics and tables, or "all", of which older values need not be readable any more; else
        FRAMEWORK_ACCEPT_SCHEMA does.
        """
        self.app = app
        self.tasks: list[Task] = []
        self._wait_s, self._stop_timeout_s = wait_s, stop_timeout_s
        self._accept_schema = accept_schema or os.environ.get(ACCEPT_VARIABLE, "").split()
        self._random, self._open_database = random, open_database
        self._commits: dict[Store, CommitLoop] = {}
        self._jobs: JobRunner | None = None
        self._stop = asyncio.Event()
        self._ended: Progress | None = None
        self._dangling: dict[int, int] = {}

    # Running.

    async def run(self, *, until_idle: bool = False, started: Callable[[], None] = lambda: None) -> None:
        """Run until `stop` is called, or with *until_idle* until everything in the log has been handled.

        Raises:
            ShardBusy: Another worker runs on this directory.
            IdentityUnclear, SchemaChanged: The state is not that of what the app declares.
            StateFailed, StateBehind, StateAhead, Damaged: The data cannot be used, or no longer.
            AgentEnded: An agent left its loop.
        """
        async with self.running():
            started()
            if until_idle:
                await self._until_idle()
            else:
                await self._stop.wait()

    def stop(self) -> None:
        """Finish what is in hand, commit, and end `run`; may be called from a signal handler of the loop."""
        self._stop.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Worker]:
        """Agents and jobs run beside the body; the first failure of one cancels it and is raised."""
        try:
            async with AsyncExitStack() as exits:
                log = await self._open(exits)
                async with asyncio.TaskGroup() as group:
                    # Each agent's errors are handled in its task; what comes out of one ends the worker.
                    agents = [group.create_task(task.run(), name=task.name) for task in self.tasks]
                    services = [group.create_task(coroutine) for coroutine in self._services(log, exits)]
                    try:
                        yield self
                    finally:
                        await self._finish(agents)
                        for service in services:
                            service.cancel()
        except BaseExceptionGroup as failures:
            raise _first(failures) from failures

    async def _open(self, exits: AsyncExitStack) -> Log:
        app = self.app
        if not app.agents and not app.jobs:
            raise DeclarationError(f"app {app.name!r} declares no agents and no jobs: there is nothing to run")
        if not app.is_open:
            exits.callback(app.close)
        log = app.open(create=True)
        exits.callback(self._remember_progress)
        shards = Shards(log, random=self._random, open_database=self._open_database)
        exits.callback(shards.close)
        shards.own_all(self._wait_s)
        for topic in list(app.topics.values()):
            app.topic_info(topic)
        settle(app, shards, self._accept_schema)
        executor = ThreadPoolExecutor(SHARDS, thread_name_prefix="framework-commit")
        exits.callback(executor.shutdown)
        for agent in app.agents.values():
            self._add_tasks(agent, log, shards, executor)
        for store in shards.open_stores():
            if store.replayed:
                logger.info("%s: %d batches of the last commit were appended again", store.path, store.replayed)
        if app.jobs:
            self._jobs = JobRunner(app, shards.of_jobs())
        await exits.enter_async_context(app.living())
        return log

    def _add_tasks(self, agent: Agent[object, object], log: Log, shards: Shards, executor: ThreadPoolExecutor) -> None:
        info = self.app.topic_info(agent.source)
        dead_letters = self.app.dead_letters(agent.name, agent.source)
        for number in range(info.partitions):
            partition, store = log.partition(info, number), shards.of_partition(number)
            committed = store.offset(agent.name, info, number)
            offset = log.offset_of(partition, agent.start) if committed is None else committed
            loop = self._commits.get(store)
            if loop is None:
                loop = self._commits[store] = CommitLoop(store, executor)
            fetch = Fetch(log.reader(partition, offset))
            is_new, now_ms = committed is None, self.app.clock.now_ms
            task = Task(agent, dead_letters, fetch, loop, info.partitions, is_new=is_new, now_ms=now_ms)
            loop.tasks.append(task)
            self.tasks.append(task)

    def _services(self, log: Log, exits: AsyncExitStack) -> list:  # type: ignore[type-arg]
        services = [loop.run() for loop in self._commits.values()]
        services += [loop.tick() for loop in self._commits.values()]
        doorbell = log.doorbell()
        exits.callback(doorbell.close)
        services.append(self._listen(doorbell))
        services.append(self._finish_for_the_dead(log))
        services += [self._hold(), self._retain(log)]
        if self._jobs is not None:
            services += [self._jobs.serve(job) for job in self.app.jobs.values()]
        return services

    async def _listen(self, doorbell: Doorbell) -> None:
        """Wake the tasks for which there is something to read."""
        if doorbell.polls:
            while True:
                await asyncio.sleep(POLL_S)
                self._ring()
        loop = asyncio.get_running_loop()

        def rung() -> None:
            doorbell.drain()
            self._ring()

        loop.add_reader(doorbell.fd, rung)
        try:
            await loop.create_future()
        finally:
            loop.remove_reader(doorbell.fd)

    def _ring(self) -> None:
        for task in self.tasks:
            task.ring()

    async def _finish_for_the_dead(self, log: Log) -> None:
        """Sync what a killed process has written but not synced, which else would wait for the next append."""
        while True:
            await asyncio.sleep(DANGLING_POLL_S)
            seen, self._dangling = self._dangling, {}
            for partition in {task.fetch.partition for task in self.tasks}:
                end = partition.log_end
                if not partition.is_synced:
                    self._dangling[partition.slot] = end
                    if seen.get(partition.slot) == end:
                        log.sync(partition)

    def publish_holds(self) -> None:
        """Tell retention, in all processes, up to where agents and jobs have read each partition."""
        holds: dict[Partition, int] = {}
        positions = [(task.fetch.partition, task.durable) for task in self.tasks]
        for partition, offset in [*positions, *(self._jobs.positions() if self._jobs is not None else ())]:
            holds[partition] = min(holds.get(partition, offset), offset)
        for partition, offset in holds.items():
            partition.set_hold(offset)

    async def _hold(self) -> None:
        while True:
            self.publish_holds()
            await asyncio.sleep(HOLD_INTERVAL_S)

    async def _retain(self, log: Log) -> None:
        """Remove what retention does not keep, also of topics to which nothing is appended any more."""
        while True:
            await asyncio.sleep(RETENTION_INTERVAL_S)
            try:
                await asyncio.to_thread(log.retain)
            except (Error, OSError) as error:
                logger.warning("retention: %s", error)

    # Ending.

    async def _until_idle(self) -> None:
        await asyncio.sleep(0)  # The jobs look first whether one is due.
        while not self._stop.is_set() and not self.idle:  # noqa: ASYNC110  # idle is many things, and no event
            await asyncio.sleep(IDLE_POLL_S)

    @property
    def idle(self) -> bool:
        """Whether everything in the log has been handled and committed."""
        return (
            all(task.idle and not task.changed and not task.fetch.ready(task.offset) for task in self.tasks)
            and not any(loop.busy for loop in self._commits.values())
            and not (self._jobs is not None and self._jobs.running)
        )

    async def _finish(self, agents: list[asyncio.Task[None]]) -> None:
        """Let every agent finish the record in hand, then commit."""
        for task in self.tasks:
            task.stop()
        if agents:
            _, late = await asyncio.wait(agents, timeout=self._stop_timeout_s)
            for agent in late:
                logger.warning(
                    "%s did not finish its record in %g s and is cancelled",
                    agent.get_name(),
                    self._stop_timeout_s,
                )
                agent.cancel()
        for loop in self._commits.values():
            if loop.failure is None:
                await loop.commit()

    @property
    def progress(self) -> Progress:
        """Counts since the start, and how many records are waiting now, or were when the worker ended."""
        if self._ended is not None:
            return self._ended
        lag = sum(max(0, task.fetch.partition.high_watermark - task.offset) for task in self.tasks)
        handled = sum(task.handled for task in self.tasks)
        return Progress(handled, lag, len(self._jobs.running) if self._jobs else 0)

    def _remember_progress(self) -> None:
        """The log, which knows how many records are waiting, is about to be closed."""
        self._ended = self.progress


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure that ended the worker, without the group it came in."""
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
