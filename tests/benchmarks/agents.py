"""What an agent costs, compared with a bare loop that does the same.

Both sides parse the same JSON records of 45 to 60 bytes with orjson. The bare side has them in a list; ours reads them
from the log, and commits its offsets (and tables) every 100 ms and at the end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel

from framework import App, Stream
from framework.log import Log, NewRecord, encode
from framework.worker import Worker
from tests.benchmarks.peers.work import THRESHOLD, kept, values
from tests.benchmarks.rows import Bench, Pairs, Result, Row, Side

POLL_S = 0.001


class Reading(BaseModel):
    """The records as a model."""

    key: str
    amount: int
    at: int


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


def filtering(place: Path, records: int) -> Side:
    """An agent that counts the *records* over the threshold, in a topic that is filled already."""
    runs = iter(range(1_000))

    def run() -> float:
        # Each run has an app of its own: one that declares other agents than before would have to say why.
        name = f"filter-{next(runs)}"
        app, found = App(name, data=place), 0

        @app.agent(app.topic("input", dict), name=name)
        async def keep(stream: Stream[dict[str, int]]) -> None:
            nonlocal found
            async for value in stream:
                if value["amount"] > THRESHOLD:
                    found += 1

        seconds = run_worker(app)
        assert found == kept(records), f"found {found}, not {kept(records)}"
        return records / seconds / 1e6

    return run


def summing(place: Path, records: int, expected: Mapping[str, int]) -> Side:
    """An agent that sums the amounts of every key in a table, exactly once."""
    runs = iter(range(1_000))

    def run() -> float:
        name = f"sum-{next(runs)}"
        app = App(name, data=place)
        sums = app.table(name, int)

        @app.agent(app.topic("input", dict), name=name)
        async def add(stream: Stream[dict[str, Any]]) -> None:
            async for value in stream:
                sums[value["key"]] += value["amount"]

        seconds = run_worker(app)
        with app.opened():
            assert dict(sums.items()) == expected
        return records / seconds / 1e6

    return run


def sums_of(data: Iterable[bytes]) -> dict[str, int]:
    """The bare loop with a dict."""
    sums: dict[str, int] = {}
    for raw in data:
        value = orjson.loads(raw)
        key = value["key"]
        sums[key] = sums.get(key, 0) + value["amount"]
    return sums


def measure_filter(bench: Bench) -> Iterator[Result]:
    """Parse every record and count those over a threshold."""
    records = bench.scale.records
    data = values(records)

    def bare() -> float:
        found, started = 0, time.perf_counter()
        for raw in data:
            value = orjson.loads(raw)
            if value["amount"] > THRESHOLD:
                found += 1
        assert found == kept(records)
        return records / (time.perf_counter() - started) / 1e6

    with bench.place() as place:
        fill(place / "data", data)
        ours = filtering(place / "data", records)
        yield Pairs(ours, bare, bench.scale.pairs, "M/s").ratio("agent-filter", 0.6)


def measure_model(bench: Bench) -> Iterator[Result]:
    """The same with records that are validated as a pydantic model."""
    records = bench.scale.records
    data = values(records)
    runs = iter(range(1_000))

    def ours() -> float:
        name = f"model-{next(runs)}"
        app, found = App(name, data=place / "data"), 0

        @app.agent(app.topic("input", Reading), name=name)
        async def keep(stream: Stream[Reading]) -> None:
            nonlocal found
            async for reading in stream:
                if reading.amount > THRESHOLD:
                    found += 1

        seconds = run_worker(app)
        assert found == kept(records), f"found {found}, not {kept(records)}"
        return records / seconds / 1e6

    def bare() -> float:
        found, started = 0, time.perf_counter()
        for raw in data:
            reading = Reading.model_validate_json(raw)
            if reading.amount > THRESHOLD:
                found += 1
        assert found == kept(records)
        return records / (time.perf_counter() - started) / 1e6

    with bench.place() as place:
        fill(place / "data", data)
        yield Pairs(ours, bare, bench.scale.pairs, "M/s").ratio("agent-model", 0.6)


def measure_sum(bench: Bench) -> Iterator[Result]:
    """Sum the amounts of every key: in a table, exactly once; and in a dict."""
    records = bench.scale.records
    data = values(records)
    expected = sums_of(data)

    def bare() -> float:
        started = time.perf_counter()
        sums = sums_of(data)
        seconds = time.perf_counter() - started
        assert sums == expected
        return records / seconds / 1e6

    with bench.place() as place:
        fill(place / "data", data)
        ours = summing(place / "data", records, expected)
        yield Pairs(ours, bare, bench.scale.pairs, "M/s").ratio("agent-sum", 0.4)


ROWS = [Row("agent-filter", measure_filter), Row("agent-model", measure_model), Row("agent-sum", measure_sum)]
