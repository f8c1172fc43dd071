"""Faust's engine without a broker: one topic of one partition in memory, offsets and changelogs that go nowhere.

The least that Faust asks of a transport, and all of it as cheap as can be, so that what is measured is the engine.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import faust
from faust.transport.base import Transport as BaseTransport
from faust.transport.consumer import Consumer as BaseConsumer
from faust.transport.producer import Producer as BaseProducer
from faust.types import TP, ConsumerMessage
from faust.types.tuples import RecordMetadata

INPUT = TP("input", 0)
_FETCHED_RECORDS = 4_000
_POLL_S = 0.01


class Consumer(BaseConsumer):
    """Gives the records of `Transport.records` once."""

    consumer_stopped_errors = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """At the first record."""
        super().__init__(*args, **kwargs)
        self._next = 0
        self._assigned: set[TP] = set()
        self._topics: set[str] = set()

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Assign, when this has returned: what Faust does then waits for it."""
        self._topics |= set(topics)
        self.add_future(self._assign())

    async def _assign(self) -> None:
        app, assignor = self.app, self.app.assignor
        app.on_rebalance_start()
        await self.on_partitions_revoked(set())
        metadata = assignor.metadata(self._topics)
        assignment = assignor.assign(_Cluster(), {"member": metadata})["member"]
        assignor.on_assignment(assignment)
        self._assigned = {TP(topic, partition) for topic, parts in assignment.assignment for partition in parts}
        app.consumer_generation_id = 1
        await self.on_partitions_assigned(self._assigned, 1)

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> dict[TP, list[Any]]:  # noqa: ASYNC109  # Faust's
        records = self.transport.records
        if not self.flow_active or INPUT not in (active_partitions or ()) or self._next >= len(records):
            # Nothing will come that could be waited for.
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), _POLL_S)
            return {}
        taken = range(self._next, min(self._next + _FETCHED_RECORDS, len(records)))
        self._next = taken.stop
        return {INPUT: list(taken)}

    def _to_message(self, tp: TP, offset: int) -> ConsumerMessage:
        value = self.transport.records[offset]
        return ConsumerMessage(
            topic=tp.topic,
            partition=tp.partition,
            offset=offset,
            timestamp=1.0,
            timestamp_type=0,
            headers={},
            key=None,
            value=value,
            checksum=None,
            serialized_key_size=0,
            serialized_value_size=len(value),
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        return True

    async def seek_to_committed(self) -> dict[TP, int]:
        """Nothing was committed before."""
        return dict.fromkeys(self._assigned, 0)

    async def _seek(self, partition: TP, offset: int) -> None:
        return None

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        """The only place there is."""

    async def position(self, tp: TP) -> int:
        """Where the next record comes from."""
        return self._next

    def assignment(self) -> set[TP]:
        """All partitions."""
        return self._assigned

    def highwater(self, tp: TP) -> int:
        """The end; of a changelog, the beginning."""
        return len(self.transport.records) if tp == INPUT else 0

    async def highwaters(self, *partitions: TP) -> dict[TP, int]:
        """The ends."""
        return {tp: self.highwater(tp) for tp in partitions}

    async def earliest_offsets(self, *partitions: TP) -> dict[TP, int]:
        """The beginnings."""
        return dict.fromkeys(partitions, 0)

    def topic_partitions(self, topic: str) -> int:
        """One each."""
        return 1

    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> int:
        """The only one."""
        return 0

    async def create_topic(self, *args: Any, **kwargs: Any) -> None:
        """Every topic is there."""


class Producer(BaseProducer):
    """Takes records, of changelogs, and forgets them."""

    async def send(self, topic: str, *args: Any, **kwargs: Any) -> asyncio.Future[RecordMetadata]:
        """Acknowledged at once."""
        done: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()
        done.set_result(RecordMetadata(topic, 0, TP(topic, 0), 0, 1.0, 0))
        return done

    async def send_and_wait(self, *args: Any, **kwargs: Any) -> RecordMetadata:
        """Acknowledged at once."""
        return await (await self.send(*args, **kwargs))

    async def flush(self) -> None:
        """There is nothing."""

    async def create_topic(self, *args: Any, **kwargs: Any) -> None:
        """Every topic is there."""

    def key_partition(self, topic: str, key: bytes | None) -> TP:
        """The only one."""
        return TP(topic, 0)

    def supports_headers(self) -> bool:
        """As Kafka does."""
        return True


class Transport(BaseTransport):
    """Set `records` before the app starts."""

    Consumer = Consumer
    Producer = Producer
    default_port = 0
    driver_version = "memory"
    records: list[bytes] = []  # noqa: RUF012  # Faust makes the instance


class _Cluster:
    def partitions_for_topic(self, topic: str) -> set[int]:
        return {0}

    def topics(self) -> set[str]:
        return set()


def app(directory: str, *, optimised: bool, store: str = "memory://", broker: str | None = None) -> faust.App:
    """An app on this transport, or on that of the URL *broker*; with what makes Faust fast if *optimised*."""
    made = faust.App(
        f"bench-{os.getpid()}",  # What another one has committed is of no concern.
        broker=broker or "kafka://none",
        datadir=directory,
        store=store,
        topic_partitions=1,
        topic_disable_leader=True,
        web_enabled=False,
        cython_optimizations=optimised,
    )
    if broker is None:
        # By hand, because a URL finds only what is installed as a plug-in.
        made._new_transport = made._new_producer_transport = lambda: Transport("memory://", made)
    return made
