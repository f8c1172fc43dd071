"""Fetching: whole batches, within limits, at once or when there is more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from framework.log import Files, Log, Partition, TopicSettings
from framework.log.broker import Code
from framework.log.broker.memory import MIN_FETCH_BYTES
from framework.log.broker.server import Broker
from framework.log.broker.table_records import FetchRequest
from framework.log.header import CRC_START, walk
from tests.log.broker.client import RawClient, batch_of, bytes_of, connected, fetching
from tests.log.broker.conftest import Connect, Start
from tests.log.conftest import Child
from tests.until import until

FOREVER_MS = 60_000


def append(log: Log, partition: Partition, *values: bytes) -> bytes:
    """*values* as one batch, durable; the batch without what only the log knows."""
    batch = batch_of(*values)
    log.append(partition, [batch]).result(30)
    return bytes(batch[CRC_START:])


def bases(fetched: bytes) -> list[int]:
    """The base offsets of the batches in an answer, which are all whole."""
    found = list(walk(fetched))
    assert sum(size for *_, size in found) == len(fetched)
    return [base for _, base, _ in found]


@pytest.fixture
def partition(log: Log) -> Partition:
    """A partition with nothing in it."""
    return log.partition(log.create_topic("flights", 2), 0)


@pytest.fixture
async def broker(partition: Partition, start: Start) -> Broker:
    return await start()


@pytest.fixture
async def client(broker: Broker, connect: Connect) -> RawClient:
    return await connect(broker)


async def waits(broker: Broker, partitions: int = 1) -> None:
    """Return when somebody waits for so many partitions."""
    await until(lambda: broker.node.bell.waiting >= partitions)


@pytest.mark.parametrize("version", range(4, 13))
async def test_batches_come_as_they_are(log: Log, partition: Partition, client: RawClient, version: int) -> None:
    kept = [append(log, partition, b"a", b"b"), append(log, partition, b"c" * 5000)]
    part = await client.fetch("flights", 0, version=version)
    assert (part.error_code, part.high_watermark, part.last_stable_offset) == (0, 3, 3)
    found = bytes_of(part)
    assert bases(found) == [0, 2]
    assert [found[at + CRC_START : at + size] for at, _, size in walk(found)] == kept


@pytest.mark.parametrize(("offset", "expected"), [(0, [0, 3]), (1, [0, 3]), (2, [0, 3]), (3, [3]), (4, [3]), (5, [])])
async def test_an_offset_in_the_middle_gives_the_batch_around_it(
    log: Log, partition: Partition, client: RawClient, offset: int, expected: list[int]
) -> None:
    append(log, partition, b"a", b"b", b"c")
    append(log, partition, b"d", b"e")
    for _ in range(2):  # With a reader that is new, and with the same again.
        assert bases(bytes_of(await client.fetch("flights", offset))) == expected


async def test_a_client_reads_on_where_it_was(log: Log, partition: Partition, client: RawClient) -> None:
    for number in range(20):
        append(log, partition, b"%d" % number * 100)
    offset, found = 0, list[int]()
    while offset < 20:
        part = await client.fetch("flights", offset, partition_max_bytes=600)
        assert len(bytes_of(part)) <= 600
        found += bases(bytes_of(part))
        offset = found[-1] + 1
    assert found == list(range(20))


async def test_one_batch_comes_whatever_the_limits_are(log: Log, partition: Partition, client: RawClient) -> None:
    append(log, partition, bytes(100_000))
    append(log, partition, b"next")
    part = await client.fetch("flights", 0, max_bytes=1, partition_max_bytes=1)
    assert bases(bytes_of(part)) == [0]


async def test_only_the_first_partition_goes_over_the_limit_of_an_answer(
    log: Log, partition: Partition, client: RawClient
) -> None:
    """Another one is the first each time, so that all come to their turn."""
    other = log.partition(log.topic("flights"), 1)
    append(log, partition, bytes(3000))
    append(log, other, bytes(3000))
    came = []
    for _ in range(4):
        response = await client.ask("Fetch", 12, fetching("flights", {0: 0, 1: 0}, max_bytes=4000))
        came.append([bool(bytes_of(part)) for part in response.topics[0].partitions])
    assert sorted(came) == [[False, True]] * 2 + [[True, False]] * 2


@pytest.mark.parametrize("offset", [-1, 1, 6, 1 << 40])
async def test_an_offset_that_is_not_there_is_refused_at_once(
    log: Log, partition: Partition, client: RawClient, offset: int
) -> None:
    append(log, partition, b"a", b"b")
    append(log, partition, b"c", b"d", b"e")
    await client.fetch("flights", 0)  # A reader stands in the file that begins at 0.
    partition.delete_records(2)
    part = await client.fetch("flights", offset, max_wait_ms=FOREVER_MS)
    assert (Code(part.error_code), bytes_of(part)) == (Code.OFFSET_OUT_OF_RANGE, b"")


async def test_what_is_deleted_is_not_read_on_from(log: Log, client: RawClient) -> None:
    """Also not by a reader that stands before it in an open file."""
    many = log.partition(log.create_topic("many", 1, TopicSettings(segment_bytes=4096)), 0)
    for _ in range(9):
        append(log, many, bytes(1000))
    assert bases(bytes_of(await client.fetch("many", 0, partition_max_bytes=1))) == [0]
    assert many.delete_records(2) == 2
    assert (await client.fetch("many", 1)).error_code == Code.OFFSET_OUT_OF_RANGE


@pytest.mark.parametrize(
    ("topic", "index", "epoch", "code"),
    [
        ("nowhere", 0, -1, Code.UNKNOWN_TOPIC_OR_PARTITION),
        ("flights", 2, -1, Code.UNKNOWN_TOPIC_OR_PARTITION),
        ("flights", -1, -1, Code.UNKNOWN_TOPIC_OR_PARTITION),
        ("flights", 0, 1, Code.UNKNOWN_LEADER_EPOCH),
    ],
)
async def test_what_is_not_there_is_said_at_once(
    client: RawClient, topic: str, index: int, epoch: int, code: Code
) -> None:
    part = await client.fetch(topic, 0, index, max_wait_ms=FOREVER_MS, epoch=epoch)
    assert part.error_code == code


async def test_sessions_are_answered_with_none(client: RawClient) -> None:
    """Clients then name all partitions in every request."""
    body = FetchRequest(max_wait_ms=0, min_bytes=1, session_epoch=0, topics=[])
    assert (await client.ask("Fetch", 12, body)).session_id == 0
    response = await client.ask("Fetch", 12, body._replace(session_id=5, session_epoch=1))  # type: ignore[attr-defined]
    assert response.error_code == Code.FETCH_SESSION_ID_NOT_FOUND


async def test_who_reads_committed_records_is_told_of_no_aborted_ones(
    log: Log, partition: Partition, client: RawClient
) -> None:
    append(log, partition, b"a")
    assert (await client.fetch("flights", 0, isolation_level=1)).aborted_transactions == ()
    assert (await client.fetch("flights", 0)).aborted_transactions is None


# Waiting.


async def test_a_fetch_waits_for_the_next_record(
    log: Log, partition: Partition, broker: Broker, client: RawClient
) -> None:
    number = client.send("Fetch", 12, fetching("flights", {0: 0, 1: 0}, max_wait_ms=FOREVER_MS))
    await waits(broker, 2)
    log.append(partition, [batch_of(b"news")])
    answered, response = await client.receive()
    assert answered == number
    assert [bases(bytes_of(part)) for part in response.topics[0].partitions] == [[0], []]
    assert broker.node.bell.waiting == 0


async def test_records_of_another_process_wake_it(
    partition: Partition, broker: Broker, client: RawClient, log: Log, child: Callable[..., Child]
) -> None:
    client.send("Fetch", 12, fetching("flights", {0: 0}, max_wait_ms=FOREVER_MS))
    await waits(broker)
    script = """
    with Log(sys.argv[1]) as log:
        log.append(log.partition(log.topic("flights"), 0), batches(b"from afar")).result()
    """
    other = child(script, log.path)
    _, response = await client.receive()
    assert b"from afar" in bytes_of(response.topics[0].partitions[0])
    await asyncio.to_thread(other.finish)


async def test_it_waits_until_there_is_as_much_as_it_wants(
    log: Log, partition: Partition, broker: Broker, client: RawClient
) -> None:
    client.send("Fetch", 12, fetching("flights", {0: 0}, max_wait_ms=FOREVER_MS, min_bytes=3000))
    for number in range(3):
        await waits(broker)
        assert not client.reader._buffer  # type: ignore[attr-defined]  # nothing has come
        log.append(partition, [batch_of(bytes(1000))])
        if number < 2:
            await asyncio.to_thread(lambda: log.sync(partition).result(30))
    _, response = await client.receive()
    assert bases(bytes_of(response.topics[0].partitions[0])) == [0, 1, 2]


async def test_when_its_time_is_over_it_gets_what_there_is(log: Log, partition: Partition, client: RawClient) -> None:
    append(log, partition, b"a")
    assert bytes_of(await client.fetch("flights", 1, max_wait_ms=20)) == b""
    part = await client.fetch("flights", 0, max_wait_ms=20, min_bytes=1 << 20)
    assert bases(bytes_of(part)) == [0]


async def test_a_topic_that_is_deleted_ends_the_wait(log: Log, broker: Broker, client: RawClient) -> None:
    client.send("Fetch", 12, fetching("flights", {0: 0}, max_wait_ms=FOREVER_MS))
    await waits(broker)
    log.delete_topic("flights")
    _, response = await client.receive()
    assert response.topics[0].partitions[0].error_code == Code.UNKNOWN_TOPIC_OR_PARTITION


async def test_a_client_that_goes_while_it_waits_leaves_nothing(broker: Broker) -> None:
    async with connected(broker) as client:
        client.send("Fetch", 12, fetching("flights", {0: 0}, max_wait_ms=FOREVER_MS))
        await waits(broker)
    memory = broker.node.memory
    await until(lambda: not (broker.connections or broker.node.bell.waiting or memory.in_hand_bytes))
    assert memory.unsent_bytes == 0


# Readers.


@pytest.fixture
def blocks() -> Iterator[BlockedFiles]:
    """Files whose reads can be held up."""
    files = BlockedFiles()
    yield files
    files.go_on.set()


class BlockedFiles(Files):
    """The real files; reads of those with a blocked name wait until they may go on."""

    def __init__(self) -> None:
        self.blocked, self.waiting, self.go_on = "", threading.Event(), threading.Event()
        self.reading = set[int]()
        """Descriptors of segments that are open for reading."""

    def open(self, path: Path, *, create: bool = False, write: bool = True) -> int:
        """Wait, if this is one of those."""
        if self.blocked and not write and path.match(self.blocked):
            self.waiting.set()
            assert self.go_on.wait(30)
        fd = super().open(path, create=create, write=write)
        if not write and path.suffix == ".log":
            self.reading.add(fd)
        return fd

    def close(self, fd: int) -> None:
        """It is no longer open."""
        self.reading.discard(fd)
        super().close(fd)


async def test_who_reads_from_a_slow_disk_holds_up_nobody_else(
    open_log: Callable[..., Log], blocks: BlockedFiles, start: Start, connect: Connect
) -> None:
    log = open_log(files=blocks)
    slow, fast = (log.partition(log.create_topic(name, 1), 0) for name in ("old", "new"))
    for partition in (slow, fast):
        append(log, partition, b"a")
    broker = await start(log)
    one, other = await connect(broker), await connect(broker)
    assert bases(bytes_of(await other.fetch("new", 0))) == [0]
    blocks.blocked = f"topics/{slow.topic.id}/0/*.log"
    one.send("Fetch", 12, fetching("old", {0: 0}))
    await asyncio.to_thread(blocks.waiting.wait, 30)
    append(log, fast, b"b")
    assert bases(bytes_of(await other.fetch("new", 1))) == [1]
    assert (await other.produce("new", batch_of(b"c"))).base_offset == 2
    blocks.go_on.set()
    _, response = await one.receive()
    assert bases(bytes_of(response.topics[0].partitions[0])) == [0]


async def test_a_client_that_goes_while_the_disk_reads_leaves_nothing(
    open_log: Callable[..., Log], blocks: BlockedFiles, start: Start
) -> None:
    log = open_log(files=blocks)
    partition = log.partition(log.create_topic("old", 1), 0)
    append(log, partition, b"a")
    broker = await start(log)
    blocks.blocked = "*.log"
    async with connected(broker) as client:
        client.send("Fetch", 12, fetching("old", {0: 0}))
        await asyncio.to_thread(blocks.waiting.wait, 30)
    await until(lambda: not broker.connections)
    blocks.go_on.set()
    await broker.__aexit__(None, None, None)
    assert len(broker.node.readers) == len(blocks.reading) == 0


async def test_closed_segments_are_read_like_the_last_one(log: Log, start: Start, connect: Connect) -> None:
    partition = log.partition(log.create_topic("many", 1, TopicSettings(segment_bytes=4096)), 0)
    for number in range(50):
        append(log, partition, b"%d" % number * 200)
    client = await connect(await start())
    offset, found = 0, list[int]()
    while offset < 50:
        found += bases(bytes_of(await client.fetch("many", offset, max_wait_ms=FOREVER_MS, min_bytes=2000)))
        offset = found[-1] + 1
    assert found == list(range(50))


async def test_readers_are_kept_for_those_who_read_last(log: Log, start: Start, connect: Connect) -> None:
    topic = log.create_topic("wide", 5)
    for number in range(5):
        append(log, log.partition(topic, number), b"a")
    broker = await start(max_open_readers=2)
    client, other = await connect(broker), await connect(broker)
    for _ in range(2):
        for number in range(5):
            assert bases(bytes_of(await client.fetch("wide", 0, number))) == [0]
            assert len(broker.node.readers) <= 2
    assert bases(bytes_of(await other.fetch("wide", 0))) == [0]
    other.writer.close()
    await until(lambda: broker.connections == 1)
    assert len(broker.node.readers) == 1


async def test_files_of_a_deleted_topic_are_let_go(log: Log, start: Start, connect: Connect) -> None:
    """As long as somebody has them open, the disk keeps them."""
    append(log, log.partition(log.create_topic("gone", 1), 0), b"a")
    broker = await start(connections_max_idle_ms=1000)
    client = await connect(broker)
    assert bases(bytes_of(await client.fetch("gone", 0))) == [0]
    assert len(broker.node.readers) == 1
    log.delete_topic("gone")
    await until(lambda: not len(broker.node.readers))


async def test_damage_is_told_and_logged_once_and_never_served(
    log: Log, partition: Partition, client: RawClient, caplog: Any
) -> None:
    append(log, partition, b"sound")
    append(log, partition, b"damaged")
    [path] = partition.directory.glob("*.log")
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert bases(bytes_of(await client.fetch("flights", 0))) == [0]
    for _ in range(2):
        part = await client.fetch("flights", 1)
        assert (Code(part.error_code), bytes_of(part)) == (Code.KAFKA_STORAGE_ERROR, b"")
    assert caplog.text.count("is damaged at byte") == 1


async def test_what_others_do_not_take_leaves_a_share_for_the_next(broker: Broker, log: Log, connect: Connect) -> None:
    """However much of the memory is taken, an answer has some batches, and one in any case."""
    partition = log.partition(log.topic("flights"), 1)
    for _ in range(4):
        append(log, partition, bytes(10_000))
    client = await connect(broker)
    broker.node.memory.unsent_bytes = broker.settings.queued_max_request_bytes
    assert broker.node.memory.fetch_bytes() == MIN_FETCH_BYTES
    assert bases(bytes_of(await client.fetch("flights", 0, 1))) == [0]
    broker.node.memory.unsent_bytes = 0
    assert bases(bytes_of(await client.fetch("flights", 0, 1))) == [0, 1, 2, 3]
