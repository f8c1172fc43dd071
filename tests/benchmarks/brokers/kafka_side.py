"""confluent-kafka, which is librdkafka, on any server that speaks Kafka's protocol; the setting is the topic's."""

from __future__ import annotations

import json
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.benchmarks.brokers.meter import STREAM, TIMEOUT_S, VALUES, Meter, meter

# So large that the producer never waits for room: what is measured is sending.
PRODUCER = {"acks": "all", "queue.buffering.max.messages": 2_000_000, "queue.buffering.max.kbytes": 1 << 20}
SINGLE = {"acks": "all", "linger.ms": 0}
# Without the first line librdkafka waits a second whenever its queue of fetched records is full.
CONSUMER = {
    "fetch.queue.backoff.ms": 5,
    "max.partition.fetch.bytes": 1 << 20,
    "group.id": "benchmark",
    "enable.auto.commit": False,
}
TOOK = 10_000
"""How many records the consumer hands over at once, at most."""


def main() -> None:
    """Measure."""
    measured = meter()
    server = {"bootstrap.servers": f"127.0.0.1:{measured.port}"}
    config = json.loads(measured.setting)
    topic = NewTopic(STREAM, num_partitions=1, replication_factor=1, config=config)
    admin = AdminClient(server)  # It must outlive its answer.
    admin.create_topics([topic])[STREAM].result(TIMEOUT_S)
    produce(measured, server)
    consume(measured, server)
    single(measured, server)
    measured.print()


def produce(measured: Meter, server: dict[str, Any]) -> None:
    """Many, as fast as librdkafka takes and sends them; its own batches, its own linger."""
    producer = Producer({**server, **PRODUCER})
    acknowledged(producer)
    measured.begin()
    for values in measured.batches():
        for value in values:
            producer.produce(STREAM, value)
        producer.poll(0)
    left = producer.flush(TIMEOUT_S)
    measured.end(measured.records)
    assert left == 0, f"{left} of {measured.records} records were not sent"


def consume(measured: Meter, server: dict[str, Any]) -> None:
    """All of them, without a group's work."""
    consumer = Consumer({**server, **CONSUMER})
    assert STREAM in consumer.list_topics(STREAM, TIMEOUT_S).topics
    count, wanted = 1, measured.records + 1  # With the one that was sent to be connected.
    measured.begin()
    consumer.assign([TopicPartition(STREAM, 0, OFFSET_BEGINNING)])
    assert consumer.consume(1, TIMEOUT_S), "nothing came"
    measured.first()
    while count < wanted:
        taken = consumer.consume(min(TOOK, wanted - count), TIMEOUT_S)
        assert taken, f"{count} of {wanted} came"
        count += len(taken)
    measured.end(count)
    consumer.close()


def single(measured: Meter, server: dict[str, Any]) -> None:
    """One after the other."""
    producer = Producer({**server, **SINGLE})
    acknowledged(producer)
    for _ in measured.singles():
        acknowledged(producer)


def acknowledged(producer: Producer) -> None:
    """Send a record and wait until it is there."""
    errors: list[Any] = []
    producer.produce(STREAM, VALUES[0], on_delivery=lambda error, _: errors.append(error))
    while not errors:
        producer.poll(TIMEOUT_S)
    assert errors == [None], errors[0]


if __name__ == "__main__":
    main()
