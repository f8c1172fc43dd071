"""Effects of a run, and where they go: to the live tables and topics, or to some of its backfill's own.

A scratch backfill of a job writes table `delays` as `delays@ID`, and sends to topic `late` as `late.backfill-ID`; what
other agents and jobs own it reads as it is. So the live ones, and whoever reads them, see nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from framework.effects import Effects
from framework.jobs.job import Job
from framework.jobs.runs import RunRow
from framework.log import Log, TopicInfo
from framework.log.errors import TopicExists, UnknownTopic
from framework.state.store import Store

if TYPE_CHECKING:
    from framework.app import App
    from framework.table import Table


def effects_of(app: App, store: Store, job: Job, row: RunRow) -> Effects:
    """The effects of one attempt at the run *row*."""
    effects = Effects(scratch_name(job.name, row.backfill) if row.scratch else job.name, store, 0, 0)
    effects.now_ms = effects.time.latest_ms = app.clock.now_ms
    effects.time.kept = job.source.keeps_time
    if row.scratch:
        effects.stored_as = _scratch_tables(store, job.name, row.backfill)
        effects.redirect = ScratchOutputs(app.log, row.backfill)
    return effects


def scratch_name(name: str, backfill: str) -> str:
    """What the job or table *name* is called in a scratch backfill."""
    return f"{name}@{backfill}"


def scratch_topic(name: str, backfill: str) -> str:
    """The topic that gets what a scratch backfill sends to topic *name*."""
    return f"{name}.backfill-{backfill}"


def scratch_topics(topics: Iterable[str], backfill: str) -> list[str]:
    """Those of *topics* that a scratch backfill has sent to."""
    return sorted(topic for topic in topics if topic.endswith(scratch_topic("", backfill)))


def _scratch_tables(store: Store, job: str, backfill: str) -> Callable[[Table[Any, Any]], str]:
    def stored_as(table: Table[Any, Any]) -> str:
        mine = store.owners.get(table.name) in (None, job)
        return scratch_name(table.name, backfill) if mine else table.name

    return stored_as


class ScratchOutputs:
    """Sends what a scratch backfill sends to topics of its own, made when they are first needed."""

    def __init__(self, log: Log, backfill: str) -> None:
        """*backfill* is its id."""
        self._log, self._backfill = log, backfill
        self._topics: dict[str, TopicInfo] = {}

    def target(self, topic: TopicInfo, partition: int) -> tuple[TopicInfo, int]:
        """Where a record goes that is sent to a *partition* of *topic*."""
        own = self._topics.get(topic.id)
        if own is None:
            own = self._topics[topic.id] = self._made(topic)
        return own, partition

    def _made(self, topic: TopicInfo) -> TopicInfo:
        name = scratch_topic(topic.name, self._backfill)
        try:
            return self._log.topic(name)
        except UnknownTopic:
            try:
                return self._log.create_topic(name, topic.partitions, topic.settings)
            except TopicExists:  # Another run of the backfill was faster.
                return self._log.topic(name)
