"""Reading: whole batches and records out of the page cache, and a backlog, out of it and from the disk."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from framework.log import Log, Partition, Reader, decode, decode_values
from framework.log.header import walk
from framework.log.reader import MAX_READ_BYTES
from tests.benchmarks.filling import TOPIC, backlog, drop_page_cache, small
from tests.benchmarks.rows import Bench, Pairs, Result, Row, say

PARTS = 4
"""A backlog is consumed in so many parts a pair: the load of the machine changes while five gigabytes are read."""


def read_batches(reader: Reader) -> Iterator[memoryview]:
    """Every batch from where *reader* stands to the high watermark."""
    while batches := reader.read().batches:
        for _, batch in batches:
            yield batch


def read_bare(partition: Partition) -> Iterator[memoryview]:
    """Every batch by hand: large reads of the files, one behind the other; no checksum, no watermark, no index."""
    for segment in partition.segments():
        fd, position = os.open(segment.path, os.O_RDONLY), 0
        try:
            while data := memoryview(os.pread(fd, MAX_READ_BYTES, position)):
                for at, _, size in walk(data):
                    yield data[at : at + size]
                position += at + size
        finally:
            os.close(fd)


def touch_records(batches: Iterator[memoryview]) -> int:
    """Look at key, value, offset and timestamp of every record; how many there are."""
    count = 0
    for batch in batches:
        for record in decode(batch):
            record.key, record.value, record.offset, record.timestamp  # noqa: B018  # looking is what is measured
            count += 1
    return count


def rate(count: Callable[[], int], unit: float) -> float:
    """What *count* counts, a second, in *unit*."""
    started = time.perf_counter()
    counted = count()
    return counted / (time.perf_counter() - started) / unit


def measure_records(bench: Bench) -> Iterator[Result]:
    """Key, value, offset and timestamp of every record; and the same codec over the bare file."""
    with Log(small(bench)) as log:
        partition = log.partition(log.topic(TOPIC), 0)
        pairs = Pairs(
            lambda: rate(lambda: touch_records(read_batches(log.reader(partition, 0))), 1e6),
            lambda: rate(lambda: touch_records(read_bare(partition)), 1e6),
            bench.scale.pairs,
            "M/s",
        )
        yield pairs.ratio("read-records", 0.7)
        yield pairs.ours("read-records rate", 2.0)


def measure_batches(bench: Bench) -> Iterator[Result]:
    """Whole batches, checked; and the bare file, not checked."""
    with Log(small(bench)) as log:
        partition = log.partition(log.topic(TOPIC), 0)
        pairs = Pairs(
            lambda: rate(lambda: sum(map(len, read_batches(log.reader(partition, 0)))), 1e9),
            lambda: rate(lambda: sum(map(len, read_bare(partition))), 1e9),
            bench.scale.pairs,
            "GB/s",
        )
        yield pairs.ours("read-batches rate", 1.0)


def measure_backlog(bench: Bench) -> Iterator[Result]:
    """Consume all of a backlog, part by part; and as much of a small log, read again and again."""
    yield from _consume(bench, "consume-backlog", cold=False)


def measure_cold(bench: Bench) -> Iterator[Result]:
    """The same, each part from the disk: its segments are dropped from the page cache just before.

    Not all of them at once, because a machine that has run for a while has its memory full of page cache, and reads
    into pages that it takes back. A virtual machine that has freed five gigabytes hands them to its host, and
    reading into what it must ask for again costs 1.5 s of processor time for each gigabyte.
    """
    yield from _consume(bench, "consume-cold", cold=True)


def _consume(bench: Bench, name: str, *, cold: bool) -> Iterator[Result]:
    path, parts = backlog(bench), bench.scale.pairs * PARTS
    with Log(path) as large, Log(small(bench)) as little:
        behind = Consumer(large, large.partition(large.topic(TOPIC), 0))
        alone = Consumer(little, little.partition(little.topic(TOPIC), 0))
        count = behind.partition.high_watermark // parts
        say(f"  {parts} times {count / 1e6:.1f} million records on each side")

        def consume_backlog() -> float:
            if cold:
                drop_page_cache(behind.segments(count))
            return rate(lambda: behind.consume(count), 1e6)

        pairs = Pairs(
            consume_backlog,
            lambda: rate(lambda: alone.consume(count), 1e6),
            parts,
            "M/s",
        )
        yield pairs.ratio(name, 0.9)
        if cold:
            yield _cold_by_hand(behind.partition, alone.partition, bench.scale.pairs).ratio(f"{name} by hand")


def _cold_by_hand(large: Partition, little: Partition, count: int) -> Pairs:
    """What the machine allows: bare files and the codec on both sides, of which one comes from the disk."""

    def values(partition: Partition) -> int:
        return sum(len(decode_values(batch)) for batch in read_bare(partition))

    def cold() -> float:
        drop_page_cache(segment.path for segment in large.segments())
        return rate(lambda: values(large), 1e6)

    return Pairs(cold, lambda: rate(lambda: values(little), 1e6), count, "M/s")


class Consumer:
    """Reads the values of records as an agent does, and begins anew at the end."""

    def __init__(self, log: Log, partition: Partition) -> None:
        """At the start of *partition*."""
        self.partition = partition
        self._reader = log.reader(partition, 0)

    def segments(self, records: int) -> list[Path]:
        """The files that the next *records* records are read from."""
        start, segments = self._reader.offset, self.partition.segments()
        ends = [segment.base_offset for segment in segments[1:]] + [self.partition.log_end]
        return [
            segment.path
            for segment, end in zip(segments, ends, strict=True)
            if end > start and segment.base_offset < start + records
        ]

    def consume(self, records: int) -> int:
        """Read *records* records or a few more; how many."""
        count = 0
        while count < records:
            fetched = self._reader.read()
            if not fetched.batches:
                self._reader.seek(0)
            for _, batch in fetched.batches:
                count += len(decode_values(batch))
        return count


ROWS = [
    Row("read-records", measure_records),
    Row("read-batches", measure_batches),
    Row("consume-backlog", measure_backlog),
    Row("consume-cold", measure_cold),
]
