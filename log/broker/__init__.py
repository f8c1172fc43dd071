"""The Kafka protocol, without sockets: bytes to requests, and responses to bytes.

`schema` has the grammar of the table, `table_*` are the table, and `apis` is the list of what it holds.

>>> from framework.log.broker import Frames, api_versions, decode_request, encode_response
>>> from framework.log.broker.table_configs import ApiVersionsRequest
>>> received = bytes.fromhex("00000015 0012 0000 00000007 000b") + b"kafka-admin"
>>> [frame] = Frames().feed(received)
>>> request = decode_request(frame)
>>> request.api.name, request.version, request.client_id, request.body == ApiVersionsRequest()
('ApiVersions', 0, 'kafka-admin', True)
>>> [buffer] = encode_response(request, api_versions())
>>> bytes(buffer[:24]).hex(" ", 4)
'000000ac 00000007 00000000 001b0000 00000009 00010004'
"""

from framework.log.broker.apis import API_VERSIONS, APIS, Api, served
from framework.log.broker.codes import Code, code_of
from framework.log.broker.frames import MAX_FRAME_BYTES, Frames
from framework.log.broker.reading import MAX_ELEMENTS, Frame
from framework.log.broker.requests import (
    Request,
    api_versions,
    decode_assignment,
    decode_request,
    decode_response,
    decode_subscription,
    encode_blob,
    encode_request,
    encode_response,
    read_request,
)
from framework.log.broker.schema import NO_UUID, Buffer, Struct

__all__ = [
    "APIS",
    "API_VERSIONS",
    "MAX_ELEMENTS",
    "MAX_FRAME_BYTES",
    "NO_UUID",
    "Api",
    "Buffer",
    "Code",
    "Frame",
    "Frames",
    "Request",
    "Struct",
    "api_versions",
    "code_of",
    "decode_assignment",
    "decode_request",
    "decode_response",
    "decode_subscription",
    "encode_blob",
    "encode_request",
    "encode_response",
    "read_request",
    "served",
]
