"""Two structs by hand, since every record that is sent or read passes through them: about twice as fast as the table.

What they cannot do in a straight line, which is everything unusual and everything malformed, they leave to the table:
it starts on the same bytes from the beginning, and alone decides what they are. So these know no errors of their own.
"""

from __future__ import annotations

import struct
from functools import partial
from typing import Any

from framework.log.broker.reading import FAST_READERS, MAX_STRING_BYTES, Budget, Frame, Read, varint
from framework.log.broker.schema import NO_UUID
from framework.log.broker.table_records import (
    DivergingEpoch,
    FetchedPartition,
    Leader,
    ProducePartition,
    ProduceRequest,
    ProduceTopic,
    SnapshotId,
)
from framework.log.broker.writing import FAST_WRITERS, Target, Write, compact
from framework.log.errors import MalformedFrame

_new: Any = tuple.__new__
_I32, _TWO_I32 = struct.Struct(">i"), struct.Struct(">ii")
_FLEXIBLE_START, _OLD_START = struct.Struct(">bhi"), struct.Struct(">hhii")
_FIRST_OF_BATCHES = 3
"""The first version of Produce with batches as there are today, and with transactions."""
_LAST_BY_NAME = 12
"""The last version in which its topics have names; then they have ids."""
_LAST_SHORT = 0x7F
"""The largest varint of one byte."""


def produce_reader(version: int, flexible: bool, table: Read) -> Read:
    """What reads a Produce request."""
    if not _FIRST_OF_BATCHES <= version <= _LAST_BY_NAME:
        return table
    return partial(_read, _read_flexible_produce if flexible else _read_old_produce, table)


class _Unusual(Exception):
    """Something that is left to the table."""


def _read(by_hand: Read, table: Read, data: Frame, at: int, budget: Budget) -> tuple[Any, int]:
    try:
        return by_hand(data, at, budget)
    except (_Unusual, IndexError, struct.error, UnicodeDecodeError, MalformedFrame):
        return table(data, at, budget)


def _read_flexible_produce(data: Frame, at: int, budget: Budget) -> tuple[Any, int]:
    """No transaction, no tagged fields; names, and arrays but the frame's, with lengths of one byte."""
    null, acks, timeout_ms = _FLEXIBLE_START.unpack_from(data, at)
    topic_count, here = data[at + 7] - 1, at + 8
    left = budget.elements - topic_count
    if null or not 0 <= topic_count < _LAST_SHORT:
        raise _Unusual
    view, topics = memoryview(data), []
    for _ in range(topic_count):
        size = data[here]
        end = here + size
        count = data[end] - 1
        left -= count
        if not 0 < size <= _LAST_SHORT or not 0 <= count < _LAST_SHORT or left < 0:
            raise _Unusual
        name, here, partitions = data[here + 1 : end].decode(), end + 1, []
        for _ in range(count):
            (index,) = _I32.unpack_from(data, here)
            size, here = varint(data, here + 4)
            end = here + size - 1
            if not size or data[end]:
                raise _Unusual
            partitions.append(_new(ProducePartition, (index, view[here:end])))
            here = end + 1
        topics.append(_new(ProduceTopic, (name, NO_UUID, tuple(partitions))))
        if data[here]:
            raise _Unusual
        here += 1
    if data[here]:
        raise _Unusual
    budget.elements = left
    return _new(ProduceRequest, (None, acks, timeout_ms, tuple(topics))), here + 1


def _read_old_produce(data: Frame, at: int, budget: Budget) -> tuple[Any, int]:
    """No transaction, and nothing that is null."""
    null, acks, timeout_ms, topic_count = _OLD_START.unpack_from(data, at)
    left, here = min(budget.elements, len(data)) - topic_count, at + 12
    if null != -1 or topic_count < 0 or left < 0:
        raise _Unusual
    view, topics = memoryview(data), []
    for _ in range(topic_count):
        begin = here + 2
        here = begin + (data[here] << 8 | data[here + 1])
        (count,) = _I32.unpack_from(data, here)
        left -= count
        if here - begin > MAX_STRING_BYTES or count < 0 or left < 0:
            raise _Unusual
        name, here, partitions = data[begin:here].decode(), here + 4, []
        for _ in range(count):
            index, size = _TWO_I32.unpack_from(data, here)
            here += 8
            end = here + size
            if size < 0 or end > len(data):
                raise _Unusual
            partitions.append(_new(ProducePartition, (index, view[here:end])))
            here = end
        topics.append(_new(ProduceTopic, (name, NO_UUID, tuple(partitions))))
    budget.elements -= sum(len(topic[2]) for topic in topics) + topic_count
    return _new(ProduceRequest, (None, acks, timeout_ms, tuple(topics))), here


def fetched_writer(_: int, flexible: bool, table: Write) -> Write:
    """What writes the batches of one partition in a response to Fetch."""
    return partial(_write_flexible_partition, table) if flexible else table


def _write_flexible_partition(table: Write, target: Target, value: Any) -> None:
    """No aborted transactions, no tagged fields."""
    index, code, high, stable, start, epoch, leader, snapshot, aborted, replica, chunks = value
    if aborted or chunks is None or epoch != _NO_EPOCH or leader != _NO_LEADER or snapshot != _NO_SNAPSHOT:
        table(target, value)
        return
    target += _PARTITION.pack(index, code, high, stable, start, 0 if aborted is None else 1, replica)
    size = 0
    for chunk in chunks:
        size += len(chunk)
    target += compact(size)
    for chunk in chunks:
        target.put(chunk)
    target += b"\0"


_PARTITION = struct.Struct(">ihqqqbi")
_NO_EPOCH, _NO_LEADER, _NO_SNAPSHOT = DivergingEpoch(), Leader(), SnapshotId()

FAST_READERS[ProduceRequest] = produce_reader
FAST_WRITERS[FetchedPartition] = fetched_writer
