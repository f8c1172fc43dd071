"""The broker as a whole: who may connect, how it starts and ends, and what it does for the log."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from framework.log import Log, TopicSettings
from framework.log.broker import Code, api_versions
from framework.log.broker.server import Broker
from framework.log.broker.settings import BrokerSettings, parse_listen
from framework.log.broker.table_configs import ApiVersionsRequest
from framework.log.broker.table_groups import FindCoordinatorRequest
from framework.log.errors import Conflict, InvalidSetting
from tests.log.broker.client import batch_of, bytes_of, connected, fetching, producing
from tests.log.broker.conftest import Connect, Start
from tests.log.conftest import Child, FaultyFiles, ManualClock
from tests.until import until

FOREVER_MS = 60_000


# Where it listens.


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "8.8.8.8"])  # noqa: S104  # that they are refused
def test_addresses_that_others_can_reach_are_refused(host: str) -> None:
    with pytest.raises(InvalidSetting, match="neither encryption nor passwords"):
        BrokerSettings(host=host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_addresses_of_this_machine_alone_are_taken(host: str) -> None:
    assert BrokerSettings(host=host).host == host


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:9094", ("127.0.0.1", 9094)),
        (":0", ("127.0.0.1", 0)),
        ("127.0.0.2", ("127.0.0.2", 9092)),
        ("[::1]:9094", ("::1", 9094)),
        ("[::1]", ("::1", 9092)),
        ("localhost:1", ("localhost", 1)),
    ],
)
def test_an_address_is_host_and_port_or_one_of_them(text: str, expected: tuple[str, int]) -> None:
    assert parse_listen(text) == expected


@pytest.mark.parametrize("text", ["127.0.0.1:kafka", "127.0.0.1:-1", "host:1:²"])
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(InvalidSetting, match="is not HOST:PORT"):
        parse_listen(text)


def test_settings_out_of_their_range_are_refused() -> None:
    with pytest.raises(InvalidSetting, match=r"max\.connections is 0, it must lie between 1 and"):
        BrokerSettings(max_connections=0)
    with pytest.raises(InvalidSetting, match=r"'example\.org' is no IP address"):
        BrokerSettings(host="example.org")


async def test_a_directory_has_one_broker(log: Log, start: Start, open_log: Callable[..., Log], tmp_path: Path) -> None:
    first = await start()
    with pytest.raises(Conflict, match=f"process {os.getpid()} is the broker"):
        await start()
    with pytest.raises(Conflict, match=r"another program listens on 127\.0\.0\.1"):
        await start(open_log(tmp_path / "other"), port=first.address[1])
    # What failed has left nothing behind.
    await start(open_log(tmp_path / "other"))


async def test_another_process_that_is_the_broker_is_named(log: Log, start: Start, child: Callable[..., Child]) -> None:
    script = """
    import asyncio
    from framework.log.broker.server import Broker
    from framework.log.broker.settings import BrokerSettings

    async def serve():
        with Log(sys.argv[1]) as log:
            async with Broker(log, BrokerSettings(port=0)):
                say("serving")
                await asyncio.to_thread(hear)

    asyncio.run(serve())
    """
    other = child(script, log.path)
    assert await asyncio.to_thread(other.hear) == "serving"
    with pytest.raises(Conflict, match=f"process {other.pid} is the broker"):
        await start()
    other.kill()
    await start()


# What it says of itself.


@pytest.mark.parametrize("version", range(5))
async def test_it_says_what_it_serves(start: Start, connect: Connect, version: int) -> None:
    client = await connect(await start())
    asked = ApiVersionsRequest(client_software_name="raw", client_software_version="1.0")
    response = await client.ask("ApiVersions", version, asked)
    assert response.error_code == 0
    assert response.api_keys == tuple(api_versions().api_keys)


async def test_a_client_that_asks_in_a_later_version_is_told_which_there_are(start: Start, connect: Connect) -> None:
    """It is answered in version 0, and the connection goes on."""
    client = await connect(await start())
    client.writer.write(bytes.fromhex("0000000a 0012 0063 00000009 ffff"))
    response = await client.reader.readexactly(4 + 4 + 2 + 4 + 6)
    assert response.hex(" ", 2) == "0000 0010 0000 0009 0023 0000 0001 0012 0000 0004"
    assert (await client.ask("ApiVersions", 0, ApiVersionsRequest())).error_code == 0


@pytest.mark.parametrize("version", range(5))
async def test_until_there_are_groups_clients_ask_again(start: Start, connect: Connect, version: int) -> None:
    client = await connect(await start())
    body = FindCoordinatorRequest(key="mine", coordinator_keys=["mine"])
    response = await client.ask("FindCoordinator", version, body)
    code = response.error_code if version < 4 else response.coordinators[0].error_code
    assert Code(code) == Code.COORDINATOR_NOT_AVAILABLE


# What it does for the log.


async def test_agents_and_clients_see_each_others_records_at_once(log: Log, start: Start, connect: Connect) -> None:
    """Both ways, without a turn of any poll: a program of the same process sends, a client answers."""
    log.create_topic("asked", 1)
    log.create_topic("answered", 1)
    broker = await start()
    client = await connect(broker)
    with log.producer() as producer, log.follow("answered", 0) as answers:
        client.send("Fetch", 12, fetching("asked", {0: 0}, max_wait_ms=FOREVER_MS))
        await until(lambda: broker.node.bell.waiting)
        await producer.send("asked", b"what?")
        _, response = await client.receive()
        assert b"what?" in bytes_of(response.topics[0].partitions[0])
        await client.produce("answered", batch_of(b"that"))
        [(_, record)] = answers.take_nowait()
        assert record.value == b"that"


async def test_what_a_killed_process_has_written_can_be_read(
    log: Log, start: Start, connect: Connect, child: Callable[..., Child]
) -> None:
    """It was not synced, and nobody appends after it: the broker syncs it."""
    partition = log.partition(log.create_topic("flights", 1), 0)
    log.append(partition, [batch_of(b"first")]).result(30)
    script = """
    class KilledFiles(Files):
        def fdatasync(self, fd):
            if os.readlink(f"/proc/self/fd/{fd}").endswith(".log"):
                os.kill(os.getpid(), signal.SIGKILL)
            super().fdatasync(fd)

    log = Log(sys.argv[1], files=KilledFiles())
    log.append(log.partition(log.topic("flights"), 0), batches(b"left behind")).result()
    """
    killed = child(script, log.path)
    assert await asyncio.to_thread(killed.process.wait, 30) == -signal.SIGKILL
    assert not partition.is_synced
    client = await connect(await start())
    part = await client.fetch("flights", 1, max_wait_ms=30_000)
    assert b"left behind" in bytes_of(part)


async def test_retention_goes_on_without_a_worker(
    open_log: Callable[..., Log], clock: ManualClock, start: Start, connect: Connect
) -> None:
    log = open_log(clock=clock)
    partition = log.partition(log.create_topic("flights", 1, TopicSettings(retention_ms=1000)), 0)
    client = await connect(await start(log, log_retention_check_interval_ms=10))
    assert (await client.produce("flights", batch_of(b"old"))).base_offset == 0
    clock.ms += 10_000
    await until(lambda: partition.log_start == 1)


# How it ends.


async def test_what_is_in_hand_is_finished_and_answered(
    open_log: Callable[..., Log], files: FaultyFiles, connect: Connect
) -> None:
    """Appends, and waits; requests that come later are not begun."""
    log = open_log(files=files)
    log.create_topic("flights", 1)
    async with Broker(log, BrokerSettings(port=0)) as broker:
        writing, waiting = await connect(broker), await connect(broker)
        await writing.produce("flights", batch_of(b"first"))
        syncing, go_on = threading.Event(), threading.Event()

        def wait(operation: str, path: Path) -> None:
            if operation == "fdatasync" and path.suffix == ".log":
                syncing.set()
                assert go_on.wait(30)

        waiting.send("Fetch", 12, fetching("flights", {0: 1}, max_wait_ms=FOREVER_MS))
        await until(lambda: broker.node.bell.waiting)
        files.before = wait
        sent = [writing.send("Produce", 9, producing("flights", {0: batch_of(b"%d" % n)})) for n in range(3)]
        await asyncio.to_thread(syncing.wait, 30)
        ending = asyncio.ensure_future(broker.__aexit__(None, None, None))  # noqa: TID251  # awaited below
        _, response = await waiting.receive()
        assert bytes_of(response.topics[0].partitions[0]) == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*broker.address)
        go_on.set()
        for number in sent:
            answered, response = await writing.receive()
            assert (answered, response.topics[0].partitions[0].error_code) == (number, 0)
        assert await writing.ended() == await waiting.ended() == b""
        await ending
    assert [record.value for _, record in log.read("flights")] == [b"first", b"0", b"1", b"2"]


async def test_who_does_not_take_his_answers_is_not_waited_for_long(log: Log, start: Start, caplog: Any) -> None:
    partition = log.partition(log.create_topic("large", 1, TopicSettings(max_message_bytes=1 << 26)), 0)
    log.append(partition, [batch_of(bytes(1 << 25))]).result(30)
    broker = await start(shutdown_timeout_ms=20)
    async with connected(broker) as client:
        client.send("Fetch", 12, fetching("large", {0: 0}, partition_max_bytes=1 << 26))
        await until(lambda: broker.node.memory.unsent_bytes)
        await broker.__aexit__(None, None, None)
    assert "1 clients did not take their last answers in time" in caplog.text
    assert broker.node.memory.unsent_bytes == broker.node.memory.in_hand_bytes == 0
