"""kafka-python 3: Python without an event loop, and a new protocol."""

from __future__ import annotations

import sys
from typing import Any

import kafka.errors
from kafka import (
    ConsumerRebalanceListener,
    KafkaAdminClient,
    KafkaConsumer,
    KafkaProducer,
    OffsetAndMetadata,
    OffsetSpec,
    TopicPartition,
)
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import KafkaError

from tests.interop.answering import LIMIT_S, Member, member_options, serve

LARGE = 64 << 20
TURN_MS = 1000
"""An assignment that comes after the end of a poll is lost to this client, which then has no partitions."""


class Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, member: Member) -> None:
        self.member = member

    def on_partitions_revoked(self, revoked: Any) -> None:
        self.member.assigned = sorted({*self.member.assigned} - {place.partition for place in revoked})

    def on_partitions_assigned(self, assigned: Any) -> None:
        self.member.assign(list({*self.member.assigned} | {place.partition for place in assigned}))


class Driver:
    def __init__(self, address: str) -> None:
        self.address = address
        self.member: Member | None = None
        self.client: KafkaAdminClient | None = None

    def produce(self, topic: str, records: list[Any], codec: str, acks: str, idempotent: bool) -> None:
        producer = KafkaProducer(
            bootstrap_servers=self.address,
            compression_type=None if codec == "none" else codec,
            acks=acks if acks == "all" else int(acks),
            enable_idempotence=idempotent,
            max_request_size=LARGE,
            linger_ms=20,
        )
        try:
            sent = [
                producer.send(topic, value.encode(), partition=partition, timestamp_ms=time_ms)
                for partition, value, time_ms in records
            ]
            for each in sent:
                each.get(LIMIT_S)
        finally:
            producer.close()

    def read(self, topic: str, partition: int, offset: int, count: int) -> list[Any]:
        consumer = KafkaConsumer(bootstrap_servers=self.address)
        try:
            return self._read(consumer, TopicPartition(topic, partition), offset, count)
        finally:
            consumer.close()

    def read_since(self, topic: str, partition: int, time_ms: int, count: int) -> list[Any]:
        place = TopicPartition(topic, partition)
        consumer = KafkaConsumer(bootstrap_servers=self.address)
        try:
            return self._read(consumer, place, consumer.offsets_for_times({place: time_ms})[place].offset, count)
        finally:
            consumer.close()

    def _read(self, consumer: KafkaConsumer, place: TopicPartition, offset: int, count: int) -> list[Any]:
        consumer.assign([place])
        consumer.seek(place, offset)
        records: list[Any] = []
        while len(records) < count:
            more = consumer.poll(int(LIMIT_S * 1000), max_records=count - len(records)).get(place, [])
            assert more, f"{len(records)} of {count} records came"
            records += more
        return [(record.offset, record.value.decode(), record.timestamp) for record in records]

    def join(self, group: str, topic: str, instance: str | None, session_ms: int, cooperative: bool) -> None:
        self.member = Member()
        self.consumer = KafkaConsumer(
            **member_options(self.address, group, instance, session_ms),
            partition_assignment_strategy=[CooperativeStickyAssignor] if cooperative else [RangePartitionAssignor],
        )
        self.consumer.subscribe([topic], listener=Listener(self.member))

    def turn(self) -> None:
        assert self.member is not None
        for place, records in self.consumer.poll(TURN_MS).items():
            self.member.records += [(place.partition, record.offset, record.value.decode()) for record in records]

    def state(self) -> dict[str, Any]:
        assert self.member is not None
        return self.member.state()

    def commit(self) -> None:
        self.consumer.commit()

    def leave(self) -> None:
        if self.member is not None:
            self.consumer.close()
            self.member = None

    @property
    def admin(self) -> KafkaAdminClient:
        if self.client is None:
            self.client = KafkaAdminClient(bootstrap_servers=self.address)
        return self.client

    def create_topic(self, topic: str, partitions: int, config: dict[str, str]) -> None:
        self.admin.create_topics({topic: {"num_partitions": partitions, "replication_factor": 1, "configs": config}})

    def delete_topic(self, topic: str) -> None:
        self.admin.delete_topics([topic])

    def topics(self) -> list[str]:
        return list(self.admin.list_topics())

    def partitions(self, topic: str) -> int:
        [found] = self.admin.describe_topics([topic])
        return len(found["partitions"])

    def add_partitions(self, topic: str, total: int) -> None:
        self.admin.create_partitions({topic: total})

    def config(self, topic: str) -> dict[str, str]:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, configs=None)
        [found] = self.admin.describe_configs([resource], config_filter="all").values()
        return {name: entry["value"] for name, entry in found[topic].items()}

    def alter_config(self, topic: str, config: dict[str, str]) -> None:
        self.admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=config)])

    def ends(self, topic: str, partition: int) -> list[int]:
        place = TopicPartition(topic, partition)
        found = [self.admin.list_partition_offsets({place: at}) for at in (OffsetSpec.EARLIEST, OffsetSpec.LATEST)]
        return [each[place].offset for each in found]

    def groups(self) -> list[str]:
        return [found["group_id"] for found in self.admin.list_groups()]

    def group(self, group: str) -> dict[str, Any]:
        found = self.admin.describe_groups([group])[group]
        assigned = [each for member in found["members"] for each in member["member_assignment"]["assigned_partitions"]]
        places = [number for each in assigned for number in each["partitions"]]
        return {
            "state": found["group_state"].lower(),
            "members": len(found["members"]),
            "assigned": sorted(places),
        }

    def committed(self, group: str, topic: str) -> dict[int, int]:
        found = self.admin.list_group_offsets(group)[group]
        return {place.partition: done.offset for place, done in found.items() if place.topic == topic}

    def set_committed(self, group: str, topic: str, offsets: dict[str, int]) -> None:
        places = {TopicPartition(topic, int(n)): OffsetAndMetadata(offset, "", -1) for n, offset in offsets.items()}
        check(self.admin.alter_group_offsets(group, places))

    def delete_group(self, group: str) -> None:
        check(self.admin.delete_groups([group]))


def check(errors: dict[Any, type[KafkaError] | str]) -> None:
    """What is done with groups is not raised but returned, here as a class and there as its name."""
    for error in errors.values():
        kind = error if isinstance(error, type) else getattr(kafka.errors, "NoError" if error == "OK" else error)
        if kind.errno:
            raise kind


def code(error: Exception) -> int | None:
    """Kafka's."""
    return error.errno if isinstance(error, KafkaError) and error.errno >= 0 else None


if __name__ == "__main__":
    serve(Driver(sys.argv[1]), code)
