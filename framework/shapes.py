"""What column of a frame values of a type go into, and which JSON polars may be trusted to read for them.

Polars takes any JSON for a string, many forms of a date, of a key that comes twice the first one, and half a surrogate
pair for a zero byte. So it is given only text that matches the pattern of its shape, in which none of that can be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from itertools import chain
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin
from uuid import UUID

import orjson
import polars as pl
from pydantic import AwareDatetime, BaseModel, NaiveDatetime
from pydantic_core import to_json, to_jsonable_python

T = TypeVar("T")
TRUSTED_CONFIG = {"frozen", "title", "json_schema_extra"}
"""What a model may be configured with and still be read by its fields alone."""
_STRING = r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt])*"'
_INT = r"(?:0|-?[1-9][0-9]{0,17})"
_FLOAT = r"(?:0|-?[1-9][0-9]{0,17}|-?[0-9]+\.[0-9]+(?:[eE][-+]?[0-9]+)?|-?[0-9]+[eE][-+]?[0-9]+)"
_DAY = r"(?:[1-9][0-9]{3}-[01][0-9]-[0-3][0-9])"
_CLOCK = r"T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?"
_ZONE = r"(?:Z|[-+](?:0[0-9]|1[0-4]):[0-5][0-9])"
# Longer fractions Python may write with an exponent.
_DECIMAL = r'"-?(?:0|[1-9][0-9]*)(?:\.[0-9]{1,6})?"'
_BOOL = "(?:true|false)"
_EPOCH, _EPOCH_DAY = datetime(1970, 1, 1, tzinfo=UTC), date(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
TIME = pl.Datetime("us", "UTC")
"""What columns of times are of."""


class Unfit(Exception):
    """A value is not what its type promises; its column is inferred then."""


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True)
class Shape:
    """How values of a type stand in a column."""

    dtype: Any = None
    """The column's type; None if it is to be inferred from the values."""
    plain: Callable[[Any], Any] = _same
    """What polars is given for a value that is not None; raises `Unfit`."""
    pattern: str | None = None
    """The JSON of which polars makes what `plain` gives; None if there is none that can be told by its form."""
    fields: Mapping[str, Shape] | None = field(default=None, hash=False)
    """Of a struct."""
    item: Shape | None = None
    """Of a list."""

    def line(self, order: Iterable[str]) -> str | None:
        """The pattern of a struct whose fields come in this *order*; None if one has none."""
        assert self.fields is not None
        pairs = []
        for name in order:
            pattern = self.fields[name].pattern
            if pattern is None:
                return None
            pairs.append(f"{_literal(orjson.dumps(name).decode())}: ?{pattern}")
        return r"\{" + ", ?".join(pairs) + r"\}"


def shape_of(value_type: Any, within: tuple[Any, ...] = ()) -> Shape:
    """The shape of values of a type; *within* are the models whose field it is."""
    origin, arguments = get_origin(value_type), get_args(value_type)
    if origin is Annotated:
        return replace(shape_of(arguments[0], within), pattern=None)  # It may have constraints.
    if origin in (Union, UnionType) and len(arguments) == 2 and NoneType in arguments:
        return optional(shape_of(next(each for each in arguments if each is not NoneType), within))
    if origin is list:
        return _list_of(shape_of(arguments[0], within))
    if origin is Literal:
        return _one_of(arguments)
    if isinstance(value_type, type) and origin is None:
        if issubclass(value_type, Enum):
            return _one_of([member.value for member in value_type])
        if issubclass(value_type, BaseModel):
            return _model(value_type, within)
    return next((shape for known, shape in _LEAVES if value_type is known), OPEN)


def infer(values: Sequence[Any]) -> Shape:
    """The shape of values that JSON can have, whichever of them there are; its pattern takes null."""
    there = [value for value in values if value is not None]
    kinds = set(map(type, there))
    if not kinds:
        return Shape(pl.Null(), pattern="null")
    if kinds == {dict}:
        names = dict.fromkeys(chain.from_iterable(there))
        return optional(_struct({name: infer([each.get(name) for each in there]) for name in names}))
    if kinds == {list}:
        return optional(_list_of(infer(list(chain.from_iterable(there)))))
    if kinds == {int}:
        least, most = min(there), max(there)
        if least >= -(2**63) and most < 2**63:
            return optional(Shape(pl.Int64(), pattern=_INT))
        return Shape(pl.Int128()) if least >= -(2**127) and most < 2**127 else Shape(pl.String(), _text)
    if kinds <= {int, float} and all(-(2**1000) < each < 2**1000 for each in there if type(each) is int):
        return optional(Shape(pl.Float64(), float, _FLOAT))
    if kinds == {bool}:
        return optional(Shape(pl.Boolean(), pattern=_BOOL))
    return optional(Shape(pl.String(), pattern=_STRING)) if kinds == {str} else Shape(pl.String(), _text)


def settle(shape: Shape, plains: Sequence[Any]) -> Shape:
    """The shape of what *shape* has made of some values, with what is open in it inferred from them."""
    if shape.dtype is not None:
        return Shape(shape.dtype)
    there = [plain for plain in plains if plain is not None]
    if shape.fields is not None:
        return _struct({name: settle(each, [plain[name] for plain in there]) for name, each in shape.fields.items()})
    if shape.item is not None:
        return _list_of(settle(shape.item, list(chain.from_iterable(there))))
    return infer(there)


def optional(shape: Shape) -> Shape:
    """*shape*, and null."""
    return shape if shape.pattern is None else replace(shape, pattern=_or_null(shape.pattern))


def is_plain(shape: Shape) -> bool:
    """Whether all fields of a struct are strings, numbers and truth values, of any value."""
    plain = {_STRING, _INT, _FLOAT, _BOOL}
    plain |= {_or_null(pattern) for pattern in plain}
    return shape.fields is not None and all(each.pattern in plain for each in shape.fields.values())


def plains_of(shape: Shape, values: Iterable[Any]) -> list[Any]:
    """What polars is given for *values*.

    Raises:
        Unfit: One is not what its type promises.
    """
    plain = shape.plain
    return list(values) if plain is _same else [None if value is None else plain(value) for value in values]


def _struct(fields: Mapping[str, Shape]) -> Shape:
    plains = [(name, shape.plain) for name, shape in fields.items()]
    names = fields.keys()

    def plain(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or not value.keys() <= names:
            raise Unfit
        get = value.get
        return {name: None if (each := get(name)) is None else convert(each) for name, convert in plains}

    is_open = any(shape.dtype is None for shape in fields.values())
    dtype = None if is_open else pl.Struct({name: shape.dtype for name, shape in fields.items()})
    struct = Shape(dtype, plain, fields=fields)
    return replace(struct, pattern=struct.line(fields))


def _list_of(item: Shape) -> Shape:
    def plain(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise Unfit
        return plains_of(item, value)

    pattern = None if item.pattern is None else rf"\[(?:{item.pattern}(?:, ?{item.pattern})*)?\]"
    return Shape(None if item.dtype is None else pl.List(item.dtype), plain, pattern, item=item)


def _model(model: type[BaseModel], within: tuple[Any, ...]) -> Shape:
    made = model.__pydantic_decorators__
    writes_itself = made.computed_fields or made.field_serializers or made.model_serializers
    config: Mapping[str, Any] = model.model_config
    if model in within or writes_itself or model.__pydantic_root_model__ or config.get("extra") == "allow":
        return OPEN
    if any("__get_pydantic_core_schema__" in vars(each) for each in model.__mro__ if each is not BaseModel):
        return OPEN
    shape = _struct({name: _field(each, (*within, model)) for name, each in model.model_fields.items()})
    checks = any((made.validators, made.field_validators, made.root_validators, made.model_validators))
    checks = checks or bool(model.__pydantic_custom_init__ or model.__pydantic_post_init__)
    if checks or not {name for name in config if name != "extra"} <= TRUSTED_CONFIG:
        return replace(shape, pattern=None)
    return shape


def _field(info: Any, within: tuple[Any, ...]) -> Shape:
    shape = shape_of(info.annotation, within)
    if info.metadata or info.alias or info.validation_alias or info.serialization_alias or info.exclude:
        return replace(shape, pattern=None)
    return shape


def _one_of(values: Iterable[Any]) -> Shape:
    """The values of an enum or literal, by themselves."""
    listed = list(values)
    kinds = set(map(type, listed))
    if kinds not in ({str}, {int}):
        return OPEN
    pattern = "(?:" + "|".join(_literal(orjson.dumps(value).decode()) for value in listed) + ")"
    leaf = next(shape for known, shape in _LEAVES if known in kinds)
    return Shape(leaf.dtype, lambda value: leaf.plain(value.value if isinstance(value, Enum) else value), pattern)


def _literal(text: str) -> str:
    """A pattern of *text* itself."""
    return "".join(each if each.isalnum() else rf"\x{{{ord(each):x}}}" for each in text)


def _or_null(pattern: str) -> str:
    return f"(?:null|{pattern})"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value).decode()


def _exactly(kind: type[T]) -> Callable[[Any], T]:
    def plain(value: Any) -> T:
        if type(value) is not kind:
            raise Unfit
        return value

    return plain


def _plain_int(value: Any) -> int:
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise Unfit
    return value


def _plain_float(value: Any) -> float:
    if type(value) is not float:
        raise Unfit
    return value


def _plain_time(value: Any) -> int:
    if not isinstance(value, datetime):
        raise Unfit
    return ((value if value.tzinfo else value.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND


def _plain_day(value: Any) -> int:
    if type(value) is not date:
        raise Unfit
    return (value - _EPOCH_DAY).days


def _plain_decimal(value: Any) -> str:
    if not isinstance(value, Decimal):
        raise Unfit
    return str(value)


OPEN = Shape(plain=to_jsonable_python)
JSON = Shape()
"""What `orjson.loads` gives."""
_LEAVES: list[tuple[Any, Shape]] = [
    (bool, Shape(pl.Boolean(), _exactly(bool), _BOOL)),
    (int, Shape(pl.Int64(), _plain_int, _INT)),
    (float, Shape(pl.Float64(), _plain_float, _FLOAT)),
    (str, Shape(pl.String(), _exactly(str), _STRING)),
    (bytes, Shape(pl.Binary(), _exactly(bytes))),
    (datetime, Shape(TIME, _plain_time, f'"{_DAY}{_CLOCK}{_ZONE}?"')),
    (AwareDatetime, Shape(TIME, _plain_time, f'"{_DAY}{_CLOCK}{_ZONE}"')),
    (NaiveDatetime, Shape(TIME, _plain_time, f'"{_DAY}{_CLOCK}"')),
    (date, Shape(pl.Date(), _plain_day, f'"{_DAY}"')),
    (Decimal, Shape(pl.String(), _plain_decimal, _DECIMAL)),
    (UUID, Shape(pl.String(), str)),
    (Any, JSON),
    (object, JSON),
    (dict, JSON),
    (list, JSON),
]
