"""Structs to bytes: the table compiled to a function for each struct and version.

What is written is a list of buffers, to be sent one after the other: everything small in a few of ours, and between
them, uncopied, the records as they were given.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

from framework.log.broker.reading import MAX_STRING_BYTES
from framework.log.broker.schema import FIXED, STRINGS, Buffer, Field, Struct, fields_of

Write = Callable[["Target", Any], None]

MAX_PROSE_CHARACTERS = 4000
"""How much of an error's text is sent: four bytes a character are still a string that can be."""
COPIED_BYTES = 2048
"""Records up to so many bytes are copied: to send a buffer more costs more than that."""


class Target(bytearray):
    """What is being written; `kept` holds the buffers that are not copied, each with the place where it belongs."""

    kept: list[tuple[int, Buffer]] | None = None
    kept_bytes = 0

    def put(self, value: Buffer) -> None:
        """Write the bytes of *value*, or keep it if they are many."""
        if len(value) <= COPIED_BYTES:
            self += value
            return
        if self.kept is None:
            self.kept = []
        self.kept.append((len(self), value))
        self.kept_bytes += len(value)

    def buffers(self) -> list[Buffer]:
        """What was written, in order."""
        begin, found = 0, list[Buffer]()
        for end, buffer in self.kept or ():
            if end > begin:
                found.append(self[begin:end])
            found.append(buffer)
            begin = end
        if begin < len(self):
            found.append(self[begin:] if begin else self)
        return found


FAST_WRITERS: dict[type[Struct], Callable[[int, bool, Write], Write]] = {}
"""Makes of what the table writes a struct with in one version something faster: see `fast`."""


@cache
def writer(kind: type[Struct], version: int, flexible: bool) -> Write:
    """What writes a struct of that *kind*, as *version* of its API has it; what that version lacks is left out.

    The values are ours: one that the version cannot hold is a bug and stops at an `assert`, or as a `struct.error`.
    """
    table = table_writer(kind, version, flexible)
    return FAST_WRITERS[kind](version, flexible, table) if kind in FAST_WRITERS else table


def table_writer(kind: type[Struct], version: int, flexible: bool) -> Write:
    """The same from the table alone, which is what anything faster is compared with."""
    fields = fields_of(kind)
    steps = _steps(fields, version, flexible)
    tagged = sorted(
        (field.tag, place, field.default, _writer(field, version, flexible))
        for place, field in enumerate(fields)
        if field.tag is not None and version in field.versions
    )

    def write(target: Target, value: Any) -> None:
        for pack, begin, end, one in steps:
            if one is None:
                target += pack(*value[begin:end])
            else:
                one(target, value[begin])
        if flexible:
            for _, place, default, _ in tagged:
                if value[place] is not default and value[place] != default:
                    _write_tags(target, tagged, value)
                    return
            target += b"\0"

    return write


def _steps(
    fields: tuple[Field, ...], version: int, flexible: bool
) -> list[tuple[Callable[..., bytes], int, int, Write | None]]:
    """How to write *fields*: what is of a fixed size and stands together is written at once."""
    steps: list[tuple[Callable[..., bytes], int, int, Write | None]] = []
    formats, begin = "", 0
    for place, field in enumerate([*fields, None]):
        there = field is not None and field.tag is None and version in field.versions
        if formats and not (there and field and field.kind in FIXED):
            steps.append((struct.Struct(f">{formats}").pack, begin, place, None))
            formats = ""
        if field is None or not there:
            continue
        if field.kind in FIXED:
            begin, formats = begin if formats else place, formats + field.kind
        else:
            steps.append((struct.pack, place, place + 1, _writer(field, version, flexible)))
    return steps


def _write_tags(target: Target, tagged: list[tuple[int, int, Any, Write]], value: Any) -> None:
    """Write the tagged fields that are not what they would be anyway."""
    said = [(tag, value[place], write) for tag, place, default, write in tagged if value[place] != default]
    target += varint(len(said))
    for tag, content, write in said:
        inner = Target()
        write(inner, content)
        assert not inner.kept, "no tagged field has records"
        target += varint(tag) + varint(len(inner)) + inner


# Fields, by kind.


def _writer(field: Field, version: int, flexible: bool) -> Write:
    """What writes one field."""
    if field.kind in FIXED:
        return partial(_write_fixed, struct.Struct(f">{field.kind}").pack)
    if field.struct is not None:
        return writer(field.struct, version, flexible)
    length = compact if flexible else _SHORT if field.kind in STRINGS else _LONG
    null = length(-1) if version in field.null else None
    if field.element is not None:
        return _array_writer(field.element, version, flexible, length, null)
    if field.kind == "prose":
        return partial(_write_prose, _string_writer(length, null))
    make = {"str": _string_writer, "bytes": _bytes_writer, "records": _bytes_writer, "chunks": _chunks_writer}
    return make[field.kind](length, null)


def _write_fixed(pack: Callable[[Any], bytes], target: Target, value: Any) -> None:
    target += pack(value)


Length = Callable[[int], bytes]
_SHORT = struct.Struct(">h").pack
_LONG = struct.Struct(">i").pack
_SMALL = tuple(bytes([number]) for number in range(0x80))


def varint(number: int) -> bytes:
    """An unsigned varint."""
    if number < 0x80:
        return _SMALL[number]
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def compact(length: int) -> bytes:
    """A length in a flexible version; that of null is -1."""
    return _SMALL[length + 1] if length < 0x7F else varint(length + 1)


def _string_writer(length: Length, null: bytes | None) -> Write:
    def write(target: Target, value: str | None) -> None:
        if value is None:
            assert null is not None, "a string is null, which this version has no way to say"
            target += null
            return
        text = value.encode()
        assert len(text) <= MAX_STRING_BYTES, f"a string has {len(text)} bytes, {MAX_STRING_BYTES} is the limit"
        target += length(len(text))
        target += text

    return write


def _write_prose(write: Write, target: Target, value: str | None) -> None:
    write(target, None if value is None else value[:MAX_PROSE_CHARACTERS])


def _bytes_writer(length: Length, null: bytes | None) -> Write:
    def write(target: Target, value: Buffer | None) -> None:
        if value is None:
            assert null is not None, "bytes are null, which this version has no way to say"
            target += null
            return
        target += length(len(value))
        target.put(value)

    return write


def _chunks_writer(length: Length, null: bytes | None) -> Write:
    def write(target: Target, value: Sequence[Buffer] | None) -> None:
        if value is None:
            assert null is not None, "records are null, which this version has no way to say"
            target += null
            return
        target += length(sum(map(len, value)))
        for chunk in value:
            target.put(chunk)

    return write


def _array_writer(element: Field, version: int, flexible: bool, length: Length, null: bytes | None) -> Write:
    one = _writer(element, version, flexible)
    numbers = element.kind in FIXED and len(element.kind) == 1

    def write(target: Target, value: Sequence[Any] | None) -> None:
        if value is None:
            assert null is not None, "an array is null, which this version has no way to say"
            target += null
            return
        target += length(len(value))
        if numbers:
            target += struct.pack(f">{len(value)}{element.kind}", *value)
            return
        for each in value:
            one(target, each)

    return write
