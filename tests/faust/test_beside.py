"""Others on the directory of a Faust app: a client of Kafka, which its worker serves, and an agent of ours."""

from __future__ import annotations

import orjson
import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from framework.log.broker.published import published
from tests.faust.stage import LIMIT_S, Stage

COUNT = 400

pytestmark = pytest.mark.slow


def test_a_client_of_kafka_and_an_agent_of_ours_see_the_same_records(stage: Stage) -> None:
    for topic in ("numbers", "copies"):
        stage.topic(topic, 4)
    copies, sent = stage.watch("copies"), {orjson.dumps(number) for number in range(COUNT)}
    worker = stage.start("forward", "ada")
    stage.until("a broker", lambda: published(stage.log) is not None)
    place = published(stage.log)
    assert place is not None
    client = {"bootstrap.servers": f"{place.host}:{place.port}"}

    producer = Producer(client)
    for value in sent:
        producer.produce("numbers", value)
    assert producer.flush(LIMIT_S) == 0
    copies.until("all copies", lambda: copies.different == sent)
    assert values_of(client, "copies") == sent

    stage.framework("worker", "-A", f"{__file__.replace('test_beside', 'beside_agent')}", "--until-idle")
    ours = stage.watch("ours")
    ours.now()
    assert ours.different == sent

    check_the_group_is_one_of_kafkas(stage, client)
    stage.stop(worker)
    listed = [orjson.loads(line) for line in stage.framework("groups", "ls", "--json").splitlines()]
    assert {row["group"]: (row["kind"], row["lag"]) for row in listed} == {
        "beside.copy": ("app", 0),
        "forward": ("consumers", 0),
        "others": ("consumers", 0),
    }


def values_of(client: dict[str, str], topic: str) -> set[bytes | None]:
    """What a group of its own reads and commits."""
    consumer = Consumer({**client, "group.id": "others", "auto.offset.reset": "earliest"})
    try:
        consumer.subscribe([topic])
        seen: set[bytes | None] = set()
        while len(seen) < COUNT:
            records = consumer.consume(COUNT, LIMIT_S)
            assert records, f"{len(seen)} of {COUNT} records, and no more"
            seen.update(record.value() for record in records)
        consumer.commit(asynchronous=False)
    finally:
        consumer.close()
    return seen


def check_the_group_is_one_of_kafkas(stage: Stage, client: dict[str, str]) -> None:
    """Its member is shown, and nobody else commits for it."""
    admin = AdminClient({**client})
    [described] = admin.describe_consumer_groups(["forward"]).values()
    group = described.result(LIMIT_S)
    assert group.state.name == "STABLE"
    [member] = group.members
    assigned = member.assignment.topic_partitions
    assert {place.partition for place in assigned if place.topic == "numbers"} == {0, 1, 2, 3}
    stage.until_committed("forward", "numbers")
    before = stage.committed("forward", "numbers")
    foreign = ConsumerGroupTopicPartitions("forward", [TopicPartition("numbers", 0, 0)])
    [altered] = admin.alter_consumer_group_offsets([foreign]).values()
    [refused] = altered.result(LIMIT_S).topic_partitions
    assert refused.error.code() == KafkaError.UNKNOWN_MEMBER_ID
    assert stage.committed("forward", "numbers") == before
