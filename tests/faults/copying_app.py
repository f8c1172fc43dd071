"""The worker beside the broker: its agent reads one topic of the clients and sends a record for each to another."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from framework import App, Stream
from tests.faults.client_history import value_of

app = App("copying")
asked = app.topic("asked", bytes)
copied = app.topic("copies", bytes)


@app.agent(asked, sink=copied)
async def copy(stream: Stream[bytes]) -> AsyncGenerator[bytes, None]:
    """Send a record that is named for the offset of the one that was read."""
    async for record in stream.records():
        yield value_of("copy", record.offset)
