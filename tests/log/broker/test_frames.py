"""Frames, however the bytes of a connection come in, and the requests and responses in them."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.protocol.metadata import ApiVersionsResponse as TheirApiVersionsResponse
from kafka.protocol.metadata import MetadataRequest as TheirMetadataRequest

from framework.log.broker import (
    APIS,
    Api,
    Frames,
    Request,
    Struct,
    api_versions,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
    read_request,
    served,
)
from framework.log.broker.table_configs import ApiVersionsRequest, ApiVersionsResponse
from framework.log.broker.table_groups import (
    FindCoordinatorRequest,
    FindCoordinatorResponse,
    HeartbeatRequest,
    HeartbeatResponse,
)
from framework.log.broker.table_records import (
    FetchedPartition,
    FetchedTopic,
    FetchRequest,
    FetchResponse,
    ProducePartition,
    ProduceRequest,
    ProduceTopic,
)
from framework.log.broker.table_topics import MetadataRequest, MetadataRequestTopic
from framework.log.errors import MalformedFrame, UnsupportedRequest
from tests.log.broker.drawn import name_of, of_version, structs

# Framing.


@settings(max_examples=200, derandomize=True)
@given(st.lists(st.binary(max_size=40), max_size=8), st.data())
def test_frames_are_the_same_however_their_bytes_come_in(contents: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(struct.pack(">i", len(content)) + content for content in contents)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    frames, found = Frames(), list[bytes]()
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += map(bytes, frames.feed(stream[begin:end]))
    assert found == contents
    assert frames.pending_bytes == 0


@pytest.mark.parametrize("length", [-1, -(1 << 31), 101, (1 << 31) - 1])
def test_a_length_that_cannot_be_is_refused_at_once(length: int) -> None:
    frames = Frames(max_frame_bytes=100)
    assert frames.feed(struct.pack(">i", length)[:3]) == []
    with pytest.raises(MalformedFrame, match=f"length at byte 0: it is {length}, 0 to 100 are allowed"):
        frames.feed(struct.pack(">i", length)[3:])
    with pytest.raises(MalformedFrame):
        Frames(max_frame_bytes=100).feed(struct.pack(">i", length) + b"more")


def test_a_frame_takes_the_memory_of_what_has_arrived_of_it() -> None:
    """Neither the promise of a long frame nor its arrival byte by byte costs more."""
    frames = Frames()
    tracemalloc.start()
    try:
        frames.feed(struct.pack(">i", 100 << 20))
        for _ in range(20_000):
            frames.feed(b"x")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert frames.pending_bytes == 20_004
    assert peak < 100_000


# Requests and responses.


def framed(buffers: list[bytes | bytearray | memoryview]) -> bytes:
    """The one frame in *buffers*."""
    [frame] = Frames().feed(b"".join(buffers))
    return bytes(frame)


@pytest.mark.parametrize(
    ("version", "text"),
    [
        (3, "0003 0003 0000 0011 0005 61646d696e 00000001 0007 666c6967687473"),
        (9, "0003 0009 0000 0011 0005 61646d696e 00 02 08 666c6967687473 00 01 00 00 00"),
        (12, "0003 000c 0000 0011 0005 61646d696e 00 02 " + "00" * 16 + " 08 666c6967687473 00 01 00 00"),
    ],
)
def test_a_request_for_metadata_byte_by_byte(version: int, text: str) -> None:
    golden = bytes.fromhex(text)
    body = MetadataRequest(topics=(MetadataRequestTopic(name="flights"),))
    assert framed(encode_request(APIS[3], version, body, correlation_id=17, client_id="admin")) == golden
    assert decode_request(golden) == Request(APIS[3], version, 17, "admin", body)


def test_a_response_to_a_heartbeat_byte_by_byte() -> None:
    request = Request(APIS[12], 3, 5, None, HeartbeatRequest(group_id="g", generation_id=1, member_id="m"))
    answer = HeartbeatResponse(error_code=27)
    assert b"".join(encode_response(request, answer)).hex(" ", 2) == "0000 000a 0000 0005 0000 0000 001b"
    flexible = b"".join(encode_response(request._replace(version=4), answer))
    assert flexible.hex(" ", 2) == "0000 000c 0000 0005 0000 0000 0000 1b00"


@pytest.mark.parametrize(
    ("tags", "cluster_id"),
    [
        ("00", None),
        ("01 00 04 04 6f6e65", "one"),
        ("01 07 02 abcd", None),
        ("03 00 04 04 6f6e65 07 02 abcd 9001 00", "one"),
    ],
)
def test_tagged_fields_that_nobody_knows_are_passed_over(tags: str, cluster_id: str | None) -> None:
    """A later version of the client may say more than there was when the table was written."""
    header = "0001 000c 0000 0001 ffff 01 05 01 ff"
    body = "ffffffff 00000000 00000001 7fffffff 00 00000000 ffffffff 01 01 01"
    request = decode_request(bytes.fromhex(f"{header} {body} {tags}")).body
    expected = FetchRequest(cluster_id=cluster_id, max_wait_ms=0, min_bytes=1, topics=())
    assert request == expected


@pytest.mark.parametrize("size", [3, 5])
def test_a_tagged_field_of_another_size_than_it_says_is_refused(size: int) -> None:
    header = "0001 000c 0000 0001 ffff 00"
    body = "ffffffff 00000000 00000001 7fffffff 00 00000000 ffffffff 01 01 01"
    tags = f"02 00 0{size} 046f6e65 07 02 abcd"
    with pytest.raises(MalformedFrame, match=f"tags.cluster_id at byte 42: 4 bytes were read of {size}"):
        decode_request(bytes.fromhex(f"{header} {body} {tags}"))


@pytest.mark.slow
@pytest.mark.parametrize("api", APIS.values(), ids=name_of)
def test_whole_frames_go_both_ways(api: Api) -> None:
    @settings(max_examples=10, derandomize=True)
    @given(structs(api.request), structs(api.response), st.none() | st.text(max_size=300))
    def check(ask: Struct, answer: Struct, client_id: str | None) -> None:
        for version in api.versions:
            asked, answered = of_version(ask, version), of_version(answer, version)
            frame = framed(encode_request(api, version, asked, correlation_id=-3, client_id=client_id))
            request = read_request(frame, api, version)
            assert request == Request(api, version, -3, client_id, asked)
            assert decode_response(framed(encode_response(request, answered)), api, version) == (-3, answered)

    check()


@pytest.mark.parametrize("version", [0, 1, 8, 9, 12])
def test_kafka_python_writes_the_same_header(version: int) -> None:
    theirs = TheirMetadataRequest(version=version, topics=[])
    theirs.with_header(correlation_id=7, client_id="é")
    request = decode_request(framed([theirs.encode(header=True, framed=True)]))
    assert (request.version, request.correlation_id, request.client_id) == (version, 7, "é")


@pytest.mark.parametrize("version", range(5))
def test_the_header_of_an_answer_to_api_versions_has_no_tags(version: int) -> None:
    """A client that does not know the broker yet would take the byte for a part of the error code."""
    request = Request(APIS[18], version, 9, None, ApiVersionsRequest())
    frame = framed(encode_response(request, api_versions()))
    theirs = TheirApiVersionsResponse.decode(frame, version=version, header=True)
    assert theirs.header.correlation_id == 9
    assert [(key.api_key, key.min_version, key.max_version) for key in theirs.api_keys] == [tuple(v) for v in served()]  # type: ignore[arg-type]  # a tuple


def test_a_version_of_api_versions_that_is_not_served_is_answered_in_version_0() -> None:
    frame = struct.pack(">hhih", 18, 99, 4, -1) + b"whatever that version has"
    with pytest.raises(UnsupportedRequest, match="version 99 of ApiVersions is not served, 0 to 4 are") as refused:
        decode_request(frame)
    assert refused.value.answer is not None
    correlation_id, answer = decode_response(framed(refused.value.answer), APIS[18], 0)
    assert isinstance(answer, ApiVersionsResponse)
    assert (correlation_id, answer.error_code) == (4, 35)
    assert [(key.api_key, key.min_version, key.max_version) for key in answer.api_keys] == [(18, 0, 4)]


@pytest.mark.parametrize(
    ("key", "version", "text"),
    [
        (0, 10, "version 10 of Produce is not served, 0 to 9 are"),
        (1, 3, "version 3 of Fetch is not served, 4 to 12 are"),
        (3, -1, "version -1 of Metadata is not served"),
        (26, 0, r"API 26 \(EndTxn\) is not served"),
        (71, 0, "API 71 is not served"),
        (-1, 0, "API -1 is not served"),
    ],
)
def test_other_requests_that_are_not_served_have_no_answer(key: int, version: int, text: str) -> None:
    with pytest.raises(UnsupportedRequest, match=text) as refused:
        decode_request(struct.pack(">hhih", key, version, 0, -1))
    assert refused.value.answer is None


def test_produce_and_join_group_are_served_from_version_0() -> None:
    """Else librdkafka before 2.11.1 sends nothing compressed, and before 2.11 does not balance consumers."""
    lowest = {version.api_key: version.min_version for version in served()}
    assert (lowest[0], lowest[11]) == (0, 0)


def test_every_served_version_is_in_the_table() -> None:
    assert [api.name for api in APIS.values() if api.served and not set(api.served) <= set(api.versions)] == []


@pytest.mark.parametrize("version", [1, 3])
def test_what_an_error_says_is_cut_where_it_would_be_too_long(version: int) -> None:
    """It may quote a name as long as a string can be."""
    request = Request(APIS[10], version, 1, None, FindCoordinatorRequest(key="x"))
    frame = framed(encode_response(request, FindCoordinatorResponse(error_message="\U0001f600" * 40_000)))
    _, answer = decode_response(frame, APIS[10], version)
    assert answer == FindCoordinatorResponse(error_message="\U0001f600" * 4_000)


# Records are not copied.


@pytest.mark.parametrize("version", [3, 8, 9])
def test_records_of_a_request_are_a_view_of_its_frame(version: int) -> None:
    batches = bytes(range(256)) * 100
    body = ProduceRequest(
        acks=-1,
        timeout_ms=1000,
        topics=[ProduceTopic(name="flights", partitions=[ProducePartition(index=3, records=batches)])],
    )
    frame = framed(encode_request(APIS[0], version, body, correlation_id=1))
    decoded = decode_request(frame).body
    assert isinstance(decoded, ProduceRequest)
    records = decoded.topics[0].partitions[0].records
    assert isinstance(records, memoryview)
    assert records.obj is frame
    assert records == batches


@pytest.mark.parametrize("version", [4, 11, 12])
def test_records_of_a_response_are_sent_as_they_were_given(version: int) -> None:
    """A buffer more for each piece that is long; short ones are copied, since a buffer costs more."""
    long, short = memoryview(bytes(100_000)), b"short"
    partitions = [
        FetchedPartition(index=0, high_watermark=9, records=[long[:50_000], short, long[50_000:]]),
        FetchedPartition(index=1, high_watermark=9, records=[short, short]),
    ]
    response = FetchResponse(topics=[FetchedTopic(name="flights", partitions=partitions)])
    request = Request(APIS[1], version, 1, None, FetchRequest(max_wait_ms=0, min_bytes=0, topics=()))
    buffers = encode_response(request, response)
    assert [buffer.obj is long.obj for buffer in buffers if isinstance(buffer, memoryview)] == [True, True]
    assert [len(buffer) for buffer in buffers[1::2]] == [50_000, 50_000]
    assert len(buffers) == 5
    _, decoded = decode_response(framed(buffers), APIS[1], version)
    assert isinstance(decoded, FetchResponse)
    found = [b"".join(partition.records or ()) for partition in decoded.topics[0].partitions]
    assert found == [bytes(50_000) + short + bytes(50_000), short + short]
