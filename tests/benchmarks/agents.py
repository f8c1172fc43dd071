"""What an agent costs, compared with a bare loop that does the same.

Both sides parse the same JSON records of 45 to 60 bytes with orjson. The bare side has them in a list; ours reads them
from the log, and commits its offsets (and tables) every 100 ms and at the end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from framework import App, Stream
from framework.log import Log, NewRecord, encode
from framework.worker import Worker
from tests.benchmarks.rows import Bench, Pairs, Result, Row

KEYS = 10_000
THRESHOLD = 500
POLL_S = 0.001


def values(records: int) -> list[bytes]:
    """Records of 45 to 60 bytes; a key comes every 10,000th record, in no simple order."""
    return [
        orjson.dumps({"key": f"k{number * 7919 % KEYS}", "amount": number % 1000, "at": 1_700_000_000 + number})
        for number in range(records)
    ]


def fill(path: Path, data: list[bytes]) -> None:
    """A data directory whose topic `input` has one partition with *data*."""
    with Log(path, create=True) as log:
        topic = log.create_topic("input", 1)
        partition = log.partition(topic, 0)
        batches = encode((NewRecord(None, value, 0) for value in data), max_batch_bytes=256 << 10)
        log.append(partition, batches).result()


def run_worker(app: App) -> float:
    """Seconds from the first record to the end of the last commit; neither opening nor closing what is on the disk."""

    async def work() -> float:
        async with Worker(app).running() as worker:
            started = time.perf_counter()
            while not worker.idle:  # noqa: ASYNC110  # idle is many things, and no event
                await asyncio.sleep(POLL_S)
            return time.perf_counter() - started

    return asyncio.run(work())


def measure_filter(bench: Bench) -> Iterator[Result]:
    """Parse every record and count those over a threshold."""
    records = bench.scale.records
    data = values(records)
    expected = sum(number % 1000 > THRESHOLD for number in range(records))
    runs = iter(range(1_000))

    def ours() -> float:
        app = App("bench", data=place / "data")
        found = 0

        @app.agent(app.topic("input", dict), name=f"filter-{next(runs)}")
        async def keep(stream: Stream[dict[str, int]]) -> None:
            nonlocal found
            async for value in stream:
                if value["amount"] > THRESHOLD:
                    found += 1

        seconds = run_worker(app)
        assert found == expected, f"found {found}, not {expected}"
        return records / seconds / 1e6

    def bare() -> float:
        found, started = 0, time.perf_counter()
        for raw in data:
            value = orjson.loads(raw)
            if value["amount"] > THRESHOLD:
                found += 1
        assert found == expected
        return records / (time.perf_counter() - started) / 1e6

    with bench.place() as place:
        fill(place / "data", data)
        yield Pairs(ours, bare, bench.scale.pairs, "M/s").ratio("agent-filter", 0.5)


def measure_sum(bench: Bench) -> Iterator[Result]:
    """Sum the amounts of every key: in a table, exactly once; and in a dict."""
    records = bench.scale.records
    data = values(records)
    runs = iter(range(1_000))
    expected: dict[str, int] = {}

    def bare() -> float:
        sums: dict[str, int] = {}
        started = time.perf_counter()
        for raw in data:
            value = orjson.loads(raw)
            key = value["key"]
            sums[key] = sums.get(key, 0) + value["amount"]
        seconds = time.perf_counter() - started
        expected.update(sums)
        return records / seconds / 1e6

    def ours() -> float:
        run = next(runs)
        app = App("bench", data=place / "data")
        sums = app.table(f"sums-{run}", int)

        @app.agent(app.topic("input", dict), name=f"sum-{run}")
        async def add(stream: Stream[dict[str, Any]]) -> None:
            async for value in stream:
                sums[value["key"]] += value["amount"]

        seconds = run_worker(app)
        with app.opened():
            assert dict(sums.items()) == expected
        return records / seconds / 1e6

    bare()
    with bench.place() as place:
        fill(place / "data", data)
        yield Pairs(ours, bare, bench.scale.pairs, "M/s").ratio("agent-sum", 0.3)


ROWS = [Row("agent-filter", measure_filter), Row("agent-sum", measure_sum)]
