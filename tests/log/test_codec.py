"""Records to batches and back, against a codec written here and against kafka-python's."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.record import MemoryRecords

from framework.log.codec import NO_HEADERS, NewRecord, decode, decode_values, encode
from framework.log.errors import Damaged, RecordTooLarge
from framework.log.header import checksum, fault, read_header

# The oracle: the grammar in `codec` and `header`, in plain Python and nothing else.

Plain = tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]
"""Offset, timestamp, key, value, headers."""


def crc32c(data: bytes) -> int:
    """CRC-32C bit by bit: slow, short, and nobody else's."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF


def varint(number: int) -> bytes:
    """Zigzag, seven bits a byte, the lowest first."""
    number, out = number * 2 if number >= 0 else -number * 2 - 1, bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def sized(data: bytes | None) -> bytes:
    """Length and bytes; -1 for None."""
    return varint(-1) if data is None else varint(len(data)) + data


def plain_encode(records: list[NewRecord], producer: tuple[int, int, int] = (-1, -1, -1)) -> bytes:
    """All *records* in one batch, based at offset 0."""
    first, body = records[0].timestamp, b""
    for delta, record in enumerate(records):
        one = b"\0" + varint(record.timestamp - first) + varint(delta) + sized(record.key) + sized(record.value)
        one += varint(len(record.headers))
        one += b"".join(sized(name.encode()) + sized(value) for name, value in record.headers)
        body += varint(len(one)) + one
    last, largest = len(records) - 1, max(record.timestamp for record in records)
    covered = struct.pack(">hiqqqhii", 0, last, first, largest, *producer, len(records)) + body
    return struct.pack(">qiibI", 0, len(covered) + 9, -1, 2, crc32c(covered)) + covered


class Cursor:
    """Reads values off bytes."""

    def __init__(self, data: bytes) -> None:
        """At the beginning."""
        self.data, self.at = data, 0

    def varint(self) -> int:
        """The next number."""
        number = shift = 0
        while True:
            byte, self.at = self.data[self.at], self.at + 1
            number, shift = number | (byte & 127) << shift, shift + 7
            if byte < 128:
                return number >> 1 ^ -(number & 1)

    def sized(self) -> bytes | None:
        """The next bytes, or None."""
        length = self.varint()
        if length < 0:
            return None
        self.at += length
        return self.data[self.at - length : self.at]


def plain_decode(batch: bytes) -> list[Plain]:
    """The records of *batch*."""
    (base,) = struct.unpack_from(">q", batch)
    first, count = struct.unpack_from(">q", batch, 27)[0], struct.unpack_from(">i", batch, 57)[0]
    cursor, records = Cursor(batch[61:]), []
    for _ in range(count):
        length, begun = cursor.varint(), cursor.at
        cursor.at += 1
        timestamp, offset = first + cursor.varint(), base + cursor.varint()
        key, value = cursor.sized(), cursor.sized()
        headers = [((cursor.sized() or b"").decode(), cursor.sized()) for _ in range(cursor.varint())]
        assert cursor.at - begun == length
        records.append((offset, timestamp, key, value, headers))
    assert cursor.at == len(cursor.data)
    return records


def plain(records: list[NewRecord], base: int = 0) -> list[Plain]:
    """What decoding *records* must give."""
    return [(base + at, r.timestamp, r.key, r.value, list(r.headers)) for at, r in enumerate(records)]


maybe_bytes = st.none() | st.binary(max_size=150)
any_headers = st.lists(st.tuples(st.text(max_size=8), maybe_bytes), max_size=3)
any_record = st.builds(NewRecord, maybe_bytes, maybe_bytes, st.integers(0, 1 << 45), any_headers)
any_records = st.lists(any_record, min_size=1, max_size=12)


@pytest.mark.slow
@given(any_records)
def test_a_batch_is_byte_for_byte_what_the_grammar_says(records: list[NewRecord]) -> None:
    [batch] = encode(records, max_batch_bytes=1 << 20)
    assert bytes(batch) == plain_encode(records)


@pytest.mark.slow
@given(any_records)
def test_what_the_grammar_says_is_read_back(records: list[NewRecord]) -> None:
    decoded = decode(plain_encode(records))
    assert [(r.offset, r.timestamp, r.key, r.value, list(r.headers)) for r in decoded] == plain(records)
    assert decode_values(plain_encode(records)) == [record.value for record in records]


@pytest.mark.slow
@given(any_records, st.integers(1500, 4000))
def test_kafka_python_reads_what_is_encoded(records: list[NewRecord], max_batch_bytes: int) -> None:
    found: list[NewRecord] = []
    for batch in encode(records, max_batch_bytes=max_batch_bytes):
        theirs = next(MemoryRecords(bytes(batch)))
        assert theirs.validate_crc()
        found += [NewRecord(r.key, r.value, r.timestamp, list(r.headers)) for r in theirs]
    assert found == records


@pytest.mark.slow
@given(any_records, st.integers(1500, 4000))
def test_batches_are_filled_in_order_up_to_their_limit_and_no_further(
    records: list[NewRecord], max_batch_bytes: int
) -> None:
    """Each batch is within the limit, and would not be with the next record too."""
    batches, at = encode(records, max_batch_bytes=max_batch_bytes), 0
    for batch in batches:
        count = read_header(batch).records
        assert len(batch) <= max_batch_bytes
        assert plain_decode(bytes(batch)) == plain(records[at : at + count])
        at += count
        if at < len(records):
            assert len(plain_encode(records[at - count : at + 1])) > max_batch_bytes
    assert at == len(records)


@pytest.mark.slow
@given(any_records, st.integers(0, (1 << 31) - 1))
def test_sequences_run_on_through_the_batches_modulo_two_to_the_31(
    records: list[NewRecord], base_sequence: int
) -> None:
    batches = encode(records, max_batch_bytes=1500, producer_id=9, producer_epoch=3, base_sequence=base_sequence)
    expected = base_sequence
    for batch in batches:
        header = read_header(batch)
        assert (header.producer_id, header.producer_epoch, header.base_sequence) == (9, 3, expected)
        assert fault(bytes(batch), 0, 0) is None
        expected = (expected + header.records) % (1 << 31)


def test_the_sequence_behind_the_largest_is_zero() -> None:
    records = [NewRecord(None, bytes(900), 0)] * 4
    batches = encode(records, max_batch_bytes=1024, producer_id=9, producer_epoch=3, base_sequence=(1 << 31) - 2)
    assert [read_header(batch).base_sequence for batch in batches] == [(1 << 31) - 2, (1 << 31) - 1, 0, 1]


def test_batches_without_a_producer_have_no_sequence() -> None:
    headers = [read_header(b) for b in encode([NewRecord(None, bytes(900), 0)] * 3, max_batch_bytes=1024)]
    assert [(h.producer_id, h.producer_epoch, h.base_sequence) for h in headers] == [(-1, -1, -1)] * 3


def test_no_records_are_no_batches() -> None:
    assert encode([], max_batch_bytes=1024) == []


@given(any_record)
def test_a_record_may_fill_its_batch_to_the_last_byte_and_not_exceed_it(record: NewRecord) -> None:
    size = len(plain_encode([record]))
    [batch] = encode([record], max_batch_bytes=size)
    assert len(batch) == size
    with pytest.raises(RecordTooLarge, match=f"{size} bytes, max.message.bytes of its topic is {size - 1}"):
        encode([record], max_batch_bytes=size - 1)


def test_a_record_that_is_too_large_is_refused_behind_smaller_ones_too() -> None:
    with pytest.raises(RecordTooLarge):
        encode([NewRecord(None, b"small", 0), NewRecord(None, bytes(2000), 0)], max_batch_bytes=1024)


def test_the_shared_empty_headers_stay_empty() -> None:
    [batch] = encode([NewRecord(b"k", b"v", 5)], max_batch_bytes=1024)
    [record] = decode(memoryview(batch))
    record.headers.append(("mine", b""))
    assert NO_HEADERS == []
    assert decode(bytes(batch))[0].headers == []


def test_a_batch_cut_between_its_records_is_damaged_although_its_checksum_is_right() -> None:
    whole = plain_encode([NewRecord(b"key", b"value", 0, [("name", b"header")])] * 2)
    for end in range(61, len(whole)):
        cut = bytearray(whole[:end])
        struct.pack_into(">i", cut, 8, end - 12)
        struct.pack_into(">I", cut, 17, checksum(cut))
        with pytest.raises(Damaged, match=f"a batch of {end} bytes"):
            decode(bytes(cut))


@pytest.mark.slow
@given(any_records, st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4))
def test_garbage_behind_a_right_checksum_raises_damaged_and_nothing_else(
    records: list[NewRecord], changes: list[tuple[int, int]]
) -> None:
    batch = bytearray(plain_encode(records))
    for place, byte in changes:
        batch[21 + place % (len(batch) - 21)] = byte
    struct.pack_into(">I", batch, 17, checksum(batch))
    for read in (decode, decode_values):
        with suppress(Damaged):
            read(bytes(batch))


@pytest.mark.parametrize("compression", [1, 5, 6, 7])
def test_a_batch_whose_compressed_records_cannot_be_read_is_damaged(compression: int) -> None:
    """The bits say gzip, or nothing known; the bytes are none of them."""
    batch = bytearray(plain_encode([NewRecord(b"key", b"value", 0)]))
    batch[22] = compression
    struct.pack_into(">I", batch, 17, checksum(batch))
    for read in (decode, decode_values):
        with pytest.raises(Damaged):
            read(bytes(batch))
