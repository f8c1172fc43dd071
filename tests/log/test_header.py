"""The batch header: what its checksum catches, what it cannot, and walking from one to the next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.record.default_records import DefaultRecordBatch

from framework.log.codec import NewRecord, encode
from framework.log.header import HEADER_BYTES, checksum, fault, peek, read_header, set_base_offset, walk

BASE_OFFSET = range(8)
LEADER_EPOCH = range(12, 16)


def batch_at(offset: int, *values: bytes) -> bytearray:
    """A sound batch of *values* that begins at *offset*."""
    records = [NewRecord(b"key", value, 1_700_000_000_000 + at) for at, value in enumerate(values)]
    [batch] = encode(records, max_batch_bytes=1 << 20, producer_id=77, producer_epoch=5, base_sequence=3)
    set_base_offset(batch, offset)
    return batch


def test_every_flipped_bit_that_the_checksum_covers_is_found() -> None:
    batch = batch_at(40, b"first", b"second")
    assert fault(bytes(batch), 0, 40) is None
    for place in set(range(len(batch))) - {*BASE_OFFSET, *LEADER_EPOCH}:
        for bit in range(8):
            broken = bytearray(batch)
            broken[place] ^= 1 << bit
            assert fault(bytes(broken), 0, 40) is not None, f"bit {bit} of byte {place}"


def test_a_flipped_bit_of_the_base_offset_is_found_where_it_points_back() -> None:
    """The checksum does not cover it: only the offset expected at the place can tell, and only a smaller one."""
    batch = batch_at(40, b"value")
    for place in BASE_OFFSET:
        for bit in range(8):
            broken = bytearray(batch)
            broken[place] ^= 1 << bit
            assert (fault(bytes(broken), 0, 40) is not None) == (read_header(broken).base_offset < 40)


def test_the_leader_epoch_means_nothing_to_the_log() -> None:
    batch = batch_at(40, b"value")
    for place in LEADER_EPOCH:
        batch[place] ^= 0xFF
    assert fault(bytes(batch), 0, 40) is None


def test_every_length_of_a_torn_batch_is_found() -> None:
    batch = bytes(batch_at(40, b"first", b"second"))
    for length in range(len(batch)):
        assert fault(batch[:length], 0, 40) is not None
        # A crash may also leave the file at its full length, with zeros where the rest was to be.
        if any(batch[length:]):
            assert fault(batch[:length] + bytes(len(batch) - length), 0, 40) is not None


@pytest.mark.parametrize(
    ("place", "byte", "reason"),
    [
        (16, 1, "magic is 1, not 2"),
        (8, 0x7F, "does not fit in the 76 bytes left"),
        (8, 0xFF, "does not fit"),
        (11, 20, "batch length 20 does not fit"),
        (23, 0x80, "is below 40"),
        (7, 39, r"batch offset 39\+0 is below 40"),
        (17, 0, "checksum is 0x[0-9a-f]{8}, the header says 0x00"),
    ],
)
def test_the_reason_names_what_is_wrong(place: int, byte: int, reason: str) -> None:
    batch = batch_at(40, b"value")
    batch[place] = byte
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(fault(bytes(batch), 0, 40))


def test_a_rest_too_short_for_a_header_is_named_so() -> None:
    batch = bytes(batch_at(0, b"value"))
    assert fault(batch + bytes(60), len(batch), 1) == "60 bytes are too few for a batch header"


@given(st.binary(max_size=200), st.integers(0, 210), st.integers(0, 1 << 40))
def test_garbage_is_a_fault_and_never_an_exception(data: bytes, position: int, base_offset: int) -> None:
    assert fault(data, position, base_offset) is not None
    assert list(walk(data)) == [] or len(data) >= HEADER_BYTES


def test_the_offset_and_epoch_of_a_batch_can_be_set_without_computing_its_checksum_again() -> None:
    batch = batch_at(0, b"value")
    before = read_header(batch)
    set_base_offset(batch, 1 << 50)
    after = read_header(batch)
    assert after == before._replace(base_offset=1 << 50)
    assert checksum(batch) == after.crc
    assert fault(bytes(batch), 0, 1 << 50) is None


def test_a_header_reads_as_kafka_python_reads_it() -> None:
    batch = batch_at(1000, b"a", b"b", b"c")
    ours, theirs = read_header(batch), DefaultRecordBatch(batch)
    assert theirs.validate_crc()
    for name in ("base_offset", "leader_epoch", "magic", "crc", "attributes", "last_offset_delta", "max_timestamp"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.size == theirs.size_in_bytes == len(batch)
    assert (ours.next_offset, ours.last_sequence) == (theirs.next_offset, theirs.last_sequence) == (1003, 5)
    assert (ours.producer_id, ours.producer_epoch, ours.base_sequence, ours.records) == (77, 5, 3, 3)
    assert peek(batch, 0) == (1000, len(batch))


@pytest.mark.parametrize(
    ("base", "delta", "last"), [(0, 0, 0), (5, 2, 7), (2**31 - 1, 0, 2**31 - 1), (2**31 - 1, 3, 2)]
)
def test_the_last_sequence_wraps_at_two_to_the_31(base: int, delta: int, last: int) -> None:
    header = read_header(batch_at(0, b"value"))._replace(base_sequence=base, last_offset_delta=delta)
    assert header.last_sequence == last


def test_walking_gives_every_whole_batch_and_stops_at_the_one_that_is_cut() -> None:
    batches = [bytes(batch_at(at, bytes(at * 10))) for at in range(4)]
    data, ends = b"".join(batches), [sum(map(len, batches[: at + 1])) for at in range(4)]
    for length in range(len(data) + 1):
        whole = sum(end <= length for end in ends)
        expected = [(ends[at] - len(batches[at]), at, len(batches[at])) for at in range(whole)]
        assert list(walk(data[:length])) == expected


def test_walking_stops_at_a_length_no_batch_can_have() -> None:
    first, second = batch_at(0, b"first"), batch_at(1, b"second")
    for length in (0, 48, 0x7FFFFFFF, -1, -(1 << 31)):
        second[8:12] = length.to_bytes(4, "big", signed=True)
        assert [base for _, base, _ in walk(bytes(first + second))] == [0]
