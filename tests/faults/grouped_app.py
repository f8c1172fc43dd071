"""The app whose worker `test_grouped_kill.py` kills: a filter, a group_by, a keyed table, an output for every count."""

from __future__ import annotations

from framework import App, Stream

app = App("grouped")
numbers = app.topic("numbers", int, key=lambda number: f"k{number % 97}", partitions=4)
counted = app.topic("counted", list, key=lambda pair: pair[0], partitions=2)
counts = app.table("counts", int)


def wanted(number: int) -> bool:
    """Every third is left out."""
    return number % 3 != 0


def group(number: int) -> str:
    """A key that lies across the input's partitions."""
    return f"g{number % 89}"


@app.agent(numbers)
async def count(stream: Stream[int]) -> None:
    """Count by the new key, and send each count."""
    async for number in stream.filter(wanted).group_by(group):
        counts[group(number)] += 1
        counted.send([group(number), counts[group(number)]])
