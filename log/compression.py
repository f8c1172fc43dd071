r"""Compression of the records of a batch: gzip, snappy, lz4 and zstd, framed as Kafka's clients frame them.

    gzip    one member
    snappy  "\x82SNAPPY\0" 1:i32 1:i32 (length:i32 block)*     32 KiB a block, as in Java; a bare block is read too
    lz4     one frame of independent blocks
    zstd    one frame

A few kilobytes can say that they are gigabytes. Nothing is allocated beyond the limit that the caller names.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import Any

import cramjam

from framework.log.errors import Damaged, InvalidSetting

COMPRESSIONS: Mapping[str, int] = {"uncompressed": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
"""Kafka's names of them, and what bits 0-2 of a batch's attributes say."""
COMPRESSION_MASK = 7
MAX_UNCOMPRESSED_BYTES = 64 << 20
"""What a batch may hold when nobody says otherwise; a topic says `max.uncompressed.bytes`."""

_GZIP, _SNAPPY, _LZ4, _ZSTD = 1, 2, 3, 4
_GZIP_LEVEL, _LZ4_LEVEL, _ZSTD_LEVEL = 6, 1, 3
_SNAPPY_HEAD = b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1)
_SNAPPY_MAGIC_BYTES = 8
_SNAPPY_BLOCK_BYTES = 32 << 10
_LENGTH = struct.Struct(">i")
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_GROWTH = 4


def check_compression(name: str | None) -> str | None:
    """*name*, if a producer can compress so; None leaves it to the topic.

    Raises:
        InvalidSetting: It is none of `COMPRESSIONS`.
    """
    if name is not None and name not in COMPRESSIONS:
        raise InvalidSetting(f"compression {name!r} is not known: it is one of {', '.join(COMPRESSIONS)}")
    return name


def compress(kind: int, data: bytes | bytearray | memoryview) -> bytes:
    """*data* compressed; *kind* is one of the numbers in `COMPRESSIONS`, not 0."""
    if kind == _GZIP:
        return zlib.compress(data, _GZIP_LEVEL, _GZIP_WINDOW)
    if kind == _LZ4:
        compressor = cramjam.lz4.Compressor(level=_LZ4_LEVEL, content_checksum=False, block_linked=False)
        compressor.compress(bytes(data))  # It takes nothing else.
        return bytes(compressor.finish())
    if kind == _ZSTD:
        return bytes(cramjam.zstd.compress(data, level=_ZSTD_LEVEL))
    assert kind == _SNAPPY, kind
    view, parts = memoryview(data), [_SNAPPY_HEAD]
    for at in range(0, len(view), _SNAPPY_BLOCK_BYTES):
        block = bytes(cramjam.snappy.compress_raw(view[at : at + _SNAPPY_BLOCK_BYTES]))
        parts += [_LENGTH.pack(len(block)), block]
    return b"".join(parts)


def decompress(kind: int, data: memoryview, max_bytes: int = MAX_UNCOMPRESSED_BYTES) -> bytes | bytearray:
    """What *data* was before it was compressed.

    Raises:
        Damaged: It is no compressed data of this *kind*, or was more than *max_bytes*.
    """
    try:
        if kind == _GZIP:
            return _decompress_gzip(data, max_bytes)
        if kind == _SNAPPY:
            return _decompress_snappy(data, max_bytes)
        if kind in (_LZ4, _ZSTD):
            return _decompress_frame(cramjam.lz4 if kind == _LZ4 else cramjam.zstd, data, max_bytes)
    except (zlib.error, cramjam.DecompressionError, struct.error) as error:
        raise Damaged(f"{len(data)} bytes cannot be decompressed: {error}") from error
    raise Damaged(f"compression {kind} is unknown")


def _decompress_gzip(data: memoryview, max_bytes: int) -> bytes:
    stream = zlib.decompressobj(_GZIP_WINDOW)
    found = stream.decompress(data, max_bytes + 1)
    if len(found) > max_bytes:
        raise _too_large(data, max_bytes)
    if not stream.eof:
        raise zlib.error("the stream ends before its end")
    return found


def _decompress_snappy(data: memoryview, max_bytes: int) -> bytes:
    # Not its versions, which some clients write with the bytes the other way round.
    if len(data) < len(_SNAPPY_HEAD) or data[:_SNAPPY_MAGIC_BYTES] != _SNAPPY_HEAD[:_SNAPPY_MAGIC_BYTES]:
        return _decompress_block(data, max_bytes, data, max_bytes)
    parts, position, left = list[bytes](), len(_SNAPPY_HEAD), max_bytes
    while position < len(data):
        [size] = _LENGTH.unpack_from(data, position)
        position += _LENGTH.size
        if not 0 < size <= len(data) - position:
            raise Damaged(f"a block of {size} bytes does not fit in the {len(data) - position} bytes left")
        parts.append(_decompress_block(data[position : position + size], left, data, max_bytes))
        position, left = position + size, left - len(parts[-1])
    return b"".join(parts)


def _decompress_block(block: memoryview, left: int, data: memoryview, max_bytes: int) -> bytes:
    if cramjam.snappy.decompress_raw_len(block) > left:  # The block's first bytes say it.
        raise _too_large(data, max_bytes)
    return bytes(cramjam.snappy.decompress_raw(block))


def _decompress_frame(codec: Any, data: memoryview, max_bytes: int) -> bytearray:
    """Into a buffer of a guessed size, and then a larger one: a frame need not say how large it was."""
    size = min(_GROWTH * len(data), max_bytes)
    while True:
        found = bytearray(size)
        try:
            del found[codec.decompress_into(data, found) :]
        except cramjam.DecompressionError as error:
            if "whole buffer" not in str(error):
                raise
            if size == max_bytes:
                raise _too_large(data, max_bytes) from None
            size = min(_GROWTH * size, max_bytes)
        else:
            return found


def _too_large(data: memoryview, max_bytes: int) -> Damaged:
    return Damaged(f"{len(data)} compressed bytes were more than {max_bytes}")
