"""What `test_power_commit.py` runs while the power is cut: an app, its worker, somebody who sends, and the judge.

Worker and sender are processes of their own. The sender says `acknowledged <first> <count>` of the numbers that the log
has taken for good, the worker `committed` after each commit.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

from framework import Ack, App, Stream
from framework.state import database
from framework.state.store import Commit, Store
from framework.worker import Worker
from tests.faults.log_load import say
from tests.faults.log_stream import Violation

TIMEOUT = timedelta(minutes=1)
KEYS, PARTITIONS = 23, 4
SMALL_SEGMENTS = {"segment.bytes": 1 << 16}
FIRST = 3000
"""How many numbers are there before anybody works."""
RUN = 1_000_000
"""Between the numbers of one sender and those of the next."""
IN_FLIGHT = 4
SMALL_BUFFER_BYTES = 1 << 16
"""So small that RocksDB writes table files and merges them all the time."""


def build(data: Path) -> App:
    """A sum by key in a table, and for every number an output with the sum it made."""
    app = App("power", data=data, snapshots=0)
    numbers = app.topic("numbers", int, key=key, partitions=PARTITIONS, config=SMALL_SEGMENTS)
    out = app.topic("out", dict, key=lambda made: key(made["number"]), partitions=2, config=SMALL_SEGMENTS)
    sums = app.table("sums", int)

    @app.agent(numbers)
    async def add(stream: Stream[int]) -> None:
        async for number in stream:
            sums[key(number)] += number
            out.send({"number": number, "sum": sums[key(number)]})

    return app


def key(number: int) -> str:
    """Whose sum *number* is added to."""
    return f"k{number % KEYS}"


def fill(data: Path) -> None:
    """The numbers that are there from the beginning."""
    app = build(data)
    with app.opened():
        app.topics["numbers"].send_many(range(FIRST)).result(TIMEOUT)


def work(data: Path, *, small: bool, synced: bool) -> None:
    """Work until killed; *small*: with a small buffer; not *synced*: no commit is ever synced, as if forgotten."""
    if small:
        database.WRITE_BUFFER_BYTES = SMALL_BUFFER_BYTES

    def commit(self: Store, commit: Commit) -> None:
        whole(self, commit)
        say("committed")

    def started() -> None:
        if not synced:
            database.Database.sync = lambda self: None  # type: ignore[method-assign]

    whole, Store.commit = Store.commit, commit  # type: ignore[method-assign]
    asyncio.run(Worker(build(data)).run(started=started))


def produce(data: Path, run: int, seed: int) -> None:
    """Send number after number until killed, a few at once, and say what was acknowledged."""
    chance, app, number = random.Random(f"{seed} {run}"), build(data), run * RUN
    sent: deque[tuple[int, int, Ack]] = deque()
    with app.opened(create=False):
        while True:
            count = chance.randint(1, 40)
            sent.append((number, count, app.topics["numbers"].send_many(range(number, number + count))))
            number += count
            while len(sent) > IN_FLIGHT:
                first, taken, ack = sent.popleft()
                ack.result(TIMEOUT)
                say("acknowledged", first, taken)


def acknowledged(lines: Iterable[str]) -> set[int]:
    """The numbers that must be there, by what was said."""
    numbers = set(range(FIRST))
    for line in lines:
        word, *rest = line.split()
        if word == "acknowledged":
            first, count = map(int, rest)
            numbers.update(range(first, first + count))
    return numbers


def made(data: Path) -> int:
    """How many outputs are there."""
    app = build(data)
    with app.opened(create=False):
        return sum(1 for _ in app.topics["out"].read())


def finish(data: Path) -> None:
    """A new worker, until there is nothing left to do."""

    async def run() -> None:
        async with asyncio.timeout(TIMEOUT.total_seconds()):
            await Worker(build(data)).run(until_idle=True)

    asyncio.run(run())


def compare(data: Path, expected: set[int]) -> int:
    """Hold table and outputs against a plain fold over the log; the number of records.

    Raises:
        Violation: Something is lost, there twice, or wrong.
    """
    app = build(data)
    with app.opened(create=False):
        numbers = Counter[int](app.topics["numbers"].read())
        outputs: list[dict[str, Any]] = list(app.topics["out"].read())
        table = dict(app.tables["sums"].items())
    if lost := expected - numbers.keys():
        raise Violation("acknowledged records", f"{len(lost)} of {len(expected)} are lost, {min(lost)} is one")
    if max(numbers.values()) > 1:
        raise Violation("records once", f"{numbers.most_common(3)}")
    found = Counter(output["number"] for output in outputs)
    if found != numbers:
        raise Violation("outputs once", f"{len(numbers - found)} are missing, {(found - numbers).total()} too many")
    sums, running = Counter[str](), Counter[str]()
    for number in numbers:
        sums[key(number)] += number
    if table != sums:
        raise Violation("table", f"{[name for name in sums if table.get(name) != sums[name]]} are not what was added")
    for output in outputs:
        running[key(output["number"])] += output["number"]
        if output["sum"] != running[key(output["number"])]:
            raise Violation("running sums", f"{output}, not {running[key(output['number'])]}")
    return len(numbers)
