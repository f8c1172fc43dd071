"""The broker's side of the protocol: frames that producers send and consumers get, beside kio's compiled codec."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator

import kio.index
import kio.serial

from framework.log.broker import APIS, Frames, decode_request, encode_request, encode_response
from framework.log.broker.table_records import (
    FetchedPartition,
    FetchedTopic,
    FetchPartition,
    FetchRequest,
    FetchResponse,
    FetchTopic,
    ProducePartition,
    ProduceRequest,
    ProduceTopic,
)
from tests.benchmarks.rows import Bench, Pairs, Result, Row, Side

PRODUCE, FETCH = 9, 12
"""The versions that librdkafka asks for."""
FRAMES_PER_RECORD = 0.02


def repeated(work: Callable[[], object], bench: Bench) -> Side:
    """Thousands of frames a second of *work*."""
    count = max(100, int(bench.scale.records * FRAMES_PER_RECORD))

    def side() -> float:
        started = time.perf_counter()
        for _ in range(count):
            work()
        return count / (time.perf_counter() - started) / 1000

    return side


def produced(partitions: int, size: int) -> bytes:
    """A frame of a Produce request."""
    parts = [ProducePartition(index=index, records=bytes(size)) for index in range(partitions)]
    body = ProduceRequest(acks=-1, timeout_ms=30_000, topics=[ProduceTopic(name="flights", partitions=parts)])
    [frame] = Frames().feed(b"".join(encode_request(APIS[0], PRODUCE, body, correlation_id=1, client_id="rdkafka")))
    return bytes(frame)


def fetched(partitions: int, size: int) -> FetchResponse:
    """What answers a Fetch request."""
    parts = [
        FetchedPartition(index=index, high_watermark=100, last_stable_offset=100, records=[bytes(size)])
        for index in range(partitions)
    ]
    return FetchResponse(topics=[FetchedTopic(name="flights", partitions=parts)])


def measure_decode(bench: Bench) -> Iterator[Result]:
    """Produce requests to structs; records stay where they are, kio copies them."""
    theirs = kio.index.load_request_schema(0, PRODUCE)
    header, body = kio.serial.entity_reader(theirs.__header_schema__), kio.serial.entity_reader(theirs)

    def kio_decode(frame: bytes) -> object:
        _, at = header(frame, 0)
        return body(frame, at)

    for partitions, size in ((1, 100_000), (20, 1_000)):
        frame = produced(partitions, size)
        pairs = Pairs(
            repeated(lambda frame=frame: decode_request(frame), bench),  # type: ignore[misc]
            repeated(lambda frame=frame: kio_decode(frame), bench),  # type: ignore[misc]
            bench.scale.pairs,
            "k frames/s",
        )
        yield pairs.ratio(f"protocol decode x{partitions}", at_least=0.6 if partitions == 1 else 0.2)


def measure_encode(bench: Bench) -> Iterator[Result]:
    """Structs to Fetch responses: buffers to be sent, where kio writes one."""
    topics = [FetchTopic(name="flights", partitions=[FetchPartition(index=0, fetch_offset=0, partition_max_bytes=1)])]
    asked = encode_request(
        APIS[1], FETCH, FetchRequest(max_wait_ms=1, min_bytes=1, topics=topics), correlation_id=1, client_id="rdkafka"
    )
    [frame] = Frames().feed(b"".join(asked))
    request = decode_request(frame)
    theirs = kio.index.load_response_schema(1, FETCH)
    write = kio.serial.entity_writer(theirs)
    for partitions, size in ((1, 100_000), (20, 1_000)):
        response = fetched(partitions, size)
        whole = b"".join(encode_response(request, response))
        their_response, _ = kio.serial.entity_reader(theirs)(whole[4 + 4 + 1 :], 0)
        pairs = Pairs(
            repeated(lambda response=response: encode_response(request, response), bench),  # type: ignore[misc]
            repeated(lambda response=their_response: write(io.BytesIO(), response), bench),  # type: ignore[misc]
            bench.scale.pairs,
            "k frames/s",
        )
        yield pairs.ratio(f"protocol encode x{partitions}", at_least=2)


ROWS = [Row("protocol-decode", measure_decode), Row("protocol-encode", measure_encode)]
