"""Operators change the type of a stream's values, and a pipeline ends in a topic of that type."""

from __future__ import annotations

from datetime import timedelta
from typing import assert_type

from pydantic import BaseModel

from framework import App, Record, Stream


class Line(BaseModel):
    """What comes in."""

    text: str


def len_of(line: Line) -> int:
    """A key."""
    return len(line.text)


app = App("lines")
lines = app.topic("lines", Line)
numbered = app.topic("numbered", Line, key_type=int)
words = app.topic("words", str, key=lambda word: word)
lengths = app.topic("lengths", int)

stream = app.stream(lines, name="operators")
assert_type(stream, Stream[Line, str])
assert_type(stream.map(lambda line: line.text), Stream[str, str])
assert_type(stream.map(lambda line: line.text).map(len), Stream[int, str])
assert_type(stream.filter(lambda line: line.text), Stream[Line, str])
assert_type(stream.flat_map(lambda line: line.text.split()), Stream[str, str])
assert_type(stream.flat_map(lambda line: line.text.split()).filter(str.isalpha).map(len), Stream[int, str])
assert_type(stream.take(100, within=timedelta(seconds=1)), Stream[list[Line], str])
assert_type(stream.records(), Stream[Record[Line, str], str])
assert_type(app.stream(numbered, name="keys").records().map(lambda record: record.key), Stream[int | None, int])
assert_type(stream.items(), Stream[tuple[str, Line], str])
assert_type(stream.enumerate(), Stream[tuple[int, Line], str])
assert_type(stream.group_by(lambda line: len(line.text)), Stream[Line, int])
assert_type(stream.group_by(len_of, name="lengths", key_type=int).items(), Stream[tuple[int, Line], int])
assert_type(stream.through(numbered), Stream[Line, int])

app.stream(lines, name="split").flat_map(lambda line: line.text.lower().split()).to(words)
app.stream(words, name="measure").map(len).filter(lambda length: length > 3).to(lengths)
app.stream(numbered, name="copy").to(lines)


@app.agent(lines)
async def in_lists(stream: Stream[Line]) -> None:
    """In an agent's loop they do the same."""
    async for batch in stream.map(lambda line: line.text).filter(str.isalpha).take(100, timedelta(seconds=1)):
        assert_type(batch, list[str])
        words.send_many(batch)
    async for record in stream.records():
        assert_type(record, Record[Line, str])


@app.agent(lines)
async def grouped(stream: Stream[Line]) -> None:
    """The loop has the values of the stream, and the key of the group."""
    async for line in stream.filter(lambda line: line.text).group_by(lambda line: line.text):
        assert_type(line, Line)
    async for key, line in stream.group_by(len_of).items():
        assert_type(key, int)
        assert_type(line, Line)
    async for number, line in stream.through(numbered).enumerate(1):
        assert_type(number, int)
        assert_type(line, Line)
