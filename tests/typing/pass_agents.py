"""Every form an agent can have, and what each makes of the function."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any, assert_type

from pydantic import BaseModel

from framework import Ack, Agent, App, Record, Stream


class Flight(BaseModel):
    """What comes in."""

    carrier: str
    delay: int | None


class Delay(BaseModel):
    """What goes out."""

    carrier: str
    minutes: int


app = App("flights")
flights = app.topic("flights", Flight, key=lambda flight: flight.carrier)
numbered = app.topic("numbered", Flight, key_type=int)
delays = app.topic("delays", Delay)


@app.agent(flights)
async def loop(stream: Stream[Flight]) -> None:
    """A loop over the values."""
    async for flight in stream:
        assert_type(flight, Flight)
        delays.send(Delay(carrier=flight.carrier, minutes=flight.delay or 0))


@app.agent(numbered, name="loop-with-keys", start=timedelta(hours=1))
async def loop_with_keys(stream: Stream[Flight, int]) -> None:
    """A loop over the records of a topic whose keys are numbers."""
    async for record in stream.records():
        assert_type(record, Record[Flight, int])
        assert_type(record.key, int | None)


@app.agent(flights, sink=delays)
async def yielding_loop(stream: Stream[Flight]) -> AsyncGenerator[Delay, None]:
    """A loop that yields what goes to the sink."""
    async for flight in stream:
        if flight.delay is not None:
            yield Delay(carrier=flight.carrier, minutes=flight.delay)


@app.agent(flights)
def value(flight: Flight) -> None:
    """Called once per record."""


@app.agent(flights, sink=delays, start="end")
def value_to_sink(flight: Flight) -> Delay | None:
    """Called once per record; None goes nowhere."""
    return Delay(carrier=flight.carrier, minutes=flight.delay) if flight.delay is not None else None


@app.agent(flights, sink=delays)
async def value_awaited(flight: Flight) -> Delay:
    """Called once per record, and may wait."""
    return Delay(carrier=flight.carrier, minutes=flight.delay or 0)


@app.agent(flights)
def record(record: Record[Flight]) -> None:
    """Called once per record, with all there is to know about it."""


@app.agent(numbered, sink=delays)
def record_to_sink(record: Record[Flight, int]) -> Delay | None:
    """The key is a number, too."""
    return Delay(carrier=record.value.carrier, minutes=record.key or 0)


@app.agent(numbered, sink=delays)
async def record_awaited(record: Record[Flight, int]) -> Delay | None:
    """The same, and may wait."""
    return Delay(carrier=record.value.carrier, minutes=record.key or 0)


assert_type(loop, Agent[Flight, None])
assert_type(loop_with_keys, Agent[Flight, None])
assert_type(yielding_loop, Agent[Flight, Delay])
assert_type(value, Agent[Flight, None])
assert_type(value_to_sink, Agent[Flight, Delay])
assert_type(value_awaited, Agent[Flight, Delay])
assert_type(record, Agent[Flight, None])
assert_type(record_to_sink, Agent[Flight, Delay])
assert_type(record_awaited, Agent[Flight, Delay])


def send(agents: dict[str, Agent[Any, Any]]) -> Ack:
    """An agent takes what its topic takes."""
    for agent in agents.values():
        agent.send({"any": "thing"})
    return loop.send(Flight(carrier="UA", delay=None))
