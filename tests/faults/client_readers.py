"""Clients that read, each in a process of its own, until SIGTERM: alone, from anywhere, or as members of a group."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

from framework.log import Log, decode_values
from framework.log.broker.table_records import FetchPartition, FetchRequest, FetchTopic
from framework.log.header import HEADER_BYTES, read_header
from tests.faults.client_history import Key, named
from tests.faults.client_senders import Client, started
from tests.faults.client_wire import FETCH_VERSION, Wire

GROUP = "watching"
SESSION_MS = 6000
POLL_S, FETCH_WAIT_MS = 0.2, 100
AT_ONCE = 50
OTHER_PLACE, LOOK_AT_END, LOOK_AT_COMMITTED, COMMIT = 0.02, 0.05, 0.1, 0.2
"""How often a reader does what, from one read to the next."""


def wire_reader(client: Client) -> None:
    """One of ours that begins anywhere, time and again, and looks how far others have come."""
    draw, wire, recorder = client.draw(), Wire(client.address), client.recorder
    offsets, session = dict.fromkeys(client.keys, 0), 0
    while not client.stopped():
        key = draw.choice(client.keys)
        try:
            wire.connect()
            if draw.random() < OTHER_PLACE:
                session += 1
                offsets = {each: draw.randint(0, offset) for each, offset in offsets.items()}
            if draw.random() < LOOK_AT_END:
                operation = recorder.invoke("end", *key)
                recorder.ok(operation, wire.end(*key))
            if draw.random() < LOOK_AT_COMMITTED:
                operation = recorder.invoke("committed", GROUP, *key)
                recorder.ok(operation, wire.committed(GROUP, *key))
            operation = recorder.invoke("read", *key, str(session))
            high_watermark, records = _fetched(wire, key, offsets[key])
            recorder.ok(operation, high_watermark, records)
            offsets[key] += len(records)
        except OSError:
            wire.drop()


def _fetched(wire: Wire, key: Key, offset: int) -> tuple[int, list[list[object]]]:
    """High watermark, and the records from *offset* on."""
    part = FetchPartition(index=key[1], fetch_offset=offset, partition_max_bytes=200_000)
    topics = [FetchTopic(name=key[0], partitions=[part])]
    body = FetchRequest(max_wait_ms=FETCH_WAIT_MS, min_bytes=1, max_bytes=1 << 24, topics=topics)
    found = wire.ask("Fetch", FETCH_VERSION, body).topics[0].partitions[0]
    if found.error_code:
        raise ConnectionError(f"{key} cannot be read at {offset}: {found.error_code}")
    data, records, at = b"".join(found.records or ()), list[list[object]](), 0
    while at < len(data):
        header = read_header(data, at)
        for place, value in enumerate(decode_values(data[at : at + header.size]), header.base_offset):
            if place >= offset:
                records.append([place, named(value)])
        at += max(header.size, HEADER_BYTES)
    return found.high_watermark, records


def log_reader(client: Client) -> None:
    """A program that reads the log itself, beside the broker."""
    with Log(client.directory) as log:
        doorbell = log.doorbell()
        partitions = {key: log.partition(log.topic(key[0]), key[1]) for key in client.keys}
        readers = {key: log.reader(partition, 0) for key, partition in partitions.items()}
        offsets = dict.fromkeys(client.keys, 0)
        while not client.stopped():
            quiet = True
            for key, reader in readers.items():
                operation = client.recorder.invoke("read", *key, "0")
                records = [
                    [place, named(value)]
                    for header, batch in reader.read(200_000).batches
                    for place, value in enumerate(decode_values(batch), header.base_offset)
                    if place >= offsets[key]
                ]
                client.recorder.ok(operation, partitions[key].high_watermark, records)
                offsets[key] += len(records)
                quiet = quiet and not records
            if quiet:
                doorbell.wait(POLL_S)


class Ways:
    """The sessions of a member, and what was read in each and not written down yet."""

    def __init__(self, client: Client) -> None:
        """None yet."""
        self._recorder, self._count = client.recorder, 0
        self.sessions: dict[Key, str] = {}
        self.positions: dict[Key, int] = {}
        self._read: dict[Key, list[list[object]]] = {}
        self._since_ns = time.monotonic_ns()

    def assigned(self, keys: list[Key]) -> None:
        """They are read from where the group is."""
        self.write_down()
        self._count += 1
        for key in keys:
            self.sessions[key] = str(self._count)
            self.positions.pop(key, None)
            self._recorder.note("assigned", [GROUP, *key, self.sessions[key]])

    def revoked(self, keys: list[Key]) -> None:
        """They are read no more."""
        self.write_down()
        for key in keys:
            self.sessions.pop(key, None)
            self.positions.pop(key, None)

    def read(self, key: Key, offset: int, value: bytes | None) -> None:
        """A record has come."""
        self._read.setdefault(key, []).append([offset, named(value)])
        self.positions[key] = offset + 1

    def write_down(self) -> None:
        """What was read goes into the history."""
        for key, records in self._read.items():
            session = self.sessions.get(key, "unassigned")
            self._recorder.note("read", [*key, session], [None, records], self._since_ns)
        self._read, self._since_ns = {}, time.monotonic_ns()

    def commits(self) -> dict[Key, tuple[int, int]]:
        """Operation and offset of each partition, as far as has been read."""
        self.write_down()
        return {
            key: (self._recorder.invoke("commit", GROUP, *key, self.sessions[key], offset), offset)
            for key, offset in self.positions.items()
            if key in self.sessions
        }


def librdkafka_member(client: Client, **options: object) -> None:
    """A member of librdkafka, which commits and waits for it, now and then and when it loses partitions."""
    from confluent_kafka import Consumer

    draw, ways = client.draw(), Ways(client)
    consumer = Consumer(
        {
            "bootstrap.servers": client.address,
            "group.id": GROUP,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "partition.assignment.strategy": "range",
            "session.timeout.ms": SESSION_MS,
            "heartbeat.interval.ms": 500,
            "fetch.wait.max.ms": FETCH_WAIT_MS,
            "reconnect.backoff.ms": 20,
            "reconnect.backoff.max.ms": 200,
            "log_level": 2,
            **options,
        }
    )

    def keys(partitions: list[Any]) -> list[Key]:
        return [(each.topic, each.partition) for each in partitions]

    def revoked(_: object, partitions: list[Any]) -> None:
        _librdkafka_commit(client, consumer, ways)
        ways.revoked(keys(partitions))

    consumer.subscribe(
        sorted({topic for topic, _ in client.keys}),
        on_assign=lambda _, partitions: ways.assigned(keys(partitions)),
        on_revoke=revoked,
        on_lost=lambda _, partitions: ways.revoked(keys(partitions)),
    )
    read = 0
    while not client.stopped():
        record: Any = consumer.poll(POLL_S)
        if record is not None and record.error() is None:
            ways.read((record.topic(), record.partition()), record.offset(), record.value())
            read += 1
        if record is None or read >= AT_ONCE:
            read = 0
            if draw.random() < COMMIT or record is None:
                _librdkafka_commit(client, consumer, ways)
            else:
                ways.write_down()
    _librdkafka_commit(client, consumer, ways)
    consumer.close()


def _librdkafka_commit(client: Client, consumer: Any, ways: Ways) -> None:
    """Commit what has been read, and wait for the answer."""
    from confluent_kafka import KafkaException, TopicPartition

    commits = ways.commits()
    if not commits:
        return
    offsets = [TopicPartition(*key, offset) for key, (_, offset) in commits.items()]
    errors: dict[Key, object] = {}
    try:
        for each in consumer.commit(offsets=offsets, asynchronous=False):
            errors[each.topic, each.partition] = each.error
    except KafkaException as error:
        errors = dict.fromkeys(commits, error)
    for key, (operation, _) in commits.items():
        if errors.get(key, "no answer") is None:
            client.recorder.ok(operation)
        else:
            client.recorder.unknown(operation, errors.get(key))


def librdkafka_static_member(client: Client) -> None:
    """One whose place is kept for it while it is away."""
    librdkafka_member(client, **{"group.instance.id": "static"})


def aiokafka_member(client: Client) -> None:
    """A member of aiokafka."""
    asyncio.run(_aiokafka_member(client))


async def _aiokafka_member(client: Client) -> None:
    from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
    from aiokafka.coordinator.assignors.range import RangePartitionAssignor
    from aiokafka.errors import KafkaError

    draw, ways = client.draw(), Ways(client)

    class Listener(ConsumerRebalanceListener):  # type: ignore[misc]
        async def on_partitions_revoked(self, revoked: Any) -> None:
            ways.revoked([(each.topic, each.partition) for each in revoked])

        async def on_partitions_assigned(self, assigned: Any) -> None:
            ways.assigned(sorted((each.topic, each.partition) for each in assigned))

    def made() -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=client.address,
            group_id=GROUP,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            partition_assignment_strategy=(RangePartitionAssignor,),
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=500,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            retry_backoff_ms=50,
        )
        consumer.subscribe(sorted({topic for topic, _ in client.keys}), listener=Listener())
        return consumer

    consumer = await started(client, made)

    try:
        while not client.stopped():
            found = await consumer.getmany(timeout_ms=int(POLL_S * 1000), max_records=AT_ONCE)
            for partition, records in found.items():
                for record in records:
                    ways.read((partition.topic, partition.partition), record.offset, record.value)
            if draw.random() < COMMIT or not found:
                await _aiokafka_commit(client, consumer, ways)
            else:
                ways.write_down()
        await _aiokafka_commit(client, consumer, ways)
    finally:
        with suppress(KafkaError):
            await consumer.stop()


async def _aiokafka_commit(client: Client, consumer: Any, ways: Ways) -> None:
    """Commit what has been read, and wait for the answer."""
    from aiokafka import TopicPartition
    from aiokafka.errors import KafkaError

    commits = ways.commits()
    if not commits:
        return
    try:
        await consumer.commit({TopicPartition(*key): offset for key, (_, offset) in commits.items()})
    except KafkaError as error:
        for operation, _ in commits.values():
            client.recorder.unknown(operation, repr(error))
    else:
        for operation, _ in commits.values():
            client.recorder.ok(operation)
