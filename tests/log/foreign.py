"""kafka-python with all its codecs: it frames by itself, and looks for libraries below that which are not installed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import cramjam
import kafka.codec
import kafka.record.default_records


def lz4_frame(data: bytes, *, linked: bool = False, content_size: bool = False, level: int = 1) -> bytes:
    """One frame, with its blocks linked or its content's size at the head or neither."""
    if content_size:
        return bytes(cramjam.lz4.compress(bytes(data), level=level))
    compressor = cramjam.lz4.Compressor(level=level, content_checksum=True, block_linked=linked)
    compressor.compress(bytes(data))
    return bytes(compressor.finish())


def zstd_stream(data: bytes, *, pieces: int = 3) -> bytes:
    """A frame that was streamed in so many *pieces*, and so does not say how long its content is."""
    compressor = cramjam.zstd.Compressor(level=3)
    step, sent = max(1, -(-len(data) // pieces)), b""
    for at in range(0, len(data), step):
        compressor.compress(bytes(data[at : at + step]))
        sent += bytes(compressor.flush())
    return sent + bytes(compressor.finish())


def snappy_block(data: bytes) -> bytes:
    """A bare block, as librdkafka and Go's clients send it."""
    return bytes(cramjam.snappy.compress_raw(bytes(data)))


class _Zstd:
    class ZstdCompressor:
        def compress(self, data: bytes) -> bytes:
            return zstd_stream(bytes(data))

    class ZstdDecompressor:
        def stream_reader(self, source: Any, read_across_frames: bool) -> Any:
            return io.BytesIO(bytes(cramjam.zstd.decompress(source.read())))


@contextmanager
def codecs() -> Iterator[None]:
    """Inside, kafka-python finds what it looks for."""

    def unsnap(data: bytes) -> bytes:
        return bytes(cramjam.snappy.decompress_raw(bytes(data)))

    def unlz4(data: bytes) -> bytes:
        return bytes(cramjam.lz4.decompress(bytes(data)))

    with ExitStack() as stack:
        for name, there in (
            ("snappy", SimpleNamespace(compress=snappy_block, decompress=unsnap)),
            ("lz4", SimpleNamespace()),
            ("zstd", _Zstd),
        ):
            stack.enter_context(mock.patch.object(kafka.codec, name, there))
        for name, function in (("lz4_encode", lz4_frame), ("lz4_decode", unlz4)):
            stack.enter_context(mock.patch.object(kafka.record.default_records, name, function))
        yield
