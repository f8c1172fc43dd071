"""An agent of ours on the topic that a Faust app reads."""

from __future__ import annotations

from framework import App

app = App("beside")
numbers = app.topic("numbers", bytes, partitions=4)
ours = app.topic("ours", bytes)


@app.agent(numbers, sink=ours)
def copy(value: bytes) -> bytes:
    """Send it on."""
    return value
