"""Compressed batches: read back as they were, by others too and from others; garbage and bombs are damage."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import cramjam
import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords as MemoryRecordsOfAiokafka
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatchBuilder as BuilderOfKafkaPython

from framework.log import NewRecord, decode, encode
from framework.log.codec import decode_values, uncompressed
from framework.log.compression import COMPRESSIONS, compress, decompress
from framework.log.errors import Damaged
from framework.log.header import HEADER_BYTES, fault, read_header, seal
from tests.log import foreign
from tests.log.compacted_log import TORTURE, findings, make, open_quiet, scratch
from tests.log.conftest import TIMEOUT_S, Child

CODECS = {name: kind for name, kind in COMPRESSIONS.items() if kind}
EXAMPLES = 400 if TORTURE else 40
EACH_CODEC = pytest.mark.parametrize("codec", CODECS)
SNAPPY, LZ4, ZSTD = CODECS["snappy"], CODECS["lz4"], CODECS["zstd"]

maybe_bytes = st.none() | st.binary(max_size=60) | st.integers(0, 70_000).map(lambda size: b"ab" * size)
any_headers = st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=20)), max_size=3)
any_record = st.builds(NewRecord, maybe_bytes, maybe_bytes, st.integers(0, 1 << 45), any_headers)
any_records = st.lists(any_record, min_size=1, max_size=8)


def plain(records: Any) -> list[NewRecord]:
    """Records of any codec, to be compared."""
    return [NewRecord(r.key, r.value, r.timestamp, list(r.headers)) for r in records]


def compressible(count: int = 20) -> list[NewRecord]:
    """Records that every codec makes smaller."""
    return [NewRecord(b"key-%d" % at, b"value-%d" % at * 20, 1000 + at, [("name", b"x")]) for at in range(count)]


def batch_of(records: list[NewRecord], codec: str) -> bytes:
    """*records* as one batch, which is compressed."""
    [batch] = encode(records, max_batch_bytes=1 << 20, compression=codec)
    assert read_header(batch).attributes == CODECS[codec]
    return bytes(batch)


def with_body(batch: bytes, body: bytes, kind: int | None = None) -> bytes:
    """*batch* with other bytes behind its header, and a checksum that fits."""
    changed = bytearray(batch[:HEADER_BYTES] + body)
    if kind is not None:
        changed[22] = kind
    seal(changed)
    assert fault(bytes(changed), 0, 0) is None
    return bytes(changed)


# What we write.


@pytest.mark.slow
@EACH_CODEC
@settings(max_examples=EXAMPLES)
@given(records=any_records)
def test_any_records_come_back_from_the_log_as_they_were(codec: str, records: list[NewRecord]) -> None:
    batches = encode(records, max_batch_bytes=1 << 20, compression=codec)
    whole = encode(records, max_batch_bytes=1 << 20)
    assert [read_header(batch).records for batch in batches] == [read_header(batch).records for batch in whole]
    for batch, other in zip(map(bytes, batches), map(bytes, whole), strict=True):
        assert len(batch) <= len(other)
        assert decode_values(batch) == decode_values(other)
        assert uncompressed(batch)[HEADER_BYTES:] == other[HEADER_BYTES:]
    with scratch() as path, open_quiet(path) as log:
        partition = make(log, compression_type=codec)
        log.append(partition, batches).result(TIMEOUT_S)
        found = [record for _, record in log.read("t")]
        assert plain(found) == records
        assert [record.offset for record in found] == list(range(len(records)))
        assert findings(path) == []


@EACH_CODEC
def test_sequences_and_producers_stand_in_the_header_of_a_compressed_batch(codec: str) -> None:
    options: dict[str, Any] = {"producer_id": 7, "producer_epoch": 1, "base_sequence": (1 << 31) - 3}
    batches = encode(compressible(), max_batch_bytes=2000, compression=codec, **options)
    whole = encode(compressible(), max_batch_bytes=2000, **options)
    assert len(batches) > 1
    for batch, other in zip(batches, whole, strict=True):
        assert read_header(batch)[6:] == read_header(other)[6:]
        assert len(batch) < len(other)


@EACH_CODEC
@pytest.mark.parametrize("decoder", [MemoryRecords, MemoryRecordsOfAiokafka])
def test_other_decoders_read_what_we_compress(codec: str, decoder: Any) -> None:
    """Long enough for several blocks of snappy, and for a record that is not compressible."""
    records = [*compressible(3000), NewRecord(None, zlib.compress(bytes(range(256)) * 9), 5), NewRecord(b"k", None, 1)]
    found = list[NewRecord]()
    with foreign.codecs():
        for batch in encode(records, max_batch_bytes=300_000, compression=codec):
            theirs = decoder(bytes(batch)).next_batch()
            assert theirs.validate_crc()
            found += plain(theirs)
    assert found == records


def test_blocks_of_lz4_are_independent_as_kafka_wants_them() -> None:
    frame = compress(LZ4, b"some" * 100_000)
    assert frame[:4] == b"\x04\x22\x4d\x18"
    assert frame[4] & 0b1110_0000 == 0b0110_0000, "version 1, blocks independent"


def test_what_cannot_be_made_smaller_is_left_as_it_is() -> None:
    for codec in CODECS:
        [batch] = encode([NewRecord(None, b"x", 0)], max_batch_bytes=1024, compression=codec)
        assert batch == encode([NewRecord(None, b"x", 0)], max_batch_bytes=1024)[0]


# What others write.


@EACH_CODEC
@pytest.mark.parametrize("builder", [DefaultRecordBatchBuilder, BuilderOfKafkaPython])
def test_we_read_what_other_clients_compress(codec: str, builder: Callable[..., Any]) -> None:
    records = compressible(700)
    theirs = builder(2, CODECS[codec], 0, 9, 1, 0, 1 << 20)
    for at, record in enumerate(records):
        assert theirs.append(at, record.timestamp, record.key, record.value, record.headers)
    with foreign.codecs():
        batch = bytearray(theirs.build())
    assert read_header(batch).attributes == CODECS[codec]
    assert plain(decode(bytes(batch))) == records
    with scratch() as path:
        with open_quiet(path) as log:
            log.append(make(log), [batch]).result(TIMEOUT_S)
            assert plain(record for _, record in log.read("t")) == records
        assert findings(path) == []


FRAMES: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "snappy, a bare block": (SNAPPY, foreign.snappy_block),
    "snappy, blocks of 100 bytes": (SNAPPY, lambda data: kafka_python_snappy(data, 100)),
    "snappy, one block": (SNAPPY, lambda data: kafka_python_snappy(data, 1 << 30)),
    "lz4, linked blocks": (LZ4, lambda data: foreign.lz4_frame(data, linked=True)),
    "lz4, content size": (LZ4, lambda data: foreign.lz4_frame(data, content_size=True)),
    "lz4, level 9": (LZ4, lambda data: foreign.lz4_frame(data, level=9)),
    "zstd, streamed": (ZSTD, foreign.zstd_stream),
    "zstd, many blocks": (ZSTD, lambda data: foreign.zstd_stream(data, pieces=50)),
    "zstd, level 19": (ZSTD, lambda data: bytes(cramjam.zstd.compress(data, level=19))),
    "gzip, not compressed": (CODECS["gzip"], lambda data: zlib.compress(data, 0, 31)),
}


def kafka_python_snappy(data: bytes, block: int) -> bytes:
    """kafka-python's own framing."""
    import kafka.codec

    with foreign.codecs():
        return bytes(kafka.codec.snappy_encode(data, xerial_blocksize=block))


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("count", [1, 20, 3000])
def test_every_frame_that_a_client_may_send_is_read(frame: str, count: int) -> None:
    records, (kind, framed) = compressible(count), FRAMES[frame]
    [batch] = encode(records, max_batch_bytes=1 << 24)
    assert plain(decode(with_body(bytes(batch), framed(bytes(batch[HEADER_BYTES:])), kind))) == records


def test_the_versions_in_a_snappy_head_are_not_looked_at() -> None:
    """Some clients write them with the bytes the other way round, says kafka-python, which reads those."""
    data = b"some" * 1000
    ours = compress(SNAPPY, data)
    theirs = ours[:8] + struct.pack("<ii", 1, 1) + ours[16:]
    assert decompress(SNAPPY, memoryview(theirs)) == data


# Bombs.


def test_a_few_bytes_that_are_gigabytes_are_refused_quickly_and_in_little_memory(child: Callable[..., Child]) -> None:
    """In a process of its own, whose memory is measured; the limit is 8 MB, and what would come is 200."""
    process = child(
        """
        import struct, time, zlib
        import cramjam
        from framework.log.compression import decompress
        limit, bomb = 8 << 20, 200 << 20

        def peak():
            [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
            return int(line.split()[1]) << 10

        def streamed(compressor):
            for _ in range(bomb >> 20):
                compressor.compress(bytes(1 << 20))
            return bytes(compressor.finish())

        deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
        head = b"\\x82SNAPPY\\0" + struct.pack(">ii", 1, 1)
        block = bytes(cramjam.snappy.compress_raw(bytes(1 << 20)))
        bombs = [
            (1, b"".join(deflate.compress(bytes(1 << 20)) for _ in range(bomb >> 20)) + deflate.flush()),
            (2, bytes(cramjam.snappy.compress_raw(bytes(16 << 20)))),
            (2, b"\\x80\\x80\\x80\\x80\\x08" + block[3:]),
            (2, head + (struct.pack(">i", len(block)) + block) * (bomb >> 20)),
            (3, streamed(cramjam.lz4.Compressor(block_linked=False))),
            (4, streamed(cramjam.zstd.Compressor())),
            (4, bytes(cramjam.zstd.compress(bytes(bomb)))),
        ]
        before = peak()
        for kind, data in bombs:
            began = time.monotonic()
            try:
                decompress(kind, memoryview(data), limit)
            except Damaged as error:
                assert f"{len(data)} compressed bytes were more than {limit}" == str(error), error
                took = time.monotonic() - began
                assert took < 5, (kind, took)
            else:
                say("not refused", kind)
        say("peak", peak() - before)
        """
    )
    word, grown = process.hear().split()
    assert word == "peak"
    process.finish()
    # The bomb of zstd that was made in one piece took more to make than any takes to refuse.
    assert int(grown) < (8 << 20) + (64 << 20)


@EACH_CODEC
def test_a_limit_is_kept_to_the_byte(codec: str) -> None:
    for size in (1, 100, 4096, 40_000, 100_001):
        data = memoryview(compress(CODECS[codec], bytes(size)))
        assert decompress(CODECS[codec], data, size) == bytes(size)
        with pytest.raises(Damaged, match=f"{len(data)} compressed bytes were more than {size - 1}"):
            decompress(CODECS[codec], data, size - 1)


def test_a_topic_says_how_much_a_batch_may_hold() -> None:
    with scratch() as path, open_quiet(path) as log:
        partition = make(log, max_uncompressed_bytes=1024, max_message_bytes=2048)
        [batch] = encode([NewRecord(None, bytes(3000), 0)], max_batch_bytes=1 << 20, compression="zstd")
        log.append(partition, [batch]).result(TIMEOUT_S)
        with pytest.raises(Damaged, match="compressed bytes were more than 2048"):
            list(log.read("t"))


@pytest.mark.slow
def test_verify_takes_what_the_topic_takes() -> None:
    with scratch() as path, open_quiet(path) as log:
        partition = make(log, max_message_bytes=80 << 20, segment_bytes=1 << 30)
        batches = encode([NewRecord(None, bytes(70 << 20), 0)], max_batch_bytes=80 << 20, compression="zstd")
        log.append(partition, batches).result(TIMEOUT_S)
        assert [len(record.value or b"") for _, record in log.read("t")] == [70 << 20]
        assert findings(path) == []


# Garbage.


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """A codec, and bytes that it made, changed, cut or put together anew."""
    codec = draw(st.sampled_from(sorted(CODECS)))
    body = bytearray(compress(CODECS[codec], BODY if draw(st.booleans()) else BODY * 3))
    for _ in range(draw(st.integers(1, 4))):
        how = draw(st.sampled_from(["flip", "cut", "insert", "repeat", "head"]))
        at = draw(st.integers(0, len(body)))
        if how == "flip" and body:
            body[at % len(body)] ^= draw(st.integers(1, 255))
        elif how == "head" and body:
            body[at % min(len(body), 24)] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
        elif how == "cut":
            del body[at : at + draw(st.integers(1, 1000))]
        elif how == "insert":
            body[at:at] = draw(st.binary(min_size=1, max_size=9))
        elif how == "repeat":
            body += body[at:]
    return codec, bytes(body)


BODY = bytes(encode(compressible(), max_batch_bytes=1 << 20)[0][HEADER_BYTES:])


@pytest.mark.slow
@settings(max_examples=20_000 if TORTURE else 1000)
@given(mutated() | st.tuples(st.sampled_from(sorted(CODECS)), st.binary(max_size=64)))
@example(("lz4", b""))
@example(("zstd", b""))
@example(("snappy", b""))
@example(("snappy", b"\x82SNAPPY\0\0\0\0\1\0\0\0\1"))
@example(("snappy", b"\x82SNAPPY\0\0\0\0\1\0\0\0\1\xff\xff\xff\xff"))
@example(("snappy", b"\x82SNAPPY\0\0\0\0\1\0\0\0\1\0"))
@example(("zstd", b"\x28\xb5\x2f\xfd\xc0\x48" + b"\xff" * 7 + b"\x7f\x01\0\0"))
def test_garbage_with_a_right_checksum_is_damage_and_nothing_worse(what: tuple[str, bytes]) -> None:
    """Where a codec cannot tell, there are as many records as the header says."""
    codec, body = what
    batch = with_body(batch_of(compressible(), codec), body)
    try:
        found = decode(batch, 1 << 20)
    except Damaged:
        with pytest.raises(Damaged):
            decode_values(batch, 1 << 20)
    else:
        assert len(found) == len(compressible())
        assert decode_values(batch, 1 << 20) == [record.value for record in found]


@pytest.mark.slow
@EACH_CODEC
def test_compressed_data_cut_anywhere_is_damage(codec: str) -> None:
    batch = batch_of(compressible(), codec)
    for end in range(HEADER_BYTES, len(batch)):
        with pytest.raises(Damaged):
            decode(with_body(batch, bytes(batch[HEADER_BYTES:end])), 1 << 20)


@settings(max_examples=5000 if TORTURE else 300)
@given(st.sampled_from(sorted(CODECS)), st.integers(21, HEADER_BYTES - 1), st.integers(1, 255))
def test_a_header_that_lies_under_a_right_checksum_is_damage_and_nothing_worse(codec: str, at: int, flip: int) -> None:
    batch = bytearray(batch_of(compressible(), codec))
    batch[at] ^= flip
    seal(batch)
    with suppress(Damaged):
        assert len(decode(bytes(batch), 1 << 20)) == max(0, read_header(batch).records)


@pytest.mark.parametrize("kind", [5, 6, 7])
def test_a_compression_that_there_is_not_is_damage(kind: int) -> None:
    with pytest.raises(Damaged, match=f"compression {kind} is unknown"):
        decode(with_body(batch_of(compressible(), "gzip"), b"x", kind))
