"""Agents that do not fit their topic or their sink."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from pydantic import BaseModel

from framework import App, Record, Stream


class Flight(BaseModel):
    """What comes in."""

    carrier: str
    delay: int | None


app = App("flights")
flights = app.topic("flights", Flight, key=lambda flight: flight.carrier)
numbered = app.topic("numbered", Flight, key_type=int)
delays = app.topic("delays", int)

# Functions of other topics.


@app.agent(flights)  # error: arg-type
async def loop(stream: Stream[int]) -> None:
    async for number in stream:
        number.bit_length()


@app.agent(numbered)  # error: arg-type
async def loop_with_keys(stream: Stream[Flight, str]) -> None:
    async for _ in stream.records():
        pass


@app.agent(flights)  # error: arg-type
def value(number: int) -> None: ...


@app.agent(flights)  # error: arg-type
async def value_awaited(number: int) -> None: ...


@app.agent(flights)  # error: arg-type
def record(record: Record[int]) -> None: ...


@app.agent(numbered)  # error: arg-type
def record_with_key(record: Record[Flight, str]) -> None: ...


@app.agent(flights)  # error: arg-type
def not_async(stream: Stream[Flight]) -> None: ...


@app.agent(flights)  # error: arg-type
def two(flight: Flight, other: Flight) -> None: ...


# Results that are no values of the sink.


@app.agent(flights, sink=delays)  # error: arg-type
async def yielding_loop(stream: Stream[Flight]) -> AsyncGenerator[Flight, None]:
    async for flight in stream:
        yield flight


@app.agent(flights, sink=delays)  # error: arg-type
async def silent_loop(stream: Stream[Flight]) -> None:
    async for _ in stream:
        pass


@app.agent(flights, sink=delays)  # error: arg-type
def value_to_sink(flight: Flight) -> Flight:
    return flight


@app.agent(flights, sink=delays)  # error: arg-type
async def awaited_to_sink(flight: Flight) -> Flight | None:
    return flight


@app.agent(flights, sink=delays)  # error: arg-type
def record_to_sink(record: Record[Flight]) -> Record[Flight]:
    return record


@app.agent(flights, sink=delays)  # error: arg-type
async def record_awaited(record: Record[Flight]) -> str:
    return record.value.carrier


# Inside.


@app.agent(flights)
async def inside(stream: Stream[Flight]) -> None:
    async for flight in stream:
        flight.name  # error: attr-defined
        delays.send(flight.delay)  # error: arg-type
    for _ in stream:  # error: attr-defined
        pass


inside.send("UA")  # error: arg-type
app.agent(flights, start="yesterday")  # error: call-overload
app.agent(flights, sink="delays")  # error: call-overload
