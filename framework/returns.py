"""What a user's function gives, by its annotations, and the JSON of values of which nothing is known."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import AsyncIterable, Callable, Iterable
from typing import Any, TypeVar

import orjson
from typing_extensions import TypeVar as TypeVarWithDefault

from framework.errors import DeclarationError
from framework.serdes import Serde, dump_json


class Unknown:
    """Stands for a type that nothing says."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Any = Unknown()
_PLAIN = (str, int, float, bool, dict, list, type(None))
_STRICT = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


def returned_by(function: Callable[..., Any]) -> Any:
    """The type that *function* gives: a class gives itself, a function what it is annotated with; else `UNKNOWN`.

    >>> def half(number: int) -> float: ...
    >>> returned_by(half), returned_by(str), returned_by(lambda number: number)
    (<class 'float'>, <class 'str'>, UNKNOWN)
    """
    if isinstance(function, type):
        return function
    while isinstance(function, functools.partial):
        function = function.func
    if not hasattr(function, "__annotations__"):
        function = type(function).__call__
    try:
        found = typing.get_type_hints(function).get("return", UNKNOWN)
    except (NameError, TypeError):  # A type that only the function's own scope knows; or no function of Python.
        return UNKNOWN
    return UNKNOWN if found in (Any, object, None) or isinstance(found, TypeVar | TypeVarWithDefault) else found


def elements_of(found: Any) -> Any:
    """The type of the elements of what is annotated as *found*.

    >>> elements_of(list[int]), elements_of(dict)
    (<class 'int'>, UNKNOWN)
    """
    origin, arguments = typing.get_origin(found), typing.get_args(found)
    if not isinstance(origin, type) or not issubclass(origin, Iterable) or issubclass(origin, AsyncIterable):
        return UNKNOWN
    if issubclass(origin, tuple):
        return arguments[0] if len(arguments) == 2 and arguments[1] is Ellipsis else UNKNOWN
    element = arguments[0] if arguments else UNKNOWN
    return UNKNOWN if element is Any or isinstance(element, TypeVar) else element


def key_type_of(function: Callable[..., Any]) -> Any:
    """The type of the keys that *function* gives; None, which is no key, left out.

    >>> def tail(flight: dict) -> str | None: ...
    >>> key_type_of(tail)
    <class 'str'>
    """
    found = returned_by(function)
    if typing.get_origin(found) in (typing.Union, types.UnionType):
        rest = [part for part in typing.get_args(found) if part is not type(None)]
        found = rest[0] if len(rest) == 1 else UNKNOWN
    if isinstance(found, typing.NewType):
        found = found.__supertype__
    if typing.get_origin(found) is typing.Literal:
        kinds = {type(choice) for choice in typing.get_args(found)}
        found = kinds.pop() if len(kinds) == 1 else UNKNOWN
    return found


def exact_json(say: str) -> Serde[Any]:
    """JSON that refuses what it would give back as something else; *say* is the way out its errors name."""

    def dump(value: Any) -> bytes:
        if type(value) not in _PLAIN:
            raise DeclarationError(
                f"a value of type {type(value).__name__} is passed on, and JSON would give back another: {say}"
            )
        data = dump_json(value, _STRICT)
        if orjson.loads(data) != value:
            raise ValueError(f"JSON gives back something else: {say}")
        return data

    return Serde("JSON", dump, orjson.loads)
