"""The producer: records of one program, gathered into batches.

On an event loop everything sent in one turn of it travels together; without one, what is sent within a few
milliseconds or until somebody waits for it. `linger_ms` has all of it wait longer, for larger batches. A full buffer
makes `send` wait, so memory is bounded.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from framework.log.ack import Ack, Delivery
from framework.log.catalogue import TopicInfo
from framework.log.codec import NO_HEADERS, Headers, NewRecord, encode
from framework.log.compression import check_compression
from framework.log.errors import Error, InvalidSetting, LogClosed
from framework.log.keys import partition_of

if TYPE_CHECKING:
    from framework.log.log import Log

LINGER_MS = 5
"""How long a record may wait for company where no event loop runs and nobody says otherwise."""
MAX_LINGER_MS = 3_600_000
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Buffer:
    """The records for one partition that are not yet a batch."""

    topic: TopicInfo
    partition: int
    done: Delivery
    records: list[NewRecord] = field(default_factory=list)
    size: int = 0


class Producer:
    """Sends records to a log; thread-safe. Use `Log.producer`."""

    def __init__(
        self,
        log: Log,
        *,
        linger_ms: int | None = None,
        batch_bytes: int = 256 << 10,
        buffer_bytes: int = 64 << 20,
        compression: str | None = None,
    ) -> None:
        """*linger_ms* is how long a record waits for company, None for no longer than it must.

        A batch goes when it has *batch_bytes*; more than *buffer_bytes* unacknowledged make `send` wait. *compression*
        is that of records to topics whose `compression.type` leaves it to the producer.

        Raises:
            InvalidSetting: A value is out of its range.
        """
        for name, value, low, high in (
            ("linger_ms", linger_ms or 0, 0, MAX_LINGER_MS),
            ("batch_bytes", batch_bytes, 1, 1 << 30),
            ("buffer_bytes", buffer_bytes, 1, 1 << 40),
        ):
            if not isinstance(value, int) or not low <= value <= high:
                raise InvalidSetting(f"{name} is {value!r}, it must lie between {low} and {high}")
        self._log, self._compression = log, check_compression(compression)
        self._lingers, self._linger_s = linger_ms is not None, (LINGER_MS if linger_ms is None else linger_ms) / 1000
        self._batch_bytes, self._buffer_bytes = batch_bytes, buffer_bytes
        self._buffers: dict[tuple[str, int], _Buffer] = {}
        self._guard = threading.RLock()
        self._unacknowledged = 0
        self._room = threading.Condition(threading.Lock())
        self._scheduled, self._flushes = False, 0
        self._timer: threading.Timer | None = None
        self._flushing_loop: asyncio.AbstractEventLoop | None = None
        """Which loop calls `flush`, unless it is the timer."""
        self._closed = False
        self._failure: BaseException | None = None
        self._next_partition = 0

    def __enter__(self) -> Producer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        timestamp: int | None = None,
        headers: Headers = NO_HEADERS,
        partition: int | None = None,
    ) -> Ack:
        """Take a record at once; the `Ack` says when it is durable.

        *timestamp* is in milliseconds since the epoch, None for now. Without a *partition* the key says which, as with
        Kafka's clients, and without a key it is one after the other.

        Raises:
            UnknownTopic, UnknownPartition: There is none.
            RecordTooLarge, KeyRequired: The topic does not take it.
            LogClosed: The producer is closed.
        """
        info = self._log.topic(topic)
        if partition is None:
            if key is None:
                self._next_partition += 1
            partition = self._next_partition % info.partitions if key is None else partition_of(key, info.partitions)
        self._log.partition(info, partition)  # Is there one?
        stamp = self._log.clock.now_ms() if timestamp is None else timestamp
        return self.send_to(info, partition, NewRecord(key, value, stamp, headers))

    def send_to(self, topic: TopicInfo, partition: int, record: NewRecord) -> Ack:
        """Take *record* for a partition that is known to be there.

        Raises:
            RecordTooLarge, KeyRequired: The topic does not take it.
            LogClosed: The producer is closed.
        """
        size = topic.check_record(record.key, record.value, record.headers)
        if self._unacknowledged > self._buffer_bytes:
            self._wait_for_room()
        with self._guard:
            if self._closed:
                raise LogClosed("the producer is closed")
            key = (topic.id, partition)
            buffer = self._buffers.get(key)
            if buffer is None:
                buffer = self._buffers[key] = _Buffer(topic, partition, Delivery(self))
            buffer.records.append(record)
            buffer.size += size
            ack = Ack(topic.name, partition, buffer.done, len(buffer.records) - 1)
            if buffer.size >= min(self._batch_bytes, topic.settings.max_message_bytes):
                self._submit(self._buffers.pop(key))
            elif not self._scheduled:
                self._schedule()
        return ack

    def flush(self) -> None:
        """Hand everything buffered to the log; does not wait for it."""
        with self._guard:
            self._scheduled = False
            self._flushes += 1
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            buffers, self._buffers = self._buffers, {}
            for buffer in buffers.values():
                self._submit(buffer)

    def hurry(self) -> None:
        """Flush, unless the running event loop will: what it sends until then travels together."""
        if self._flushing_loop is not asyncio.get_running_loop():
            self.flush()

    def close(self) -> None:
        """Flush, wait until all of it is durable, take no more.

        Raises:
            Error, OSError: The first failure; some of what was sent is not in the log.
        """
        self.flush()
        with self._guard:
            self._closed = True
        with self._room:
            self._room.wait_for(lambda: self._unacknowledged == 0)
        if self._failure is not None:
            raise self._failure

    def abandon(self) -> None:
        """Take no more, and lose what is not handed to the log, as a killed process does; who waits for it is told."""
        with self._guard:
            self._closed = True
            buffers, self._buffers = self._buffers, {}
        for buffer in buffers.values():
            buffer.done.set_exception(LogClosed("the producer was abandoned before it sent the record"))

    @property
    def is_flushed(self) -> bool:
        """Whether everything that was sent has been acknowledged, or has failed."""
        with self._guard:
            return not self._buffers and not self._unacknowledged

    def _schedule(self) -> None:
        """Have `flush` called soon."""
        self._scheduled = True
        try:
            self._flushing_loop = asyncio.get_running_loop()
            self._flushing_loop.call_later(self._linger_s if self._lingers else 0, self._linger_over, self._flushes)
        except RuntimeError:
            self._flushing_loop = None
            self._timer = threading.Timer(self._linger_s, self.flush)
            self._timer.daemon = True
            self._timer.start()

    def _linger_over(self, flushes: int) -> None:
        """Flush, unless that was done since it was scheduled: what came later may wait for longer."""
        if flushes == self._flushes:
            self.flush()

    def _submit(self, buffer: _Buffer) -> None:
        settings = buffer.topic.settings
        batches = encode(
            buffer.records,
            max_batch_bytes=settings.max_message_bytes,
            compression=settings.compression(self._compression),
        )
        with self._room:
            self._unacknowledged += buffer.size
        try:
            appended = self._log.append(self._log.partition(buffer.topic, buffer.partition), batches)
        except Error as error:  # It is closed, or this process was forked; whoever waits for the batch is told.
            appended = Future()
            appended.set_exception(error)
        appended.add_done_callback(lambda done: self._acknowledge(buffer, done))

    def _acknowledge(self, buffer: _Buffer, appended: Future[int]) -> None:
        error = appended.exception()
        with self._room:
            self._failure = self._failure or error
            self._unacknowledged -= buffer.size
            self._room.notify_all()
        if error is not None:
            logger.error(
                "%d records to %s-%d were not sent: %s",
                len(buffer.records),
                buffer.topic.name,
                buffer.partition,
                error,
            )
            buffer.done.set_exception(error)
        else:
            buffer.done.set_result(appended.result())

    def _wait_for_room(self) -> None:
        with self._room:
            self._room.wait_for(lambda: self._unacknowledged <= self._buffer_bytes)
