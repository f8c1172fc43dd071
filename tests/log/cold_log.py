"""A log that is cold: files that say so, and what their tests ask."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from mmap import mmap
from pathlib import Path

import pytest

from framework.log import Files, Log, NewRecord, Partition, Reader, TopicSettings, encode
from tests.log.compacted_log import until

STEP = 16 << 10
SMALL = TopicSettings(segment_bytes=16 * STEP, index_interval_bytes=4096)
READ_BYTES = STEP // 4
LARGE = 4 * STEP + 5000
"""More than there are buffers for."""
Filled = tuple[Log, Partition, list[tuple[int, bytes]]]


class ColdFiles(Files):
    """Files of which nothing is in the page cache, unless it is said; `read_into` may be told to fail."""

    def __init__(self) -> None:
        """All is cold."""
        self.cached = False
        self.opened: list[str] = []
        self.read_bytes = 0
        self.answer: Callable[[int], int] = lambda count: count

    def is_cached(self, fd: int, position: int) -> bool:
        """What the test says."""
        return self.cached

    def open_direct(self, path: Path) -> int:
        """Remember which."""
        self.opened.append(path.name)
        return super().open_direct(path)

    def read_into(self, fd: int, buffer: mmap, position: int) -> int:
        """Read, or fail."""
        count = self.answer(super().read_into(fd, buffer, position))
        self.read_bytes += count
        return count


def cold_files(directory: Path, monkeypatch: pytest.MonkeyPatch) -> ColdFiles:
    """Files that are cold, and what takes megabytes takes kilobytes; skips where the disk has no direct reads."""
    path = directory / "probe"
    path.write_bytes(bytes(4096))
    try:
        os.close(Files().open_direct(path))
    except OSError:
        pytest.skip(f"no direct reads in {directory}")
    monkeypatch.setattr("framework.log.cold.STEP_BYTES", STEP)
    monkeypatch.setattr("framework.log.cold.SLOW_BYTES_PER_S", 0)
    monkeypatch.setattr("framework.log.reader.READ_AHEAD_BYTES", 2 * STEP)
    return ColdFiles()


def fill(log: Log, files: ColdFiles) -> Filled:
    """Many segments, with batches of all sizes; base offset and bytes of each."""
    partition = log.partition(log.create_topic("t", 1, SMALL), 0)
    print("seed 7")
    chance = random.Random(7)
    for _ in range(400):
        value = chance.randbytes(LARGE if chance.random() < 0.03 else chance.randrange(5000))
        log.append(partition, encode([NewRecord(None, value, 0)], max_batch_bytes=1 << 20))
    sync(log, partition)
    assert len(partition.segments()) > 4
    files.cached = True
    batches = list(read(log.reader(partition, 0)))
    files.cached, files.opened[:] = False, []
    assert len(batches) == 400
    return log, partition, batches


def sync(log: Log, partition: Partition) -> None:
    """Wait until all is on the disk and only the writer's segment is open: whoever syncs closes the others."""
    log.sync(partition).result(60)
    until(log, lambda: len(descriptors(log)) == 1)


def read(reader: Reader, max_bytes: int = READ_BYTES) -> Iterator[tuple[int, bytes]]:
    """Base offset and bytes of each batch up to the end; closes the reader."""
    try:
        while batches := reader.read(max_bytes).batches:
            for header, batch in batches:
                yield header.base_offset, bytes(batch)
    finally:
        reader.close()


def some(reader: Reader, count: int, max_bytes: int = READ_BYTES) -> list[tuple[int, bytes]]:
    """*count* batches or a few more; leaves the reader where it is."""
    found: list[tuple[int, bytes]] = []
    while len(found) < count:
        batches = reader.read(max_bytes).batches
        assert batches
        found += [(header.base_offset, bytes(batch)) for header, batch in batches]
    return found


def threads() -> list[str]:
    """Those that read for somebody."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("framework-cold-read")]


def descriptors(log: Log) -> list[str]:
    """What this process has open of the segments of *log*: what earlier tests left is not counted."""
    found = list[str]()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sorted(path for path in found if path.startswith(str(log.path)) and ".log" in path)
