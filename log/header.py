"""The header of a Kafka record batch (magic 2), the unit in which the log writes and reads.

    batch  = base_offset:i64 length:i32 leader_epoch:i32 magic:i8 crc:u32        bytes 0-20
             attributes:i16 last_offset_delta:i32                                bytes 21-26
             first_timestamp:i64 max_timestamp:i64                               bytes 27-42
             producer_id:i64 producer_epoch:i16 base_sequence:i32 records:i32     bytes 43-60
             records                                                             (see `codec`)

Big-endian. `length` counts what follows it; `crc` is CRC-32C of everything from `attributes` on, so that
the base offset and the leader epoch, which only the log knows, can be set without computing it again.
Attributes: bits 0-2 compression, 3 log-append time, 4 transactional, 5 control, 6 delete horizon (see `compaction`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from fastcrc import crc32

from framework.log.errors import Damaged

HEADER = struct.Struct(">qiibIhiqqqhii")
HEADER_BYTES = HEADER.size
BEFORE_LENGTH_BYTES = 12
CRC_START = 21
MAGIC = 2
CONTROL = 0x20
DELETE_HORIZON = 0x40
_BASE, _LENGTH, _CRC = struct.Struct(">qi"), struct.Struct(">i"), struct.Struct(">I")

assert HEADER_BYTES == 61


class Header(NamedTuple):
    """One batch's header, with where the batch ends."""

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    first_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    records: int

    @property
    def size(self) -> int:
        """Bytes of the whole batch."""
        return self.length + BEFORE_LENGTH_BYTES

    @property
    def next_offset(self) -> int:
        """The first offset behind the batch."""
        return self.base_offset + self.last_offset_delta + 1

    @property
    def dense(self) -> bool:
        """Whether the batch has a record at each of its offsets: none was compacted away."""
        return self.last_offset_delta + 1 == self.records

    @property
    def last_sequence(self) -> int:
        """The sequence number of the last record, modulo 2^31."""
        return (self.base_sequence + self.last_offset_delta) & 0x7FFFFFFF


def read_header(buffer: bytes | bytearray | memoryview, position: int = 0) -> Header:
    """The header at *position* of *buffer*; `struct.error` where fewer than 61 bytes are left."""
    return Header._make(HEADER.unpack_from(buffer, position))


def peek(buffer: bytes | bytearray | memoryview, position: int) -> tuple[int, int]:
    """(base offset, bytes of the batch) at *position*, for walking without reading whole headers."""
    base_offset, length = _BASE.unpack_from(buffer, position)
    return base_offset, length + BEFORE_LENGTH_BYTES


def set_base_offset(batch: bytearray, base_offset: int) -> None:
    """Give *batch* its offset and leader epoch 0; the checksum covers neither."""
    _BASE_AND_EPOCH.pack_into(batch, 0, base_offset, len(batch) - BEFORE_LENGTH_BYTES, 0)


def seal(batch: bytearray) -> None:
    """Give *batch* the length that it has and the checksum of what it holds."""
    _LENGTH.pack_into(batch, 8, len(batch) - BEFORE_LENGTH_BYTES)
    _CRC.pack_into(batch, CRC_START - 4, checksum(batch))


def checksum(batch: bytes | bytearray | memoryview) -> int:
    """CRC-32C of a whole *batch*, as its header must hold it."""
    return int(crc32.iscsi(memoryview(batch)[CRC_START:]))


def fault(buffer: bytes | memoryview, position: int, base_offset: int) -> str | None:
    """What is wrong with the batch at *position*, which should begin at or after *base_offset*; None if sound.

    Never asserts: *buffer* may hold anything a power cut or a failing disk left.
    """
    left = len(buffer) - position
    if left < HEADER_BYTES:
        return f"{left} bytes are too few for a batch header"
    header = read_header(buffer, position)
    if header.magic != MAGIC:
        return f"magic is {header.magic}, not {MAGIC}"
    if header.size < HEADER_BYTES or header.size > left:
        return f"batch length {header.length} does not fit in the {left} bytes left"
    if header.base_offset < base_offset or header.last_offset_delta < 0:
        return f"batch offset {header.base_offset}+{header.last_offset_delta} is below {base_offset}"
    found = checksum(memoryview(buffer)[position : position + header.size])
    if found != header.crc:
        return f"checksum is {found:#010x}, the header says {header.crc:#010x}"
    return None


def walk(buffer: bytes | memoryview) -> Iterator[tuple[int, int, int]]:
    """(position, base offset, bytes) of each whole batch in *buffer*; stops at the first that is cut short."""
    position, end = 0, len(buffer)
    while end - position >= HEADER_BYTES:
        base_offset, size = peek(buffer, position)
        if size < HEADER_BYTES or size > end - position:
            return
        yield position, base_offset, size
        position += size


_BASE_AND_EPOCH = struct.Struct(">qii")


def check_batch(batch: bytearray) -> None:
    """Refuse what is not one batch from end to end.

    Raises:
        Damaged: It is not.
    """
    if len(batch) < HEADER_BYTES or read_header(batch).size != len(batch) or read_header(batch).magic != MAGIC:
        raise Damaged(f"{len(batch)} bytes are not one record batch")
