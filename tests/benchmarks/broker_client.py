"""A client of the broker in a process of its own, made of librdkafka; prints JSON."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

TOPIC = "measured"
VALUE = b"x" * 100
TIMEOUT_S = 60.0
POLL_EVERY = 10_000


def produce(address: str, count: int) -> list[float]:
    """Records a second, acknowledged at `group`."""
    producer = Producer(
        {
            "bootstrap.servers": address,
            "acks": "all",
            "linger.ms": 5,
            "queue.buffering.max.messages": 2_000_000,
            "queue.buffering.max.kbytes": 1 << 20,
        }
    )
    producer.produce(TOPIC, VALUE)
    assert producer.flush(TIMEOUT_S) == 0
    started = time.perf_counter()
    for number in range(count):
        producer.produce(TOPIC, VALUE)
        if number % POLL_EVERY == 0:
            producer.poll(0)
    assert producer.flush(TIMEOUT_S) == 0
    return [count / (time.perf_counter() - started)]


def consume(address: str, count: int) -> list[float]:
    """Records a second, from the beginning."""
    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": "none",
            "enable.auto.commit": False,
            # With its default of a second it waits longer than it reads, whenever it has 64 MB.
            "fetch.queue.backoff.ms": 5,
            "queued.min.messages": 1_000_000,
            "max.partition.fetch.bytes": 1 << 20,
        }
    )
    consumer.assign([TopicPartition(TOPIC, 0, OFFSET_BEGINNING)])
    assert consumer.consume(1, TIMEOUT_S)
    started, left = time.perf_counter(), count
    while left > 0:
        records = consumer.consume(min(left, POLL_EVERY), TIMEOUT_S)
        assert records, f"{left} of {count} records did not come"
        left -= len(records)
    rate = count / (time.perf_counter() - started)
    consumer.close()
    return [rate]


def acknowledged(address: str, count: int) -> list[float]:
    """Seconds from a send to its acknowledgement, one at a time."""
    producer = Producer({"bootstrap.servers": address, "acks": "all", "linger.ms": 0})
    waited = []
    for _ in range(count + 1):
        done: list[object] = []
        started = time.perf_counter()
        producer.produce(TOPIC, VALUE, on_delivery=lambda error, _, done=done: done.append(error))  # type: ignore[misc]
        while not done:
            producer.poll(TIMEOUT_S)
        assert done == [None]
        waited.append(time.perf_counter() - started)
    return waited[1:]  # The first one connects.


def idle(address: str, count: int) -> list[float]:
    """Connect so many times, and stay until standard input ends."""
    host, port = address.split(":")
    sockets = [socket.create_connection((host, int(port))) for _ in range(count)]
    print(json.dumps([float(len(sockets))]), flush=True)
    sys.stdin.read()
    return []


WORK: dict[str, Callable[[str, int], list[float]]] = {
    "produce": produce,
    "consume": consume,
    "acknowledged": acknowledged,
    "idle": idle,
}

if __name__ == "__main__":
    print(json.dumps(WORK[sys.argv[1]](sys.argv[2], int(sys.argv[3]))))
