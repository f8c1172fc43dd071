"""Other people's decoders read our segment files as they are on the disk."""

from __future__ import annotations

import random
from typing import Any

import pytest
from aiokafka.record.memory_records import MemoryRecords as MemoryRecordsOfAiokafka
from kafka.record import MemoryRecords

from framework.log import NewRecord, TopicSettings, encode


def some_records(chance: random.Random, count: int) -> list[NewRecord]:
    """Records with everything a record may have, and without."""
    names = ["trace", "ünïcödé", "", "x" * 200]
    return [
        NewRecord(
            chance.choice([None, b"", b"key-%d" % at, chance.randbytes(300)]),
            chance.choice([None, b"", b"value-%d" % at, chance.randbytes(900)]),
            1_700_000_000_000 + chance.randrange(-100_000, 100_000),
            [
                (chance.choice(names), chance.choice([None, b"", b"\xff\x00", chance.randbytes(50)]))
                for _ in range(chance.randrange(4))
            ],
        )
        for at in range(count)
    ]


@pytest.mark.parametrize("decoder", [MemoryRecords, MemoryRecordsOfAiokafka])
def test_a_foreign_decoder_reads_our_segment_files_record_for_record(open_log: Any, seed: int, decoder: Any) -> None:
    """Offsets, keys, values, headers and millisecond timestamps; producers and sequences in the batches."""
    log, chance = open_log(), random.Random(seed)
    settings = TopicSettings(segment_bytes=8192)
    partition = log.partition(log.create_topic("t", 1, settings), 0)
    written: list[NewRecord] = []
    sequence = 0
    while len(written) < 300:
        records = some_records(chance, chance.randrange(1, 12))
        producer: dict[str, Any] = {"producer_id": 12, "producer_epoch": 3, "base_sequence": sequence}
        log.append(partition, encode(records, max_batch_bytes=2500, **producer)).result(60)
        written += records
        sequence += len(records)

    found: list[tuple[int, NewRecord]] = []
    for segment in partition.segments():
        batches = decoder(segment.path.read_bytes())
        assert (found[-1][0] + 1 if found else 0) == segment.base_offset
        while (batch := batches.next_batch()) is not None:
            assert batch.validate_crc()
            assert (batch.magic, batch.producer_id, batch.producer_epoch) == (2, 12, 3)
            assert batch.base_sequence == batch.base_offset
            found += [(r.offset, NewRecord(r.key, r.value, r.timestamp, list(r.headers))) for r in batch]
    assert len(partition.segments()) > 3
    assert [offset for offset, _ in found] == list(range(len(written)))
    assert [record for _, record in found] == written


def test_a_batch_of_a_foreign_producer_is_stored_as_it_came_but_for_its_offset(open_log: Any, read_all: Any) -> None:
    """As the broker will: the checksum covers neither the base offset nor the leader epoch."""
    from kafka.record import MemoryRecordsBuilder

    log = open_log()
    partition = log.partition(log.create_topic("t", 1), 0)
    log.append(partition, encode([NewRecord(None, b"ours", 0)], max_batch_bytes=1024)).result(60)
    builder = MemoryRecordsBuilder(2, 0, 1 << 16)
    for at in range(3):
        builder.append(timestamp=1000 + at, key=b"k%d" % at, value=None if at == 1 else b"v", headers=[("h", b"x")])
    builder.close()
    theirs = bytearray(builder.buffer())
    sent = bytes(theirs)
    assert log.append(partition, [theirs]).result(60) == 1
    stored = partition.segments()[0].path.read_bytes()[-len(sent) :]
    assert stored[16:] == sent[16:]
    assert stored[8:12] == sent[8:12]
    assert [(r.offset, r.timestamp, r.key, r.value, list(r.headers)) for r in read_all(log, partition, 1)] == [
        (1, 1000, b"k0", b"v", [("h", b"x")]),
        (2, 1001, b"k1", None, [("h", b"x")]),
        (3, 1002, b"k2", b"v", [("h", b"x")]),
    ]
