"""Two other codecs of the protocol, kafka-python's and kio's, behind one face: bytes to plain tuples and back.

Their fields are matched with ours by place, so that the order of the table is checked with the rest.
"""

from __future__ import annotations

import datetime
import io
import uuid
from collections.abc import Callable
from dataclasses import fields as dataclass_fields
from dataclasses import is_dataclass
from enum import Enum
from functools import cache
from typing import Any

import kio.index
import kio.serial
from kafka.protocol import admin, consumer, metadata, producer, sasl
from kafka.protocol.schemas.fields.codecs import BitField
from kio.static.constants import EntityType

from framework.log.broker.apis import Api
from framework.log.broker.schema import Field, Struct
from framework.log.broker.table_group_admin import NOT_SAID
from tests.log.broker.drawn import in_version

KAFKA_PYTHON = {
    name: getattr(module, name)
    for module in (admin, consumer, metadata, producer, sasl)
    for name in dir(module)
    if name.endswith(("Request", "Response"))
}
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
MILLISECOND = datetime.timedelta(milliseconds=1)


def plain_leaf(value: Any) -> Any:
    """A value of theirs as a number, text or bytes."""
    if isinstance(value, uuid.UUID):
        return value.bytes
    if isinstance(value, datetime.datetime):
        return (value - EPOCH) // MILLISECOND
    if isinstance(value, datetime.timedelta):
        return value // MILLISECOND
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, set):
        return (BitField.to_32_bit_field(value) ^ 1 << 31) - (1 << 31)  # with its sign
    return bytes(value) if isinstance(value, bytearray | memoryview) else value


def plain(value: Any, field: Field, version: int, parts: Callable[[Any], list[Any]]) -> Any:
    """A value of theirs as our field would have it; *parts* takes a struct of theirs apart."""
    if value is None:
        # Theirs for no id, no time, operations that were not asked for, and a tagged struct of which nothing is said.
        return (
            default_of(field, version) if field.struct else {"16s": bytes(16), "q": -1, "i": NOT_SAID}.get(field.kind)
        )
    if field.struct is not None:
        ours, theirs = in_version(field.struct, version), parts(value)
        assert len(ours) == len(theirs), f"{field.struct.__name__} version {version}: {len(ours)}, not {len(theirs)}"
        return tuple(plain(each, part, version, parts) for each, part in zip(theirs, ours, strict=True))
    if field.element is not None:
        return tuple(plain(each, field.element, version, parts) for each in value)
    return plain_leaf(value)


def whole(kind: type[Struct]) -> Field:
    """A field that holds such a struct."""
    return Field("", "struct", struct=kind)


# kafka-python.


def kafka_python_fields(struct: Any, version: int) -> list[Any]:
    """The fields of a struct of theirs, in the order of its definition."""
    return [field for field in struct.fields.values() if field.for_version_q(version)]


def kafka_python_decode(body: bytes, kind: type[Struct], version: int) -> Any:
    """*body* as kafka-python reads it."""
    theirs = KAFKA_PYTHON[kind.__name__].decode(body, version=version)

    def parts(value: Any) -> list[Any]:
        return [getattr(value, field.name) for field in kafka_python_fields(value._struct, version)]

    return plain(theirs, whole(kind), version, parts)


def kafka_python_encode(content: Any, kind: type[Struct], version: int) -> bytes:
    """What kafka-python writes for *content*, our struct as plain tuples."""
    theirs = KAFKA_PYTHON[kind.__name__]
    told = _kafka_python_struct(content, kind, theirs._struct, version)
    return bytes(theirs(version=version, **told).encode())


def _kafka_python_struct(content: Any, kind: type[Struct], struct: Any, version: int) -> dict[str, Any]:
    ours, theirs = in_version(kind, version), kafka_python_fields(struct, version)
    return {
        their.name: _kafka_python_value(value, our, their, version)
        for value, our, their in zip(content, ours, theirs, strict=True)
        if our.tag is None or value != default_of(our, version)
    }


def default_of(field: Field, version: int) -> Any:
    """What a tagged field is when nothing is said of it, as a plain value."""
    if field.struct is None:
        return field.default
    return tuple(part.default for part in in_version(field.struct, version))


def _kafka_python_value(value: Any, our: Field, their: Any, version: int) -> Any:
    if value is None:
        return None
    if our.element is not None and our.element.struct is not None:
        return [their.data_class(**_kafka_python_struct(v, our.element.struct, their, version)) for v in value]
    if our.struct is not None:
        return their.data_class(**_kafka_python_struct(value, our.struct, their, version))
    if our.kind == "16s":
        return uuid.UUID(bytes=value)
    if our.name.endswith("authorized_operations"):
        return BitField.from_32_bit_field(value)
    return list(value) if our.element is not None else value


# kio.


@cache
def kio_class(api: Api, kind: type[Struct], version: int) -> Any:
    """Its class for one version, or None: it has none that Kafka 4 refuses."""
    load = kio.index.load_request_schema if kind is api.request else kio.index.load_response_schema
    try:
        return load(api.key, version)
    except kio.index.UnknownEntity:
        return None


def kio_decode(body: bytes, api: Api, kind: type[Struct], version: int) -> tuple[Any, bytes]:
    """*body* as kio reads it, and what it writes for that."""
    theirs = kio_class(api, kind, version)
    value, size = kio.serial.entity_reader(theirs)(body, 0)
    assert size == len(body)
    out = io.BytesIO()
    kio.serial.entity_writer(theirs)(out, value)
    return plain(value, whole(kind), version, _kio_parts), out.getvalue()


def kio_decode_blob(body: bytes, name: str, kind: type[Struct], version: int) -> Any:
    """What consumers tell each other, as kio reads it."""
    theirs = kio.index.load_entity_schema(name, version, EntityType.data)
    value, size = kio.serial.entity_reader(theirs)(body, 0)
    assert size == len(body)
    return plain(value, whole(kind), version, _kio_parts)


def _kio_parts(value: Any) -> list[Any]:
    assert is_dataclass(value)
    return [getattr(value, field.name) for field in dataclass_fields(value)]
