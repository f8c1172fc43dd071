"""What is written by hand does what the table does, for every frame: sound, unusual or malformed."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.log.broker import APIS, Struct
from framework.log.broker.fast import fetched_writer, produce_reader
from framework.log.broker.reading import Budget, Read, reader, table_reader
from framework.log.broker.table_records import (
    AbortedTransaction,
    DivergingEpoch,
    FetchedPartition,
    Leader,
    ProducePartition,
    ProduceRequest,
    ProduceTopic,
    SnapshotId,
)
from framework.log.broker.writing import Target, table_writer, writer
from tests.log.broker.drawn import of_version, structs

PRODUCE, FETCH = APIS[0], APIS[1]


def outcome(read: Read, data: bytes, elements: int) -> tuple[Any, ...]:
    """All that reading *data* gives: a value, where it ends and what is left of the budget, or the error."""
    budget = Budget(elements)
    try:
        return *read(data, 1, budget), budget.elements
    except Exception as error:  # noqa: BLE001  # whatever it is, both must raise it
        return type(error), str(error)


def no_table(*_: object) -> Any:
    """Stands in for the table where it must not be needed."""
    raise AssertionError("what is usual was left to the table")


def usual(topics: int = 2, partitions: int = 3) -> ProduceRequest:
    """A request as producers send it."""
    parts = [ProducePartition(index=index, records=b"batch" * 100 * index) for index in range(partitions)]
    named = [ProduceTopic(name=f"topic-{number}", partitions=parts) for number in range(topics)]
    return ProduceRequest(acks=-1, timeout_ms=30_000, topics=named)


def written(value: Struct, version: int) -> bytes:
    """A body of Produce, with a byte before it."""
    target = Target(b"?")
    writer(type(value), version, PRODUCE.flexible(version))(target, of_version(value, version))
    return b"".join(target.buffers())


@pytest.mark.slow
@settings(max_examples=300, derandomize=True)
@given(structs(ProduceRequest), st.booleans(), st.sampled_from(PRODUCE.versions), st.integers(0, 12), st.data())
def test_produce_is_read_as_by_the_table(
    value: Struct, plain: bool, version: int, elements: int, data: st.DataObject
) -> None:
    """Also when bytes are changed or missing, and when there are more elements than there may be."""
    value = usual(elements % 3, elements % 4) if plain else value
    body = bytearray(written(value, version))
    fast = reader(ProduceRequest, version, PRODUCE.flexible(version))
    table = table_reader(ProduceRequest, version, PRODUCE.flexible(version))
    assert outcome(fast, bytes(body), 1000) == outcome(table, bytes(body), 1000)
    assert outcome(fast, bytes(body), elements) == outcome(table, bytes(body), elements)
    for _ in range(10):
        body[data.draw(st.integers(1, len(body) - 1))] = data.draw(st.integers(0, 255))
        end = data.draw(st.just(len(body)) | st.integers(1, len(body)))
        assert outcome(fast, bytes(body[:end]), 1000) == outcome(table, bytes(body[:end]), 1000)


@pytest.mark.parametrize("version", range(3, 13))
@pytest.mark.parametrize("partitions", [0, 1, 126])
def test_the_usual_produce_does_not_need_the_table(version: int, partitions: int) -> None:
    value = usual(3, partitions)
    read = produce_reader(version, PRODUCE.flexible(version), no_table)
    found, end, left = outcome(read, written(value, version), 1000)
    assert found == of_version(value, version)
    assert end == len(written(value, version))
    assert left == 1000 - 3 - 3 * partitions


START = b"?\0" + b"\xff\xff\0\0\0\0"
"""A body of Produce, flexible, up to its topics: no transaction, acks of -1, no timeout."""
OLD_START = b"?\xff\xff" + b"\xff\xff\0\0\0\0" + b"\0\0\0\1"
TAGS = b"\1\7\2ab"


@pytest.mark.parametrize(
    ("version", "body"),
    [
        (9, START + b"\1" + TAGS),
        (9, START + b"\2\2t\1" + TAGS + b"\0"),
        (9, START + b"\2\2t\2\0\0\0\0\3xy" + TAGS + b"\0\0"),
        (9, START + b"\2\2t\2\0\0\0\0\3xy" + b"\1\0\0" + b"\0\0"),
        (9, START + b"\2\2t\2\0\0\0\0\0\0\0\0"),
        (9, START + b"\2\0\1\0\0"),
        (9, START + b"\2\2t\0\0\0"),
        (9, START + b"\0\0"),
        (9, b"?\3id" + START[2:] + b"\1\0"),
        (3, OLD_START + b"\xff\xff\0\0\0\0"),
        (3, OLD_START + b"\x80\0" + b"n" * 0x8000 + b"\0\0\0\0"),
        (3, OLD_START + b"\0\1t\xff\xff\xff\xff"),
        (3, OLD_START + b"\0\1t\0\0\0\1\0\0\0\0\xff\xff\xff\xff"),
    ],
    ids=itertools.count(),
)
def test_what_is_unusual_about_a_produce_is_left_to_the_table(version: int, body: bytes) -> None:
    """Tagged fields, nulls, transactions, names that are too long: not all of it is wrong."""
    fast = reader(ProduceRequest, version, PRODUCE.flexible(version))
    table = table_reader(ProduceRequest, version, PRODUCE.flexible(version))
    assert outcome(fast, body, 10) == outcome(table, body, 10)
    by_hand = produce_reader(version, PRODUCE.flexible(version), no_table)
    assert outcome(by_hand, body, 10) == (AssertionError, "what is usual was left to the table")


@pytest.mark.slow
@settings(max_examples=300, derandomize=True)
@given(structs(FetchedPartition), st.booleans(), st.sampled_from(FETCH.versions))
def test_fetched_batches_are_written_as_by_the_table(value: Any, plain: bool, version: int) -> None:
    if plain:
        value = FetchedPartition(index=value[0], high_watermark=value[2], records=value[-1])
    fast, table, flexible = Target(), Target(), FETCH.flexible(version)
    writer(FetchedPartition, version, flexible)(fast, value)
    table_writer(FetchedPartition, version, flexible)(table, value)
    assert fast == table
    assert (fast.kept, fast.kept_bytes) == (table.kept, table.kept_bytes)


@pytest.mark.parametrize(
    ("value", "needs_table"),
    [
        (FetchedPartition(index=1, high_watermark=7, records=[b"batch", bytes(5000)]), False),
        (FetchedPartition(index=1, high_watermark=7), False),
        (FetchedPartition(index=1, high_watermark=7, records=None), True),
        (FetchedPartition(index=1, high_watermark=7, current_leader=Leader(leader_id=1)), True),
        (FetchedPartition(index=1, high_watermark=7, diverging_epoch=DivergingEpoch(epoch=1)), True),
        (FetchedPartition(index=1, high_watermark=7, snapshot_id=SnapshotId(epoch=1)), True),
        (
            FetchedPartition(
                index=1,
                high_watermark=7,
                aborted_transactions=[AbortedTransaction(producer_id=1, first_offset=2)],
            ),
            True,
        ),
    ],
)
def test_usual_batches_are_written_without_the_table(value: FetchedPartition, needs_table: bool) -> None:
    write = fetched_writer(12, True, no_table)
    if needs_table:
        with pytest.raises(AssertionError, match="left to the table"):
            write(Target(), value)
    else:
        write(Target(), value)
