"""A Faust app that forwards each record as it is, and says who did; with BEATS the leader says so now and then.

A record with the key `hold` holds up all the worker does for four seconds.

What Faust takes for committed goes to the file that COMMITS names, a line a commit.
"""

from __future__ import annotations

import json
import os
import time

import faust

NAME, HELD_S = os.environ["WORKER"], 4.0


class Commits(faust.Monitor):
    """Writes down each commit."""

    def on_tp_commit(self, tp_offsets):
        """After the answer of whoever keeps the offsets."""
        super().on_tp_commit(tp_offsets)
        if path := os.environ.get("COMMITS"):
            with open(path, "a") as commits:
                print(json.dumps([[tp.topic, tp.partition, offset] for tp, offset in tp_offsets.items()]), file=commits)


app = faust.App("forward", monitor=Commits())
numbers = app.topic("numbers", key_serializer="raw", value_serializer="raw")
copies = app.topic("copies", key_serializer="raw", value_serializer="raw")
beats = app.topic("beats")


@app.agent(numbers)
async def forward(stream):
    """Key, value, headers and time stay as they are."""
    async for event in stream.events():
        if event.key == b"hold":
            time.sleep(HELD_S)  # noqa: ASYNC251  # as code does that computes, or waits for another thing than the loop
        headers = {**(event.headers or {}), "worker": NAME.encode()}
        await event.forward(copies, headers=headers, timestamp=event.message.timestamp)


@app.timer(0.2, on_leader=True)
async def beat():
    """Only one of the workers does this, if any."""
    if "BEATS" in os.environ:
        await beats.send(value=NAME)
