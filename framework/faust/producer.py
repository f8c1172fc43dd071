"""Faust's producer on our log: what it acknowledges is on disk, synced together with what came meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

from faust import Topic
from faust.exceptions import NotReady, ProducerSendError
from faust.transport.producer import Producer as FaustProducer
from faust.transport.producer import ProducerBuffer
from faust.types import TP
from faust.types.tuples import FutureMessage, RecordMetadata
from mode.utils.times import want_seconds

from framework.faust.outgoing import Outgoing, Sending
from framework.faust.topics import ensure_topic, settings_of
from framework.log import Headers, Log, NewRecord, TopicInfo, partition_of
from framework.log.codec import NO_HEADERS
from framework.log.errors import Error, UnknownTopic


class Buffer(ProducerBuffer):
    """What is sent without waiting, by tables above all, on its way to `send`."""

    is_sending = False
    """Whether a record is in neither queue: taken out of this one, and not in that of the log yet."""

    def put(self, fut: FutureMessage) -> None:
        """Send a record: at once, or if that has to wait for something, as soon as the others before it."""
        producer: Producer = self.app.producer
        if self.is_empty and producer.takes_at_once and _is_published_as_ever(fut):
            self._publish(producer, fut)
        else:
            super().put(fut)

    def _publish(self, producer: Producer, fut: FutureMessage) -> None:
        """As the topic would, without a queue, a task and three turns of the loop: they cost more than all the rest."""
        pending, sensors = fut.message, self.app.sensors
        channel, key, value = pending.channel, pending.key, pending.value
        topic = channel.get_topic_name()
        state = sensors.on_send_initiated(producer, topic, message=pending, keysize=_len(key), valsize=_len(value))
        try:
            sending = producer.take(topic, key, value, pending.partition, pending.timestamp, pending.headers)
        except ProducerSendError as error:
            # Who sent it may go on, and believe that it will be there.
            producer.fail(error)
            raise
        sending.add_done_callback(partial(channel._on_published, message=fut, state=state, producer=producer))

    async def _send_pending(self, sent: Any) -> None:
        self.is_sending = True
        try:
            await super()._send_pending(sent)
        except ProducerSendError as error:
            # Who sent it has gone on, and believes that it will be there.
            self.app.producer.fail(error)
            raise
        finally:
            self.is_sending = False

    @property
    def is_empty(self) -> bool:
        """Whether everything that was put in has gone on."""
        return not self.pending.qsize() and not self.is_sending


def _is_published_as_ever(fut: FutureMessage) -> bool:
    """Whether the channel has not said otherwise."""
    channel = type(fut.message.channel)
    return channel.publish_message is Topic.publish_message and channel._on_published is Topic._on_published


def _len(data: Any) -> int:
    return len(data) if isinstance(data, bytes) else 0


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
        self._failure: Exception | None = None
        self._log: Log | None = None
        self._outgoing: Outgoing | None = None
        self._topics: dict[str, TopicInfo] = {}
        self._topics_version = -1
        self._next_partition = 0

    async def on_start(self) -> None:
        """Open the directory."""
        self._log = await self.transport.open_log()
        self._outgoing = Outgoing(self._log, linger_s=self.linger_ms / 1000, compression=self.compression_type)
        await super().on_start()

    async def on_stop(self) -> None:
        """Send what was taken, and let go of the directory."""
        await super().on_stop()
        await self.flush()
        await self.buffer.stop()
        outgoing, self._outgoing = self._outgoing, None
        if outgoing is not None:
            await outgoing.wait_settled()
            self._failure = self.failure or outgoing.failure
            self._log = None
            await self.transport.close_log()

    @property
    def failure(self) -> Exception | None:
        """The first failure of something that had been taken: then nothing that may depend on it is committed."""
        return self._failure or (self._outgoing.failure if self._outgoing else None)

    def fail(self, error: Exception) -> None:
        """Something that had been taken was not sent."""
        self._failure = self._failure or error

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
        outgoing, _ = self._open()
        if not outgoing.has_room:
            await outgoing.wait_for_room()
        return self.take(topic, key, value, partition, timestamp, headers)

    def take(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: float | None,
        headers: Any,
    ) -> Sending:
        """As `send`, whether there is room or not."""
        outgoing, log = self._open()
        given: Headers = NO_HEADERS
        if headers:
            given = list(headers.items() if isinstance(headers, Mapping) else headers)
        self.app.on_produce_message.send(
            key=key, value=value, partition=partition, timestamp=timestamp, headers=given if headers else headers
        )
        stamp = int(timestamp * 1000.0) if timestamp else log.clock.now_ms()
        try:
            info = self._topic(log, topic)
            number = self._partition(info, key) if partition is None else partition
            return outgoing.add(info, number, NewRecord(key, value, stamp, given))
        except Error as error:
            raise ProducerSendError(f"a record to {topic!r} was not sent: {error}") from error

    @property
    def takes_at_once(self) -> bool:
        """Whether `send` need not wait for anything."""
        return self._outgoing is not None and self._outgoing.has_room and self._started.is_set()

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
        """Wait until everything that was sent until now is durable, or has failed."""
        # The buffer's own gives up when nothing moved for a moment.
        while not self.buffer.is_empty and not self.buffer.should_stop:
            await self.buffer.flush()
            await asyncio.sleep(0)
        if self._outgoing is not None:
            await self._outgoing.wait_settled()

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
        return TP(topic, self._partition(self._topic(log, topic), key))

    def supports_headers(self) -> bool:
        """It does."""
        return True

    def _open(self) -> tuple[Outgoing, Log]:
        if self._outgoing is None or self._log is None:
            raise NotReady("the producer has not been started")
        return self._outgoing, self._log

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

    def _partition(self, info: TopicInfo, key: bytes | None) -> int:
        if self.partitioner is not None:
            everyone = list(range(info.partitions))
            return int(self.partitioner(key, everyone, everyone))
        if key is not None:
            return partition_of(key, info.partitions)
        self._next_partition += 1
        return self._next_partition % info.partitions
