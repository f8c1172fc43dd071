"""Appending: batches, with and without a backlog behind them, and single sends that somebody waits for."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

from framework import App, Topic
from framework.log import Files, Log, NewRecord, Partition, encode
from tests.benchmarks.filling import BATCH_RECORDS, MAX_BATCH_BYTES, RECORD_BYTES, TOPIC, backlog, batch
from tests.benchmarks.rows import Bench, Pairs, Result, Row

SENDING_TASKS = 100


class CountedSyncs(Files):
    """The operating system's files, and how often they were synced."""

    syncs = 0

    def fdatasync(self, fd: int) -> None:
        """Count and sync."""
        self.syncs += 1
        super().fdatasync(fd)


def append_encoded(log: Log, partition: Partition, records: list[NewRecord], batches: int) -> float:
    """Encode and append *records* so many times, and wait until they are on disk; in million records a second."""
    started, pending = time.perf_counter(), list[Future[int]]()
    for _ in range(batches):
        pending.append(log.append(partition, encode(records, max_batch_bytes=MAX_BATCH_BYTES)))
    for done in pending:
        done.result()
    return batches * len(records) / (time.perf_counter() - started) / 1e6


def measure_append(bench: Bench) -> Iterator[Result]:
    """Batches of 1,000 records of 100 bytes; and a loop that builds, writes and syncs them.

    Both sides build the batches, and the bare one syncs as often as ours did: ours syncs what came in meanwhile.
    """
    records, batches = batch(keyed=False), bench.scale.records // BATCH_RECORDS
    runs = iter(range(1_000))
    counted = CountedSyncs()

    def ours() -> float:
        counted.syncs = 0
        with Log(place / "data", create=True, files=counted) as log:
            partition = log.partition(log.create_topic(f"topic-{next(runs)}", 1), 0)
            return append_encoded(log, partition, records, batches)

    def bare() -> float:
        fd = os.open(place / f"bare-{next(runs)}", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            started, position = time.perf_counter(), 0
            every = max(1, batches // max(1, counted.syncs))
            for number in range(batches):
                [built] = encode(records, max_batch_bytes=MAX_BATCH_BYTES)
                position += os.pwrite(fd, built, position)
                if number % every == every - 1:
                    os.fdatasync(fd)
            os.fdatasync(fd)
            return batches * BATCH_RECORDS / (time.perf_counter() - started) / 1e6
        finally:
            os.close(fd)

    with bench.place() as place:
        ours()
        pairs = Pairs(ours, bare, bench.scale.pairs, "M/s")
        yield pairs.ratio("append", 0.7)
        yield pairs.ours("append rate", 1.0)


def measure_append_backlog(bench: Bench) -> Iterator[Result]:
    """Append to a partition with a backlog, and to an empty one."""
    records, batches = batch(keyed=False), bench.scale.records // BATCH_RECORDS
    runs = iter(range(1_000))
    with Log(backlog(bench)) as large, bench.place() as place, Log(place, create=True) as empty:
        partition = large.partition(large.topic(TOPIC), 0)

        def behind() -> float:
            return append_encoded(large, partition, records, batches)

        def alone() -> float:
            fresh = empty.partition(empty.create_topic(f"topic-{next(runs)}", 1), 0)
            return append_encoded(empty, fresh, records, batches)

        behind()
        yield Pairs(behind, alone, bench.scale.pairs, "M/s").ratio("append-backlog", 0.9)


def measure_sends(bench: Bench) -> Iterator[Result]:
    """100 tasks that each send a record, wait until it is durable, and send the next.

    The bare loop writes and syncs 100 records at a time: where a sync takes more than 2 ms, nobody reaches the target.
    """
    rounds = bench.scale.sends // SENDING_TASKS
    records = batch(keyed=False)[:SENDING_TASKS]

    def ours() -> float:
        with bench.place() as place:
            return asyncio.run(_send(place, rounds)) / 1e3

    def bare() -> float:
        with bench.place() as place, (place / "bare").open("wb", buffering=0) as file:
            started = time.perf_counter()
            for _ in range(rounds):
                [built] = encode(records, max_batch_bytes=MAX_BATCH_BYTES)
                file.write(built)
                os.fdatasync(file.fileno())
            return rounds * SENDING_TASKS / (time.perf_counter() - started) / 1e3

    pairs = Pairs(ours, bare, bench.scale.pairs, "k/s")
    yield pairs.ours("sends", 50)
    yield pairs.ratio("sends, of what syncs allow")


async def _send(data: Path, count: int) -> float:
    """Acknowledged records a second."""
    app = App("bench", data=data)
    topic = app.topic("output", bytes)
    async with app:
        await topic.send(b"")  # Makes the topic and its first segment.
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(SENDING_TASKS):
                group.create_task(_send_each(topic, count))
        return SENDING_TASKS * count / (time.perf_counter() - started)


async def _send_each(topic: Topic[bytes], count: int) -> None:
    value = os.urandom(RECORD_BYTES)
    for _ in range(count):
        await topic.send(value)


ROWS = [
    Row("append", measure_append),
    Row("append-backlog", measure_append_backlog),
    Row("sends", measure_sends),
]
