"""Structs drawn at random from the table, and structs as plain tuples that any codec's values can be compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from framework.log.broker.apis import APIS, Api
from framework.log.broker.codes import Code
from framework.log.broker.schema import NO_UUID, ZEROS, Buffer, Field, Struct, fields_of
from framework.log.broker.writing import COPIED_BYTES

ALL = [(api, kind) for api in APIS.values() for kind in (api.request, api.response)]
"""Every request and response."""
LAST_MS = 4_000_000_000_000
BITS = {"b": 7, "h": 15, "i": 31, "q": 63}
TEXTS = ["", "flights", "x" * 126, "y" * 127, "é" * 64, "z" * 20_000]
DATA = [b"", b"v", b"w" * 126, b"x" * 127, b"y" * COPIED_BYTES, b"z" * (COPIED_BYTES + 1), b"\xff" * 20_000]


def name_of(value: object) -> str | None:
    """What pytest calls a parameter."""
    return value.__name__ if isinstance(value, type) else value.name if isinstance(value, Api) else None


def structs(kind: type[Struct]) -> st.SearchStrategy[Struct]:
    """Structs of that *kind* with a value in every field, whatever version has it."""
    return st.tuples(*(values(field) for field in fields_of(kind))).map(lambda drawn: made(kind, drawn))


def made(kind: type[Struct], content: Sequence[Any]) -> Struct:
    """The struct with that content."""
    return kind(**dict(zip((field.name for field in fields_of(kind)), content, strict=True)))


def values(field: Field) -> st.SearchStrategy[Any]:
    """Values of one field, null among them if a version has that."""
    some = _values(field)
    return st.none() | some if field.null else some


def _values(field: Field) -> st.SearchStrategy[Any]:
    if field.name.endswith("error_code"):
        return st.sampled_from(sorted(Code)).map(int)  # kio knows no others
    if field.kind == "q" and field.name.endswith(("time_ms", "lifetime_ms")):
        return st.just(-1) | st.integers(0, LAST_MS)  # it makes dates and spans of them
    if field.kind in BITS:
        most = (1 << BITS[field.kind]) - 1
        return st.integers(-most - 1, most) | st.sampled_from([-1, 0, most])
    if field.element is not None:
        return st.lists(values(field.element), max_size=3).map(tuple)
    if field.struct is not None:
        return structs(field.struct)
    data = st.sampled_from(DATA) | st.binary(max_size=9)
    return {
        "?": st.booleans(),
        "16s": st.just(NO_UUID) | st.binary(min_size=16, max_size=16),
        "str": st.sampled_from(TEXTS) | st.text(max_size=9),
        "prose": st.sampled_from(TEXTS[:-1]) | st.text(max_size=9),
        "bytes": data,
        "records": data,
        "chunks": st.lists(data, max_size=2).map(tuple),
    }[field.kind]


def as_of(value: Any, field: Field, version: int) -> Any:
    """*value* as it is once *version* has been written and read: without what that version has no way to say."""
    if value is None:
        return None if version in field.null else ZEROS.get(field.kind, ())
    if field.struct is not None:
        parts = fields_of(field.struct)
        return made(
            field.struct,
            [
                as_of(each, part, version) if version in part.versions else part.default
                for each, part in zip(value, parts, strict=True)
            ],
        )
    if field.element is not None:
        return tuple(as_of(each, field.element, version) for each in value)
    if field.kind == "chunks":
        whole = b"".join(value)
        return (whole,) if whole else ()
    return value


def of_version(value: Struct, version: int) -> Any:
    """A whole struct as it is once *version* has been written and read."""
    return as_of(value, Field("", "struct", struct=type(value)), version)


def plain(value: Any, field: Field, version: int) -> Any:
    """*value* as tuples, numbers, text and bytes, with only the fields of *version*."""
    if value is None:
        return None
    if field.struct is not None:
        return tuple(
            plain(each, part, version)
            for each, part in zip(value, fields_of(field.struct), strict=True)
            if version in part.versions
        )
    if field.element is not None:
        return tuple(plain(each, field.element, version) for each in value)
    if field.kind == "chunks":
        return b"".join(value)
    return bytes(value) if isinstance(value, Buffer) else value


def plain_struct(value: Struct, version: int) -> Any:
    """A whole struct as tuples."""
    return plain(value, Field("", "struct", struct=type(value)), version)


def in_version(kind: type[Struct], version: int) -> list[Field]:
    """The fields of *kind* that *version* has."""
    return [field for field in fields_of(kind) if version in field.versions]
