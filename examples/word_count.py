"""Counts the words of standard input: two topics, two agents, one table.

Three commands, in one directory:

    python examples/word_count.py < README.md
    framework worker -A examples/word_count.py --until-idle
    framework tables scan counts -A examples/word_count.py
"""

import re
import sys

from framework import App, Stream

app = App("word-count", data="./data/word-count")
lines = app.topic("lines", str)
words = app.topic("words", str, key=lambda word: word)
counts = app.table("counts", int)


@app.agent(lines)
async def split(stream: Stream[str]) -> None:
    """Send each word on, keyed by itself, so that one partition sees all of its kind."""
    async for line in stream:
        for word in re.findall(r"[a-z']+", line.lower()):
            words.send(word)


@app.agent(words)
async def count(stream: Stream[str]) -> None:
    """Count them."""
    async for word in stream:
        counts[word] += 1


if __name__ == "__main__":
    for line in sys.stdin:
        lines.send(line)
