"""Which changes of a type are compatible: those after which everything that was stored can still be read."""

from __future__ import annotations

import enum
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, create_model

from framework.compatible import differences
from framework.schema import schema_of


def model(name: str = "M", /, config: ConfigDict | None = None, **fields: Any) -> type[BaseModel]:
    """A model; a field is a type, or a type and its default."""
    made = {name: field if isinstance(field, tuple) else (field, ...) for name, field in fields.items()}
    create: Any = create_model
    found: type[BaseModel] = create(name, __config__=config, **made)
    return found


def judged(old: Any, new: Any) -> list[str]:
    return differences(schema_of(old, "serialization"), schema_of(new, "validation"))


LIST: Any = list
DICT: Any = dict
TUPLE: Any = tuple
"""For types that are made at run time."""


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class More(enum.Enum):
    RED = "red"
    BLUE = "blue"
    GREEN = "green"


class Node(BaseModel):
    value: int
    next: Node | None = None


class WiderNode(BaseModel):
    value: float
    next: WiderNode | None = None


class NarrowNode(BaseModel):
    value: int
    next: NarrowNode


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]
CLOSED = ConfigDict(extra="forbid")
OPEN = ConfigDict(extra="allow")

COMPATIBLE = {
    "a new field with a default": (model(a=int), model(a=int, b=(str, "x"))),
    "a new optional field": (model(a=int), model(a=int, b=(str | None, None))),
    "a field less": (model(a=int, b=str), model(a=int)),
    "int to float": (model(a=int), model(a=float)),
    "int to Decimal": (model(a=int), model(a=Decimal)),
    "a type to one of several": (model(a=int), model(a=int | str)),
    "required to optional": (model(a=int), model(a=(int | None, None))),
    "required to one with a default": (model(a=int), model(a=(int, 3))),
    "a description": (model(a=int), model(a=Annotated[int, Field(description="how many")])),
    "another name of the class": (model("Old", a=int), model("New", a=int)),
    "an inner field less": (model(a=model("In", x=int, y=int)), model(a=model("In", x=int))),
    "an inner optional field": (model(a=LIST[model("In", x=int)]), model(a=LIST[model("In", x=int, y=(int, 0))])),
    "a list to a set": (model(a=list[int]), model(a=set[int])),
    "a model to a dict": (model(a=int, b=int), dict[str, int]),
    "a model to any dict": (model(a=int), dict),
    "a value of an enum more": (model(a=Colour), model(a=More)),
    "an enum to its values' type": (model(a=Colour), model(a=str)),
    "literals to an enum": (model(a=Literal["red"]), model(a=Colour)),
    "a format less": (model(a=datetime), model(a=str)),
    "wider limits": (
        model(a=Annotated[int, Field(ge=0, lt=10)], b=Annotated[str, Field(min_length=2)]),
        model(a=Annotated[int, Field(ge=-1, le=10)], b=Annotated[str, Field(min_length=1)]),
    ),
    "a type that holds itself": (Node, WiderNode),
    "a choice more": (model(pet=Cat | Dog), model(pet=Cat | Dog | int)),
    "one of a union told apart by a field": (model(pet=Cat), model(pet=Pet)),
    "the same union": (model(pet=Pet), model(pet=Pet)),
    "a tuple to a list": (tuple[int, str], list[int | str]),
    "a type to any JSON": (model(a=int), Any),
    "text to bytes": (str, bytes),
    "int": (int, float),
}

INCOMPATIBLE = {
    "a new required field": (model(a=int), model(a=int, b=str), "b is new, and required"),
    "a renamed field": (model(a=int), model(b=int), "b is new, and required"),
    "optional to required": (
        model(a=(int, 0)),
        model(a=int),
        "a could be missing, and is required now",
    ),
    "nothing is allowed no more": (model(a=int | None), model(a=int), "a was null, is integer now"),
    "float to int": (model(a=float), model(a=int), "a was number, is integer now"),
    "another type": (model(a=str), model(a=int), "a was string, is integer now"),
    "a new format": (model(a=str), model(a=datetime), "a has the format 'date-time' now"),
    "text to a decimal": (model(a=str), model(a=Decimal), "a has the format 'decimal' now"),
    "another format": (model(a=datetime), model(a=date), "a has the format 'date' now"),
    "a value of an enum less": (model(a=More), model(a=Colour), "a may be 'green' no more"),
    "a type to an enum": (model(a=str), model(a=Colour), "a was string, is one of 'red', 'blue' now"),
    "a field in a list": (
        model(a=LIST[model("In", x=int)]),
        model(a=LIST[model("In", x=int, y=int)]),
        "a[].y is new, and required",
    ),
    "a field in a dict": (
        DICT[str, model("In", x=int)],
        DICT[str, model("In", x=str)],
        "{}.x was integer, is string now",
    ),
    "a field in an optional model": (
        model(a=(model("In", x=int) | None, None)),
        model(a=(model("In", x=str) | None, None)),
        "a.x was integer, is string now",
    ),
    "a removed field, where others are forbidden": (
        model(a=int, b=int),
        model("M", CLOSED, a=int),
        "b is stored, and not allowed any more",
    ),
    "other fields, where they become one": (
        model("M", OPEN, a=int),
        model(a=int, b=(int, 0)),
        "b was any JSON, is integer now",
    ),
    "narrower limits": (model(a=int), model(a=Annotated[int, Field(ge=0)]), "a has minimum 0 now"),
    "an inclusive limit no more": (
        model(a=Annotated[int, Field(le=10)]),
        model(a=Annotated[int, Field(lt=10)]),
        "a has maximum 10 now",
    ),
    "a pattern": (model(a=str), model(a=Annotated[str, Field(pattern="x")]), "a has the pattern 'x' now"),
    "multiples": (model(a=int), model(a=Annotated[int, Field(multiple_of=2)]), "a has another 'multipleOf'"),
    "a choice less": (model(pet=Cat | Dog | int), model(pet=Cat | Dog), "pet was integer, is Cat or Dog now"),
    "a union that is told apart by what was optional": (
        model(pet=model("Loose", kind=(Literal["cat"], "cat"), lives=int)),
        model(pet=Pet),
        "pet.kind is not in all that is stored, and is required now",
    ),
    "a type that holds itself": (Node, NarrowNode, "next was null, is object now"),
    "a longer tuple": (tuple[int, int], tuple[int, int, int], "value has minItems 3 now"),
    "keys that are numbers": (dict[str, int], dict[int, int], "value has another 'keys'"),
    "any JSON to a type": (Any, model(a=int), "value was any JSON, is object now"),
    "text to JSON": (str, int, "value was text, is integer now"),
    "JSON to text": (int, str, "value was integer, is text now"),
    "bytes to any JSON": (bytes, Any, "value was bytes, is any JSON now"),
}


@pytest.mark.parametrize("change", COMPATIBLE)
def test_a_compatible_change_is_known_as_one(change: str) -> None:
    old, new = COMPATIBLE[change]
    assert judged(old, new) == []


@pytest.mark.parametrize("change", INCOMPATIBLE)
def test_an_incompatible_change_is_named(change: str) -> None:
    old, new, why = INCOMPATIBLE[change]
    assert why in judged(old, new)


@pytest.mark.parametrize("change", [*COMPATIBLE, *INCOMPATIBLE])
def test_a_type_can_read_itself(change: str) -> None:
    for kind in (COMPATIBLE.get(change) or INCOMPATIBLE[change])[:2]:
        assert judged(kind, kind) == []


# Generated models.

SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**53), 2**53),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: st.text(max_size=4),
    bool: st.booleans(),
    Literal["a", "b"]: st.sampled_from(["a", "b"]),
    Literal["a", "b", "c"]: st.sampled_from(["a", "b", "c"]),
    Literal[1, "a"]: st.sampled_from([1, "a"]),
    date: st.dates(),
    datetime: st.datetimes(),
    Decimal: st.decimals(allow_nan=False, allow_infinity=False, min_value=-1000, max_value=1000, places=2),
    Annotated[int, Field(ge=0)]: st.integers(0, 9),
    Annotated[int, Field(ge=0, lt=5)]: st.integers(0, 4),
    Annotated[float, Field(gt=-1)]: st.floats(0, 9),
    Annotated[str, Field(max_length=2)]: st.text(max_size=2),
    Any: st.one_of(st.none(), st.integers(0, 9), st.lists(st.text(max_size=2), max_size=2)),
}
Typed = tuple[Any, st.SearchStrategy[Any]]
"""A type, and values of it."""


@st.composite
def types(draw: st.DrawFn, depth: int = 2) -> Typed:
    """A type out of simple ones, with values of it."""
    form = draw(st.sampled_from(["simple", "simple", "optional", "union", "list", "set", "dict", "tuple", "model"]))
    if form == "simple" or depth == 0:
        kind = draw(st.sampled_from(list(SIMPLE)))
        return kind, SIMPLE[kind]
    if form == "model":
        return draw(models(depth - 1))
    if form == "set":
        return set[int], st.sets(st.integers(0, 9), max_size=3)
    inner, values = draw(types(depth - 1))
    if form == "list":
        return LIST[inner], st.lists(values, max_size=2)
    if form == "dict":
        return DICT[str, inner], st.dictionaries(st.text(max_size=2), values, max_size=2)
    if form == "optional":
        return inner | None if inner is not Any else Any, st.one_of(st.none(), values)
    other, others = draw(types(depth - 1))
    if form == "tuple":
        return TUPLE[inner, other], st.tuples(values, others)
    return (Any if Any in (inner, other) else inner | other), st.one_of(values, others)


@st.composite
def models(draw: st.DrawFn, depth: int = 2) -> Typed:
    """A model of a few fields, some with defaults, with instances of it."""
    fields: dict[str, Any] = {}
    values: dict[str, st.SearchStrategy[Any]] = {}
    for name in draw(st.sets(st.sampled_from("abc"), max_size=3)):
        kind, found = draw(types(depth))
        fields[name] = (kind, None) if draw(st.booleans()) else kind
        values[name] = found
    config = draw(st.sampled_from([None, None, CLOSED, OPEN]))
    made = model("M", config, **fields)
    return made, st.fixed_dictionaries(values).map(lambda given: made.model_construct(**given))


@st.composite
def changed(draw: st.DrawFn) -> tuple[Typed, Typed]:
    """A model, and another that shares some of its fields."""
    (old, values), (other, _) = draw(models()), draw(models())
    assert issubclass(old, BaseModel)
    assert issubclass(other, BaseModel)
    kept = {name: info for name, info in old.model_fields.items() if draw(st.booleans())}
    merged = {**other.model_fields, **kept}
    fields = {name: (info.annotation, info) for name, info in merged.items()}
    create: Any = create_model
    new: type[BaseModel] = create("M", __config__=other.model_config, **fields)
    return (old, values), (new, st.nothing())


@settings(max_examples=300, deadline=None)
@given(changed(), st.data())
def test_what_a_compatible_type_wrote_can_be_read(pair: tuple[Typed, Typed], data: st.DataObject) -> None:
    (old, values), (new, _) = pair
    value = data.draw(values)
    stored = old.__pydantic_serializer__.to_json(value, warnings=False)
    try:
        old.model_validate_json(stored)
    except ValueError:
        return  # A default of None where None is no value: it cannot be read by its own type.
    if not judged(old, new):
        new.model_validate_json(stored)
