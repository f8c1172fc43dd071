"""Append times: when the batches of a segment were appended, by the log's clock.

    appended = "FWAPPND2" entry*                             `<base>.<generation>.appended`
    entry    = second:u32 crc:u32 base_offset:u64            one when the append second changes, big-endian

`crc` is CRC-32C of second and base offset. The entries cannot be rebuilt (a batch holds its producers' time, not the
log's); they are data, and are synced with the batches. Retention goes by them: one that is damaged is no time at all.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from fastcrc import crc32

APPENDED_MAGIC = b"FWAPPND2"
ENTRY_BYTES = 16
_ENTRY, _CHECKED = struct.Struct(">IIQ"), struct.Struct(">IQ")


def pack_entry(second: int, base_offset: int) -> bytes:
    """The entry of batches from *base_offset* on, appended in *second* or later."""
    return _ENTRY.pack(second, crc32.iscsi(_CHECKED.pack(second, base_offset)), base_offset)


def entry_at(data: bytes, position: int) -> tuple[int, int] | None:
    """(second, base offset) of the entry at *position*; None if it is cut short, or not what was written."""
    if len(data) - position < ENTRY_BYTES:
        return None
    second, crc, base_offset = _ENTRY.unpack_from(data, position)
    return (second, base_offset) if crc == crc32.iscsi(_CHECKED.pack(second, base_offset)) else None


def first_second(appended: Path) -> int | None:
    """When the first batch of a segment was appended; None if that is not known."""
    with suppress(FileNotFoundError), appended.open("rb") as file:
        first = entry_at(file.read(len(APPENDED_MAGIC) + ENTRY_BYTES), len(APPENDED_MAGIC))
        return first[0] if first else None
    return None


def last_second(appended: Path) -> int:
    """When the last batch of a segment was appended; 0 if that is not known."""
    with suppress(FileNotFoundError), appended.open("rb") as file:
        entries = (file.seek(0, os.SEEK_END) - len(APPENDED_MAGIC)) // ENTRY_BYTES
        if entries > 0:
            file.seek(len(APPENDED_MAGIC) + (entries - 1) * ENTRY_BYTES)
            last = entry_at(file.read(ENTRY_BYTES), 0)
            return last[0] if last else 0
    return 0


def append_times(data: bytes) -> list[tuple[int, int]]:
    """(second, base offset) of every sound entry in the content of a file."""
    return list(_sound(data))


def first_offset_at_second(data: bytes, second: int) -> int | None:
    """The first offset appended at or after *second*, by the content of a file; None if there is none."""
    return next((base_offset for at_second, base_offset in _sound(data) if at_second >= second), None)


def _sound(data: bytes) -> Iterator[tuple[int, int]]:
    for position in range(len(APPENDED_MAGIC), len(data) - ENTRY_BYTES + 1, ENTRY_BYTES):
        entry = entry_at(data, position)
        if entry is not None:
            yield entry
