"""Bytes to structs: the table compiled to a function for each struct and version.

Whatever the bytes are, the outcome is a struct or a `MalformedFrame` that names field and byte. Nothing is allocated on
the word of a length: strings, bytes and arrays must fit in what is left of the frame, an array with the fewest
bytes that its elements can have, and all arrays of a frame together have at most `MAX_ELEMENTS` elements.

A compiled function takes the frame, the byte at which to begin and the budget of the frame; it returns a value and
the byte behind it. Positions are local variables because that is what Python is quickest with.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, TypeVar

from framework.log.broker.schema import FIXED, STRINGS, Field, Struct, fields_of
from framework.log.errors import MalformedFrame

S = TypeVar("S", bound=Struct)

Frame = bytes | bytearray
"""What a connection has received; see `frames`."""

MAX_ELEMENTS = 100_000
"""How many elements the arrays of one frame may have together: ten topics with the most partitions there can be."""
MAX_STRING_BYTES = 0x7FFF
"""Kafka's limit of a string, in both encodings."""
MAX_VARINT_BYTES = 5


class Budget:
    """What the rest of a frame may still have: so many elements."""

    __slots__ = ("elements",)

    def __init__(self, elements: int = MAX_ELEMENTS) -> None:
        """As many as *elements*."""
        self.elements = elements

    def spend(self, data: Frame, at: int, count: int, least: int) -> None:
        """Take *count* elements of *least* bytes or more, which begin at byte *at* of *data*."""
        if count * least > len(data) - at:
            raise MalformedFrame(
                f"{count} elements of {least} bytes or more do not fit in the {len(data) - at} left", at
            )
        self.elements -= count
        if self.elements < 0:
            raise MalformedFrame(f"{count} elements more are too many for one frame", at)


Read = Callable[[Frame, int, Budget], tuple[Any, int]]
Length = Callable[[Frame, int], tuple[int, int]]
Unpack = Callable[[Frame, int], tuple[Any, ...]]
_FAULTS = (struct.error, IndexError, UnicodeDecodeError, MalformedFrame)
"""All that reading beyond the end, or what is no text, can raise."""


def read_whole(read: Read, data: Frame, at: int, max_elements: int) -> Any:
    """What *read* finds from byte *at* of *data* to its end.

    Raises:
        MalformedFrame: It is something else, or there is more behind it: whoever wrote that means something else.
    """
    value, end = read(data, at, Budget(max_elements))
    if end != len(data):
        raise MalformedFrame(f"{len(data) - end} bytes are left over", end)
    return value


FAST_READERS: dict[type[Struct], Callable[[int, bool, Read], Read]] = {}
"""Makes of what the table reads a struct with in one version something faster: see `fast`."""


@cache
def reader(kind: type[Struct], version: int, flexible: bool) -> Read:
    """What reads a struct of that *kind*, as *version* of its API writes it."""
    table = table_reader(kind, version, flexible)
    return FAST_READERS[kind](version, flexible, table) if kind in FAST_READERS else table


def table_reader(kind: type[Struct], version: int, flexible: bool) -> Read:
    """The same from the table alone, which is what anything faster is compared with."""
    fields = fields_of(kind)
    steps = _steps(fields, version, flexible)
    names = [field.name for field in fields]
    tagged = {
        field.tag: (place, field.name, _reader(field, version, flexible))
        for place, field in enumerate(fields)
        if field.tag is not None and version in field.versions
    }
    make: Callable[[list[Any]], Struct] = partial(tuple.__new__, kind)  # type: ignore[type-var]  # it is a tuple

    def read(data: Frame, at: int, budget: Budget) -> tuple[Any, int]:
        values: list[Any] = []
        try:
            for unpack, size, one in steps:
                if one is None:
                    values += unpack(data, at)
                    at += size
                else:
                    value, at = one(data, at, budget)
                    values.append(value)
            if flexible:
                if data[at]:
                    at = _read_tags(data, at, budget, tagged, values)
                else:
                    at += 1
        except _FAULTS as fault:
            raise located(fault, at, names[len(values)] if len(values) < len(names) else "tags") from None
        return make(values), at

    return read


def _steps(fields: tuple[Field, ...], version: int, flexible: bool) -> list[tuple[Unpack, int, Read | None]]:
    """How to read *fields*: what is of a fixed size and stands together is read at once."""
    steps: list[tuple[Unpack, int, Read | None]] = []
    formats = ""
    for field in [*fields, None]:
        there = field is not None and field.tag is None and version in field.versions
        if there and field and field.kind in FIXED:
            formats += field.kind
            continue
        if formats:
            run = struct.Struct(f">{formats}")
            steps.append((run.unpack_from, run.size, None))
            formats = ""
        if field:
            steps.append((_NO_RUN, 0, _reader(field, version, flexible) if there else _constant(field.default)))
    return steps


def _constant(value: object) -> Read:
    return lambda _, at, __: (value, at)


def _read_tags(
    data: Frame, at: int, budget: Budget, tagged: Mapping[int, tuple[int, str, Read]], values: list[Any]
) -> int:
    """Put what the tagged fields say over the defaults in *values*; those that are not known are passed over."""
    count, at = varint(data, at)
    budget.spend(data, at, count, 2)
    last = -1
    for _ in range(count):
        begin = at
        tag, at = varint(data, at)
        size, at = varint(data, at)
        if tag <= last:
            raise MalformedFrame(f"tag {tag} stands behind tag {last}", begin)
        last, end = tag, at + size
        if end > len(data):
            raise _too_long(data, at, size)
        if tag in tagged:
            place, name, read = tagged[tag]
            try:
                values[place], found = read(data, at, budget)
            except _FAULTS as fault:
                raise located(fault, at, name) from None
            if found != end:
                raise MalformedFrame(f"{found - at} bytes were read of {size}", at, name)
        at = end
    return at


def skip_tags(data: Frame, at: int) -> int:
    """Go over tagged fields, none of which is known: the byte behind them."""
    if data[at : at + 1] == b"\0":
        return at + 1
    try:
        return _read_tags(data, at, Budget(), {}, [])
    except _FAULTS as fault:
        raise located(fault, at, "tags") from None


def located(fault: Exception, at: int, name: str) -> MalformedFrame:
    """*fault* with the *name* of the field in front of the path that it has."""
    if isinstance(fault, MalformedFrame):
        path = f"{name}{'' if fault.field.startswith('[') or not fault.field else '.'}{fault.field}"
        return MalformedFrame(fault.reason, fault.offset, path)
    if isinstance(fault, UnicodeDecodeError):
        return MalformedFrame(f"no UTF-8: {fault.reason}", at, name)
    return MalformedFrame("the frame ends in it", at, name)


# Fields, by kind.


def _reader(field: Field, version: int, flexible: bool) -> Read:
    """What reads one field."""
    null = version in field.null
    if field.kind in FIXED:
        return _fixed_reader(field.kind)
    if field.struct is not None:
        return reader(field.struct, version, flexible)
    if field.kind in STRINGS:
        return _compact_string_reader(null=null) if flexible else short_string_reader(null=null)
    length = _compact_length if flexible else _long_length
    if field.element is not None:
        return _array_reader(field.element, version, length, flexible=flexible, null=null)
    return {"bytes": _bytes_reader, "records": _view_reader, "chunks": _chunks_reader}[field.kind](length, null=null)


def _fixed_reader(kind: str) -> Read:
    one = struct.Struct(f">{kind}")

    def read(data: Frame, at: int, _: Budget) -> tuple[Any, int]:
        return one.unpack_from(data, at)[0], at + one.size

    return read


def varint(data: Frame, at: int) -> tuple[int, int]:
    """An unsigned varint, and the byte behind it."""
    value = data[at]
    if value < 0x80:
        return value, at + 1
    value, shift, end = value & 0x7F, 7, at + 1
    while (byte := data[end]) >= 0x80:
        value, shift, end = value | (byte & 0x7F) << shift, shift + 7, end + 1
        if end - at == MAX_VARINT_BYTES:
            raise MalformedFrame(f"a number has more than {MAX_VARINT_BYTES} bytes", at)
    return value | byte << shift, end + 1


def _long_length(data: Frame, at: int) -> tuple[int, int]:
    return _I32.unpack_from(data, at)[0], at + 4


def _compact_length(data: Frame, at: int) -> tuple[int, int]:
    first = data[at]
    if first < 0x80:
        return first - 1, at + 1
    value, at = varint(data, at)
    return value - 1, at


def short_string_reader(*, null: bool) -> Read:
    """What reads a string of the old encoding, or *null*."""

    def read(data: Frame, at: int, _: Budget) -> tuple[str | None, int]:
        size = data[at] << 8 | data[at + 1]
        at += 2
        if size > MAX_STRING_BYTES:
            return _null(at, size - 0x10000, null=null)
        end = at + size
        if end > len(data):
            raise _too_long(data, at, size)
        return data[at:end].decode(), end

    return read


def _compact_string_reader(*, null: bool) -> Read:
    def read(data: Frame, at: int, _: Budget) -> tuple[str | None, int]:
        size, at = data[at], at + 1
        if size >= 0x80:
            size, at = varint(data, at - 1)
        if not size:
            return _null(at, -1, null=null)
        end = at + size - 1
        if end > len(data):
            raise _too_long(data, at, size - 1)
        if size > MAX_STRING_BYTES:
            raise MalformedFrame(f"a string of {size - 1} bytes; {MAX_STRING_BYTES} is the limit", at)
        return data[at:end].decode(), end

    return read


def _bytes_reader(length: Length, *, null: bool) -> Read:
    def read(data: Frame, at: int, _: Budget) -> tuple[bytes | None, int]:
        size, at = length(data, at)
        if size < 0:
            return _null(at, size, null=null)
        end = at + size
        if end > len(data):
            raise _too_long(data, at, size)
        return bytes(data[at:end]), end

    return read


def _view_reader(length: Length, *, null: bool) -> Read:
    def read(data: Frame, at: int, _: Budget) -> tuple[memoryview | None, int]:
        size, at = length(data, at)
        if size < 0:
            return _null(at, size, null=null)
        end = at + size
        if end > len(data):
            raise _too_long(data, at, size)
        return memoryview(data)[at:end], end

    return read


def _chunks_reader(length: Length, *, null: bool) -> Read:
    view = _view_reader(length, null=null)

    def read(data: Frame, at: int, budget: Budget) -> tuple[tuple[memoryview, ...] | None, int]:
        chunk, at = view(data, at, budget)
        return None if chunk is None else (chunk,) if chunk else (), at

    return read


def _array_reader(element: Field, version: int, length: Length, *, flexible: bool, null: bool) -> Read:
    least = least_bytes(element, version, flexible)
    assert least > 0, f"an element of {element} takes no bytes, so that no length would be too long"
    one = _reader(element, version, flexible)
    numbers = element.kind in FIXED and len(element.kind) == 1

    def read(data: Frame, at: int, budget: Budget) -> tuple[tuple[Any, ...] | None, int]:
        count, at = length(data, at)
        if count <= 0:
            return _null(at, count, null=null) if count else ((), at)
        budget.spend(data, at, count, least)
        if numbers:
            return struct.unpack_from(f">{count}{element.kind}", data, at), at + count * least
        values: list[Any] = []
        try:
            for _ in range(count):
                value, at = one(data, at, budget)
                values.append(value)
        except _FAULTS as fault:
            raise located(fault, at, f"[{len(values)}]") from None
        return tuple(values), at

    return read


def _too_long(data: Frame, at: int, size: int) -> MalformedFrame:
    return MalformedFrame(f"{size} bytes do not fit in the {len(data) - at} left", at)


def _null(at: int, length: int, *, null: bool) -> tuple[None, int]:
    """None, if that is what *length* stands for and there may be a *null*."""
    if length != -1:
        raise MalformedFrame(f"its length is {length}", at)
    if not null:
        raise MalformedFrame("it is null", at)
    return None, at


@cache
def least_bytes(field: Field, version: int, flexible: bool) -> int:
    """The fewest bytes that *field* can take."""
    if version not in field.versions or field.tag is not None:
        return 0
    if field.kind in FIXED:
        return struct.calcsize(f">{field.kind}")
    if field.struct is not None:
        inner = sum(least_bytes(each, version, flexible) for each in fields_of(field.struct))
        return inner + (1 if flexible else 0)
    return 1 if flexible else 2 if field.kind in STRINGS else 4


_I32 = struct.Struct(">i")
_NO_RUN: Unpack = _I32.unpack_from
"""Stands in a step that is no run."""
