"""Whatever bytes come: a request, or an error that says where. Never another error, never much memory or time."""

from __future__ import annotations

import struct
import time
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.log.broker import APIS, Api, Struct, decode_assignment, decode_request, decode_subscription, read_request
from framework.log.broker.reading import MAX_ELEMENTS, read_whole, reader
from framework.log.broker.table_topics import MetadataRequest
from framework.log.broker.writing import Target, varint, writer
from framework.log.errors import MalformedFrame, UnsupportedRequest
from tests.log.broker.drawn import ALL, name_of, of_version, structs

SERVED = [api for api in APIS.values() if api.served]
BYTES_PER_BYTE, BYTES_AT_MOST = 400, 64 << 10
"""What decoding may take for each byte of a frame, and beside that: the smallest structs are some bytes long."""
SECONDS = 3.0
"""Far more than the longest frame takes, and far less than one that is taken at its word."""
HUGE = [0x7F, 0xFF, 0x7FFF, 0x7FFFFFFF, 0xFFFFFFFF]


def header(api: Api, version: int) -> bytes:
    """The header of a request without a client id."""
    return struct.pack(">hhih", api.key, version, 1, -1) + (b"\0" if api.flexible(version) else b"")


def body(value: Struct, api: Api, version: int) -> bytes:
    """A struct without a frame."""
    target = Target()
    writer(type(value), version, api.flexible(version))(target, of_version(value, version))
    return b"".join(target.buffers())


def decode_or_refuse(frame: bytes, api: Api, version: int) -> None:
    """Decode a request; other errors than that it is malformed come through."""
    with suppress(MalformedFrame):
        read_request(frame, api, version)


def peak_of(frame: bytes, api: Api, version: int) -> int:
    """The most memory that decoding *frame* or refusing it takes."""
    tracemalloc.start()
    try:
        decode_or_refuse(frame, api, version)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@settings(max_examples=1500, derandomize=True)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_are_refused(frame: bytes) -> None:
    with suppress(MalformedFrame, UnsupportedRequest):
        decode_request(frame)


@pytest.mark.slow
@pytest.mark.parametrize("api", APIS.values(), ids=name_of)
def test_any_bytes_behind_a_header_are_a_body_or_are_refused(api: Api) -> None:
    small = st.lists(st.sampled_from([b"\0", b"\1", b"\2", b"\3", b"\x7f", b"\x80", b"\xff"]), max_size=60).map(
        b"".join
    )

    @settings(max_examples=60, derandomize=True)
    @given(small | st.binary(max_size=120), st.sampled_from(api.versions))
    def check(content: bytes, version: int) -> None:
        decode_or_refuse(header(api, version) + content, api, version)

    check()


@pytest.mark.slow
@pytest.mark.parametrize(("api", "kind"), ALL, ids=name_of)
def test_a_struct_that_is_cut_short_or_goes_on_is_refused(api: Api, kind: type[Struct]) -> None:
    """At any byte; and the error names a place within what there is."""

    @settings(max_examples=6, derandomize=True)
    @given(structs(kind), st.sampled_from(api.versions), st.data())
    def check(value: Struct, version: int, data: st.DataObject) -> None:
        read, whole = reader(kind, version, api.flexible(version)), body(value, api, version)
        for end in {*range(min(len(whole), 40)), data.draw(st.integers(0, len(whole)))} - {len(whole)}:
            with pytest.raises(MalformedFrame) as refused:
                read_whole(read, whole[:end], 0, MAX_ELEMENTS)
            assert 0 <= refused.value.offset <= end
        with pytest.raises(MalformedFrame, match=f"frame at byte {len(whole)}: 3 bytes are left over"):
            read_whole(read, whole + b"end", 0, MAX_ELEMENTS)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("api", APIS.values(), ids=name_of)
def test_changed_bytes_take_little_memory_and_are_read_or_refused(api: Api) -> None:
    """Single bits, and lengths that are huge, in frames that were sound."""
    numbers = st.sampled_from([struct.pack(">I", n) for n in HUGE] + [varint(n) for n in HUGE])

    @settings(max_examples=25, derandomize=True)
    @given(structs(api.request), st.sampled_from(api.versions), st.data())
    def check(value: Struct, version: int, data: st.DataObject) -> None:
        frame = bytearray(header(api, version) + body(value, api, version))
        for _ in range(8):
            at = data.draw(st.integers(8, len(frame) - 1))
            if data.draw(st.booleans()):
                frame[at] ^= 1 << data.draw(st.integers(0, 7))
            else:
                number = data.draw(numbers)
                frame[at : at + len(number)] = number
            assert peak_of(bytes(frame), api, version) < BYTES_AT_MOST + BYTES_PER_BYTE * len(frame)

    for version in api.versions:
        reader(api.request, version, api.flexible(version))  # compiled once, and not the frame's
    check()


# Frames that were made to hurt.

MANY = 50_000_000


def produce(content: bytes) -> bytes:
    """A Produce request of version 9 whose topics are *content*."""
    return header(APIS[0], 9) + b"\0" + struct.pack(">hi", -1, 0) + content


MALFORMED = [
    (
        produce(varint(MANY + 1)),
        r"topics at byte \d+: 50000000 elements of 3 bytes or more do not fit in the 0 left",
    ),
    (produce(varint(1 << 31)), r"topics at byte \d+: 2147483647 elements"),
    (produce(varint(2) + varint(MANY)), r"topics\[0\].name at byte \d+: 49999999 bytes do not fit"),
    (produce(varint(2) + b"\3\xff\xfe"), r"topics\[0\].name at byte \d+: no UTF-8: invalid start byte"),
    (produce(b"\2\0\1\0"), r"topics\[0\].name at byte \d+: it is null"),
    (produce(b"\2\2t\2\0\0\0\0\xff\xff"), r"topics\[0\].partitions\[0\].records at byte \d+: the frame ends in it"),
    (
        produce(b"\2\2t\2\0\0\0\0" + varint(9) + b"short"),
        r"partitions\[0\].records at byte \d+: 8 bytes do not fit",
    ),
    (produce(b"\2\2t\2\0\0\0\0" + b"\xff" * 9), r"\[0\].records at byte \d+: a number has more than 5 bytes"),
    (produce(b"\1" + varint(MANY)), r"tags at byte \d+: 50000000 elements of 2 bytes"),
    (produce(b"\1\2\5\0\5\0"), r"tags at byte \d+: tag 5 stands behind tag 5"),
    (produce(b"\1\1\5" + varint(MANY)), r"tags at byte \d+: 50000000 bytes do not fit"),
    (produce(b"\xff\xff\xff\xff\xff\xff\1"), r"topics at byte \d+: a number has more than 5 bytes"),
    (produce(varint(2) + varint(1 << 15 | 1) + bytes(1 << 15)), r"a string of 32768 bytes; 32767 is the limit"),
    (header(APIS[0], 3) + struct.pack(">hhii", -1, 1, 0, MANY), "topics at byte 22: 50000000 elements of 6 bytes"),
    (header(APIS[0], 3) + struct.pack(">hhii", -1, 1, 0, -2), "topics at byte 22: its length is -2"),
    (header(APIS[0], 3) + struct.pack(">h", -2), "transactional_id at byte 12: its length is -2"),
    (struct.pack(">hhih", 0, 3, 1, 50), "client_id at byte 10: 50 bytes do not fit in the 0 left"),
    (struct.pack(">hhi", 0, 3, 1), "client_id at byte 8: the frame ends in it"),
    (b"\0\0\0\3", "header at byte 0: 4 bytes are too few for a request"),
    (b"", "header at byte 0: 0 bytes are too few for a request"),
]


@pytest.mark.parametrize(("frame", "text"), MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_frame_is_told_by_field_byte_and_reason(frame: bytes, text: str) -> None:
    with pytest.raises(MalformedFrame, match=text):
        decode_request(frame)


def hostile() -> list[bytes]:
    """Frames of many elements or tags: long ones, and such as are just let through."""
    topics = varint(MAX_ELEMENTS + 1) + b"\1\1\0" * MAX_ELEMENTS
    tags = varint(MAX_ELEMENTS) + b"".join(varint(tag) + b"\0" for tag in range(MAX_ELEMENTS))
    return [
        produce(topics + b"\0"),
        produce(varint(MAX_ELEMENTS + 2) + b"\1\1\0" * (MAX_ELEMENTS + 1) + b"\0"),
        produce(b"\2\1" + topics),
        produce(b"\1" + tags),
        produce(b"\1" + varint(MAX_ELEMENTS * 10) + bytes(MAX_ELEMENTS * 40)),
        produce(varint(20_000_001) + bytes(60_000_000)),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(6))
def test_a_frame_that_was_made_to_be_slow_is_not(number: int) -> None:
    frame = hostile()[number]
    started = time.perf_counter()
    decode_or_refuse(frame, APIS[0], 9)
    assert time.perf_counter() - started < SECONDS
    assert peak_of(frame, APIS[0], 9) < BYTES_PER_BYTE * MAX_ELEMENTS


def test_the_elements_of_a_frame_are_counted_over_all_its_arrays() -> None:
    topic = b"\1\3" + b"\0\0\0\0\1\0" * 2 + b"\0"
    frame = produce(varint(5) + topic * 4 + b"\0")
    decode_request(frame, max_elements=12)
    with pytest.raises(MalformedFrame, match=r"topics\[3\].partitions at byte \d+: 2 elements more are too many"):
        decode_request(frame, max_elements=11)


@settings(max_examples=500, derandomize=True)
@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda content: b"\0\3" + content))
def test_what_consumers_say_is_read_or_refused(blob: bytes) -> None:
    for decode in (decode_subscription, decode_assignment):
        with suppress(MalformedFrame):
            decode(blob)


def test_what_is_left_over_behind_a_request_is_passed_over() -> None:
    """As librdkafka 2.16 asks for all topics; Kafka answers it, too."""
    frame = bytes.fromhex("0003 000c 00000003 0007 72646b61666b61 00  00 00 00 00 01 00 00")
    body = decode_request(frame).body
    assert isinstance(body, MetadataRequest)
    assert body.topics is None
