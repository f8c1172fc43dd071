"""Real clients: librdkafka and aiokafka write, read, look and change, without knowing that this is not Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin import NewTopic as AioNewTopic
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer
from confluent_kafka import TopicPartition as ConfluentPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec  # type: ignore[attr-defined]

from framework.log import Log, TopicSettings
from framework.log.broker.server import Broker
from tests.log.broker.client import TIMEOUT_S
from tests.log.broker.conftest import Start

COMPRESSIONS = ["none", "gzip", "snappy", "lz4", "zstd"]


def address(broker: Broker) -> str:
    """As clients want it."""
    return "{}:{}".format(*broker.address)


def sent(broker: Broker, count: int, **options: Any) -> list[int]:
    """Send *count* records to `flights` with librdkafka; their offsets."""
    producer, offsets = Producer({"bootstrap.servers": address(broker), **options}), list[int]()

    def acknowledge(error: KafkaError | None, record: Any) -> None:
        assert error is None, error
        offsets.append(record.offset())

    for number in range(count):
        producer.produce("flights", b"%d" % number, key=b"key", on_delivery=acknowledge)
    assert producer.flush(TIMEOUT_S) == 0
    return offsets


def consumed(broker: Broker, count: int, **options: Any) -> list[bytes]:
    """Read *count* records of `flights` from the beginning with librdkafka."""
    consumer = Consumer(
        {"bootstrap.servers": address(broker), "group.id": "none", "enable.auto.commit": False, **options}
    )
    try:
        consumer.assign([ConfluentPartition("flights", 0, OFFSET_BEGINNING)])
        records: list[Any] = []
        while len(records) < count:
            more = consumer.consume(count, TIMEOUT_S)
            assert more, f"{len(records)} of {count} records came in {TIMEOUT_S} s"
            records += more
        assert [record.error() for record in records] == [None] * count
        return [record.value() for record in records]
    finally:
        consumer.close()


@pytest.mark.parametrize("compression", COMPRESSIONS)
async def test_librdkafka_writes_and_reads(start: Start, compression: str) -> None:
    broker = await start()
    offsets = await asyncio.to_thread(
        sent, broker, 500, **{"compression.type": compression, "enable.idempotence": True}
    )
    assert offsets == list(range(500))
    values = await asyncio.to_thread(consumed, broker, 500, **{"check.crcs": True})
    assert values == [b"%d" % number for number in range(500)]


@pytest.mark.parametrize("acks", ["0", "1", "all"])
async def test_librdkafka_is_acknowledged_as_it_wants(log: Log, start: Start, acks: str) -> None:
    broker = await start()
    await asyncio.to_thread(sent, broker, 50, acks=acks)
    assert len(await asyncio.to_thread(consumed, broker, 50)) == 50


async def test_librdkafka_is_told_that_a_record_is_too_large(log: Log, start: Start) -> None:
    log.create_topic("flights", 1, TopicSettings(max_message_bytes=2000))
    broker = await start()

    def send() -> KafkaError:
        producer, errors = Producer({"bootstrap.servers": address(broker)}), list[Any]()
        producer.produce("flights", bytes(10_000), on_delivery=lambda error, _: errors.append(error))
        assert producer.flush(TIMEOUT_S) == 0
        error: KafkaError = errors[0]
        return error

    assert (await asyncio.to_thread(send)).code() == KafkaError.MSG_SIZE_TOO_LARGE


async def test_librdkafka_administers_topics(log: Log, start: Start) -> None:
    broker = await start()

    def administer() -> None:
        admin = AdminClient({"bootstrap.servers": address(broker)})
        topic = NewTopic("flights", 2, 1, config={"retention.ms": "5000"})
        admin.create_topics([topic])["flights"].result(TIMEOUT_S)
        found = admin.list_topics(timeout=TIMEOUT_S)
        assert (found.controller_id, len(found.topics["flights"].partitions)) == (1, 2)
        resource = ConfigResource(ConfigResource.Type.TOPIC, "flights")
        [configs] = admin.describe_configs([resource]).values()
        assert configs.result(TIMEOUT_S)["retention.ms"].value == "5000"
        [ends] = admin.list_offsets({ConfluentPartition("flights", 0): OffsetSpec.latest()}).values()  # type: ignore[no-untyped-call]
        assert ends.result(TIMEOUT_S).offset == 0
        [cluster] = [admin.describe_cluster().result(TIMEOUT_S)]
        assert cluster.cluster_id == found.cluster_id
        admin.delete_topics(["flights"])["flights"].result(TIMEOUT_S)

    await asyncio.to_thread(administer)
    assert log.topics() == {}


@pytest.mark.parametrize("compression", [None, *COMPRESSIONS[1:]])
async def test_aiokafka_writes_and_reads(start: Start, compression: str | None) -> None:
    broker = await start()
    options = {"bootstrap_servers": address(broker), "compression_type": compression, "enable_idempotence": True}
    async with asyncio.timeout(TIMEOUT_S), AIOKafkaProducer(**options) as producer:
        acks = [
            await producer.send("flights", b"%d" % number * 50, timestamp_ms=1000 * number) for number in range(200)
        ]
        assert [(await ack).offset for ack in acks] == list(range(200))
    partition = TopicPartition("flights", 0)
    async with asyncio.timeout(TIMEOUT_S), AIOKafkaConsumer(bootstrap_servers=address(broker)) as consumer:
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        values = [(await consumer.getone()).value for _ in range(200)]
        assert values == [b"%d" % number * 50 for number in range(200)]
        found = (await consumer.offsets_for_times({partition: 150_000}))[partition]
        assert (found.offset, found.timestamp) == (150, 150_000)
        consumer.seek(partition, 100)
        assert (await consumer.getone()).offset == 100


async def test_aiokafka_administers_topics(log: Log, start: Start) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=address(await start()))
    async with asyncio.timeout(TIMEOUT_S):
        await admin.start()
        try:
            await admin.create_topics([AioNewTopic("flights", 3, 1)])
            assert log.topic("flights").partitions == 3
            assert await admin.list_topics() == ["flights"]
            await admin.delete_topics(["flights"])
        finally:
            await admin.close()
    assert log.topics() == {}


async def test_an_agents_program_and_a_client_share_a_topic(log: Log, start: Start) -> None:
    """What the client sends is read here, in the order it was sent in, and the other way round."""
    broker = await start()
    log.create_topic("flights", 1)
    await asyncio.to_thread(sent, broker, 20)
    with log.producer() as producer:
        for number in range(20, 40):
            producer.send("flights", b"%d" % number)
    assert [record.value for _, record in log.read("flights")] == [b"%d" % number for number in range(40)]
    read: Callable[..., list[bytes]] = consumed
    assert await asyncio.to_thread(read, broker, 40) == [b"%d" % number for number in range(40)]
