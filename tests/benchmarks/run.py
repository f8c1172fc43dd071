"""What the framework costs: each row runs our side and a bare loop in turn, and prints the ratio of their rates.

    python tests/benchmarks/run.py [--records N] [--pairs N] [ROW ...]

Machines differ and are noisy, so only ratios count: the two sides of a pair run one behind the other in this process,
which goes first alternates, and the median of the pairs' ratios is compared with the target. Exit code 1 when a
row misses its target.

Both sides of the agent rows parse the same JSON records of 45 to 60 bytes with orjson. The bare side has them in a
list; ours reads them from the log, and commits its offsets (and tables) every 100 ms and at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from framework import App, Stream
from framework.log import Files, Log, NewRecord, encode
from framework.worker import Worker

KEYS = 10_000
BATCH_RECORDS, APPEND_BYTES = 1_000, 100
THRESHOLD = 500


@dataclass(frozen=True)
class Row:
    """One comparison; both sides return seconds for the same number of records."""

    name: str
    target: float
    prepare: Callable[[Path, int], tuple[Callable[[], float], Callable[[], float]]]


def main() -> int:
    """Run the rows that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[[], *(row.name for row in ROWS)], metavar="ROW")
    parser.add_argument("--records", type=int, default=1_000_000, help="records a side [1000000]")
    parser.add_argument("--pairs", type=int, default=5, help="pairs a row [5]")
    asked = parser.parse_args()
    print(f"{'row':<16} {'ours':>12} {'bare':>12} {'ratio':>6} {'spread':>13} {'target':>6}")
    missed = 0
    for row in ROWS:
        if asked.rows and row.name not in asked.rows:
            continue
        with tempfile.TemporaryDirectory(prefix="framework-bench-", dir=Path.cwd()) as directory:
            ours, bare = row.prepare(Path(directory), asked.records)
            pairs = [measure(ours, bare, ours_first=number % 2 == 0) for number in range(asked.pairs)]
        ratios = sorted(bare_s / ours_s for ours_s, bare_s in pairs)
        median = statistics.median(ratios)
        rates = [f"{asked.records / statistics.median(side) / 1e6:.2f} M/s" for side in zip(*pairs, strict=True)]
        spread = f"{ratios[0]:.2f} - {ratios[-1]:.2f}"
        verdict = "" if median >= row.target else "  MISSED"
        missed += median < row.target
        print(
            f"{row.name:<16} {rates[0]:>12} {rates[1]:>12} {median:>6.2f} {spread:>13} {row.target:>6}{verdict}",
            flush=True,
        )
    return 1 if missed else 0


def measure(ours: Callable[[], float], bare: Callable[[], float], *, ours_first: bool) -> tuple[float, float]:
    """Seconds of both sides, run one behind the other."""
    gc.collect()
    gc.freeze()  # The million records in the bare side's list are no part of either loop.
    if ours_first:
        return ours(), bare()
    seconds = bare()
    return ours(), seconds


# Agents.


def values(records: int) -> list[bytes]:
    """Records of 45 to 60 bytes; a key comes every 10,000th record, in no simple order."""
    return [
        orjson.dumps({"key": f"k{number * 7919 % KEYS}", "amount": number % 1000, "at": 1_700_000_000 + number})
        for number in range(records)
    ]


def filled(path: Path, data: list[bytes]) -> None:
    """A data directory whose topic `input` has one partition with *data*."""
    with Log(path, create=True) as log:
        topic = log.create_topic("input", 1)
        partition = log.partition(topic, 0)
        batches = encode((NewRecord(None, value, 0) for value in data), max_batch_bytes=256 << 10)
        log.append(partition, batches).result()


def run_worker(app: App) -> float:
    """Seconds from the first record to the last commit."""
    times: list[float] = []
    asyncio.run(Worker(app).run(until_idle=True, started=lambda: times.append(time.perf_counter())))
    return time.perf_counter() - times[0]


def prepare_filter(directory: Path, records: int) -> tuple[Callable[[], float], Callable[[], float]]:
    """Parse every record and count those over a threshold."""
    data = values(records)
    filled(directory / "data", data)
    expected = sum(number % 1000 > THRESHOLD for number in range(records))
    runs = iter(range(1_000))

    def ours() -> float:
        app = App("bench", data=directory / "data")
        found = 0

        @app.agent(app.topic("input", dict), name=f"filter-{next(runs)}")
        async def keep(stream: Stream[dict[str, int]]) -> None:
            nonlocal found
            async for value in stream:
                if value["amount"] > THRESHOLD:
                    found += 1

        seconds = run_worker(app)
        assert found == expected, f"found {found}, not {expected}"
        return seconds

    def bare() -> float:
        found, started = 0, time.perf_counter()
        for raw in data:
            value = orjson.loads(raw)
            if value["amount"] > THRESHOLD:
                found += 1
        assert found == expected
        return time.perf_counter() - started

    return ours, bare


def prepare_sum(directory: Path, records: int) -> tuple[Callable[[], float], Callable[[], float]]:
    """Sum the amounts of every key: in a table, exactly once; and in a dict."""
    data = values(records)
    filled(directory / "data", data)
    runs = iter(range(1_000))

    def bare() -> float:
        sums: dict[str, int] = {}
        started = time.perf_counter()
        for raw in data:
            value = orjson.loads(raw)
            key = value["key"]
            sums[key] = sums.get(key, 0) + value["amount"]
        expected.update(sums)
        return time.perf_counter() - started

    expected: dict[str, int] = {}
    bare()

    def ours() -> float:
        run = next(runs)
        app = App("bench", data=directory / "data")
        sums = app.table(f"sums-{run}", int)

        @app.agent(app.topic("input", dict), name=f"sum-{run}")
        async def add(stream: Stream[dict[str, Any]]) -> None:
            async for value in stream:
                sums[value["key"]] += value["amount"]

        seconds = run_worker(app)
        with app.opened():
            assert dict(sums.items()) == expected
        return seconds

    return ours, bare


# The log.


class CountedSyncs(Files):
    """The operating system's files, and how often they were synced."""

    syncs = 0

    def fdatasync(self, fd: int) -> None:
        """Count and sync."""
        self.syncs += 1
        super().fdatasync(fd)


def prepare_append(directory: Path, records: int) -> tuple[Callable[[], float], Callable[[], float]]:
    """Append batches of 1,000 records of 100 bytes and wait until they are on disk.

    Both sides build the batches, and the bare one syncs as often as ours did: ours syncs what came in meanwhile.
    """
    batch = [NewRecord(None, os.urandom(APPEND_BYTES), 0) for _ in range(BATCH_RECORDS)]
    runs = iter(range(1_000))
    counted = CountedSyncs()

    def ours() -> float:
        counted.syncs = 0
        with Log(directory / "data", create=True, files=counted) as log:
            partition = log.partition(log.create_topic(f"topic-{next(runs)}", 1), 0)
            started, pending = time.perf_counter(), list[Future[int]]()
            for _ in range(records // BATCH_RECORDS):
                pending.append(log.append(partition, encode(batch, max_batch_bytes=1 << 20)))
            for done in pending:
                done.result()
            return time.perf_counter() - started

    def bare() -> float:
        fd = os.open(directory / f"bare-{next(runs)}", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            started, position, batches = time.perf_counter(), 0, records // BATCH_RECORDS
            every = max(1, batches // max(1, counted.syncs))
            for number in range(batches):
                [built] = encode(batch, max_batch_bytes=1 << 20)
                position += os.pwrite(fd, built, position)
                if number % every == every - 1:
                    os.fdatasync(fd)
            os.fdatasync(fd)
            return time.perf_counter() - started
        finally:
            os.close(fd)

    ours()
    return ours, bare


ROWS = [
    Row("agent-filter", 0.5, prepare_filter),
    Row("agent-sum", 0.3, prepare_sum),
    Row("append", 0.5, prepare_append),
]

if __name__ == "__main__":
    sys.exit(main())
