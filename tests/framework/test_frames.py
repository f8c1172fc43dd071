"""Batches as frames of polars: the columns of every type, and that what is read fast is what decoding gives."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
import polars as pl
import pytest
from pydantic import BaseModel, ConfigDict, Field, computed_field, field_validator

from framework.errors import DecodeError, MissingExtra
from framework.frames import frame_of
from framework.reading import Reading
from tests.framework.shelf import BAD, Shelf, Told, both, only_fast

TIME = pl.Datetime("us", "UTC")
NOON = datetime(2024, 3, 8, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=9)))


class Color(Enum):
    RED, BLUE = "red", "blue"


class Size(IntEnum):
    SMALL, LARGE = 1, 2


class Place(BaseModel):
    name: str
    height: float | None = None


class Order(BaseModel):
    """One field of each type that has a column of its own."""

    text: str
    number: int
    amount: float
    paid: bool
    at: datetime
    day: date
    price: Decimal
    color: Color
    size: Size
    kind: Literal["new", "old"]
    note: str | None
    place: Place
    back: Place | None
    tags: list[str]
    places: list[Place]
    grid: list[list[int]]


class Plain(BaseModel):
    """Such as most records are."""

    key: str
    amount: int
    price: float
    ok: bool


class Loose(BaseModel):
    """What polars cannot be trusted with: constraints, defaults, validators, open parts."""

    model_config = ConfigDict(str_strip_whitespace=True)
    name: str = "nobody"
    amount: Annotated[int, Field(ge=0)] = 7
    ident: UUID | None = None
    extra: dict[str, Any] = {}

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name == "bad":
            raise ValueError("it is bad")
        return name.upper()


class Written(BaseModel):
    """Writes more than it reads."""

    amount: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return 2 * self.amount


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    """A new one; closed after the test."""
    shelf = Shelf(tmp_path / "data")
    yield shelf
    shelf.app.close()


def order(**changed: Any) -> Order:
    values: dict[str, Any] = {
        "text": 'a "quoted" text, 東京',
        "number": -5,
        "amount": 0.1,
        "paid": True,
        "at": NOON,
        "day": date(2024, 2, 29),
        "price": Decimal("12.50"),
        "color": Color.BLUE,
        "size": Size.LARGE,
        "kind": "new",
        "note": None,
        "place": Place(name="here", height=1.5),
        "back": None,
        "tags": ["x", "y"],
        "places": [Place(name="there")],
        "grid": [[1], []],
    }
    return Order(**values | changed)


# Columns.


def test_each_field_has_a_column_of_its_type(shelf: Shelf) -> None:
    place = pl.Struct({"name": pl.String, "height": pl.Float64})
    values = [order(), order(note="n", back=Place(name="b"), tags=[], places=[], grid=[], at=NOON.astimezone(UTC))]
    frame = only_fast(shelf.stored(Order, [value.model_dump_json().encode() for value in values]))
    assert dict(frame.schema) == {
        "text": pl.String,
        "number": pl.Int64,
        "amount": pl.Float64,
        "paid": pl.Boolean,
        "at": TIME,
        "day": pl.Date,
        "price": pl.String,
        "color": pl.String,
        "size": pl.Int64,
        "kind": pl.String,
        "note": pl.String,
        "place": place,
        "back": place,
        "tags": pl.List(pl.String),
        "places": pl.List(place),
        "grid": pl.List(pl.List(pl.Int64)),
    }
    first, second = frame.to_dicts()
    assert first["at"] == second["at"] == NOON
    assert first["at"].utcoffset() == timedelta(0)
    plain = values[0].model_dump() | {"at": NOON, "price": "12.50", "color": "blue", "size": 2}
    assert first == plain
    assert (second["note"], second["back"], second["tags"]) == ("n", {"name": "b", "height": None}, [])
    both(shelf.stored(Order, [value.model_dump_json().encode() for value in values]))


def test_an_empty_batch_has_the_columns_and_no_rows(shelf: Shelf) -> None:
    frame = shelf.stored(Plain, []).to_polars()
    assert dict(frame.schema) == {"key": pl.String, "amount": pl.Int64, "price": pl.Float64, "ok": pl.Boolean}
    assert frame.height == 0
    assert dict(shelf.stored(int, []).to_polars().schema) == {"value": pl.Int64}
    assert shelf.stored(dict, []).to_polars().shape == (0, 0)
    assert list(shelf.stored(Loose, []).to_polars().columns) == ["name", "amount", "ident", "extra"]
    assert both(shelf.stored(Plain, [None, None])).height == 0


@pytest.mark.parametrize(
    ("value_type", "raws", "dtype", "values"),
    [
        (int, [b"1", b"-2"], pl.Int64, [1, -2]),
        (float, [b"1", b"0.5"], pl.Float64, [1.0, 0.5]),
        (bool, [b"true"], pl.Boolean, [True]),
        (str, ["東".encode(), b""], pl.String, ["東", ""]),
        (bytes, [b"\xff\n"], pl.Binary, [b"\xff\n"]),
        (datetime, [b'"2024-03-08T12:00:00Z"'], TIME, [datetime(2024, 3, 8, 12, tzinfo=UTC)]),
        (list[int], [b"[1,2]", b"[]"], pl.List(pl.Int64), [[1, 2], []]),
        (list, [b"[1]", b"[1.5]"], pl.List(pl.Float64), [[1.0], [1.5]]),
        (Place | None, [b'{"name":"x"}', b"null"], pl.Struct, [{"name": "x", "height": None}, None]),
        (Any, [b"1", b'"x"', b"null"], pl.String, ["1", "x", None]),
        (int, [b"9223372036854775808", b"1"], pl.Int128, [2**63, 1]),
    ],
)
def test_plain_values_are_one_column(shelf: Shelf, value_type: Any, raws: list[Any], dtype: Any, values: Any) -> None:
    """Tombstones are left out, which a JSON null is not."""
    frame = both(shelf.stored(value_type, [*raws, None]))
    assert (frame.columns, frame["value"].to_list(), frame["value"].dtype) == (["value"], values, dtype)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"a": 1}, {"b": "x"}], [{"a": 1, "b": None}, {"a": None, "b": "x"}]),
        ([{"a": 1}, {"a": "x"}, {"a": [1]}], [{"a": "1"}, {"a": "x"}, {"a": "[1]"}]),
        ([{"a": 1}, {"a": 2.5}], [{"a": 1.0}, {"a": 2.5}]),
        ([{"a": {"b": 1}}, {"a": {"c": True}}], [{"a": {"b": 1, "c": None}}, {"a": {"b": None, "c": True}}]),
        ([{"a": [1]}, {"a": ["x"]}, {"a": None}], [{"a": ["1"]}, {"a": ["x"]}, {"a": None}]),
        ([{"a": 2**64 - 1}, {"a": 1}], [{"a": 2**64 - 1}, {"a": 1}]),
        ([{"a": True}, {"a": 1}], [{"a": "true"}, {"a": "1"}]),
        ([{"a": None}, {"a": []}], [{"a": None}, {"a": []}]),
    ],
)
def test_untyped_json_loses_nothing_wherever_other_shapes_come(shelf: Shelf, rows: Any, expected: Any) -> None:
    """At the beginning, or behind what the columns are guessed from."""
    raws = list(map(orjson.dumps, rows))
    assert both(shelf.stored(dict, raws)).to_dicts() == expected
    many = [raws[0]] * 1500
    found = both(shelf.stored(dict, [*many, *raws[1:]]))
    assert found.to_dicts() == [*([expected[0]] * 1500), *expected[1:]]


def test_models_that_check_or_open_up_are_decoded(shelf: Shelf) -> None:
    told = Told()
    good = [b'{"name":" ada "}', b'{"amount":3,"extra":{"x":1},"ident":"12345678-1234-5678-1234-567812345678"}']
    batch = shelf.stored(Loose, [good[0], BAD, good[1]], told)
    assert both(batch).to_dicts() == [
        {"name": "ADA", "amount": 7, "ident": None, "extra": {"x": None}},
        {"name": "nobody", "amount": 3, "ident": "12345678-1234-5678-1234-567812345678", "extra": {"x": 1}},
    ]
    assert set(told.bads) == {1}
    assert both(shelf.stored(Written, [b'{"amount":3}'])).to_dicts() == [{"amount": 3, "double": 6}]


# Trust.

LINE = b'{"key":"k","amount":1,"price":1.5,"ok":true}'


@pytest.mark.parametrize(
    ("line", "good"),
    [
        (b'{"key":5,"amount":1,"price":1.5,"ok":true}', False),
        (b'{"key":"k","amount":1.5,"price":1.5,"ok":true}', False),
        (b'{"key":"k","amount":"1","price":1.5,"ok":true}', True),
        (b'{"key":"k","amount":1.0,"price":1,"ok":true}', True),
        (b'{"key":"k","amount":1,"price":1.5}', False),
        (b'{"key":"k","amount":1,"price":1.5,"ok":null}', False),
        (b'{"key":"k","amount":1,"price":1.5,"ok":true,"more":1}', True),
        (b'{"key":"j","key":"k","amount":1,"price":1.5,"ok":true}', True),
        (b'{"key":5,"amount":1,"amount":2,"price":1.5,"ok":true}', False),
        (b'{"ok":true, "price":1.5, "amount":1, "key":"a,b"}', True),
        (b'{"key":"\\u006b","amount":1,"price":1.5,"ok":true}', True),
        (b'{"key":"\\ud800","amount":1,"price":1.5,"ok":true}', False),
        (b'{"key":"\xff","amount":1,"price":1.5,"ok":true}', False),
        (b'{"key":{"key":"k"},"amount":1,"price":1.5,"ok":true}', False),
        (b'{"key":{"k":1},"amount":1,"price":1.5,"ok":true}', False),
        (b'{"key":"k",\n"amount":1,"price":1.5,"ok":true}', True),
        (LINE + b"\n" + LINE, False),
        (b"", False),
        (b"[]", False),
        (b'{"key":"k","amount":9223372036854775808,"price":1.5,"ok":true}', True),
        (b'{"key":"k","amount":1,"price":NaN,"ok":true}', True),
    ],
)
def test_a_line_of_another_form_is_read_as_the_model_reads_it(shelf: Shelf, line: bytes, good: bool) -> None:
    """Between lines that can be trusted, and beside an empty one, which might make up for a line too many."""
    for lines in ([LINE, line, LINE], [LINE, line, b"", LINE]):
        told = Told()
        frame = both(shelf.stored(Plain, lines, told))
        assert frame.height == len(lines) - len(set(told.bads))
        assert (1 not in told.bads) == good


def test_lines_as_the_model_writes_them_are_not_decoded(shelf: Shelf) -> None:
    """Nor those of another writer who puts the fields in another order, or a space behind each."""
    for raws in (
        [LINE, b'{"key":"a, b","amount":-5,"price":1e5,"ok":false}'],
        [LINE, b'{"key":"a \\"b\\" {","amount":0,"price":0.0,"ok":false}'],
        [b'{"ok": true, "price": 1.5, "amount": 1, "key": "k\\n"}'] * 2,
        [b'{"ok":true,"price":1.5,"amount":1,"key":"k"}', LINE],
    ):
        frame = only_fast(shelf.stored(Plain, [*raws, None]))
        assert frame.equals(frame_of(shelf.stored(Plain, list(raws)), trusting=False))
    rows = [{"a": n, "b": {"c": [n / 2], "d": None}} for n in range(3000)]
    assert only_fast(shelf.stored(dict, list(map(orjson.dumps, rows)))).to_dicts() == rows


def test_older_values_are_upgraded(shelf: Shelf) -> None:
    raws: list[bytes | None] = [LINE, b'{"key":"k","amount":1,"price":1.5}']
    frame = both(shelf.stored(Plain, raws, upgrade=lambda old: {**old, "ok": True}))
    assert frame.to_dicts() == [{"key": "k", "amount": 1, "price": 1.5, "ok": True}] * 2


def test_a_bad_record_raises_without_a_run(shelf: Shelf) -> None:
    with pytest.raises(DecodeError, match=r"-0@1: not a valid Plain"):
        shelf.stored(Plain, [LINE, BAD], Reading()).to_polars()


def test_a_chunk_is_a_frame_too(shelf: Shelf) -> None:
    raws: list[bytes | None] = [orjson.dumps({"key": "k", "amount": n, "price": 1.5, "ok": True}) for n in range(10)]
    chunks = shelf.stored(Plain, raws).chunks(4)
    assert [chunk.to_polars()["amount"].to_list() for chunk in chunks] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_without_polars_it_says_what_to_install(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = shelf.stored(Plain, [LINE])
    monkeypatch.delitem(sys.modules, "framework.frames")
    monkeypatch.delitem(sys.modules, "framework.shapes")
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(MissingExtra, match=r"pip install 'framework-streams\[polars\]'"):
        batch.to_polars()
