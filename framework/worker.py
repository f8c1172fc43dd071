"""The worker: runs the agents and jobs of one app until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from framework.app import App
from framework.assignment import AnyTask, Assignment
from framework.checkpointing import make_checkpoints
from framework.clock import Timer, sleep, timer_of
from framework.commit import CommitLoop
from framework.errors import DeclarationError
from framework.identity import settle
from framework.jobs.planning import now_of
from framework.jobs.runner import JobRunner
from framework.jobs.serving import Serving
from framework.log import Log, Partition, Random
from framework.log.doorbell import POLL_S, Doorbell
from framework.log.errors import Error
from framework.repartition import trim
from framework.state.database import Database
from framework.state.shards import SHARDS, Shards
from framework.state.store import Store
from framework.status import FILE as STATUS_FILE
from framework.status import INTERVAL_S as STATUS_INTERVAL_S
from framework.status import Observer

if TYPE_CHECKING:
    from framework.log.broker.settings import BrokerSettings

ACCEPT_VARIABLE = "FRAMEWORK_ACCEPT_SCHEMA"
STOP_TIMEOUT_S = 30.0
IDLE_POLL_S = 0.02
DANGLING_POLL_S = 0.2
HOLD_INTERVAL_S = 1.0
RETENTION_INTERVAL_S = 60.0
logger = logging.getLogger("framework.worker")


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run of a job has come."""

    id: str
    done: int
    """How many of its offsets are committed ..."""
    size: int
    """... of how many."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a worker has done so far."""

    records: int
    lag: int
    runs: tuple[RunProgress, ...] = ()
    """The runs of jobs that are at work."""


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
        may_be_empty: bool = False,
        broker: BrokerSettings | None = None,
    ) -> None:
        """*wait_s* is how long to wait for another worker's shards, *stop_timeout_s* for records in hand at the end.

        *may_be_empty*: run even if the app declares neither agents nor jobs. *accept_schema* names topics and tables,
        or "all", of which older values need not be readable any more; else FRAMEWORK_ACCEPT_SCHEMA does. With *broker*
        the topics are served to Kafka's clients meanwhile.
        """
        self.app = app
        self.tasks: list[AnyTask] = []
        self._wait_s, self._stop_timeout_s = wait_s, stop_timeout_s
        self._random, self._open_database, self._may_be_empty = random, open_database, may_be_empty
        self._accept_schema = accept_schema or os.environ.get(ACCEPT_VARIABLE, "").split()
        self._commits: dict[Store, CommitLoop] = {}
        self.jobs: JobRunner | None = None
        self._broker = broker
        self.address: tuple[str, int] | None = None
        """Where Kafka's clients reach it, if it has a broker."""
        self.retention_due_s = 0.0
        """When the log is looked through next, by the timer of the app's clock."""
        self._services_running: list[asyncio.Task[None]] = []
        self._killed = False
        self._stop = asyncio.Event()
        self._ended: Progress | None = None
        self._agents: list[asyncio.Task[None]] = []
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

    def kill(self) -> None:
        """End `run` as if the process had been killed at this moment: nothing more is committed."""
        self._killed = True
        for task in self.tasks:
            task.stop()  # For code that goes on when it is cancelled.
            task.effects.close()
        if self.jobs is not None:
            self.jobs.kill()
        for running in [*self._agents, *self._services_running]:
            running.cancel()
        self._stop.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Worker]:
        """Agents and jobs run beside the body; the first failure of one cancels it and is raised."""
        try:
            async with AsyncExitStack() as exits:
                log = await self._open(exits)
                async with asyncio.TaskGroup() as group:
                    # Each agent's errors are handled in its task; what comes out of one ends the worker.
                    def run(task: AnyTask) -> None:
                        self._agents.append(group.create_task(task.run(), name=task.name))

                    self._assignment.run = run
                    for task in self.tasks:
                        run(task)
                    services = [group.create_task(coroutine) for coroutine in self._services(log, exits)]
                    self._services_running = services
                    try:
                        yield self
                    finally:
                        if not self._killed:
                            await self._finish()
                        for running in [*self._agents, *services]:
                            running.cancel()
        except BaseExceptionGroup as failures:
            raise _first(failures) from failures

    async def _open(self, exits: AsyncExitStack) -> Log:
        app = self.app
        if not app.agents and not app.jobs and not app.timers and not self._may_be_empty:
            raise DeclarationError(f"app {app.name!r} declares no agents, jobs or timers: there is nothing to run")
        if not app.is_open:
            exits.callback(app.close)
        log = app.open(create=True)
        exits.callback(self._close_readers)
        exits.callback(self._remember_progress)
        shards = Shards(log, random=self._random, open_database=self._open_database)
        exits.callback(shards.close)
        shards.own_all(self._wait_s)
        app.own_shards(shards)
        exits.callback(app.own_shards, None)
        for topic in list(app.topics.values()):
            app.topic_info(topic)
        for job in app.jobs.values():
            job.check_retention(app.topic_info(job.source), now_of(app))
        settle(app, shards, self._accept_schema)
        executor = ThreadPoolExecutor(SHARDS, thread_name_prefix="framework-commit")
        exits.callback(executor.shutdown)
        self._make_checkpoints = partial(make_checkpoints, log, shards, executor, keep=app.snapshots)
        self._assignment = Assignment(app, log, shards, executor, self.tasks, self._commits)
        for agent in app.agents.values():
            for number in range(app.topic_info(agent.source).partitions):
                self._assignment.add(agent, number)
        for store in shards.open_stores():
            if store.replayed:
                logger.info("%s: %d batches of the last commit were appended again", store.path, store.replayed)
        if app.jobs or app.timers:
            self.jobs = JobRunner(app, shards.of_jobs(), agents_busy=self._agents_busy)
            self.jobs.settle()
        await exits.enter_async_context(app.living())
        if self._broker is not None:
            from framework.broker import serving as serving_clients  # Most workers do without, and start sooner.

            # Within the app: clients may write until the last commit is made.
            serving = await exits.enter_async_context(serving_clients(log, self._broker))
            self.address = serving.address
        return log

    def _services(self, log: Log, exits: AsyncExitStack) -> list:  # type: ignore[type-arg]
        services = [loop.run() for loop in self._commits.values()]
        services += [loop.tick() for loop in self._commits.values()]
        doorbell = log.doorbell()
        exits.callback(doorbell.close)
        services.append(self._listen(doorbell))
        services.append(self._finish_for_the_dead(log))
        services += [self._hold(), self._retain(log, timer_of(self.app.clock)), self._observe(log, exits)]
        services.append(self._make_checkpoints())
        if self.jobs is not None:
            services.append(Serving(self.jobs).run())
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

    def _agents_busy(self) -> bool:
        return any(not task.idle for task in self.tasks)

    def _ring(self) -> None:
        for task in self.tasks:
            task.ring()
        if self.jobs is not None:
            self.jobs.rung.set()

    async def _finish_for_the_dead(self, log: Log) -> None:
        """Sync what a killed process has written but not synced, which else would wait for the next append."""
        slots = b""
        while True:
            await asyncio.sleep(DANGLING_POLL_S)
            before, slots = slots, log.shared.slots()
            if slots == before and not self._dangling:
                continue
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
        positions = [(task.fetch.partition, self._position(task)) for task in self.tasks]
        for partition, offset in [*positions, *(self.jobs.positions() if self.jobs is not None else ())]:
            holds[partition] = min(holds.get(partition, offset), offset)
        for partition, offset in holds.items():
            partition.set_hold(offset)

    def _position(self, task: AnyTask) -> int:
        held = None if task.begun else self.app.log.shared.hold(task.fetch.partition.slot)
        # Its loop has not begun: a stage of it may have come less far than it would begin.
        return task.durable if held is None else min(task.durable, held)

    async def _hold(self) -> None:
        while True:
            self.publish_holds()
            await trim(self.tasks)
            await asyncio.sleep(HOLD_INTERVAL_S)

    async def _observe(self, log: Log, exits: AsyncExitStack) -> None:
        """Write down what the tasks are doing, for other processes."""
        observer = Observer(self.tasks, log.path / STATUS_FILE)
        exits.callback(observer.remove)
        while True:
            try:
                observer.write()
            except OSError as error:
                logger.debug("%s cannot be written: %s", STATUS_FILE, error)
            await asyncio.sleep(STATUS_INTERVAL_S)

    async def _retain(self, log: Log, timer: Timer) -> None:
        """Remove what retention does not keep, also of topics to which nothing is appended any more."""
        while True:
            self.retention_due_s = timer.time() + RETENTION_INTERVAL_S
            await sleep(timer, RETENTION_INTERVAL_S)
            self.publish_holds()
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
        """Whether everything in the log has been handled and committed, and no run is due, planned or at work."""
        return (
            all(task.idle and not task.changed and not task.fetch.ready(task.offset) for task in self.tasks)
            and not self.committing
            and (self.jobs is None or self.jobs.idle)
        )

    @property
    def committing(self) -> bool:
        """Whether a commit is being written."""
        return any(loop.busy for loop in self._commits.values())

    async def _finish(self) -> None:
        """Let every agent finish the record in hand, then commit."""
        for loop in self._commits.values():
            loop.give_up.set()
        for task in self.tasks:
            task.stop()
        if self._agents:
            _, late = await asyncio.wait(self._agents, timeout=self._stop_timeout_s)
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
        lag = sum(max(0, task.fetch.partition.high_watermark - task.offset) for task in self.tasks if not task.idle)
        handled = sum(task.handled for task in self.tasks)
        active = self.jobs.active.values() if self.jobs is not None else ()
        return Progress(handled, lag, tuple(RunProgress(row.id, row.done, row.size) for row in active))

    def _remember_progress(self) -> None:
        """The log, which knows how many records are waiting, is about to be closed."""
        self._ended = self.progress

    def _close_readers(self) -> None:
        for task in self.tasks:
            task.fetch.close()


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure that ended the worker, without the group it came in."""
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
