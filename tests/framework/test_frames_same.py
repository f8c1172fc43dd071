"""Frames read from stored JSON are those that decoding would give, whatever is stored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Literal

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from framework import frames
from tests.framework.shelf import Shelf, Told, both


class Side(Enum):
    LEFT, RIGHT = "l", 'r"\u00e9'


class Inner(BaseModel):
    a: int | None
    b: str


class Flat(BaseModel):
    a: str
    b: int
    c: float
    d: bool


class Times(BaseModel):
    a: datetime
    b: date | None
    c: AwareDatetime
    d: Decimal


class Deep(BaseModel):
    a: Inner | None
    b: list[Inner]
    c: list[float | None] | None
    d: Side


class Odd(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: Literal["x", "y"] = "x"
    b: str = Field(default="z", min_length=1)
    c: dict[str, Any] = {}
    d: int | str = 0


MODELS = [Flat, Times, Deep, Odd]
JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 3),
        st.sampled_from([2**63 - 1, 2**63, -(2**63), 10**18, 0.0, -0.0, 1.5, 1e300, 5e-324, 0.1 + 0.2]),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=5),
        st.sampled_from(["", ",", '"', "\\", "{", "[", ":", "\n", "1", "true", "null", "é", "l", 'r"é', "x"]),
        st.sampled_from(
            ["2024-03-08T12:00:00Z", "2024-03-08T12:00:00.123456+09:00", "2024-03-08", "0001-01-01T00:00:00Z"]
        ),
        st.sampled_from(["2024-02-30T00:00:00Z", "2024-03-08T12:00:60Z", "2024-03-08T12:00:00.1234567", "08-03-2024"]),
        st.sampled_from(["1.50", "-0", "1E+3", "0.00000001", "NaN", "12345678901234567890.5"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abcd"), inner, max_size=3)),
    max_leaves=4,
)
OBJECT = st.dictionaries(st.sampled_from("abcde"), JSON, max_size=5)


@st.composite
def text(draw: Any, value: Any) -> bytes:
    """JSON of *value*, as one of many writers would write it, or not quite."""
    form = draw(st.integers(0, 9))
    if form == 0:
        return json.dumps(value).encode()
    if form == 1:
        return json.dumps(value, ensure_ascii=False, indent=1).encode()
    raw = orjson.dumps(value)
    if form == 2 and isinstance(value, dict) and value:  # A key twice, or once more for what is missing.
        key = draw(st.sampled_from(sorted(value)))
        return raw[:-1] + b"," + orjson.dumps({key: draw(JSON)})[1:]
    if form == 3:
        at = draw(st.integers(0, len(raw)))
        more: bytes = draw(st.sampled_from([b"", b" ", b"\n", b",", b'"', b"0", b"\xff", b"\\u0000"]))
        return raw[:at] + more + raw[at:]
    return raw


def valid(model: type[BaseModel]) -> st.SearchStrategy[bytes]:
    """What the model itself writes."""
    return st.builds(lambda value: value.model_dump_json().encode(), st.from_type(model))


# Behind and before these, a zone may put a time into a year that Python does not have.
FIRST, LAST = datetime(1000, 1, 2), datetime(9999, 12, 30)  # noqa: DTZ001  # bounds are naive
st.register_type_strategy(
    Times,
    st.builds(
        Times,
        a=st.datetimes(FIRST, LAST, timezones=st.one_of(st.none(), st.timezones())),
        b=st.one_of(st.none(), st.dates(FIRST.date())),
        c=st.datetimes(FIRST, LAST, timezones=st.timezones()),
        d=st.decimals(allow_nan=False, allow_infinity=False),
    ),
)


st.register_type_strategy(
    Odd,
    st.builds(
        Odd,
        a=st.sampled_from("xy"),
        b=st.text(min_size=1),
        c=st.dictionaries(st.sampled_from("ab"), st.one_of(st.none(), st.integers(-3, 3), st.text(max_size=2))),
        d=st.one_of(st.integers(0, 3), st.text(max_size=2)),
    ),
)


def values(model: type[BaseModel]) -> st.SearchStrategy[bytes | None]:
    """Mostly what the model writes, with one field or all of it something else, and tombstones."""
    fields = list(model.model_fields)
    changed = st.builds(
        lambda raw, name, value: orjson.loads(raw) | {name: value}, valid(model), st.sampled_from(fields), JSON
    )
    return st.one_of(valid(model), valid(model), changed.flatmap(text), OBJECT.flatmap(text), st.none())


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_what_is_trusted_is_what_the_model_reads(tmp_path_factory: Any, model: type[BaseModel]) -> None:
    shelf = Shelf(tmp_path_factory.mktemp("data"))

    @given(st.lists(values(model), max_size=8))
    @settings(max_examples=300, deadline=None)
    def same(raws: list[bytes | None]) -> None:
        agree(shelf, raws)

    with shelf.app.opened():
        shelf.stored(model, [])
        same()


@pytest.mark.slow
def test_what_is_guessed_is_what_all_values_say(tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the columns are guessed from the first two only."""
    monkeypatch.setattr(frames, "SAMPLE_RECORDS", 2)
    shelf = Shelf(tmp_path_factory.mktemp("data"))
    alike = OBJECT.flatmap(lambda value: st.lists(st.sampled_from([value, {}]).flatmap(text), max_size=4))
    row = st.fixed_dictionaries(
        {"a": st.integers(-(2**63), 2**64 - 1), "b": st.text(max_size=3), "c": st.floats(allow_nan=False)}
    )

    @given(
        st.one_of(
            st.lists(OBJECT.flatmap(text), max_size=6),
            alike,
            st.lists(row.map(orjson.dumps), max_size=5),
            st.tuples(st.lists(row.map(orjson.dumps), max_size=5), alike).map(lambda both: both[0] + both[1]),
        )
    )
    @settings(max_examples=300, deadline=None)
    def same(raws: list[bytes]) -> None:
        agree(shelf, raws)

    with shelf.app.opened():
        shelf.stored(dict, [])
        same()


def agree(shelf: Shelf, raws: Sequence[bytes | None]) -> None:
    """Both ways give the same frame, with a row for each record that is neither bad nor a tombstone."""
    told = Told()
    start = shelf.partition().high_watermark
    batch = shelf.more(raws, told)
    frame = both(batch)
    decoded = list(iter(batch))
    assert set(told.bads) == {at for at, raw in enumerate(raws, start) if raw is not None and not readable(batch, raw)}
    assert frame.height == len(decoded) or not frame.columns


def readable(batch: Any, raw: bytes) -> bool:
    try:
        batch.topic.value_serde.parse(raw)
    except ValueError:
        return False
    return True
