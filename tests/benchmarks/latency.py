"""How long a record is on its way: to an agent, in the same process and in another, and to a reader of the log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

from framework.log import Log, encode
from framework.worker import Worker
from tests.benchmarks import processes
from tests.benchmarks.filling import MAX_BATCH_BYTES, TOPIC, backlog, batch
from tests.benchmarks.latency_app import app, sent, waited
from tests.benchmarks.rows import Bench, Result, Row, percentile, samples

INTERVAL_S = 0.02
BATCH_RECORDS = 10
READ_TIMEOUT_S = 10.0


def measure_same_process(bench: Bench) -> Iterator[Result]:
    """A program that sends 50 records a second and runs the agent, exactly once, beside."""

    async def run() -> None:
        async with Worker(app).running():
            await _send(bench.scale.low_rate_s)

    with bench.place() as place:
        app.open(place / "data", create=True)
        try:
            asyncio.run(run())
            taken = _waited_ms()
        finally:
            app.close()
    yield samples("latency p50", [percentile(taken, 50)], "ms", below=2)
    yield samples("latency p99", [percentile(taken, 99)], "ms", below=10)


def measure_two_processes(bench: Bench) -> Iterator[Result]:
    """The same, with the agent in another process."""
    with bench.place() as place:
        app.open(place / "data", create=True)
        try:
            with processes.worker(place / "data"):
                asyncio.run(_send(bench.scale.low_rate_s))
            taken = _waited_ms()
        finally:
            app.close()
    yield samples("latency-processes p50", [percentile(taken, 50)], "ms", below=4)
    yield samples("latency-processes p99", [percentile(taken, 99)], "ms", below=15)


async def _send(seconds: float) -> None:
    """Send at a low rate, and wait for the last one."""
    async with app:
        ack = sent.send(time.monotonic_ns())
        for _ in range(int(seconds / INTERVAL_S)):
            await asyncio.sleep(INTERVAL_S)
            ack = sent.send(time.monotonic_ns())
        await ack
        await asyncio.sleep(INTERVAL_S)


def _waited_ms() -> list[float]:
    """What the agent measured, without its first record, for which topics and segments were made."""
    taken = [nanoseconds / 1e6 for nanoseconds in waited.read()]
    assert len(taken) == len(sent.read()), f"{len(taken)} of {len(sent.read())} records reached the agent"
    return taken[1:]


def measure_caught_up(bench: Bench) -> Iterator[Result]:
    """Append a small batch and wait until a reader has it, again and again: with no backlog behind, and with one."""
    count = bench.scale.caught_up
    with bench.place() as place:
        with Log(place, create=True) as log:
            log.create_topic(TOPIC, 1)
        alone = _append_to_read_ms(place, count)
    behind = _append_to_read_ms(backlog(bench), count)
    for name, taken in (("caught-up", alone), ("caught-up-backlog", behind)):
        yield samples(f"{name} p50", [percentile(taken, 50)], "ms", below=2)
        yield samples(f"{name} p99", [percentile(taken, 99)], "ms", below=5)


def _append_to_read_ms(path: Path, count: int) -> list[float]:
    """How long each of *count* batches took from the append to a reader that waits for the doorbell."""
    records, taken = batch()[:BATCH_RECORDS], []
    with Log(path) as log:
        partition = log.partition(log.topic(TOPIC), 0)
        reader, doorbell = log.reader(partition, partition.high_watermark), log.doorbell()
        for _ in range(count):
            started = time.perf_counter()
            done = log.append(partition, encode(records, max_batch_bytes=MAX_BATCH_BYTES))
            while not reader.read().batches:
                doorbell.wait(READ_TIMEOUT_S)
            taken.append((time.perf_counter() - started) * 1e3)
            done.result()
        doorbell.close()
        reader.close()
    return taken


ROWS = [
    Row("latency", measure_same_process),
    Row("latency-processes", measure_two_processes),
    Row("caught-up", measure_caught_up),
]
