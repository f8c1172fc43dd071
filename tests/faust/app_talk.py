"""A Faust app: an agent that answers the worker itself and a command, and one that takes a few records at a time."""

from __future__ import annotations

import faust
import faust.cli

app = faust.App("talk", topic_partitions=1, reply_create_topic=True)
taken, asked = app.topic("taken"), app.topic("asked")
doubled = app.topic("doubled", value_type=int)


@app.agent(doubled)
async def double(stream):
    """Answer."""
    async for number in stream:
        yield number * 2


@app.agent(app.topic("words"))
async def together(stream):
    """Five at a time, or what has come within half a second."""
    async for words in stream.take(5, within=0.5):
        await taken.send(value=words)


@app.task
async def ask():
    """Once, when the worker runs."""
    answer = await double.ask(21)
    joined = await double.join([1, 2, 3])
    await asked.send(value=[answer, joined])


@app.command(faust.cli.argument("number", type=int))
async def twice(self, number):
    """Ask from another process, which runs no agents."""
    self.say(f"twice {number} is {await double.ask(number)}")
