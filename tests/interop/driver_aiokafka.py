"""aiokafka: Python with an event loop, and an old protocol."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import KafkaError, for_code

from tests.interop.answering import LIMIT_S, HasNone, Member, member_options, serve_async

LARGE = 64 << 20


class Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, member: Member) -> None:
        self.member = member

    async def on_partitions_revoked(self, revoked: Any) -> None:
        self.member.assigned = []

    async def on_partitions_assigned(self, assigned: Any) -> None:
        self.member.assign([place.partition for place in assigned])


class Driver:
    def __init__(self, address: str, tasks: asyncio.TaskGroup) -> None:
        self.address, self.tasks = address, tasks
        self.member: Member | None = None
        self.admin: AIOKafkaAdminClient | None = None

    async def produce(self, topic: str, records: list[Any], codec: str, acks: str, idempotent: bool) -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=self.address,
            compression_type=None if codec == "none" else codec,
            acks=acks if acks == "all" else int(acks),
            enable_idempotence=idempotent,
            max_request_size=LARGE,
            linger_ms=20,
        )
        async with asyncio.timeout(LIMIT_S), producer:
            sent = [
                await producer.send(topic, value.encode(), partition=partition, timestamp_ms=time_ms)
                for partition, value, time_ms in records
            ]
            for each in sent:
                await each

    async def read(self, topic: str, partition: int, offset: int, count: int) -> list[Any]:
        async with asyncio.timeout(LIMIT_S), AIOKafkaConsumer(bootstrap_servers=self.address) as consumer:
            return await self._read(consumer, TopicPartition(topic, partition), offset, count)

    async def read_since(self, topic: str, partition: int, time_ms: int, count: int) -> list[Any]:
        place = TopicPartition(topic, partition)
        async with asyncio.timeout(LIMIT_S), AIOKafkaConsumer(bootstrap_servers=self.address) as consumer:
            found = await consumer.offsets_for_times({place: time_ms})
            return await self._read(consumer, place, found[place].offset, count)

    async def _read(self, consumer: Any, place: TopicPartition, offset: int, count: int) -> list[Any]:
        consumer.assign([place])
        consumer.seek(place, offset)
        records = [await consumer.getone() for _ in range(count)]
        return [(record.offset, record.value.decode(), record.timestamp) for record in records]

    async def join(self, group: str, topic: str, instance: str | None, session_ms: int, cooperative: bool) -> None:
        if cooperative:
            raise HasNone("its members give up all partitions when one comes or goes")
        self.member = member = Member()
        self.consumer = AIOKafkaConsumer(**member_options(self.address, group, instance, session_ms))
        self.consumer.subscribe([topic], listener=Listener(member))
        await self.consumer.start()
        self.polling = self.tasks.create_task(self._poll(member))

    async def _poll(self, member: Member) -> None:
        async for record in self.consumer:
            member.records.append((record.partition, record.offset, record.value.decode()))

    async def state(self) -> dict[str, Any]:
        assert self.member is not None
        return self.member.state()

    async def commit(self) -> None:
        await self.consumer.commit()

    async def leave(self) -> None:
        if self.member is not None:
            self.member = None
            self.polling.cancel()
            await self.consumer.stop()

    async def _admin(self) -> AIOKafkaAdminClient:
        if self.admin is None:
            self.admin = AIOKafkaAdminClient(bootstrap_servers=self.address)
            await self.admin.start()
        return self.admin

    async def create_topic(self, topic: str, partitions: int, config: dict[str, str]) -> None:
        new = NewTopic(topic, partitions, 1, topic_configs=config)
        done = await (await self._admin()).create_topics([new])
        check(*(error for _, error, *_ in done.topic_errors))

    async def delete_topic(self, topic: str) -> None:
        done = await (await self._admin()).delete_topics([topic])
        check(*(error for _, error in done.topic_error_codes))

    async def topics(self) -> list[str]:
        found: list[str] = await (await self._admin()).list_topics()
        return found

    async def partitions(self, topic: str) -> int:
        [found] = await (await self._admin()).describe_topics([topic])
        return len(found["partitions"])

    async def add_partitions(self, topic: str, total: int) -> None:
        await (await self._admin()).create_partitions({topic: NewPartitions(total)})

    async def config(self, topic: str) -> dict[str, str]:
        [done] = await (await self._admin()).describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        [(error, _, _, _, entries)] = done.resources
        check(error)
        return {name: value for name, value, *_ in entries}

    async def alter_config(self, topic: str, config: dict[str, str]) -> None:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, configs=config)
        [done] = await (await self._admin()).alter_configs([resource])
        check(*(error for error, *_ in done.resources))

    async def ends(self, topic: str, partition: int) -> list[int]:
        place = TopicPartition(topic, partition)
        async with asyncio.timeout(LIMIT_S), AIOKafkaConsumer(bootstrap_servers=self.address) as consumer:
            first, last = await consumer.beginning_offsets([place]), await consumer.end_offsets([place])
            return [first[place], last[place]]

    async def groups(self) -> list[str]:
        return [name for name, _ in await (await self._admin()).list_consumer_groups()]

    async def group(self, group: str) -> dict[str, Any]:
        [done] = await (await self._admin()).describe_consumer_groups([group])
        [(error, _, state, _, _, members, *_)] = done.groups
        check(error)
        assignments = [ConsumerProtocolMemberAssignment.decode(member[4]) for member in members if member[4]]
        places = [number for each in assignments for _, numbers in each.assignment for number in numbers]
        return {"state": state.lower(), "members": len(members), "assigned": sorted(places)}

    async def committed(self, group: str, topic: str) -> dict[int, int]:
        found = await (await self._admin()).list_consumer_group_offsets(group)
        return {place.partition: done.offset for place, done in found.items() if place.topic == topic}

    async def set_committed(self, group: str, topic: str, offsets: dict[str, int]) -> None:
        """By a consumer that has chosen its partitions itself: the admin client does not do it."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.address, group_id=group, enable_auto_commit=False)
        places = {TopicPartition(topic, int(number)): offset for number, offset in offsets.items()}
        async with asyncio.timeout(LIMIT_S), consumer:
            consumer.assign(list(places))
            await consumer.commit(places)

    async def delete_group(self, group: str) -> None:
        raise HasNone("its admin client deletes no groups")


def check(*errors: int) -> None:
    """Responses of the admin client are as they came."""
    for error in errors:
        if error:
            raise for_code(error)


def code(error: Exception) -> int | None:
    """Kafka's."""
    return error.errno if isinstance(error, KafkaError) and error.errno >= 0 else None


async def main() -> None:
    """Serve as long as there are commands."""
    async with asyncio.TaskGroup() as tasks:
        await serve_async(Driver(sys.argv[1], tasks), code)


if __name__ == "__main__":
    asyncio.run(main())
