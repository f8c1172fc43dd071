"""Kills a worker of three agents in a row at random moments, while input comes and agents raise, and compares.

    python kill_cases.py DIRECTORY KILLS SEED

Each worker is a process forked from this one, which has no threads and no log open, so that a kill takes a fraction of
a second. It sends input as long as it lives, so it is always killed inside of it. Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from framework import App, Stream
from framework.log import Log, TopicSettings
from framework.worker import Worker
from tests.faults.commit_cases import in_child

PARTITIONS = 2
AT_ONCE = 15
"""How many numbers are sent in one turn of the loop."""
FAILS = 0.002
"""How often an agent raises, before or behind what it does for a record."""
MAX_TURNS = 120
"""How long a worker lives at most."""


def build(data: Path, fails: Callable[[], bool] = lambda: False) -> App:
    """Filter, sum by key with an output for every input, count the outputs by key."""
    app = App("killed", data=data)
    numbers = app.topic("numbers", int, key=str, partitions=PARTITIONS)
    kept = app.topic("kept", int, key=lambda number: f"k{number % 7}", partitions=PARTITIONS)
    sums, totals = app.table("sums", int), app.topic("totals", dict, key=lambda total: str(total["key"]))
    counts = app.table("counts", int)

    def may_fail() -> None:
        if fails():
            raise RuntimeError("at random")

    @app.agent(numbers)
    async def choose(stream: Stream[int]) -> None:
        async for number in stream:
            may_fail()
            if number % 3:
                kept.send(number)
            may_fail()

    @app.agent(kept)
    async def add(stream: Stream[int]) -> None:
        async for number in stream:
            key = f"k{number % 7}"
            may_fail()
            sums[key] += number
            totals.send({"key": key, "number": number, "sum": sums[key]})
            may_fail()

    @app.agent(totals)
    async def count(stream: Stream[dict[str, Any]]) -> None:
        async for total in stream:
            counts[total["key"]] += 1
            may_fail()

    return app


def live(data: Path, seed: int, first: int, pipe: int) -> None:
    """Send and work until killed."""
    draw = random.Random(seed)

    async def work() -> None:
        app, number = build(data, lambda: draw.random() < FAILS), first
        async with Worker(app).running():
            while True:
                for _ in range(AT_ONCE):
                    ack = app.topics["numbers"].send(number)
                    number += 1
                await ack
                os.write(pipe, b".")

    asyncio.run(work())


def kill(data: Path, draw: random.Random, first: int) -> bool:
    """Start a worker and kill it at a random moment; whether it was alive then."""
    reading, writing = os.pipe()
    seed = draw.randrange(1 << 32)
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # the failures that are made up
            live(data, seed, first, writing)
        finally:
            os._exit(1)
    os.close(writing)
    turns = draw.randint(1, MAX_TURNS)
    with os.fdopen(reading) as pipe:
        alive = pipe.read(turns) == "." * turns
        os.kill(pid, signal.SIGKILL)  # While somebody listens: a broken pipe would end it, too.
        return alive and os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def wrong(data: Path) -> str:
    """What differs from a plain fold over the input; nothing, with the number of records, if it is exact."""
    app = build(data)
    with app.opened(create=False):
        numbers = list(app.topics["numbers"].read())
        expected = [number for number in numbers if number % 3]
        found = list(app.topics["kept"].read())
        sums, counts = Counter[str](), Counter[str]()
        for number in expected:
            sums[f"k{number % 7}"] += number
            counts[f"k{number % 7}"] += 1
        running, outputs = Counter[str](), Counter[str]()
        for total in app.topics["totals"].read():
            running[total["key"]] += total["number"]
            outputs[total["key"]] += 1
            if total["sum"] != running[total["key"]]:
                return f"the running sum of {total}"
        checks = {
            "what was kept": Counter(found) == Counter(expected),
            "the outputs": outputs == counts,
            "the sums": dict(app.tables["sums"].items()) == sums,
            "the counts": dict(app.tables["counts"].items()) == counts,
            f"{len(numbers)} records": False,
        }
        return next(name for name, right in checks.items() if not right)


def main() -> None:
    """Kill, finish, compare."""
    data, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    draw = random.Random(seed)
    with Log(data, create=True) as log:
        for name in ("numbers", "kept", "totals"):
            log.create_topic(name, 1 if name == "totals" else PARTITIONS, TopicSettings(segment_bytes=1 << 16))
    moments = sum(kill(data, draw, number * 1_000_000) for number in range(kills))
    status, _ = in_child(lambda _: asyncio.run(Worker(build(data)).run(until_idle=True)))

    def compare(pipe: int) -> None:
        os.write(pipe, wrong(data).encode())

    _, found = in_child(compare)
    json.dump({"moments": moments, "status": status, "found": found}, sys.stdout)


if __name__ == "__main__":
    main()
