"""Operators on values that are something else, and pipelines that end in a topic of another type."""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel

from framework import App, Stream


class Line(BaseModel):
    """What comes in."""

    text: str


app = App("lines")
lines = app.topic("lines", Line)
words = app.topic("words", str)
stream = app.stream(lines, name="operators")

stream.map(lambda line: line.words)  # error: attr-defined
stream.map(str.upper)  # error: arg-type
stream.map(lambda line: line.text).filter(lambda text: text.name)  # error: attr-defined
stream.filter(lambda line: line.name)  # error: attr-defined
stream.flat_map(lambda line: len(line.text))  # error: arg-type, return-value
stream.take(100)  # error: call-arg
stream.take(100, within=1.0)  # error: arg-type
stream.to(words)  # error: arg-type
stream.map(lambda line: len(line.text)).to(words)  # error: arg-type
stream.to("words")  # error: arg-type
app.stream(lines)  # error: call-arg
stream.group_by(lambda line: line.name)  # error: attr-defined
stream.group_by("text")  # error: arg-type
stream.through(words)  # error: arg-type
stream.items().map(lambda item: item[1].name)  # error: attr-defined


@app.agent(lines)
async def loop(stream: Stream[Line]) -> None:
    async for batch in stream.take(2, timedelta(seconds=1)):
        batch.text  # error: attr-defined
    async for length in stream.map(lambda line: len(line.text)):
        length.upper()  # error: attr-defined
    async for record in stream.records():
        record.text  # error: attr-defined
        record.key.upper()  # error: union-attr
