"""Clients that want too much, send nonsense, or get stuck: they cost little, and nobody else anything."""

from __future__ import annotations

import asyncio
import os
import struct
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from framework.log import Log, TopicSettings
from framework.log.broker import connection
from framework.log.broker.context import Context
from framework.log.broker.handlers import HANDLERS
from framework.log.broker.server import Broker
from framework.log.broker.table_configs import ApiVersionsRequest
from framework.log.broker.table_groups import HeartbeatRequest
from framework.log.broker.table_records import FetchRequest
from tests.log.broker.client import RawClient, batch_of, bytes_of, connected, fetching, producing
from tests.log.broker.conftest import Connect, Start
from tests.log.conftest import FaultyFiles
from tests.until import until

FOREVER_MS = 60_000


async def is_well(broker: Broker) -> None:
    """Whoever comes now is answered, and nothing of those before is left in memory."""
    async with connected(broker) as client:
        assert (await client.ask("ApiVersions", 0, ApiVersionsRequest())).error_code == 0
        memory = broker.node.memory
        await until(lambda: broker.connections == 1 and not memory.in_hand_bytes)
        assert (memory.in_hand_bytes, memory.partial_bytes, memory.unsent_bytes) == (0, 0, 0)


# Nonsense.


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "length at byte 0: it is 1195725856, 0 to 104857600 are allowed"),
        (b"\xff\xff\xff\xff", "it is -1"),
        (struct.pack(">i", 3) + b"abc", "3 bytes are too few"),
        (struct.pack(">ihhih", 10, 77, 0, 1, -1), "API 77 is not served"),
        (struct.pack(">ihhih", 10, 1, 17, 1, -1), "version 17 of Fetch is not served, 4 to 12 are"),
        (struct.pack(">ihhih", 10, 3, 1, 1, -1), "topics at byte 10"),
        (struct.pack(">ihhihi", 14, 3, 1, 1, -1, 1 << 30), "1073741824 elements"),
    ],
)
async def test_who_sends_nonsense_is_hung_up_on_with_one_line(
    start: Start, data: bytes, text: str, caplog: Any
) -> None:
    broker = await start()
    async with connected(broker) as client:
        client.writer.write(data)
        assert await client.ended() == b""
        peer = "{}:{}".format(*client.writer.get_extra_info("sockname"))
    [line] = [record.getMessage() for record in caplog.records if record.name == "framework.broker"]
    assert line.startswith(f"hung up on {peer}")
    assert text in line
    await is_well(broker)


async def test_the_line_names_the_client(start: Start, caplog: Any) -> None:
    broker = await start()
    async with connected(broker) as client:
        asked = ApiVersionsRequest(client_software_name="raw", client_software_version="1.0")
        client.send("ApiVersions", 3, asked, client_id="billing")
        await client.receive()
        client.writer.write(b"????")
        assert await client.ended() == b""
    assert ", client 'billing', raw 1.0: length at byte 0" in caplog.text


async def test_a_name_makes_no_lines_of_its_own(start: Start, caplog: Any) -> None:
    broker = await start()
    async with connected(broker) as client:
        asked = ApiVersionsRequest(client_software_name="raw\nERROR", client_software_version="1" * 10_000)
        client.send("ApiVersions", 3, asked, client_id="a\nb")
        await client.receive()
        client.writer.write(b"????")
        assert await client.ended() == b""
    [record] = [record for record in caplog.records if record.name == "framework.broker"]
    assert ", client 'a?b', raw?ERROR 1111" in record.getMessage()
    assert len(record.getMessage()) < 400
    assert "\n" not in record.getMessage()


async def test_noise_ends_no_broker(start: Start, seed: int) -> None:
    broker, random = await start(), Random(seed)
    for _ in range(200):
        async with connected(broker) as client:
            header = struct.pack(">hhi", random.randrange(-1, 70), random.randrange(-1, 14), 1)
            body = header + random.randbytes(random.randrange(200))
            client.writer.write(struct.pack(">i", len(body)) + body)
            client.writer.write_eof()
            await client.ended()
    await is_well(broker)


async def test_what_is_told_but_not_served_ends_the_connection(start: Start, caplog: Any) -> None:
    broker = await start()
    async with connected(broker) as client:
        body = HeartbeatRequest(group_id="g", generation_id=1, member_id="m")
        if "Heartbeat" not in HANDLERS:
            client.send("Heartbeat", 4, body)
            assert await client.ended() == b""
            assert "Heartbeat is not served" in caplog.text
    await is_well(broker)


async def test_a_bug_in_a_handler_ends_one_connection(
    start: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def fail(context: Context, version: int, body: FetchRequest) -> None:
        raise ZeroDivisionError("a bug")

    async def fail_later(context: Context, version: int, body: FetchRequest) -> None:
        raise ZeroDivisionError("a bug")

    broker = await start()
    other = await connect(broker)
    for bug in (fail, fail_later, lambda *_: object, lambda *_: FetchRequest(max_wait_ms=0, min_bytes=0, topics=())):
        monkeypatch.setitem(HANDLERS, "Fetch", bug)
        async with connected(broker) as client:
            client.send("Fetch", 12, fetching("flights", {0: 0}))
            assert await client.ended() == b""
    assert caplog.text.count("could not be handled") == 4
    assert (await other.ask("ApiVersions", 0, ApiVersionsRequest())).error_code == 0


# Frames in pieces, and many at once.


async def test_a_request_may_come_byte_by_byte(log: Log, start: Start, connect: Connect) -> None:
    log.create_topic("flights", 1)
    client = await connect(await start())
    write, data = client.writer.write, bytearray()
    client.writer.write = data.extend  # type: ignore[method-assign,assignment]
    number = client.send("Produce", 9, producing("flights", {0: batch_of(b"slowly")}))
    for byte in data:
        write(bytes([byte]))
        await asyncio.sleep(0)
    assert (await client.receive())[0] == number


async def test_many_small_requests_give_others_their_turn(start: Start, connect: Connect) -> None:
    broker = await start()
    busy, other = await connect(broker), await connect(broker)
    sent = [busy.send("ApiVersions", 0, ApiVersionsRequest()) for _ in range(5000)]
    other.send("ApiVersions", 0, ApiVersionsRequest())
    await other.receive()
    assert [(await busy.receive())[0] for _ in sent] == sent
    assert connection.REQUESTS_A_TURN < 5000


# Too much.


async def test_more_clients_than_there_may_be_are_turned_away(start: Start, caplog: Any) -> None:
    broker = await start(max_connections=2, connections_max_idle_ms=300)
    async with connected(broker) as first, connected(broker) as second:
        for client in (first, second):
            await client.ask("ApiVersions", 0, ApiVersionsRequest())
        for _ in range(3):
            async with connected(broker) as third:
                assert await third.ended() == b""
        assert broker.connections == 2
        await until(lambda: "3 clients were turned away: max.connections is 2" in caplog.text)
    await until(lambda: not broker.connections)
    await is_well(broker)


async def test_clients_that_come_and_go_leave_nothing(start: Start) -> None:
    broker = await start()
    for number in range(300):
        async with connected(broker) as client:
            client.writer.write(struct.pack(">i", 1000) + bytes(number))
    await until(lambda: not broker.connections)
    await is_well(broker)


class Blocked:
    """A disk that does not sync until it may."""

    def __init__(self, files: FaultyFiles) -> None:
        self.syncing, self.go_on = threading.Event(), threading.Event()
        files.before = self._wait

    def _wait(self, operation: str, path: Path) -> None:
        if operation == "fdatasync" and path.suffix == ".log":
            self.syncing.set()
            assert self.go_on.wait(60)


@pytest.fixture
async def served(
    open_log: Callable[..., Log], files: FaultyFiles, start: Start, connect: Connect
) -> AsyncIterator[Callable[..., Any]]:
    """Starts a broker whose disk is blocked, with a client that has written something already."""
    blocked: list[Blocked] = []

    async def serve(**settings: int) -> tuple[Broker, RawClient, Blocked]:
        log = open_log(files=files)
        log.create_topic("flights", 1)
        broker = await start(log, **settings)
        client = await connect(broker)
        await client.produce("flights", batch_of(b""))
        blocked.append(Blocked(files))
        return broker, client, blocked[0]

    yield serve
    for each in blocked:
        each.go_on.set()


async def test_a_client_has_only_so_many_requests_in_hand(served: Callable[..., Any]) -> None:
    broker, client, disk = await served(max_in_flight_requests=5)
    sent = [client.send("Produce", 9, producing("flights", {0: batch_of(b"%d" % number)})) for number in range(200)]
    await asyncio.to_thread(disk.syncing.wait, 30)
    [connected_one] = broker._connections
    await until(lambda: len(connected_one._answers) == 5)
    disk.go_on.set()
    assert [(await client.receive())[0] for _ in sent] == sent


async def test_a_client_has_only_so_many_bytes_in_hand(served: Callable[..., Any]) -> None:
    """And one request more: what is beyond that waits in its own socket."""
    limit, size = 300_000, 100_000
    broker, client, disk = await served(max_in_flight_bytes=limit)
    sent = [client.send("Produce", 9, producing("flights", {0: batch_of(os.urandom(size))})) for _ in range(100)]
    await asyncio.to_thread(disk.syncing.wait, 30)
    memory = broker.node.memory
    await until(lambda: memory.in_hand_bytes > limit)
    most, disk_waits = 0, True
    while disk_waits:
        for _ in range(100):
            await asyncio.sleep(0)
            most = max(most, memory.in_hand_bytes + memory.partial_bytes)
        disk_waits = False
    assert most < limit + 4 * size  # As much as one read of the socket gives.
    disk.go_on.set()
    assert [(await client.receive())[0] for _ in sent] == sent
    assert memory.in_hand_bytes == 0


async def test_answers_that_wait_for_one_before_them_are_few(served: Callable[..., Any], connect: Connect) -> None:
    """A fetch behind an append that takes long is answered after it, and does not gather meanwhile."""
    limit, size = 200_000, 100_000
    broker, client, disk = await served(max_in_flight_bytes=limit)
    disk.go_on.set()
    await client.produce("flights", batch_of(os.urandom(size)))
    disk.go_on.clear()
    disk.syncing.clear()
    sent = [client.send("Produce", 9, producing("flights", {0: batch_of(b"late")}))]
    sent += [client.send("Fetch", 12, fetching("flights", {0: 1})) for _ in range(50)]
    await asyncio.to_thread(disk.syncing.wait, 30)
    memory = broker.node.memory
    await until(lambda: memory.unsent_bytes > limit)
    for _ in range(200):
        await asyncio.sleep(0)
        assert memory.unsent_bytes < limit + 2 * size
    disk.go_on.set()
    assert [(await client.receive())[0] for _ in sent] == sent


async def test_all_clients_together_have_only_so_much_in_hand(served: Callable[..., Any], connect: Connect) -> None:
    limit, size = 2_000_000, 100_000
    broker, _, disk = await served(queued_max_request_bytes=limit)
    clients = [await connect(broker) for _ in range(10)]
    sent = [
        [client.send("Produce", 9, producing("flights", {0: batch_of(os.urandom(size))})) for _ in range(10)]
        for client in clients
    ]
    memory = broker.node.memory
    await until(lambda: memory.in_hand_bytes > limit)
    disk.go_on.set()
    for client, numbers in zip(clients, sent, strict=True):
        assert [(await client.receive())[0] for _ in numbers] == numbers
    assert memory.in_hand_bytes == 0


async def test_a_client_that_goes_is_counted_until_its_batches_are_written(served: Callable[..., Any]) -> None:
    """Else it could come again and again, and fill the memory with what waits for the disk."""
    broker, client, disk = await served()
    client.send("Produce", 9, producing("flights", {0: batch_of(bytes(100_000))}, acks=0))
    await asyncio.to_thread(disk.syncing.wait, 30)
    client.writer.close()
    await until(lambda: not broker.connections)
    assert broker.node.memory.in_hand_bytes > 100_000
    disk.go_on.set()
    await until(lambda: not broker.node.memory.in_hand_bytes)


async def test_halves_of_requests_that_fill_the_memory_end_the_largest(start: Start, caplog: Any) -> None:
    broker = await start(queued_max_request_bytes=100_000)
    async with connected(broker) as small, connected(broker) as large:
        small.writer.write(struct.pack(">i", 1 << 20) + bytes(20_000))
        await until(lambda: broker.node.memory.partial_bytes == 20_004)
        large.writer.write(struct.pack(">i", 1 << 20) + bytes(90_000))
        assert await large.ended() == b""
        assert "its 90004 are the most" in caplog.text
        assert broker.node.memory.partial_bytes == 20_004
    await is_well(broker)


# Stuck.


@pytest.mark.parametrize("data", [b"", struct.pack(">i", 100) + b"half"])
async def test_who_sends_nothing_more_is_hung_up_on(start: Start, data: bytes) -> None:
    broker = await start(connections_max_idle_ms=50)
    async with connected(broker) as client:
        client.writer.write(data)
        assert await client.ended() == b""
    await until(lambda: not broker.connections)


async def test_who_waits_for_records_is_not_idle(log: Log, start: Start, connect: Connect) -> None:
    """But no wait is longer than that, so that a client that has died unseen is noticed."""
    log.create_topic("flights", 1)
    client = await connect(await start(connections_max_idle_ms=100))
    for _ in range(3):
        assert bytes_of(await client.fetch("flights", 0, max_wait_ms=90)) == b""
    assert bytes_of(await client.fetch("flights", 0, max_wait_ms=FOREVER_MS)) == b""


async def test_who_waits_for_the_disk_is_not_idle(served: Callable[..., Any]) -> None:
    broker, client, disk = await served(connections_max_idle_ms=300)
    number = client.send("Produce", 9, producing("flights", {0: batch_of(b"late")}))
    await asyncio.to_thread(disk.syncing.wait, 30)
    async with connected(broker) as idle:  # It came later, and is idle for as long.
        assert await idle.ended() == b""
    disk.go_on.set()
    assert (await client.receive())[0] == number


async def test_who_does_not_take_his_answers_gets_no_more_and_is_hung_up_on(log: Log, start: Start) -> None:
    """A hundred answers of a megabyte are asked for; one or two are made."""
    partition = log.partition(log.create_topic("large", 1, TopicSettings(max_message_bytes=1 << 25)), 0)
    size = 1 << 24
    log.append(partition, [batch_of(bytes(size))]).result(30)
    broker = await start(connections_max_idle_ms=500)
    async with connected(broker) as client:
        for _ in range(100):
            client.send("Fetch", 12, fetching("large", {0: 0}, partition_max_bytes=2 * size))
        memory = broker.node.memory
        await until(lambda: memory.unsent_bytes)
        await until(lambda: not broker.connections)
        assert memory.unsent_bytes == memory.in_hand_bytes == 0


async def test_who_takes_his_answers_slowly_gets_all_of_them(log: Log, start: Start, connect: Connect) -> None:
    partition = log.partition(log.create_topic("large", 1, TopicSettings(max_message_bytes=1 << 25)), 0)
    size = 1 << 22
    log.append(partition, [batch_of(bytes(size))]).result(30)
    broker = await start()
    client = await connect(broker)
    sent = [client.send("Fetch", 12, fetching("large", {0: 0}, partition_max_bytes=2 * size)) for _ in range(20)]
    await until(lambda: broker.node.memory.unsent_bytes)
    most = 0
    for number in sent:
        answered, response = await client.receive()
        most = max(most, broker.node.memory.unsent_bytes)
        assert answered == number
        assert len(bytes_of(response.topics[0].partitions[0])) > size
    assert most < 2 * size
