"""Faust's producer on our log: what it acknowledges is on disk, synced together with what came meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

from faust.exceptions import NotReady, ProducerSendError
from faust.transport.producer import Producer as FaustProducer
from faust.transport.producer import ProducerBuffer
from faust.types import TP
from faust.types.tuples import RecordMetadata
from mode.utils.times import want_seconds

from framework.faust.topics import ensure_topic, settings_of
from framework.log import Headers, Log, NewRecord, partition_of
from framework.log import Producer as LogProducer
from framework.log.ack import Delivery
from framework.log.catalogue import TopicInfo
from framework.log.codec import NO_HEADERS
from framework.log.errors import Error, UnknownTopic

MOST_BYTES = 32 << 20
"""More than that, sent and not acknowledged yet, makes who sends wait."""
GATHER_S, QUIET_S = 0.03, 0.002
"""How far apart records go to the disk while more are coming, and for how long none has come when no more are. The
first one after a pause goes at once."""
LINGER_MS = 100
"""How long a record waits at most for those that were sent before it to be durable."""
CREATE_TIME = 0


class Buffer(ProducerBuffer):
    """What is sent without waiting, by tables above all, on its way to `send`."""

    is_sending = False
    """Whether a record is in neither queue: taken out of this one, and not in that of the log yet."""

    async def _send_pending(self, sent: Any) -> None:
        self.is_sending = True
        try:
            await super()._send_pending(sent)
        except ProducerSendError as error:
            # Who sent it has gone on, and believes that it will be there.
            self.app.producer.failure = self.app.producer.failure or error
            raise
        finally:
            self.is_sending = False

    @property
    def is_empty(self) -> bool:
        """Whether everything that was put in has gone on."""
        return not self.size and not self.is_sending


class Producer(FaustProducer):
    """Sends the records of an app. One of its futures is done when the record is durable.

    What is sent while the disk syncs travels together, behind that: it could hardly be durable any sooner, and a batch
    of its own for each record would cost more than all the rest about it.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop | None = None, **kwargs: Any) -> None:
        """Opens nothing before it is started."""
        super().__init__(transport, loop=loop, **kwargs)
        self.buffer = Buffer(loop=self.loop, beacon=self.beacon)
        self.buffer.app = self.app
        self.failure: Exception | None = None
        """The first failure of something that had been taken: then nothing that may depend on it is committed."""
        self._in_loop: asyncio.AbstractEventLoop
        self._log: Log | None = None
        self._sender: LogProducer | None = None
        self._topics: dict[str, TopicInfo] = {}
        self._topics_version = -1
        self._next_partition = 0
        self._batches: dict[Delivery, list[tuple[asyncio.Future[RecordMetadata], int, int, int]]] = {}
        """Of each batch that is not durable yet the records: future, index, timestamp and size."""
        self._in_flight = self._in_flight_bytes = 0
        self._syncing = 0
        """How many of those in flight are on their way to the disk; the others wait for them."""
        self._went_s = 0.0
        self._is_scheduled = False
        self._settled = asyncio.Event()

    async def on_start(self) -> None:
        """Open the directory."""
        self._in_loop = asyncio.get_running_loop()
        self._log = await self.transport.open_log()
        self._sender = self._log.producer(linger_ms=self.linger_ms or LINGER_MS, compression=self.compression_type)
        await super().on_start()

    async def on_stop(self) -> None:
        """Send what was taken, and let go of the directory."""
        await super().on_stop()
        await self.flush()
        await self.buffer.stop()
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.flush()
            await self._wait_settled()
            self._log = None
            await self.transport.close_log()

    # Sending.

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: float | None,
        headers: Any,
        *,
        transactional_id: str | None = None,
    ) -> asyncio.Future[RecordMetadata]:
        """Take a record; the future is done when it is durable.

        Raises:
            ProducerSendError: The topic does not take it.
        """
        sender, log = self._open()
        given: Headers = NO_HEADERS
        if headers:
            given = list(headers.items() if isinstance(headers, Mapping) else headers)
        self.app.on_produce_message.send(
            key=key, value=value, partition=partition, timestamp=timestamp, headers=given if headers else headers
        )
        if self._in_flight_bytes > MOST_BYTES:
            await self._wait_for_room()
        stamp = int(timestamp * 1000.0) if timestamp else log.clock.now_ms()
        try:
            info = self._topic(log, topic)
            number = self._partition(info, key, partition)
            ack = sender.send_to(info, number, NewRecord(key, value, stamp, given))
        except Error as error:
            raise ProducerSendError(f"a record to {topic!r} was not sent: {error}") from error
        done: asyncio.Future[RecordMetadata] = self._in_loop.create_future()
        delivery, index = ack.batch
        batch = self._batches.get(delivery)
        if batch is None:
            batch = self._batches[delivery] = []
            delivery.call_back(partial(self._settle, delivery, TP(topic, number)))
        size = len(key or b"") + len(value or b"")
        batch.append((done, index, stamp, size))
        self._in_flight += 1
        self._in_flight_bytes += size
        if not self._syncing and not self._is_scheduled and not self.linger_ms:
            self._schedule()
        return done

    async def send_and_wait(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: float | None,
        headers: Any,
        *,
        transactional_id: str | None = None,
    ) -> RecordMetadata:
        """Send a record, and wait until it is durable."""
        return await (await self.send(topic, key, value, partition, timestamp, headers))

    async def flush(self) -> None:
        """Wait until everything that was sent is durable, or has failed."""
        # The buffer's own gives up when nothing moved for a moment.
        while not self.buffer.is_empty and not self.buffer.should_stop:
            await self.buffer.flush()
            await asyncio.sleep(0)
        if self._sender is not None:
            self._sender.flush()
            await self._wait_settled()

    def _schedule(self) -> None:
        """Have what waits go to the disk: at the end of this turn, or if there was more just before, in a moment."""
        self._is_scheduled = True
        if self._in_flight > 1 and self._in_loop.time() < self._went_s + GATHER_S:
            self._in_loop.call_later(QUIET_S, self._look, self._in_flight)
        else:
            self._in_loop.call_soon(self._go)

    def _look(self, in_flight: int) -> None:
        """Wait on as long as more is coming."""
        if self._in_flight > in_flight and self._in_loop.time() < self._went_s + GATHER_S:
            self._in_loop.call_later(QUIET_S, self._look, self._in_flight)
        else:
            self._go()

    def _go(self) -> None:
        self._is_scheduled = False
        if self._sender is not None and self._in_flight:
            self._syncing, self._went_s = self._in_flight, self._in_loop.time()
            self._sender.flush()

    def _settle(self, delivery: Delivery, tp: TP) -> None:
        """The records of a batch are durable, or have failed."""
        batch = self._batches.pop(delivery)
        self._in_flight -= len(batch)
        self._in_flight_bytes -= sum(size for _, _, _, size in batch)
        if self._syncing:
            self._syncing = max(self._syncing - len(batch), 0)
            if not self._syncing and self._in_flight and not self.linger_ms and not self._is_scheduled:
                self._schedule()
        if not self._in_flight or self._in_flight_bytes <= MOST_BYTES:
            self._settled.set()
        topic, number = tp
        try:
            base = delivery.result()
        except (Error, OSError) as error:
            self.failure = self.failure or error
            for done, _, _, _ in batch:
                if not done.done():
                    done.set_exception(ProducerSendError(f"a record to {topic!r} was not sent: {error}"))
            return
        for done, index, stamp, _ in batch:
            if not done.done():
                done.set_result(RecordMetadata(topic, number, tp, base + index, stamp / 1000.0, CREATE_TIME))

    async def _wait_settled(self) -> None:
        while self._in_flight:
            self._settled.clear()
            await self._settled.wait()

    async def _wait_for_room(self) -> None:
        while self._in_flight_bytes > MOST_BYTES:
            self._settled.clear()
            await self._settled.wait()

    # Topics.

    async def create_topic(
        self,
        topic: str,
        partitions: int,
        replication: int,
        *,
        config: Mapping[str, Any] | None = None,
        timeout: Any = 1000.0,
        retention: Any = None,
        compacting: bool | None = None,
        deleting: bool | None = None,
        ensure_created: bool = False,
    ) -> None:
        """Make a topic, unless it is there: then it stays as it is."""
        if not self.app.conf.topic_allow_declare:
            self.log.warning("topic %r is not made: topic_allow_declare is False", topic)
            return
        _, log = self._open()
        await asyncio.to_thread(
            ensure_topic,
            log,
            topic,
            partitions,
            settings_of(
                log,
                retention_s=want_seconds(retention) if retention else None,
                compacting=compacting,
                deleting=deleting,
                config=config,
            ),
        )

    def key_partition(self, topic: str, key: bytes) -> TP:
        """Where records of *key* go."""
        _, log = self._open()
        return TP(topic, self._partition(self._topic(log, topic), key, None))

    def supports_headers(self) -> bool:
        """It does."""
        return True

    def _open(self) -> tuple[LogProducer, Log]:
        if self._sender is None or self._log is None:
            raise NotReady("the producer has not been started")
        return self._sender, self._log

    def _topic(self, log: Log, name: str) -> TopicInfo:
        """The topic *name*, made if need be."""
        version = log.catalogue_version
        if version != self._topics_version:
            self._topics, self._topics_version = {}, version
        info = self._topics.get(name)
        if info is None:
            try:
                info = log.topic(name)
            except UnknownTopic:
                info = ensure_topic(log, name, self.app.conf.topic_partitions)
            self._topics[name] = info
        return info

    def _partition(self, info: TopicInfo, key: bytes | None, partition: int | None) -> int:
        if partition is not None:
            assert self._log is not None
            self._log.partition(info, partition)  # Is there one?
            return partition
        if self.partitioner is not None:
            everyone = list(range(info.partitions))
            return int(self.partitioner(key, everyone, everyone))
        if key is not None:
            return partition_of(key, info.partitions)
        self._next_partition += 1
        return self._next_partition % info.partitions
