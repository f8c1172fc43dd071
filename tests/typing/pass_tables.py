"""Tables are mappings from their key type to what their default makes."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from datetime import timedelta
from typing import assert_type

from pydantic import BaseModel

from framework import App, Stream, Table


class Delays(BaseModel):
    """A row."""

    flights: int = 0
    minutes: float = 0


def no_tags() -> list[str]:
    """What a key without a row has."""
    return []


app = App("flights")
carriers = app.topic("carriers", str)

counts = app.table("counts", int)
assert_type(counts, Table[int, str])

delays = app.table("delays", Delays)
assert_type(delays, Table[Delays, str])

by_number = app.table("by-number", Delays, key_type=int)
assert_type(by_number, Table[Delays, int])

tags = app.table("tags", no_tags)
assert_type(tags, Table[list[str], str])

pairs = app.table("pairs", lambda: (0, 0.0))
assert_type(pairs, Table[tuple[int, float], str])

recent = app.table("recent", int, key_type=int, ttl=timedelta(hours=1))
assert_type(recent, Table[int, int])

last = app.table("last", source=carriers)
assert_type(last, Table[str, str])

named = app.table("named", source=app.topic("names", Delays, key_type=int), everywhere=True)
assert_type(named, Table[Delays, int])

# The types of what is empty have to be said.
by_day: Table[dict[str, int]] = app.table("by-day", dict)


@app.agent(carriers)
async def fill(stream: Stream[str]) -> None:
    """Everything that can be done with a row."""
    async for carrier in stream:
        counts[carrier] += 1
        delays[carrier].flights += 1
        by_number[7] = Delays(flights=1)
        tags[carrier].append("late")
        flights, minutes = pairs[carrier]
        pairs[carrier] = flights + 1, minutes
        by_day[carrier]["2013-01-01"] = flights
        if carrier in counts:
            del counts[carrier]


def look() -> MutableMapping[int, Delays]:
    """A table is a mapping like any other."""
    assert_type(counts["UA"], int)
    assert_type(delays["UA"], Delays)
    assert_type(delays["UA"].minutes, float)
    assert_type(iter(by_number), Iterator[int])
    assert_type(dict(by_number), dict[int, Delays])
    assert_type([*delays.values()], list[Delays])
    assert_type([*delays.items()], list[tuple[str, Delays]])
    assert_type(named.range(1, 9), Iterator[tuple[int, Delays]])
    assert_type(len(counts), int)
    return by_number
