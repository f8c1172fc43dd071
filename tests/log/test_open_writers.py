"""How many partitions a process has open for appending: a number that does not grow with theirs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from framework.log import NewRecord, TopicSettings, encode

LIMIT = 4
PARTITIONS = 30


@pytest.fixture
def log(open_log: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A log that keeps few partitions open."""
    monkeypatch.setattr("framework.log.log.MAX_OPEN_WRITERS", LIMIT)
    return open_log()


def open_segments(directory: Path) -> int:
    """How many descriptors of segment files this process has."""
    links = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    return sum(link.startswith(str(directory)) and link.endswith((".log", ".appended")) for link in links)


def batch(value: bytes) -> list[bytearray]:
    """*value* as a batch."""
    return encode([NewRecord(None, value, 0)], max_batch_bytes=1 << 20)


@pytest.mark.parametrize("durability", ["group", "os"])
def test_files_of_partitions_that_are_not_appended_to_are_closed(
    log: Any, directory: Path, read_all: Any, durability: str
) -> None:
    topic = log.create_topic("t", PARTITIONS, TopicSettings(durability=durability))
    partitions = [log.partition(topic, number) for number in range(PARTITIONS)]
    for turn in range(3):
        for done in [log.append(partition, batch(b"%d" % turn)) for partition in partitions]:
            done.result(60)
        for partition in partitions:
            log.append(partition, batch(b"again")).result(60)
    assert open_segments(directory) <= 2 * LIMIT
    log.retain()
    assert open_segments(directory) <= 2 * LIMIT
    for partition in partitions:
        log.sync(partition).result(60)
        assert partition.is_synced
        assert [record.value for record in read_all(log, partition)] == [b"0", b"again", b"1", b"again", b"2", b"again"]
