"""Producing: what is taken, in which order, and when it is acknowledged; what is refused, and how."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from framework.log import Log, StoredRecord, TopicSettings
from framework.log.broker import Buffer, Code, sent_before
from framework.log.broker.sent_before import SentBefore
from framework.log.broker.table_records import InitProducerIdRequest, ProducePartition, ProduceRequest, ProduceTopic
from framework.log.header import CONTROL, CRC_START, HEADER, read_header, seal
from framework.log.producers import TASK_PRODUCER_BIT
from tests.log.broker.client import RawClient, batch_of, connected, producing
from tests.log.broker.conftest import Connect, Start
from tests.log.conftest import FaultyFiles

ReadAll = Callable[..., list[StoredRecord]]


def changed(batch: bytearray, **fields: int) -> bytearray:
    """*batch* with other *fields* in its header, and a checksum that fits them."""
    batch[: HEADER.size] = HEADER.pack(*read_header(batch)._replace(**fields))
    seal(batch)
    return batch


@pytest.fixture
async def client(log: Log, start: Start, connect: Connect) -> RawClient:
    """A connection to a broker with the topics `flights`, of two partitions, and `prices`, which is compacted."""
    log.create_topic("flights", 2)
    log.create_topic("prices", 1, TopicSettings(cleanup_policy="compact"))
    return await connect(await start())


@pytest.mark.parametrize("version", range(3, 10))
@pytest.mark.parametrize("acks", [1, -1])
async def test_what_is_acknowledged_is_durable(log: Log, client: RawClient, acks: int, version: int) -> None:
    for offset in (0, 2):
        part = await client.produce("flights", batch_of(b"a", b"b"), 1, acks=acks, version=version)
        assert (part.error_code, part.base_offset, part.log_append_time_ms) == (0, offset, -1)
    partition = log.partition(log.topic("flights"), 1)
    assert partition.is_synced
    assert [record.value for _, record in log.read("flights")] == [b"a", b"b"] * 2


async def test_with_acks_0_there_is_no_answer(log: Log, client: RawClient) -> None:
    client.send("Produce", 9, producing("flights", {0: batch_of(b"first")}, acks=0))
    part = await client.produce("flights", batch_of(b"second"))
    assert part.base_offset == 1
    assert [record.value for _, record in log.read("flights")] == [b"first", b"second"]


async def test_with_acks_0_a_refused_batch_ends_the_connection(client: RawClient, caplog: Any) -> None:
    """There is no other way to tell the client."""
    client.send("Produce", 9, producing("nowhere", {0: batch_of(b"lost")}, acks=0))
    assert await client.ended() == b""
    assert "UNKNOWN_TOPIC_OR_PARTITION" in caplog.text


async def test_several_partitions_are_answered_one_by_one(client: RawClient) -> None:
    """What is wrong with one batch does not keep the others from being appended."""
    topics = [
        ProduceTopic(
            name="flights",
            partitions=[ProducePartition(index=index, records=batch_of(b"%d" % index)) for index in (1, 7, 0)],
        ),
        ProduceTopic(name="nowhere", partitions=[ProducePartition(index=0, records=batch_of(b""))]),
        ProduceTopic(name="prices", partitions=[ProducePartition(index=0, records=batch_of(b"5", key=b"tea"))]),
    ]
    response = await client.ask("Produce", 9, ProduceRequest(acks=-1, timeout_ms=1, topics=topics))
    answered = [
        (t.name, p.index, Code(p.error_code).name, p.base_offset) for t in response.topics for p in t.partitions
    ]
    assert answered == [
        ("flights", 1, "NONE", 0),
        ("flights", 7, "UNKNOWN_TOPIC_OR_PARTITION", -1),
        ("flights", 0, "NONE", 0),
        ("nowhere", 0, "UNKNOWN_TOPIC_OR_PARTITION", -1),
        ("prices", 0, "NONE", 0),
    ]


async def test_pipelined_requests_are_appended_and_answered_in_order(log: Log, client: RawClient) -> None:
    """Also where one in the middle is compressed, and takes longer to check."""
    compressions = ["uncompressed", "zstd", "uncompressed", "gzip", "uncompressed"] * 6
    sent = [
        client.send("Produce", 9, producing("flights", {0: batch_of(b"%d" % number * 100, compression=compression)}))
        for number, compression in enumerate(compressions)
    ]
    answers = [await client.receive() for _ in sent]
    assert [number for number, _ in answers] == sent
    assert [answer.topics[0].partitions[0].base_offset for _, answer in answers] == list(range(len(sent)))
    values = [record.value for _, record in log.read("flights")]
    assert values == [b"%d" % number * 100 for number in range(len(sent))]


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
async def test_compressed_batches_are_kept_as_they_are(log: Log, client: RawClient, compression: str) -> None:
    batch = batch_of(b"flight" * 100, compression=compression)
    assert (await client.produce("flights", batch)).error_code == 0
    partition = log.partition(log.topic("flights"), 0)
    [(_, kept)] = log.reader(partition, 0).read().batches
    assert kept[CRC_START:] == batch[CRC_START:]


def numbered_twice() -> bytearray:
    """Two records that both say that they are the first one."""
    batch = batch_of(b"x", b"x")
    second = bytearray(batch[HEADER.size :])
    half = len(second) // 2
    batch[HEADER.size :] = second[:half] * 2
    return changed(batch)


ZSTD = read_header(batch_of(b"x" * 100, compression="zstd")).attributes
REFUSED: dict[str, tuple[Callable[[], Buffer | None], Code, str]] = {
    "none": (lambda: None, Code.INVALID_RECORD, "0 bytes are too few"),
    "empty": (lambda: b"", Code.INVALID_RECORD, "0 bytes are too few"),
    "cut in the header": (lambda: batch_of(b"x")[:60], Code.INVALID_RECORD, "60 bytes are too few"),
    "cut": (lambda: batch_of(b"x")[:-1], Code.INVALID_RECORD, "takes one batch a request"),
    "two": (lambda: batch_of(b"x") + batch_of(b"y"), Code.INVALID_RECORD, "takes one batch a request"),
    "old": (lambda: changed(batch_of(b"x"), magic=1), Code.INVALID_RECORD, "format 1"),
    "flipped": (lambda: batch_of(b"x")[:-1] + b"?", Code.CORRUPT_MESSAGE, "checksum is 0x"),
    "too large": (lambda: batch_of(os.urandom(1 << 20)), Code.MESSAGE_TOO_LARGE, "max.message.bytes, 1048576"),
    "no records": (
        lambda: changed(batch_of(b"x"), records=0, last_offset_delta=-1),
        Code.INVALID_RECORD,
        "has 0 records",
    ),
    "a record more than it says": (
        lambda: changed(batch_of(b"x", b"y"), records=1, last_offset_delta=0),
        Code.INVALID_RECORD,
        "cannot be read",
    ),
    "a record less than it says": (
        lambda: changed(batch_of(b"x" * 20), records=2, last_offset_delta=1),
        Code.INVALID_RECORD,
        "cannot be read",
    ),
    "many more records than can be": (
        lambda: changed(batch_of(b"x"), records=1 << 30, last_offset_delta=(1 << 30) - 1),
        Code.INVALID_RECORD,
        "1073741824 records do not fit in",
    ),
    "offsets beyond its records": (
        lambda: changed(batch_of(b"x"), last_offset_delta=4),
        Code.INVALID_RECORD,
        "up to",
    ),
    "numbered twice": (numbered_twice, Code.INVALID_RECORD, "not numbered one after the other"),
    "transactional": (lambda: changed(batch_of(b"x"), attributes=0x10), Code.INVALID_TXN_STATE, "transaction"),
    "control": (lambda: changed(batch_of(b"x"), attributes=CONTROL), Code.INVALID_RECORD, "a control batch"),
    "with a horizon": (lambda: changed(batch_of(b"x"), attributes=0x40), Code.INVALID_RECORD, "attributes 0x0040"),
    "of an unknown codec": (
        lambda: changed(batch_of(b"x"), attributes=5),
        Code.UNSUPPORTED_COMPRESSION_TYPE,
        "compression 5",
    ),
    "not compressed as it says": (
        lambda: changed(batch_of(b"x"), attributes=ZSTD),
        Code.INVALID_RECORD,
        "cannot be decompressed",
    ),
    "a bomb": (
        lambda: batch_of(bytes(80 << 20), compression="zstd"),
        Code.INVALID_RECORD,
        "were more than 67108864",
    ),
    "of a task's producer": (
        lambda: changed(batch_of(b"x"), producer_id=TASK_PRODUCER_BIT | 5, producer_epoch=0, base_sequence=0),
        Code.INVALID_PRODUCER_ID_MAPPING,
        "none that a broker gives",
    ),
    "without a sequence": (
        lambda: changed(batch_of(b"x"), producer_id=5, producer_epoch=0),
        Code.INVALID_RECORD,
        "sequence -1",
    ),
}
"""What may not be appended, with the code and a part of the text that say why."""


@pytest.mark.parametrize("what", REFUSED)
async def test_what_is_no_sound_batch_is_refused(log: Log, client: RawClient, what: str) -> None:
    make, code, text = REFUSED[what]
    part = await client.produce("flights", make())
    assert (Code(part.error_code), part.base_offset) == (code, -1)
    assert text in str(part.error_message)
    # The connection goes on, and so does the partition.
    assert (await client.produce("flights", batch_of(b"sound"))).base_offset == 0
    assert [record.value for _, record in log.read("flights")] == [b"sound"]


async def test_a_compacted_topic_names_the_records_without_a_key(client: RawClient) -> None:
    part = await client.produce("prices", batch_of(b"1", b"2", b"3"))
    assert Code(part.error_code) == Code.INVALID_RECORD
    assert [fault.batch_index for fault in part.record_errors] == [0, 1, 2]
    assert (await client.produce("prices", batch_of(b"1", key=b"tea"))).error_code == 0


@pytest.mark.parametrize(
    ("topic", "acks", "version", "transaction", "code"),
    [
        ("flights", 2, 9, None, Code.INVALID_REQUIRED_ACKS),
        ("flights", -1, 2, None, Code.UNSUPPORTED_VERSION),
        ("flights", -1, 9, "mine", Code.INVALID_TXN_STATE),
        ("__control", -1, 9, None, Code.INVALID_TOPIC_EXCEPTION),
    ],
)
async def test_what_is_asked_wrong_is_refused(
    log: Log, client: RawClient, topic: str, acks: int, version: int, transaction: str | None, code: Code
) -> None:
    log.create_topic("__control", 1)
    body = producing(topic, {0: batch_of(b"x")}, acks=acks)._replace(transactional_id=transaction)  # type: ignore[attr-defined]
    response = await client.ask("Produce", version, body)
    assert response.topics[0].partitions[0].error_code == code


# Idempotent producers.


async def drawn(client: RawClient) -> int:
    """A producer id."""
    response = await client.ask("InitProducerId", 4, InitProducerIdRequest(transaction_timeout_ms=1))
    assert (response.error_code, response.producer_epoch) == (0, 0)
    return int(response.producer_id)


async def test_a_batch_sent_again_is_acknowledged_with_its_offset(log: Log, client: RawClient) -> None:
    """Each of the five that may be unacknowledged, and older ones as long as they are near the end of the log."""
    options: dict[str, Any] = {"producer_id": await drawn(client), "producer_epoch": 0}
    batches = [bytes(batch_of(b"a", b"b", **options, base_sequence=2 * number)) for number in range(6)]
    for _ in range(2):
        answers = [await client.produce("flights", batch) for batch in batches]
    found = [(Code(part.error_code).name, part.base_offset) for part in answers]
    assert found == [("NONE", 2 * number) for number in range(6)]
    assert len(list(log.read("flights"))) == 12


async def test_after_a_restart_batches_sent_again_are_acknowledged_with_their_offsets(log: Log, start: Start) -> None:
    """Whatever has come behind them, of others too: else clients would count offsets of their own."""
    log.create_topic("flights", 1)
    options: dict[str, Any] = {"producer_id": 7, "producer_epoch": 0}
    batches = [bytes(batch_of(b"a", b"b", **options, base_sequence=2 * number)) for number in range(5)]
    other = bytes(batch_of(*[b"c"] * 300))
    for _ in range(2):
        broker = await start()
        async with connected(broker) as client:
            answers = []
            for batch in batches:
                answers.append(await client.produce("flights", batch))
                await client.produce("flights", other)
        assert [(part.error_code, part.base_offset) for part in answers] == [(0, 302 * number) for number in range(5)]
        await broker.__aexit__(None, None, None)
    assert len(list(log.read("flights"))) == 5 * 302 + 5 * 300


async def test_a_batch_sent_again_long_after_is_acknowledged_without_an_offset(
    log: Log, client: RawClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients take it for success."""
    monkeypatch.setattr(sent_before, "MAX_SOUGHT_BYTES", 1000)
    options: dict[str, Any] = {"producer_id": await drawn(client), "producer_epoch": 0}
    batches = [bytes(batch_of(bytes(400), **options, base_sequence=number)) for number in range(300)]
    for batch in batches:
        await client.produce("flights", batch)
    answer = await client.produce("flights", batches[0])
    assert (answer.error_code, answer.base_offset) == (Code.DUPLICATE_SEQUENCE_NUMBER, -1)
    assert len(list(log.read("flights"))) == 300


async def test_wrong_sequences_and_epochs_have_their_codes(client: RawClient) -> None:
    async def produced(producer_id: int, epoch: int, sequence: int) -> str:
        batch = batch_of(b"x", producer_id=producer_id, producer_epoch=epoch, base_sequence=sequence)
        return Code((await client.produce("flights", batch)).error_code).name

    assert await produced(8, 0, 0) == "NONE"
    assert await produced(8, 0, 2) == "OUT_OF_ORDER_SEQUENCE_NUMBER"
    assert await produced(8, 1, 0) == "NONE"
    assert await produced(8, 0, 1) == "INVALID_PRODUCER_EPOCH"
    # Nothing is known of it: the log has forgotten it, and it has to begin anew, under another id.
    assert await produced(9, 0, 5) == "UNKNOWN_PRODUCER_ID"


async def test_a_producer_that_is_not_known_is_told_where_the_log_starts(log: Log, client: RawClient) -> None:
    """Java's producer sends the same batch again until it is told that, and only then begins anew."""
    partition = log.partition(log.topic("flights"), 0)
    log.append(partition, [batch_of(b"a", b"b")]).result(30)
    partition.delete_records(1)
    answer = await client.produce("flights", batch_of(b"x", producer_id=9, producer_epoch=0, base_sequence=5))
    assert (Code(answer.error_code), answer.log_start_offset) == (Code.UNKNOWN_PRODUCER_ID, 1)
    assert (await client.produce("none", batch_of(b"x"))).log_start_offset == -1


async def test_producer_ids_are_all_different_and_none_is_a_tasks(client: RawClient) -> None:
    ids = [await drawn(client) for _ in range(50)]
    assert len(set(ids)) == 50
    assert all(0 <= producer_id < TASK_PRODUCER_BIT for producer_id in ids)


async def test_a_transactional_producer_is_refused(client: RawClient) -> None:
    body = InitProducerIdRequest(transactional_id="mine", transaction_timeout_ms=1)
    assert (await client.ask("InitProducerId", 4, body)).error_code == Code.INVALID_REQUEST


def test_only_the_producers_that_sent_last_are_remembered(log: Log) -> None:
    partition = log.partition(log.create_topic("flights", 1), 0)
    before, headers = SentBefore(max_producers=2), []
    for producer_id in (1, 2, 3):
        headers.append(read_header(batch_of(b"", producer_id=producer_id, producer_epoch=0, base_sequence=0)))
        before.add(partition, headers[-1], producer_id * 10)
        before.add(partition, headers[0], 10)  # Sends all the time.
    assert [before.offset_of(partition, header) for header in headers] == [10, None, 30]
    assert len(before) == 2


# Disks.


async def test_a_full_disk_refuses_and_goes_on_when_there_is_room(
    open_log: Callable[..., Log], files: FaultyFiles, start: Start, connect: Connect
) -> None:
    log = open_log(files=files)
    log.create_topic("flights", 1)
    client = await connect(await start(log))
    assert (await client.produce("flights", batch_of(b"first"))).error_code == 0
    files.room_bytes = 10
    part = await client.produce("flights", batch_of(b"no room"))
    assert Code(part.error_code) == Code.KAFKA_STORAGE_ERROR
    assert "No space left" in str(part.error_message)
    files.room_bytes = None
    assert (await client.produce("flights", batch_of(b"second"))).base_offset == 1


async def test_a_disk_that_fails_to_sync_acknowledges_nothing(
    open_log: Callable[..., Log], files: FaultyFiles, start: Start, connect: Connect
) -> None:
    log = open_log(files=files)
    log.create_topic("flights", 1)
    client = await connect(await start(log))
    assert (await client.produce("flights", batch_of(b"first"))).error_code == 0

    def fail(operation: str, path: Path) -> None:
        if operation == "fdatasync" and path.suffix == ".log":
            raise OSError(errno.EIO, "Input/output error")

    files.before = fail
    for _ in range(2):
        assert Code((await client.produce("flights", batch_of(b"lost"))).error_code) == Code.KAFKA_STORAGE_ERROR


async def test_a_slow_disk_holds_up_nobody_who_does_not_write(
    open_log: Callable[..., Log], files: FaultyFiles, start: Start, connect: Connect
) -> None:
    """Several requests of one connection are appended meanwhile, and acknowledged in order when they are durable."""
    log = open_log(files=files)
    log.create_topic("flights", 1)
    broker = await start(log)
    writing, reading = await connect(broker), await connect(broker)
    assert (await writing.produce("flights", batch_of(b"first"))).error_code == 0
    syncing, go_on = threading.Event(), threading.Event()

    def wait(operation: str, path: Path) -> None:
        if operation == "fdatasync" and path.suffix == ".log":
            syncing.set()
            assert go_on.wait(30)

    files.before = wait
    sent = [writing.send("Produce", 9, producing("flights", {0: batch_of(b"%d" % number)})) for number in range(3)]
    assert (await reading.fetch("flights", 0)).high_watermark == 1
    go_on.set()
    answers = [await writing.receive() for _ in sent]
    assert [number for number, _ in answers] == sent
    assert all(a < b for a, b in pairwise(answer.topics[0].partitions[0].base_offset for _, answer in answers))
