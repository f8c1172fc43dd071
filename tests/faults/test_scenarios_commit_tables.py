"""The ways in which tables show wrong rows, one test each; numbered as where they were first written down.

F28  keys and partitions: rows in a partition where nobody looks for them
F29  reading the tables of others, in this process and from another one
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from framework import Stream
from framework.log import Log, partition_of
from framework.state.release import release_table
from framework.state.view import StateView
from framework.worker import Worker
from tests.framework.conftest import Shop

ROOT = Path(__file__).parents[2]
READER = """
import sys
from framework import App
app = App("reader", data=sys.argv[1])
counts = app.table("counts", int)
with app.opened(create=False):
    for _ in sys.stdin:
        print(dict(counts.range()), flush=True)
"""


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """An empty place for data."""
    return Shop(tmp_path / "data")


async def test_f28_a_table_keyed_by_something_else_than_its_records_is_refused_and_not_partly_filled(
    shop: Shop,
) -> None:
    """Each of two partitions would have counted a part; the message says what to do."""
    app = shop.app(partitions=2)
    words, counts = app.topic("words", str, key=str), app.table("counts", int)

    @app.agent(words)
    def by_length(word: str) -> None:
        counts[str(len(word))] += 1

    shop.send(words, ["a", "b", "c", "d", "e", "f"])
    await shop.run(app)
    home = partition_of(b"1", 2)
    right = sum(partition_of(word.encode(), 2) == home for word in "abcdef")
    letters = shop.dead(app, "by_length")
    assert 0 < right < 6
    assert shop.rows(counts) == {"1": right}
    assert len(letters) == 6 - right
    assert all(b"stream.group_by(...)" in letter.headers["dead-letter.error"] for letter in letters)


async def test_f28_rows_that_were_released_are_not_looked_for_in_another_number_of_partitions(shop: Shop) -> None:
    """Keys would belong elsewhere, and the new owner would begin each of them at its default."""
    app = shop.app()
    first, other = app.topic("first", str, key=str, partitions=3), app.topic("other", str, key=str, partitions=2)
    counts = app.table("counts", int)

    @app.agent(first)
    def fill(word: str) -> None:
        counts[word] += 1

    shop.send(first, "abcdefgh")
    await shop.run(app)
    with Log(shop.data) as log:
        release_table(log, "counts", "fill", 3)
    app = shop.app("second")
    first, other = app.topic("first", str, key=str, partitions=3), app.topic("other", str, key=str, partitions=2)
    counts = app.table("counts", int)

    @app.agent(other)
    def wrong(word: str) -> None:
        counts[word] += 1

    shop.send(other, ["a"])
    await shop.run(app)
    [letter] = shop.dead(app, "wrong")
    assert b"was released with its rows in 3 partitions" in letter.headers["dead-letter.error"]
    assert shop.rows(counts) == dict.fromkeys("abcdefgh", 1)

    app = shop.app("third")
    counts = app.table("counts", int)

    @app.agent(app.topic("first", str, key=str, partitions=3))
    def right(word: str) -> None:
        counts[word] += 1

    await shop.run(app)
    assert shop.rows(counts) == dict.fromkeys("abcdefgh", 2)


async def test_f29_another_process_reads_what_is_committed_while_the_worker_runs(shop: Shop) -> None:
    """And what it was shown is never less than before."""
    app = shop.app(partitions=3)
    words, counts = app.topic("words", str, key=str), app.table("counts", int)

    @app.agent(words)
    async def count(stream: Stream[str]) -> None:
        async for word in stream:
            counts[word] += 1

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    worker, seen = Worker(app), list[str]()
    async with worker.running():
        with subprocess.Popen(  # noqa: ASYNC220  # its pipes are read between two turns of the loop
            [sys.executable, "-c", READER, shop.data],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as reader:
            assert reader.stdin is not None
            assert reader.stdout is not None
            for turn in range(1, 4):
                await words.send_many("abc")
                await shop.until(lambda: worker.idle)
                expected = f"{dict.fromkeys('abc', turn)}\n"
                # A secondary looks again after a tenth of a second.
                while not seen or seen[-1] != expected:
                    reader.stdin.write("look\n")
                    reader.stdin.flush()
                    seen.append(reader.stdout.readline())
                    assert seen[-1], "the reader has died"
            reader.stdin.close()
    assert seen == sorted(seen)


async def test_f29_an_agent_reads_another_ones_rows_from_the_open_shard_and_as_of_their_last_commit(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of any partition: a secondary beside the open database would be late, and cost files and memory."""
    app, seen = shop.app(), list[dict[str, int]]()
    words = app.topic("words", str, key=str, partitions=3)
    ask = app.topic("ask", int, partitions=1)
    counts, known = app.table("counts", int), app.table("known", source=words, everywhere=True)

    @app.agent(words)
    def count(word: str) -> None:
        counts[word] += 1

    @app.agent(ask)
    def look(_: int) -> None:
        seen.append({word: counts[word] for word in "abc" if known.get(word) == word})

    shop.send(words, ["a"])
    await shop.run(app)
    monkeypatch.setattr(StateView, "_refreshed", None)
    worker = Worker(app)
    async with worker.running():
        for turn in range(3):
            await words.send_many("abc")
            await shop.until(lambda: worker.idle)
            await ask.send(turn)
            await shop.until(lambda turn=turn: len(seen) > turn)  # type: ignore[misc]
    assert seen == [{"a": 2 + turn, "b": 1 + turn, "c": 1 + turn} for turn in range(3)]
    assert shop.dead(app, "look") == []
