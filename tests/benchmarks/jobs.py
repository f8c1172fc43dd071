"""What reading costs a job, compared with a bare loop over what it reads.

Both sides decode the same JSON records of 100 bytes with orjson; the bare side has them in a list, ours reads them from
the log. The frame is compared with a list of what was decoded, from which a frame would still have to be made: what
that takes is shown beside it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import polars

from framework import App, Topic
from framework.log import Log, NewRecord, encode
from tests.benchmarks.peers.work import KEYS
from tests.benchmarks.rows import Bench, Pairs, Result, Row, Side

RECORD_BYTES = 100
_PART = 1_000_000


def values(records: int) -> Iterator[bytes]:
    """Records of 100 bytes: a key, two numbers and a text."""
    for number in range(records):
        value = {"key": f"k{number * 7919 % KEYS}", "amount": number % 1000, "at": 1_700_000_000 + number, "note": ""}
        value["note"] = f"order {number} ".ljust(RECORD_BYTES - len(orjson.dumps(value)), "x")
        # Copied: orjson leaves what it gives in the large piece of memory that it began with, 4 kB of it.
        yield bytes(memoryview(orjson.dumps(value)))


def fill(path: Path, data: list[bytes]) -> None:
    """A data directory whose topic `orders` has one partition with *data*."""
    with Log(path, create=True) as log:
        partition = log.partition(log.create_topic("orders", 1), 0)
        for at in range(0, len(data), _PART):
            part = (NewRecord(None, value, 0) for value in data[at : at + _PART])
            log.append(partition, encode(part, max_batch_bytes=256 << 10)).result()


def opened(place: Path) -> tuple[App, Topic[dict[str, Any]]]:
    """An app on the directory, and its topic."""
    app = App("jobs", data=place)
    return app, app.topic("orders", dict)


def timed(data: list[bytes], work: Side) -> Side:
    """*work* returns seconds; the rate in millions of records a second."""
    return lambda: len(data) / work() / 1e6


def measure_iterate(bench: Bench) -> Iterator[Result]:
    """`for value in batch`, and over the values of chunks."""
    data = list(values(bench.scale.job_records))

    def bare() -> float:
        started = time.perf_counter()
        for raw in data:
            value = orjson.loads(raw)
        seconds = time.perf_counter() - started
        assert value["amount"] == (len(data) - 1) % 1000
        return seconds

    def ours() -> float:
        started = time.perf_counter()
        for value in orders.read():  # noqa: B007  # the last one is looked at
            pass
        seconds = time.perf_counter() - started
        assert value["amount"] == (len(data) - 1) % 1000
        return seconds

    def in_chunks() -> float:
        started = time.perf_counter()
        for chunk in orders.read().chunks(100_000):
            for value in chunk:  # noqa: B007  # as above
                pass
        seconds = time.perf_counter() - started
        assert value["amount"] == (len(data) - 1) % 1000
        return seconds

    with bench.place() as place:
        fill(place / "data", data)
        app, orders = opened(place / "data")
        with app.opened(create=False):
            pairs = bench.scale.pairs
            yield Pairs(timed(data, ours), timed(data, bare), pairs, "M/s").ratio("job-iterate", 0.6)
            yield Pairs(timed(data, in_chunks), timed(data, bare), pairs, "M/s").ratio("job-iterate chunks", 0.5)


def measure_polars(bench: Bench) -> Iterator[Result]:
    """`batch.to_polars()`, and a list of the decoded values, or a frame made of it."""
    data = list(values(bench.scale.job_records))

    def decoded() -> float:
        started = time.perf_counter()
        listed = [orjson.loads(raw) for raw in data]
        seconds = time.perf_counter() - started
        assert len(listed) == len(data)
        return seconds

    def framed() -> float:
        started = time.perf_counter()
        frame = polars.DataFrame([orjson.loads(raw) for raw in data])
        seconds = time.perf_counter() - started
        assert frame.height == len(data)
        return seconds

    def ours() -> float:
        started = time.perf_counter()
        frame = orders.read().to_polars()
        seconds = time.perf_counter() - started
        assert frame.height == len(data)
        assert frame["amount"].sum() == sum(number % 1000 for number in range(len(data)))
        return seconds

    with bench.place() as place:
        fill(place / "data", data)
        app, orders = opened(place / "data")
        with app.opened(create=False):
            pairs = bench.scale.pairs
            yield Pairs(timed(data, ours), timed(data, decoded), pairs, "M/s").ratio("job-polars", 2.0)
            yield Pairs(timed(data, ours), timed(data, framed), pairs, "M/s").ratio("job-polars and a frame")


ROWS = [Row("job-iterate", measure_iterate), Row("job-polars", measure_polars)]
