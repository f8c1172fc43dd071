"""What `group_by` and a keyed table cost, compared with a bare loop that sums into a dict."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from framework import App, Stream
from tests.benchmarks.agents import fill, run_worker, sums_of
from tests.benchmarks.peers.work import values
from tests.benchmarks.rows import Bench, Pairs, Result, Row


def measure_grouped_sum(bench: Bench) -> Iterator[Result]:
    """Sum the amounts of every key behind a `group_by`: in a table, exactly once; and in a dict."""
    records = bench.scale.records
    data = values(records)
    runs = iter(range(1_000))
    expected = sums_of(data)

    def bare() -> float:
        started = time.perf_counter()
        sums = sums_of(data)
        seconds = time.perf_counter() - started
        assert sums == expected
        return records / seconds / 1e6

    def ours() -> float:
        name = f"grouped-{next(runs)}"
        app = App(name, data=place / "data")
        sums = app.table(name, int)

        @app.agent(app.topic("input", dict), name=name)
        async def add(stream: Stream[dict[str, Any]]) -> None:
            async for value in stream.group_by(lambda value: value["key"]):
                sums[value["key"]] += value["amount"]

        seconds = run_worker(app)
        with app.opened():
            assert dict(sums.items()) == expected
        return records / seconds / 1e6

    with bench.place() as place:
        fill(place / "data", data)
        yield Pairs(ours, bare, bench.scale.pairs, "M/s").ratio("agent-grouped-sum", 0.15)


ROWS = [Row("agent-grouped-sum", measure_grouped_sum)]
