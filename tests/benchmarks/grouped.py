"""What `group_by` and a keyed table cost, compared with a bare loop that sums into a dict."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import orjson

from framework import App, Stream
from tests.benchmarks.agents import fill, run_worker, values
from tests.benchmarks.rows import Bench, Pairs, Result


def measure_grouped_sum(bench: Bench) -> Iterator[Result]:
    """Sum the amounts of every key behind a `group_by`: in a table, exactly once; and in a dict."""
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
        app = App(f"bench-{run}", data=place / "data")  # Of one app, an agent more while one is gone is refused.
        sums = app.table(f"grouped-{run}", int)

        @app.agent(app.topic("input", dict), name=f"grouped-{run}")
        async def add(stream: Stream[dict[str, Any]]) -> None:
            async for value in stream.group_by(lambda value: value["key"]):
                sums[value["key"]] += value["amount"]

        seconds = run_worker(app)
        with app.opened():
            assert dict(sums.items()) == expected
        return records / seconds / 1e6

    bare()
    with bench.place() as place:
        fill(place / "data", data)
        yield Pairs(ours, bare, bench.scale.pairs, "M/s").ratio("agent-grouped-sum", 0.15)
