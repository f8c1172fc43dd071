"""Clients that send, each in a process of its own, until SIGTERM; then they wait for what is not acknowledged yet."""

from __future__ import annotations

import asyncio
import random
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import count
from typing import Any, NamedTuple

from framework.log import Log, NewRecord, encode
from framework.log.broker.codes import Code
from framework.log.broker.table_records import (
    InitProducerIdRequest,
    ProducePartition,
    ProduceRequest,
    ProduceTopic,
)
from framework.log.errors import Error
from tests.faults.client_history import AGAIN, IDEMPOTENT, ONCE, Key, Recorder, value_of
from tests.faults.client_wire import PRODUCE_VERSION, Wire

WAIT_S = 60
IN_FLIGHT, LOG_IN_FLIGHT, PIPELINED, MOST_RECORDS = 30, 4, 5, 6
"""Records of a library; of a program beside the broker, which would be much faster; requests of ours; their records."""
AGAIN_SHARE = 0.05
"""How often a producer of ours sends once more what has been acknowledged."""


@dataclass(frozen=True, slots=True)
class Client:
    """What a client is told when it starts; `stopped` says whether it should come to an end."""

    who: str
    address: str
    directory: str
    seed: int
    keys: tuple[Key, ...]
    recorder: Recorder
    stopped: Callable[[], bool]

    def draw(self) -> random.Random:
        """Its own chance."""
        return random.Random(f"{self.seed} {self.who}")


class Numbers:
    """The records of a producer."""

    def __init__(self, client: Client, kind: str) -> None:
        """It is of a *kind*."""
        self._client, self._numbers, self._draw = client, count(), client.draw()
        client.recorder.note("producer", [client.who, kind])

    def next(self, key: Key | None = None) -> tuple[Key, bytes, int]:
        """Where to, what, and the operation."""
        key, number = key or self._draw.choice(self._client.keys), next(self._numbers)
        value = value_of(self._client.who, number)
        return key, value, self._client.recorder.invoke("send", *key, self._client.who, number)


def librdkafka_sender(client: Client) -> None:
    """An idempotent producer of librdkafka."""
    from confluent_kafka import Producer

    producer = Producer(
        {
            "bootstrap.servers": client.address,
            "enable.idempotence": True,
            "linger.ms": 1,
            "batch.num.messages": 20,
            "message.timeout.ms": WAIT_S * 1000,
            "reconnect.backoff.ms": 20,
            "reconnect.backoff.max.ms": 200,
            "log_level": 2,
        }
    )
    numbers = Numbers(client, IDEMPOTENT)

    def delivered(operation: int, error: Any, record: Any) -> None:
        if error is None:
            offset = record.offset()  # None if the broker did not know it any more
            client.recorder.ok(operation, offset if offset is None or offset >= 0 else None)
        else:
            client.recorder.unknown(operation, error.name() + ": " + error.str())

    while not client.stopped():
        if len(producer) < IN_FLIGHT:
            (topic, partition), value, operation = numbers.next()
            callback = lambda error, record, operation=operation: delivered(operation, error, record)  # noqa: E731
            producer.produce(topic, value, partition=partition, on_delivery=callback)
            producer.poll(0)
        else:
            producer.poll(0.1)
    producer.flush(WAIT_S)


def aiokafka_sender(client: Client, *, idempotent: bool = False) -> None:
    """A producer of aiokafka with acks=all, which may send twice what is not acknowledged."""
    asyncio.run(_aiokafka_sender(client, idempotent))


async def started(client: Client, make: Callable[[], Any]) -> Any:
    """A client of aiokafka that has started; they give up when the broker is away just then."""
    from aiokafka.errors import KafkaError

    while not client.stopped():
        one = make()
        try:
            await one.start()
        except (KafkaError, OSError):
            await one.stop()
        else:
            return one
    sys.exit(0)


async def _aiokafka_sender(client: Client, idempotent: bool) -> None:
    from aiokafka import AIOKafkaProducer
    from aiokafka.errors import KafkaError

    numbers = Numbers(client, IDEMPOTENT if idempotent else AGAIN)
    options = {"bootstrap_servers": client.address, "acks": "all", "enable_idempotence": idempotent}
    options |= {"retry_backoff_ms": 50, "request_timeout_ms": WAIT_S * 1000}
    waiting: deque[tuple[int, Any]] = deque()
    producer = await started(client, lambda: AIOKafkaProducer(**options))
    try:
        while not client.stopped() or waiting:
            while len(waiting) < IN_FLIGHT and not client.stopped():
                (topic, partition), value, operation = numbers.next()
                waiting.append((operation, await producer.send(topic, value, partition=partition)))
            operation, acknowledged = waiting.popleft()
            try:
                told = await acknowledged
            except KafkaError as error:
                client.recorder.unknown(operation, repr(error))
            else:
                client.recorder.ok(operation, told.offset if told.offset >= 0 else None)
    finally:
        await producer.stop()


def aiokafka_idempotent_sender(client: Client) -> None:
    """An idempotent producer of aiokafka."""
    aiokafka_sender(client, idempotent=True)


def log_sender(client: Client) -> None:
    """A program that sends to the log itself, beside the broker; it sends nothing twice."""
    numbers, waiting = Numbers(client, ONCE), deque[tuple[int, Any]]()
    with Log(client.directory) as log, log.producer() as producer:
        while not client.stopped() or waiting:
            while len(waiting) < LOG_IN_FLIGHT and not client.stopped():
                (topic, partition), value, operation = numbers.next()
                waiting.append((operation, producer.send(topic, value, partition=partition)))
            operation, ack = waiting.popleft()
            try:
                client.recorder.ok(operation, ack.result(timedelta(seconds=WAIT_S)).offset)
            except Error as error:
                client.recorder.unknown(operation, repr(error))


class _Sent(NamedTuple):
    """A batch of ours that was not acknowledged yet."""

    key: Key
    batch: bytes
    operations: tuple[int, ...]


class WireSender:
    """A producer of ours that speaks the protocol itself: some requests in flight, batches of several records."""

    def __init__(self, client: Client, *, idempotent: bool) -> None:
        """Without idempotence it sends nothing twice, and asks with acks=1."""
        self._client, self._draw, self._wire = client, client.draw(), Wire(client.address)
        self._idempotent, self._producer_id = idempotent, -1
        self._numbers = Numbers(client, IDEMPOTENT if idempotent else ONCE)
        self._sequences = dict.fromkeys(client.keys, 0)
        self._waiting: deque[_Sent] = deque()
        self._before: dict[Key, _Sent] = {}

    def run(self) -> None:
        """Send until it is stopped."""
        while not self._client.stopped() or self._waiting:
            try:
                self._start()
                while not self._client.stopped() or self._waiting:
                    self._turn()
            except OSError as error:
                self._wire.drop()
                if not self._idempotent:
                    for sent in self._waiting:
                        self._unknown(sent, repr(error))
                    self._waiting.clear()

    def _start(self) -> None:
        """A producer id, if there is none; and again, in their order, whatever was not acknowledged."""
        self._wire.connect()
        if self._idempotent and self._producer_id < 0:
            body = InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=60_000)
            self._producer_id = self._wire.ask("InitProducerId", 4, body).producer_id
        for sent in self._waiting:
            self._send(sent)

    def _turn(self) -> None:
        if not self._client.stopped():
            for _ in range(self._draw.randint(1, PIPELINED) - len(self._waiting)):
                sent = self._new()
                self._waiting.append(sent)
                self._send(sent)
        if self._waiting:
            self._receive(self._waiting[0])
            self._waiting.popleft()
        if self._idempotent and not self._waiting and self._before and self._draw.random() < AGAIN_SHARE:
            sent = replace_operations(self._draw.choice(list(self._before.values())))
            self._send(sent)
            self._receive(sent)

    def _new(self) -> _Sent:
        key, *first = self._numbers.next()
        made = [first, *(self._numbers.next(key)[1:] for _ in range(self._draw.randrange(MOST_RECORDS)))]
        records = [NewRecord(None, bytes(value), 0) for value, _ in made]  # type: ignore[call-overload]
        options: dict[str, Any] = {}
        if self._idempotent:
            options = {"producer_id": self._producer_id, "producer_epoch": 0, "base_sequence": self._sequences[key]}
            self._sequences[key] += len(records)
        [batch] = encode(records, max_batch_bytes=1 << 24, **options)
        return _Sent(key, bytes(batch), tuple(operation for _, operation in made))  # type: ignore[misc]

    def _send(self, sent: _Sent) -> None:
        (topic, partition), acks = sent.key, -1 if self._idempotent else 1
        topics = [ProduceTopic(name=topic, partitions=[ProducePartition(index=partition, records=sent.batch)])]
        self._wire.send("Produce", PRODUCE_VERSION, ProduceRequest(acks=acks, timeout_ms=30_000, topics=topics))

    def _receive(self, sent: _Sent) -> None:
        [part] = self._wire.receive("Produce", PRODUCE_VERSION).topics[0].partitions
        if part.error_code not in (Code.NONE, Code.DUPLICATE_SEQUENCE_NUMBER):
            self._unknown(sent, f"{Code(part.error_code).name}: {part.error_message}")
            return
        known = part.base_offset >= 0
        for at, operation in enumerate(sent.operations):
            self._client.recorder.ok(operation, part.base_offset + at if known else None)
        self._before[sent.key] = sent

    def _unknown(self, sent: _Sent, reason: str) -> None:
        for operation in sent.operations:
            self._client.recorder.unknown(operation, reason)


def replace_operations(sent: _Sent) -> _Sent:
    """The same batch once more, whose answer is no news."""
    return sent._replace(operations=())


def wire_idempotent_sender(client: Client) -> None:
    """A producer of ours that is idempotent."""
    WireSender(client, idempotent=True).run()


def wire_once_sender(client: Client) -> None:
    """A producer of ours that is not."""
    WireSender(client, idempotent=False).run()


def asking_sender(client: Client) -> None:
    """One that sends to the topic of the worker's agent."""
    wire_once_sender(replace(client, keys=(("asked", 0),)))
