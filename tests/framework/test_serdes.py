"""Values to bytes and back, by type; and what becomes of records whose bytes are no value."""

from __future__ import annotations

import logging
import math
import sys
import typing
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from typing_extensions import TypedDict

from framework import Record, Stream
from framework.errors import DeclarationError, DecodeError, EncodeError
from framework.serdes import SERDE_ERRORS, key_serde_of, serde_of

if TYPE_CHECKING:
    from tests.framework.conftest import Shop


class Point(BaseModel):
    x: int
    y: int = 0


class Line(BaseModel):
    start: Point
    end: Point | None = None
    when: datetime | None = None


@dataclass
class Pair:
    left: int
    right: str


class Named(TypedDict):
    name: str


VALUES = [
    (Any, {"a": [1, 2.5, None, True, "x"]}),
    (object, ["anything"]),
    (bytes, b"\x00\xff"),
    (str, "Grüße"),
    (dict, {"a": {"b": []}}),
    (list, [1, "a", None]),
    (int, -5),
    (float, 2.5),
    (bool, True),
    (Point, Point(x=1)),
    (Line, Line(start=Point(x=1), end=Point(x=2, y=3), when=datetime(2024, 1, 2, tzinfo=UTC))),
    (list[int], [1, 2]),
    (dict[str, Point], {"a": Point(x=1)}),
    (tuple[str, int], ("a", 1)),
    (int | None, None),
    (int | str, "a"),
    (Literal["a", "b"], "a"),
    (Point | Named, {"name": "n"}),
    (datetime, datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=UTC)),
    (date, date(2024, 1, 2)),
    (Decimal, Decimal("1.10")),
    (UUID, UUID(int=7)),
    (set[int], {1, 2}),
    (Pair, Pair(1, "a")),
    (Named, Named(name="n")),
]


@pytest.mark.parametrize(("value_type", "value"), VALUES, ids=str)
def test_a_value_comes_back_as_it_went(value_type: Any, value: Any) -> None:
    serde = serde_of(value_type)
    found = serde.decode(serde.encode(value))
    assert found == value
    assert type(found) is type(value)


Json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 53), 1 << 53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(Json)
def test_any_json_comes_back_as_it_went(value: Any) -> None:
    serde = serde_of(Any)
    assert serde.decode(serde.encode(value)) == value


@given(st.lists(st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text(max_size=3)))
def test_many_values_are_stored_as_each_would_be(values: list[Any]) -> None:
    serde = serde_of(Any)
    assert serde.dump_all(values) == [serde.dump(value) for value in values]
    floats = serde_of(float)
    finite = [value for value in values if type(value) in (int, float) and math.isfinite(value)]
    assert floats.dump_all(finite) == [floats.dump(value) for value in finite]


@pytest.mark.parametrize(
    ("value_type", "value"),
    [(float, math.nan), (float, math.inf), (float, True), (int, True), (int, 1.5), (int, 1 << 64), (Any, 1 << 64)],
    ids=str,
)
def test_of_many_values_one_that_cannot_be_stored_is_refused(value_type: Any, value: Any) -> None:
    with pytest.raises(SERDE_ERRORS):
        serde_of(value_type).dump_all([1, value, 2])


def test_an_int_is_a_float_where_floats_are_expected() -> None:
    serde = serde_of(float)
    assert serde.decode(serde.encode(3)) == 3.0
    assert isinstance(serde.decode(b"3"), float)


@pytest.mark.parametrize(
    ("value_type", "value", "text"),
    [
        (str, 5, "5 cannot be stored as str: it is no str"),
        (str, b"a", "b'a' cannot be stored as str: it is no str"),
        (bytes, "a", "'a' cannot be stored as bytes: it is no bytes"),
        (Point, {"x": 1}, "{'x': 1} cannot be stored as Point: it is no Point"),
        (Any, {1, 2}, "{1, 2} cannot be stored as JSON: Type is not JSON serializable: set"),
        (Any, "\ud800", "cannot be stored as JSON: str is not valid UTF-8: surrogates not allowed"),
        (str, "\ud800", "cannot be stored as str: 'utf-8' codec can't encode"),
        (Any, 1 << 70, "cannot be stored as JSON: Integer exceeds 64-bit range"),
        (str, list(range(1000)), "... cannot be stored as str: it is no str"),
    ],
    ids=str,
)
def test_what_cannot_be_stored_is_refused_with_the_reason(value_type: Any, value: Any, text: str) -> None:
    with pytest.raises(EncodeError) as refused:
        serde_of(value_type).encode(value)
    assert text in str(refused.value)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("value_type", "value"),
    [
        (int, "five"),
        (int, 2.5),
        (int, True),
        (float, "a"),
        (dict, [1]),
        (list, {"a": 1}),
        (bool, 1),
        (list[int], ["a"]),
        (int | None, "five"),
        (float, float("nan")),
        (float, float("inf")),
    ],
    ids=str,
)
def test_what_could_not_be_read_again_is_not_stored(value_type: Any, value: Any) -> None:
    """Else it would be found out by a consumer, and the record would be a dead letter."""
    with pytest.raises(EncodeError):
        serde_of(value_type).encode(value)


@pytest.mark.parametrize(
    ("value_type", "data", "text"),
    [
        (Any, b"{", "not a valid JSON: unexpected end of data: line 1 column 2 (char 1)"),
        (str, b"\xff", "not a valid str: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (int, b'"a"', "not a valid int: it is a str"),
        (int, b"true", "not a valid int: it is a bool"),
        (int, b"1.0", "not a valid int: it is a float"),
        (float, b"null", "not a valid float: it is a NoneType"),
        (float, b"true", "not a valid float: it is a bool"),
        (dict, b"[]", "not a valid dict: it is a list"),
        (list, b"{}", "not a valid list: it is a dict"),
        (bool, b"0", "not a valid bool: it is a int"),
        (Point, b'{"y":1}', "not a valid Point: x: Field required"),
        (Point, b'{"x":"a","y":"b"}', "not a valid Point: x: Input should be a valid integer"),
        (Line, b'{"start":{}}', "not a valid Line: start.x: Field required"),
        (Point, b"", "not a valid Point: value: Invalid JSON: EOF while parsing a value at line 1 column 0"),
    ],
    ids=str,
)
def test_bytes_that_are_no_value_are_refused_with_the_reason(value_type: Any, data: bytes, text: str) -> None:
    with pytest.raises(DecodeError) as refused:
        serde_of(value_type).decode(data)
    assert str(refused.value).startswith(text)


def test_of_several_errors_the_first_is_told_and_the_others_are_counted() -> None:
    with pytest.raises(DecodeError, match=r"\(and 1 more\)"):
        serde_of(Point).decode(b'{"x":"a","y":"b"}')


def test_a_type_that_nothing_can_validate_is_refused() -> None:
    class Opaque:
        """Pydantic knows nothing of it."""

    class Unsupported(typing.TypedDict):
        """Pydantic wants the one of typing_extensions, before Python 3.12."""

    for wrong in (Opaque, list[Opaque], *([Unsupported] if sys.version_info < (3, 12) else [])):
        with pytest.raises(DeclarationError, match="cannot be stored: use a pydantic model, dict, str or bytes"):
            serde_of(wrong)


# Keys.


class Place(BaseModel, frozen=True):
    town: str
    area: int


@pytest.mark.parametrize(
    ("key_type", "key", "data"),
    [
        (str, "ü", "ü".encode()),
        (bytes, b"\xff", b"\xff"),
        (int, 5, b"5"),
        (dict, {"b": 1, "a": {"d": 1, "c": 2}}, b'{"a":{"c":2,"d":1},"b":1}'),
        (tuple[str, int], ("a", 1), b'["a",1]'),
        (Place, Place(town="x", area=1), b'{"area":1,"town":"x"}'),
        (bool, True, b"true"),
        (UUID, UUID(int=1), b'"00000000-0000-0000-0000-000000000001"'),
    ],
    ids=str,
)
def test_a_key_has_one_canonical_form(key_type: Any, key: Any, data: bytes) -> None:
    serde = key_serde_of(key_type)
    assert serde.encode(key) == data
    assert serde.decode(data) == key


@given(st.dictionaries(st.text(), st.integers(0, 9)))
def test_the_order_in_which_a_key_was_made_does_not_matter(key: dict[str, int]) -> None:
    serde = key_serde_of(dict)
    assert serde.encode(key) == serde.encode(dict(reversed(key.items())))


# Records that cannot be decoded.


@pytest.mark.parametrize(
    "bad",
    [[0], [3], [7], [0, 1, 2, 3], list(range(8)), [2, 4, 6]],
    ids=["first", "inside", "last", "many in a row", "all", "every other"],
)
@pytest.mark.parametrize("form", ["values", "records", "call", "await", "map"])
async def test_undecodable_records_are_dead_letters_and_the_stream_goes_on(
    shop: Shop, form: str, bad: list[int]
) -> None:
    app, seen = shop.app(), list[int]()
    points = app.topic("points", Point)

    async def values(stream: Stream[Point]) -> None:
        async for point in stream:
            seen.append(point.x)

    async def records(stream: Stream[Point]) -> None:
        async for record in stream.records():
            seen.append(record.value.x)

    async def mapped(stream: Stream[Point]) -> None:
        async for x in stream.map(lambda point: point.x).filter(lambda x: x >= 0):
            seen.append(x)

    def call(point: Point) -> None:
        seen.append(point.x)

    async def awaited(record: Record[Point]) -> None:
        seen.append(record.value.x)

    forms = {"values": values, "records": records, "call": call, "await": awaited, "map": mapped}
    app.agent(points, name="agent")(forms[form])  # type: ignore[call-overload]
    for number in range(8):
        shop.send_raw(points, b'{"x":"no"}' if number in bad else b'{"x":%d}' % number, key=b"%d" % number)
    await shop.run(app)
    assert seen == [number for number in range(8) if number not in bad]
    assert [(letter.key, letter.value) for letter in shop.dead(app, "agent")] == [
        (b"%d" % number, b'{"x":"no"}') for number in bad
    ]


async def test_an_undecodable_record_is_logged_with_its_place_and_the_error(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    app = shop.app()
    points = app.topic("points", Point, partitions=2)

    @app.agent(points)
    def take(point: Point) -> None: ...

    with app.opened():
        points.send_raw(b"k", b'{"x":"no"}', 1000, [("trace", b"1")], partition=1)
    with caplog.at_level(logging.WARNING):
        await shop.run(app)
    error = "DecodeError: not a valid Point: x: Input should be a valid integer, unable to parse string as an integer"
    assert [record.getMessage() for record in caplog.records] == [
        f"take: points-1@0 goes to shop.take.dead-letter: {error}"
    ]
    [letter] = shop.dead(app, "take")
    assert (letter.partition, letter.timestamp) == (1, datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))
    assert (letter.headers["trace"], letter.headers["dead-letter.error"]) == (b"1", error.encode())


@pytest.mark.parametrize(
    ("value_type", "good", "other"),
    [(dict, {}, b"[]"), (list, [], b"{}"), (int, 1, b"true"), (bool, True, b"1"), (float, 1.0, b"true")],
    ids=["dict", "list", "int", "bool", "float"],
)
@pytest.mark.parametrize("form", ["values", "filtered", "lists"])
async def test_json_of_another_type_is_a_dead_letter_in_every_kind_of_loop(
    shop: Shop, form: str, value_type: Any, good: Any, other: bytes
) -> None:
    app, seen = shop.app(), list[Any]()
    topic = app.topic("topic", value_type)

    @app.agent(topic)
    async def loop(stream: Stream[Any]) -> None:
        forms: dict[str, Stream[Any]] = {
            "values": stream,
            "filtered": stream.filter(lambda _: True),
            "lists": stream.take(1, timedelta(seconds=1)),
        }
        async for value in forms[form]:
            seen.append(value[0] if form == "lists" else value)

    for sent in (good, None, good, good):
        shop.send_raw(topic, other if sent is None else topic.value_serde.encode(sent))
    await shop.run(app)
    assert seen == [good] * 3
    assert [letter.value for letter in shop.dead(app, "loop")] == [other]


@pytest.mark.parametrize("value_type", [Point, str, bytes, int, dict, Any, list[int]], ids=str)
async def test_a_loop_skips_tombstones_and_records_shows_them(shop: Shop, value_type: Any) -> None:
    app, values, records = shop.app(), list[Any](), list[Any]()
    topic = app.topic("topic", value_type)
    value = {Point: Point(x=1), str: "a", bytes: b"a", int: 1, dict: {}, Any: 1}.get(value_type, [1])

    @app.agent(topic)
    async def loop(stream: Stream[Any]) -> None:
        async for found in stream:
            values.append(found)

    @app.agent(topic)
    async def shown(stream: Stream[Any]) -> None:
        async for record in stream.records():
            records.append(record.value)

    for sent in (None, value, None, None, value, None):
        shop.send_raw(topic, None if sent is None else topic.value_serde.encode(sent))
    await shop.run(app)
    assert values == [value, value]
    assert records == [None, value, None, None, value, None]
    assert shop.dead(app, "loop") == shop.dead(app, "shown") == []


@pytest.mark.parametrize("tombstones", [True, False])
async def test_undecodable_records_failures_and_tombstones_mix(shop: Shop, *, tombstones: bool) -> None:
    app = shop.app()
    numbers, out = app.topic("numbers", int), app.topic("out", int)

    @app.agent(numbers, sink=out)
    async def forward(stream: Stream[int]) -> AsyncGenerator[int, None]:
        async for number in stream:
            if number % 5 == 0:
                raise ValueError(number)
            yield number

    with app.opened():
        for number in range(60):
            bad = b"?" if number % 4 == 1 else str(number).encode()
            numbers.send_raw(None, None if tombstones and number % 3 == 1 else bad, None, [])
    await shop.run(app)
    kept = [number for number in range(60) if not (tombstones and number % 3 == 1)]
    assert shop.values(out) == [number for number in kept if number % 4 != 1 and number % 5]
    dead = [int(letter.headers["dead-letter.offset"]) for letter in shop.dead(app, "forward")]
    assert dead == [number for number in kept if number % 4 == 1 or number % 5 == 0]
