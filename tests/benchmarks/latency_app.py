"""An app whose agent says how long each record was on its way to it; `framework worker` can run it, too."""

from __future__ import annotations

import time

from framework import App, Stream

app = App("latency")
sent = app.topic("sent", int)
"""When each record was sent, by the clock that all processes of a machine share."""
waited = app.topic("waited", int)
"""How many nanoseconds each was on its way."""


@app.agent(sent)
async def watch(stream: Stream[int]) -> None:
    """Exactly once, like any agent."""
    async for sent_ns in stream:
        waited.send(time.monotonic_ns() - sent_ns)
