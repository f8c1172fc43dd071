"""What the tables of the protocol are written in, and how they are read.

Every struct of the protocol is a class of `Struct`, and each of its fields is one line, in the order of the wire:

    field    = NAME ": " type                                  in every version of its API
             | NAME ": Annotated[" type ", '" spec "']"
               and behind either, where it may be left out,    " = " DEFAULT
    type     = kind [" | None"]                                null in every version, unless the spec says which
    kind     = i8 | i16 | i32 | i64 | bool | uuid              of a fixed size
             | str | prose | bytes | records | chunks          with their length
             | STRUCT | "Sequence[" kind "]"
    spec     = versions [" null " versions] [" tag " NUMBER]   a tagged field stands behind the others, by number
    versions = NUMBER | NUMBER "+" | NUMBER "-" NUMBER

A field that a version does not have is its default when it is decoded, or else zero: 0, False, "", b"", (), None.
Strings and bytes are lengths and contents; in the old encoding lengths are i16 and i32, and -1 is null. From the
version on that `apis` calls flexible they are unsigned varints, one more than the length, with 0 for null, and every
struct ends with its tagged fields: their number, then number, size and content of each. Arrays are the same with
elements for bytes. Numbers are big-endian.

`prose` is a string for people, which is cut where it would be too long: it may quote what a client has sent.
`bytes` are copied out of a frame, `records` are a view of it. `chunks` are records that are sent in pieces, so
that batches of several files need not be copied together; decoded, they are one view.

A struct is a tuple with names: as quick to make, to take apart and to compare as Python has it. It is made with
keywords, and a type checker knows its fields as those of a frozen dataclass.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from functools import cache
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    NamedTuple,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

Buffer = bytes | bytearray | memoryview
"""What holds bytes."""


class Wire(NamedTuple):
    """How a Python type stands on the wire: a format of the `struct` module, or a name."""

    kind: str


i8 = Annotated[int, Wire("b")]
i16 = Annotated[int, Wire("h")]
i32 = Annotated[int, Wire("i")]
i64 = Annotated[int, Wire("q")]
uuid = Annotated[bytes, Wire("16s")]
prose = Annotated[str, Wire("prose")]
records = Annotated[Buffer, Wire("records")]
chunks = Annotated[Sequence[Buffer], Wire("chunks")]

NO_UUID = bytes(16)
"""What stands for no topic id."""
ALL_VERSIONS = range(1 << 15)
NO_VERSIONS = range(0)
FIXED = {"b", "h", "i", "q", "?", "16s"}
STRINGS = {"str", "prose"}
ZEROS: dict[str, object] = {
    "b": 0,
    "h": 0,
    "i": 0,
    "q": 0,
    "?": False,
    "16s": NO_UUID,
    "str": "",
    "prose": "",
    "bytes": b"",
}


class Field(NamedTuple):
    """One line of the table. `kind` is one of `FIXED`, str, prose, bytes, records, chunks, struct or array.

    `struct` is the class of a struct, `element` what an array holds: a field without a name.
    """

    name: str
    kind: str
    versions: range = ALL_VERSIONS
    null: range = NO_VERSIONS
    tag: int | None = None
    default: Any = None
    struct: type[Struct] | None = None
    element: Field | None = None


class Required(NamedTuple):
    """Stands where a value was not given; encoding it fails, and a type checker finds it earlier."""


REQUIRED = Required()


@dataclass_transform(kw_only_default=True, frozen_default=True)
class _Table(type):
    """Makes a named tuple of every struct."""

    def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> _Table:
        if bases:
            names = list(body.get("__annotations__", ()))
            defaults = [body.pop(field, REQUIRED) for field in names]
            first = next((at for at, default in enumerate(defaults) if default is not REQUIRED), len(defaults))
            plain = namedtuple(name, names, defaults=defaults[first:])  # type: ignore[misc]
            bases = (*bases, plain)
        return super().__new__(cls, name, bases, {"__slots__": (), **body})


class Struct(metaclass=_Table):
    """A struct of the protocol: see the grammar above."""


@cache
def fields_of(struct: type[Struct]) -> tuple[Field, ...]:
    """The lines of the table that *struct* is."""
    hints = get_type_hints(struct, include_extras=True)
    defaults: dict[str, object] = struct._field_defaults  # type: ignore[attr-defined]  # the named tuple has it
    return tuple(_field(name, hint, defaults.get(name, REQUIRED)) for name, hint in hints.items())


def _field(name: str, hint: Any, default: object = REQUIRED) -> Field:
    spec = ""
    if get_origin(hint) is Annotated:
        spec = next((word for word in hint.__metadata__ if isinstance(word, str)), "")
        if spec and not any(isinstance(word, Wire) for word in hint.__metadata__):
            hint = hint.__origin__
    versions, words = ALL_VERSIONS, spec.split()
    if words:
        versions, words = parse_versions(words[0]), words[1:]
    options = dict(zip(words[::2], words[1::2], strict=True))
    null = NO_VERSIONS
    if get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint):
        null = parse_versions(options["null"]) if "null" in options else versions
        hint = Union[tuple(each for each in get_args(hint) if each is not NoneType)]  # noqa: UP007  # there is one left
    kind, struct, element = _kind(hint)
    if default is REQUIRED:
        default = None if null else ZEROS.get(kind, ())
    tag = int(options["tag"]) if "tag" in options else None
    return Field(name, kind, versions, null, tag, default, struct, element)


def _kind(hint: Any) -> tuple[str, type[Struct] | None, Field | None]:
    """The kind of a type, and of what it is made."""
    if get_origin(hint) is Annotated:
        return next(word.kind for word in hint.__metadata__ if isinstance(word, Wire)), None, None
    if get_origin(hint) is Sequence:
        return "array", None, _field("", get_args(hint)[0])
    if isinstance(hint, type) and issubclass(hint, Struct):
        return "struct", hint, None
    return {bool: "?", str: "str", bytes: "bytes"}[hint], None, None


def parse_versions(text: str) -> range:
    """The versions that `3`, `3+` or `3-7` stand for."""
    low, dash, high = text.rstrip("+").partition("-")
    if text.endswith("+"):
        return range(int(low), ALL_VERSIONS.stop)
    return range(int(low), int(high if dash else low) + 1)
