"""Opening a data directory: after a power cut, and with many partitions."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from framework.log import Log, TopicSettings
from framework.log.shared import PAGE_BYTES, SLOT_BYTES
from tests.benchmarks.filling import TOPIC, drop_page_cache, fill
from tests.benchmarks.rows import Bench, Result, Row, samples

SEGMENT_BYTES = 1 << 30
SAMPLES = 5


def cut_power(path: Path) -> None:
    """Make the closed directory at *path* look as after a power cut that came before any mark was written to the disk.

    Another boot, no marks, nothing in the page cache: all of the active segment has to be read and checked.
    """
    with (path / "shared").open("r+b") as shared:
        shared.seek(16)
        shared.write(b"an earlier boot!")
        slots = (path / "shared").stat().st_size - PAGE_BYTES
        shared.seek(PAGE_BYTES)
        shared.write(bytes(slots - slots % SLOT_BYTES))
    drop_page_cache(path.rglob("*.log"))


def open_seconds(path: Path) -> float:
    """How long it takes to open the directory."""
    started = time.perf_counter()
    with Log(path):
        return time.perf_counter() - started


def measure_recovery(bench: Bench) -> Iterator[Result]:
    """1 GB in segments as they are by default, of which only the last one may be torn."""
    yield from _recover(bench, "recovery", TopicSettings())


def measure_segment_recovery(bench: Bench) -> Iterator[Result]:
    """1 GB in one segment, the largest that there may be: the most that one partition can take."""
    yield from _recover(bench, "recovery-segment", TopicSettings(segment_bytes=SEGMENT_BYTES))


def _recover(bench: Bench, name: str, settings: TopicSettings) -> Iterator[Result]:
    seconds = []
    with bench.place() as place:
        records = fill(place, bench.scale.recovered_bytes, settings)
        for _ in range(SAMPLES):
            cut_power(place)
            seconds.append(open_seconds(place))
        with Log(place) as log:
            assert log.partition(log.topic(TOPIC), 0).high_watermark == records
    yield samples(name, seconds, "s", below=1.0)


def measure_partitions(bench: Bench) -> Iterator[Result]:
    """A topic of 1,000 empty partitions, each of them looked at: seconds, descriptors and disk."""
    count, seconds, after_power_cut = bench.scale.partitions, [], []
    with bench.place() as place:
        with Log(place, create=True) as log:
            log.create_topic(TOPIC, count)
        descriptors = []
        for _ in range(SAMPLES):
            before, started = open_descriptors(), time.perf_counter()
            with Log(place) as log:
                topic = log.topic(TOPIC)
                for number in range(count):
                    assert not log.reader(log.partition(topic, number), 0).read().batches
                seconds.append(time.perf_counter() - started)
                descriptors.append(open_descriptors() - before)
            cut_power(place)
            after_power_cut.append(open_seconds(place))
        disk_bytes = sum(path.stat().st_blocks * 512 for path in [place, *place.rglob("*")])
    yield samples("partitions open", seconds, "s", below=1.0)
    yield samples("partitions recovery", after_power_cut, "s", below=1.0)
    yield samples("partitions descriptors", descriptors, "", below=50)
    yield samples("partitions disk, of each", [disk_bytes / count / 1e3], "kB", below=16)


def open_descriptors() -> int:
    """How many files this process has open."""
    return len(os.listdir("/dev/fd"))


ROWS = [
    Row("recovery", measure_recovery),
    Row("recovery-segment", measure_segment_recovery),
    Row("partitions", measure_partitions),
]
