"""The tasks of a worker: one for each agent and partition, where its committed offset says."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from framework.agent import Agent
from framework.app import App
from framework.clock import timer_of
from framework.commit import CommitLoop
from framework.concurrency import ConcurrentTask
from framework.fetch import Fetch
from framework.log import Log, Partition, TopicInfo
from framework.log.errors import OffsetOutOfRange
from framework.repartition import Loops
from framework.replay import replay_of
from framework.state.errors import StateAhead
from framework.state.shards import Shards
from framework.state.store import Store
from framework.task import Task

logger = logging.getLogger("framework.worker")
AnyTask = Task | ConcurrentTask


class Assignment:
    """Makes tasks, and knows those there are; more come when a loop asks for stages."""

    def __init__(
        self,
        app: App,
        log: Log,
        shards: Shards,
        executor: Executor,
        tasks: list[AnyTask],
        commits: dict[Store, CommitLoop],
    ) -> None:
        """Adds to *tasks*, and to *commits* the loop of each store, which commits in *executor*."""
        self.tasks, self.commits = tasks, commits
        self.run: Callable[[AnyTask], object] = lambda _: None
        """Called for each task that is added while the others run."""
        self._app, self._log, self._shards, self._executor = app, log, shards, executor
        self._loops = Loops(app, self._start, self._place)

    def add(self, agent: Agent[Any, Any], number: int) -> AnyTask:
        """The task of *agent* on partition *number*.

        Raises:
            OffsetOutOfRange, StateAhead: It cannot go on where it was.
        """
        info, store = self._app.topic_info(agent.source), self._shards.of_partition(number)
        fetch, is_new = self._place(agent, number)
        if agent.concurrency == 1 and store.finished(agent.name, info, number):
            raise StateAhead(
                f"agent {agent.name!r} has finished records of {fetch.partition.name} above offset {fetch.offset}, at "
                "which it would go on: run it once with concurrency above 1, as it had then, until it is idle"
            )
        loop = self.commits.get(store)
        if loop is None:
            loop = self.commits[store] = CommitLoop(store, self._executor)
        task = (ConcurrentTask if agent.concurrency > 1 else Task)(
            agent,
            self._app.dead_letters(agent.name, agent.source),
            fetch,
            loop,
            info.partitions,
            is_new=is_new,
            now_ms=self._app.clock.now_ms,
            timer=timer_of(self._app.clock),
            replay=replay_of(agent.name, fetch.partition, store, self._log),
        )
        if isinstance(task, Task):
            task.stages = self._loops.begin
        loop.tasks.append(task)
        self.tasks.append(task)
        return task

    def _start(self, agent: Agent[Any, Any], number: int) -> None:
        """Run one more task, of a stage that a loop has asked for."""
        self.run(self.add(agent, number))

    def _place(self, agent: Agent[Any, Any], number: int) -> tuple[Fetch, bool]:
        """Where *agent* goes on in a partition, and whether it has never been there."""
        info = self._app.topic_info(agent.source)
        partition = self._log.partition(info, number)
        committed = committed_offset(agent, self._shards.of_partition(number), info, number)
        offset = self._log.offset_of(partition, agent.start) if committed is None else committed
        reader = self._log.reader(partition, offset)
        return Fetch(reader, on_gap=gap_logger(agent, partition)), committed is None


def committed_offset(agent: Agent[object, object], store: Store, topic: TopicInfo, partition: int) -> int | None:
    """Where *agent* goes on, None if it never committed.

    Raises:
        OffsetOutOfRange: Records were removed before it read them, and it is not declared to go on without them.
    """
    try:
        return store.offset(agent.name, topic, partition, gap_allowed=agent.on_gap == "earliest")
    except OffsetOutOfRange as error:
        raise OffsetOutOfRange(
            f"{error}. To go on without them, declare the agent with on_gap='earliest', or run "
            f"`framework agents reset {agent.name} --to beginning`"
        ) from error


def gap_logger(agent: Agent[object, object], partition: Partition) -> Callable[[int, int], None] | None:
    """What says which records *agent* goes on without; None if it does not."""

    def lost(offset: int, start: int) -> None:
        logger.warning(
            "%s goes on at %s@%d: %d offsets, %d to %d, were removed before it read them",
            agent.name,
            partition.name,
            start,
            start - offset,
            offset,
            start - 1,
        )

    return lost if agent.on_gap == "earliest" else None
