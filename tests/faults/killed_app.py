"""The app whose worker `test_kill.py` kills: a fold into a table, and an output for every input."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from framework import App, Stream

app = App("killed")
numbers = app.topic("numbers", int, key=lambda number: f"k{number % 97}", partitions=4)
doubled = app.topic("doubled", int, key=lambda number: f"k{number % 89}", partitions=2)
sums = app.table("sums", int)
counts = app.table("counts", int)


@app.agent(numbers, sink=doubled)
async def fold(stream: Stream[int]) -> AsyncGenerator[int, None]:
    """Sum by key, and send on twice the number."""
    async for number in stream:
        sums[f"k{number % 97}"] += number
        yield 2 * number


@app.agent(doubled)
async def count(stream: Stream[int]) -> None:
    """Count by key, one agent further down."""
    async for number in stream:
        counts[f"k{number % 89}"] += 1
