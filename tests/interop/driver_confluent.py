"""confluent-kafka: librdkafka, under Python."""

from __future__ import annotations

import sys
from typing import Any

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
)

from tests.interop.answering import LIMIT_S, TURN_S, Member, serve

LARGE = 64 << 20


class Driver:
    def __init__(self, address: str) -> None:
        self.address = address
        self.member: Member | None = None
        self.admin = AdminClient({"bootstrap.servers": address})

    def produce(self, topic: str, records: list[Any], codec: str, acks: str, idempotent: bool) -> None:
        producer = Producer(
            {
                "bootstrap.servers": self.address,
                "compression.type": codec,
                "acks": acks,
                "enable.idempotence": idempotent,
                "message.max.bytes": LARGE,
                "linger.ms": 20,
            }
        )
        errors: list[KafkaError] = []
        for partition, value, time_ms in records:
            producer.produce(
                topic,
                value.encode(),
                partition=partition,
                timestamp=time_ms or 0,
                on_delivery=lambda error, _: errors.append(error) if error else None,
            )
        assert producer.flush(LIMIT_S) == 0, "not everything was acknowledged"
        if errors:
            raise KafkaException(errors[0])

    def read(self, topic: str, partition: int, offset: int, count: int) -> list[Any]:
        consumer = self._consumer()
        try:
            return self._read(consumer, TopicPartition(topic, partition, offset), count)
        finally:
            consumer.close()

    def read_since(self, topic: str, partition: int, time_ms: int, count: int) -> list[Any]:
        consumer = self._consumer()
        try:
            [found] = consumer.offsets_for_times([TopicPartition(topic, partition, time_ms)], LIMIT_S)
            return self._read(consumer, found, count)
        finally:
            consumer.close()

    def _consumer(self) -> Consumer:
        options = {"group.id": "none", "enable.auto.commit": False, "check.crcs": True, "fetch.max.bytes": LARGE}
        return Consumer({"bootstrap.servers": self.address, **options})

    def _read(self, consumer: Consumer, place: TopicPartition, count: int) -> list[Any]:
        consumer.assign([place])
        records = consumer.consume(count, LIMIT_S)
        for record in records:
            if error := record.error():
                raise KafkaException(error)
        return [(record.offset(), (record.value() or b"").decode(), record.timestamp()[1]) for record in records]

    def join(self, group: str, topic: str, instance: str | None, session_ms: int, cooperative: bool) -> None:
        self.member = Member()
        static = {} if instance is None else {"group.instance.id": instance}
        self.consumer = Consumer(
            {
                "bootstrap.servers": self.address,
                "group.id": group,
                "session.timeout.ms": session_ms,
                "heartbeat.interval.ms": 200,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "partition.assignment.strategy": "cooperative-sticky" if cooperative else "range,roundrobin",
                **static,
            }
        )

        def assigned(_: Consumer, __: list[TopicPartition]) -> None:
            self.changed = True

        self.changed = False
        self.consumer.subscribe([topic], on_assign=assigned, on_revoke=assigned, on_lost=assigned)

    def turn(self) -> None:
        assert self.member is not None
        record = self.consumer.poll(TURN_S)
        if self.changed:
            self.changed = False
            self.member.assign([place.partition for place in self.consumer.assignment()])
        if record is not None and record.error() is None:
            self.member.records.append(
                (record.partition() or 0, record.offset() or 0, (record.value() or b"").decode())
            )

    def state(self) -> dict[str, Any]:
        assert self.member is not None
        return self.member.state()

    def commit(self) -> None:
        self.consumer.commit(asynchronous=False)

    def leave(self) -> None:
        if self.member is not None:
            self.consumer.close()
            self.member = None

    def create_topic(self, topic: str, partitions: int, config: dict[str, str]) -> None:
        self.admin.create_topics([NewTopic(topic, partitions, 1, config=config)])[topic].result(LIMIT_S)

    def delete_topic(self, topic: str) -> None:
        self.admin.delete_topics([topic])[topic].result(LIMIT_S)

    def topics(self) -> list[str]:
        return list(self.admin.list_topics(timeout=LIMIT_S).topics)

    def partitions(self, topic: str) -> int:
        return len(self.admin.list_topics(topic, timeout=LIMIT_S).topics[topic].partitions)

    def add_partitions(self, topic: str, total: int) -> None:
        self.admin.create_partitions([NewPartitions(topic, total)])[topic].result(LIMIT_S)

    def config(self, topic: str) -> dict[str, str]:
        [found] = self.admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)]).values()
        return {name: entry.value for name, entry in found.result(LIMIT_S).items()}

    def alter_config(self, topic: str, config: dict[str, str]) -> None:
        entries = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in config.items()
        ]
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)
        [done] = self.admin.incremental_alter_configs([resource]).values()
        done.result(LIMIT_S)

    def ends(self, topic: str, partition: int) -> list[int]:
        place = TopicPartition(topic, partition)
        ends = []
        for at in (OffsetSpec.earliest(), OffsetSpec.latest()):  # type: ignore[no-untyped-call]
            [found] = self.admin.list_offsets({place: at}).values()
            ends.append(found.result(LIMIT_S).offset)
        return ends

    def groups(self) -> list[str]:
        return [found.group_id for found in self.admin.list_consumer_groups().result(LIMIT_S).valid]

    def group(self, group: str) -> dict[str, Any]:
        found = self.admin.describe_consumer_groups([group])[group].result(LIMIT_S)
        places = [place.partition for member in found.members for place in member.assignment.topic_partitions]
        return {"state": found.state.name.lower(), "members": len(found.members), "assigned": sorted(places)}

    def committed(self, group: str, topic: str) -> dict[int, int]:
        [found] = self.admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]).values()
        places = found.result(LIMIT_S).topic_partitions
        return {place.partition: place.offset for place in places if place.topic == topic and place.offset >= 0}

    def set_committed(self, group: str, topic: str, offsets: dict[str, int]) -> None:
        places = [TopicPartition(topic, int(number), offset) for number, offset in offsets.items()]
        [done] = self.admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, places)]).values()
        done.result(LIMIT_S)

    def delete_group(self, group: str) -> None:
        self.admin.delete_consumer_groups([group])[group].result(LIMIT_S)


def code(error: Exception) -> int | None:
    """Kafka's, and librdkafka's own, which are below zero."""
    return int(error.args[0].code()) if isinstance(error, KafkaException) else None


if __name__ == "__main__":
    serve(Driver(sys.argv[1]), code)
