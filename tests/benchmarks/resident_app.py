"""An app whose agent sums into a table, and says now and then how much memory its worker has."""

from __future__ import annotations

import os
from typing import Any

from framework import App, Stream
from tests.benchmarks.processes import memory_bytes

EVERY = "BENCH_MEMORY_EVERY"

app = App("resident")
added = app.topic("added", dict)
resident = app.topic("resident", int)
"""The bytes in memory, every so many records."""
sums = app.table("sums", int)


@app.agent(added)
async def add(stream: Stream[dict[str, Any]]) -> None:
    """Exactly once, like any agent."""
    every, seen = int(os.environ.get(EVERY, "0")), 0
    async for value in stream:
        sums[value["key"]] += value["amount"]
        seen += 1
        if seen == every:
            seen = 0
            resident.send(memory_bytes(os.getpid()))
