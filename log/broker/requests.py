"""Frames to requests, and responses to frames.

    request  = api_key:i16 version:i16 correlation_id:i32 client_id [tags] body
    response = length:i32 correlation_id:i32 [tags] body

`client_id` is a string of the old encoding in every version, or null. The tagged fields of the headers are there when
the version is flexible; the response to ApiVersions never has them, since its client does not know yet who answers.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import NamedTuple, TypeVar

from framework.log.broker import fast as fast  # it puts itself in the place of two readers of the table
from framework.log.broker.apis import API_VERSIONS, APIS, Api, served
from framework.log.broker.codes import Code
from framework.log.broker.reading import (
    MAX_ELEMENTS,
    Budget,
    Frame,
    Read,
    located,
    read_whole,
    reader,
    short_string_reader,
    skip_tags,
)
from framework.log.broker.schema import Buffer, Struct
from framework.log.broker.table_configs import ApiVersion, ApiVersionsResponse
from framework.log.broker.table_group_admin import Assignment, Subscription
from framework.log.broker.writing import Target, Write, varint, writer
from framework.log.errors import MalformedFrame, UnsupportedRequest

S = TypeVar("S", bound=Struct)
MAX_CONSUMER_VERSION = 3
"""The last version that the table has of what consumers tell each other."""
_HEADER = struct.Struct(">hhi")
_LENGTH, _CORRELATION, _RESPONSE = struct.Struct(">i"), struct.Struct(">i"), struct.Struct(">ii")
_I16 = struct.Struct(">h")
_read_client_id = short_string_reader(null=True)
_NO_BUDGET = Budget(0)


class Request(NamedTuple):
    """A request as it came in; `body` is a struct of the type that `api.request` is."""

    api: Api
    version: int
    correlation_id: int
    client_id: str | None
    body: Struct


def decode_request(frame: Frame, *, max_elements: int = MAX_ELEMENTS) -> Request:
    """The request in *frame*. Records in it are views of *frame*, and keep it in memory.

    Raises:
        MalformedFrame: It is none.
        UnsupportedRequest: It is one that the broker does not serve, and has an answer if its client is to have one.
    """
    if len(frame) < _HEADER.size:
        raise MalformedFrame(f"{len(frame)} bytes are too few for a request", 0, "header")
    key, version, correlation_id = _HEADER.unpack_from(frame)
    api = APIS.get(key)
    if api is None or version not in api.served:
        raise _unsupported(key, version, correlation_id)
    return read_request(frame, api, version, max_elements=max_elements)


def read_request(frame: Frame, api: Api, version: int, *, max_elements: int = MAX_ELEMENTS) -> Request:
    """The request in *frame*, which is of this *api* and *version*, served or not.

    Raises:
        MalformedFrame: It is none.
    """
    try:
        _, _, correlation_id = _HEADER.unpack_from(frame)
        client_id, at = _read_client_id(frame, _HEADER.size, _NO_BUDGET)
    except (struct.error, IndexError, UnicodeDecodeError, MalformedFrame) as fault:
        raise located(fault, _HEADER.size, "client_id") from None
    read, flexible = _request_reader(api, version)
    if flexible:
        at = skip_tags(frame, at)
    # Not to the end of the frame: librdkafka 2.16 leaves three bytes behind a Metadata request for all topics, of which
    # Kafka takes no notice.
    body, _ = read(frame, at, Budget(max_elements))
    return Request(api, version, correlation_id, client_id, body)


@cache
def _request_reader(api: Api, version: int) -> tuple[Read, bool]:
    flexible = api.flexible(version)
    return reader(api.request, version, flexible), flexible


def encode_response(request: Request, response: Struct) -> list[Buffer]:
    """The frame that answers *request*, in buffers to be sent in order; `writelines` takes them.

    Long records are not copied: their buffers are those of *response*, and must stay as they are until they are sent.
    """
    api, version = request.api, request.version
    assert type(response) is api.response, f"{api.name} is not answered with {type(response).__name__}"
    return _response(api, version, request.correlation_id, response)


def decode_response(frame: Frame, api: Api, version: int, *, max_elements: int = MAX_ELEMENTS) -> tuple[int, Struct]:
    """Correlation id and body of the response in *frame*, which answers a request of this *api* and *version*.

    Raises:
        MalformedFrame: It is none.
    """
    if len(frame) < _CORRELATION.size:
        raise MalformedFrame(f"{len(frame)} bytes are too few for a response", 0, "header")
    (correlation_id,) = _CORRELATION.unpack_from(frame)
    at = skip_tags(frame, _CORRELATION.size) if _tagged_header(api, version) else _CORRELATION.size
    read = reader(api.response, version, api.flexible(version))
    return correlation_id, read_whole(read, frame, at, max_elements)


def encode_request(
    api: Api, version: int, body: Struct, *, correlation_id: int, client_id: str | None = None
) -> list[Buffer]:
    """The frame of a request, in buffers to be sent in order."""
    assert type(body) is api.request, f"{api.name} is not asked for with {type(body).__name__}"
    target = Target()
    target += _LENGTH.pack(0)
    target += _HEADER.pack(api.key, version, correlation_id)
    name = None if client_id is None else client_id.encode()
    target += _I16.pack(-1 if name is None else len(name))
    target += name or b""
    flexible = api.flexible(version)
    if flexible:
        target += varint(0)
    writer(api.request, version, flexible)(target, body)
    return _framed(target)


def _response(api: Api, version: int, correlation_id: int, response: Struct) -> list[Buffer]:
    write, tags = _response_writer(api, version)
    target = Target()
    target += _RESPONSE.pack(0, correlation_id)
    target += tags
    write(target, response)
    return _framed(target)


@cache
def _response_writer(api: Api, version: int) -> tuple[Write, bytes]:
    """What writes the body, and the tagged fields of the header."""
    return writer(api.response, version, api.flexible(version)), varint(0) if _tagged_header(api, version) else b""


def _framed(target: Target) -> list[Buffer]:
    """What was written, with its length in the place left for it."""
    _LENGTH.pack_into(target, 0, len(target) + target.kept_bytes - _LENGTH.size)
    return target.buffers()


def _tagged_header(api: Api, version: int) -> bool:
    """Whether the header of a response has tagged fields."""
    return api.flexible(version) and api is not API_VERSIONS


def _unsupported(key: int, version: int, correlation_id: int) -> UnsupportedRequest:
    """Says what there is instead; to ApiVersions, in a version that every client can read."""
    api = APIS.get(key)
    if api is None or not api.served:
        return UnsupportedRequest(f"API {key}{f' ({api.name})' if api else ''} is not served")
    low, high = api.served[0], api.served[-1]
    answer = None
    if api is API_VERSIONS:
        there = [ApiVersion(api_key=key, min_version=low, max_version=high)]
        refusal = ApiVersionsResponse(error_code=Code.UNSUPPORTED_VERSION, api_keys=there)
        answer = _response(api, 0, correlation_id, refusal)
    return UnsupportedRequest(f"version {version} of {api.name} is not served, {low} to {high} are", answer)


def api_versions() -> ApiVersionsResponse:
    """The answer to ApiVersions: everything that the broker serves."""
    return ApiVersionsResponse(api_keys=served())


# What consumers tell each other through the broker: a version, and a struct in the old encoding.


def decode_subscription(blob: bytes) -> Subscription:
    """What a member of a group of consumers said in joining.

    Raises:
        MalformedFrame: It is something else; groups of other protocol types have something else.
    """
    return _decode_blob(Subscription, blob)


def decode_assignment(blob: bytes) -> Assignment:
    """What a member of a group of consumers was given; nothing, as long as *blob* is empty.

    Raises:
        MalformedFrame: It is something else.
    """
    return _decode_blob(Assignment, blob) if blob else Assignment(partitions=())


def encode_blob(value: Subscription | Assignment, version: int) -> bytes:
    """*value* as its members send it."""
    target = Target()
    target += _I16.pack(version)
    writer(type(value), version, False)(target, value)
    return b"".join(target.buffers())


def _decode_blob(kind: type[S], blob: bytes) -> S:
    """Later versions only add fields at the end, which are not looked at."""
    if len(blob) < _I16.size:
        raise MalformedFrame(f"{len(blob)} bytes are too few for a version", 0, "version")
    (version,) = _I16.unpack_from(blob)
    if version < 0:
        raise MalformedFrame(f"it is {version}", 0, "version")
    value, _ = reader(kind, min(version, MAX_CONSUMER_VERSION), False)(blob, _I16.size, Budget())
    assert isinstance(value, kind)
    return value
