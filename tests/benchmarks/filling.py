"""Logs that are large and quickly made: one batch, encoded once, is appended again and again."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path

from framework.log import Log, NewRecord, Partition, TopicSettings, encode
from tests.benchmarks.rows import Bench, Progress

BATCH_RECORDS, RECORD_BYTES, KEY_BYTES = 1_000, 100, 10
MAX_BATCH_BYTES = 1 << 20
TOPIC = "input"
_PENDING = 64


def batch(*, keyed: bool = True) -> list[NewRecord]:
    """1,000 records of 100 random bytes, of which a key takes ten."""
    key_bytes = KEY_BYTES if keyed else 0
    return [
        NewRecord(
            b"%0*d" % (key_bytes, number) if keyed else None,
            os.urandom(RECORD_BYTES - key_bytes),
            1_700_000_000_000 + number,
        )
        for number in range(BATCH_RECORDS)
    ]


def append_bytes(log: Log, partition: Partition, count_bytes: int) -> int:
    """Append at least *count_bytes* of batches, durably; how many records that were."""
    [encoded] = encode(batch(), max_batch_bytes=MAX_BATCH_BYTES)
    progress = Progress(f"appending to {partition.name}", count_bytes)
    pending: deque[Future[int]] = deque()
    batches = -(-count_bytes // len(encoded))
    for number in range(batches):
        pending.append(log.append(partition, [bytearray(encoded)]))
        if len(pending) > _PENDING:
            pending.popleft().result()
            progress.at(number * len(encoded))
    for done in pending:
        done.result()
    return batches * BATCH_RECORDS


def fill(path: Path, count_bytes: int, settings: TopicSettings | None = None) -> int:
    """A data directory with *count_bytes* in the one partition of its topic; how many records that are."""
    with Log(path, create=True) as log:
        partition = log.partition(log.create_topic(TOPIC, 1, settings), 0)
        return append_bytes(log, partition, count_bytes)


def backlog(bench: Bench) -> Path:
    """The data directory with a backlog, which the rows of a run share."""
    return bench.shared("backlog", lambda path: _fill(path, bench.scale.backlog_bytes))


def small(bench: Bench) -> Path:
    """The data directory without one: enough to read for a moment, and to read again."""
    return bench.shared("small", lambda path: _fill(path, bench.scale.small_bytes))


def drop_page_cache(segments: Iterable[Path]) -> None:
    """Have *segments* read from the disk the next time; they are synced already."""
    for segment in segments:
        fd = os.open(segment, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def _fill(path: Path, count_bytes: int) -> None:
    fill(path, count_bytes)
