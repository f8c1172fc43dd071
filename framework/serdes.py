"""Between values and bytes: JSON, pydantic, str and bytes, chosen once by type."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Generic, TypeVar

import orjson
from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import to_json

from framework.errors import DeclarationError, DecodeError, EncodeError

V = TypeVar("V")
SERDE_ERRORS = (ValueError, TypeError)


class Serde(Generic[V]):
    """How values of one type are stored."""

    value_type: Any = Any
    """What `serde_of` was given."""
    upgrades = False
    """Whether `upgrading` has had a say."""

    def __init__(
        self,
        name: str,
        encode: Callable[[Any], bytes],
        decode: Callable[[Any], Any],
        *,
        kind: type | None = None,
        numbers: Collection[type] = (),
    ) -> None:
        """*encode* and *decode* raise `SERDE_ERRORS` for what they cannot do; *kind* is given for plain JSON of a type.

        Of *numbers*, the types that JSON writes without a comma, `dump` is what `orjson.dumps` gives, or fails.
        """
        self.name, self._numbers = name, frozenset(numbers)
        self.kind = kind
        """If given, what `decode` gives is what `orjson.loads` gives, provided that it is of this very type."""
        self.dump, self.parse = encode, decode
        """`encode` and `decode` as they are given, for loops: they raise `SERDE_ERRORS`."""

    def encode(self, value: V) -> bytes:
        """*value* as bytes.

        Raises:
            EncodeError: It is no value of the type.
        """
        try:
            return self.dump(value)
        except SERDE_ERRORS as error:
            raise EncodeError(f"{_short(value)} cannot be stored as {self.name}: {error}") from error

    def dump_all(self, values: Collection[V]) -> list[bytes]:
        """Each of *values* as `dump` gives it; numbers many times faster than one by one.

        Raises:
            SERDE_ERRORS: One of them is no value of the type; `dump` says which.
        """
        if values and self._numbers.issuperset(map(type, values)):
            text = orjson.dumps(list(values))
            # For NaN and the infinities JSON has only this word, which not every type may use.
            if b"null" not in text or type(None) in self._numbers:
                return text[1:-1].split(b",")  # There are no commas within numbers.
        return list(map(self.dump, values))

    def parse_all(self, stored: Collection[Any]) -> list[V]:
        """Each of *stored* as `parse` gives it; plain JSON without a call of Python for each.

        Raises:
            SERDE_ERRORS: One of them holds no value of the type, as None never does; `parse` says which.
        """
        if self.kind is not None:
            values: list[V] = list(map(orjson.loads, stored))
            if {self.kind}.issuperset(map(type, values)):
                return values
        return list(map(self.parse, stored))

    def decode(self, data: bytes) -> V:
        """The value in *data*.

        Raises:
            DecodeError: It holds no value of the type.
        """
        try:
            value: V = self.parse(data)
        except SERDE_ERRORS as error:
            raise DecodeError(f"not a valid {self.name}: {_reason(error)}") from error
        return value


def serde_of(value_type: Any) -> Serde[Any]:
    """The serde of *value_type*: bytes, str, a pydantic model, JSON, or whatever pydantic can validate.

    Raises:
        DeclarationError: Pydantic cannot validate the type.
    """
    serde = _serde_of(value_type)
    serde.value_type = value_type
    return serde


def upgrading(serde: Serde[Any], upgrade: Callable[[Any], Any] | None, what: str) -> Serde[Any]:
    """*serde*, which for *what* gives JSON that is no value of its type to *upgrade*, and reads what that returns.

    Values that can be read as they are never come to *upgrade*. What it raises counts as undecodable.

    Raises:
        DeclarationError: The type accepts anything, so there would be nothing to upgrade.
    """
    if upgrade is None:
        return serde
    if serde.value_type in (Any, object, bytes, str):
        raise DeclarationError(
            f"{what} has upgrade=, but stores {serde.name}, as which everything can be read: give it a type, "
            "such as a pydantic model"
        )
    upgraded: Serde[Any] = Serde(serde.name, serde.dump, _parse_upgraded(serde.parse, upgrade))
    upgraded.value_type, upgraded.upgrades = serde.value_type, True
    return upgraded


def _parse_upgraded(parse: Callable[[Any], Any], upgrade: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def parse_upgraded(data: Any) -> Any:
        try:
            return parse(data)
        except SERDE_ERRORS:
            stored = orjson.loads(data)
        try:
            upgraded = to_json(upgrade(stored))
        except Exception as error:  # whatever a user's function raises, or returns that is no JSON
            raise ValueError(f"upgrade failed: {type(error).__name__}: {error}") from error
        try:
            return parse(upgraded)
        except SERDE_ERRORS as error:
            raise ValueError(f"what upgrade returned is none either: {_reason(error)}") from error

    return parse_upgraded


def _serde_of(value_type: Any) -> Serde[Any]:
    if value_type is Any or value_type is object:
        return Serde("JSON", dump_json, orjson.loads, numbers=(int, float, bool, type(None)))
    if value_type is bytes:
        return Serde("bytes", _same_bytes, _same_bytes)
    if value_type is str:
        return Serde("str", _encode_str, _decode_str)
    if value_type in (dict, list, int, float, bool):
        kind = None if value_type is float else value_type  # Of floats, integers are taken too.
        numbers = {int: (int,), float: (int, float)}.get(value_type, ())
        dump, parse = _dump_typed(value_type), _typed_json(value_type)
        return Serde(value_type.__name__, dump, parse, kind=kind, numbers=numbers)
    if isinstance(value_type, type) and issubclass(value_type, BaseModel):
        return _model_serde(value_type)
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(value_type)
    except PydanticUserError as error:
        raise DeclarationError(
            f"{value_type!r} cannot be stored: use a pydantic model, dict, str or bytes ({error})"
        ) from error
    dump = partial(adapter.dump_json, warnings="error")
    return Serde(getattr(value_type, "__name__", str(value_type)), dump, adapter.validate_json)


def key_serde_of(key_type: Any) -> Serde[Any]:
    """The serde of keys: `str` as UTF-8, `bytes` as they are, else JSON in one canonical form."""
    if key_type in (str, bytes):
        return serde_of(key_type)
    decode = serde_of(key_type).parse
    return Serde(getattr(key_type, "__name__", str(key_type)), _canonical, decode)


def _model_serde(model: type[BaseModel]) -> Serde[Any]:
    serializer, validator = model.__pydantic_serializer__, model.__pydantic_validator__

    def encode(value: Any) -> bytes:
        if not isinstance(value, model):
            raise TypeError(f"it is no {model.__name__}")
        return serializer.to_json(value, warnings="error")

    return Serde(model.__name__, encode, validator.validate_json)


def _dump_typed(expected: type) -> Callable[[Any], bytes]:
    """Refuses what `_typed_json` would not read again."""
    accepted = (float, int) if expected is float else expected

    def encode(value: Any) -> bytes:
        if not isinstance(value, accepted) or (type(value) is bool and expected is not bool):
            raise TypeError(f"it is a {type(value).__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("JSON has no such number")
        return dump_json(value)

    return encode


def _typed_json(expected: type) -> Callable[[bytes], Any]:
    loads = orjson.loads

    def decode(data: bytes) -> Any:
        value = loads(data)
        if type(value) is not expected:
            raise ValueError(f"it is a {type(value).__name__}")
        return value

    def decode_float(data: bytes) -> float:
        value = loads(data)
        if type(value) not in (int, float):
            raise ValueError(f"it is a {type(value).__name__}")
        return float(value)

    return decode_float if expected is float else decode


def _same_bytes(data: bytes) -> bytes:
    if not isinstance(data, bytes):
        raise TypeError("it is no bytes")
    return data


def _encode_str(value: str) -> bytes:
    if not isinstance(value, str):
        raise TypeError("it is no str")
    return value.encode()


def _decode_str(data: bytes) -> str:
    return str(data, "utf-8")


def _canonical(value: Any) -> bytes:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return dump_json(value, orjson.OPT_SORT_KEYS)


def dump_json(value: Any, option: int | None = None) -> bytes:
    """*value* as `orjson.dumps` gives it, in no more memory than it needs.

    What orjson gives keeps all of the memory that was taken for writing it, kilobytes of it. Where results are held,
    that is soon more than what they say, and asking the system for it takes longer than writing and copying them.
    """
    return b"".join((orjson.dumps(value, option=option), b""))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "value"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        return f"{where}: {first['msg']}{more}"
    return str(error)
