"""The three levels: when an append is acknowledged, when it can be read, and what is synced in the end."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from framework.log import Files, Log, NewRecord, Partition, TopicSettings, encode
from framework.log.errors import InvalidSetting

WAIT_S = 30.0
ROOT = Path(__file__).parents[2]


class HeldSyncs(Files):
    """The operating system's files; syncs of a log file are counted, and held while `free` is not set."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.free.set()
        self.began = threading.Event()
        self.syncs = 0
        self._logs: set[int] = set()

    def open(self, path: Path, *, create: bool = False, write: bool = True) -> int:
        fd = super().open(path, create=create, write=write)
        (self._logs.add if path.suffix == ".log" else self._logs.discard)(fd)
        return fd

    def fdatasync(self, fd: int) -> None:
        if fd in self._logs:
            self.began.set()
            assert self.free.wait(WAIT_S)
            self.syncs += 1
        super().fdatasync(fd)


@pytest.fixture
def files() -> HeldSyncs:
    return HeldSyncs()


@pytest.fixture
def log(tmp_path: Path, files: HeldSyncs) -> Any:
    with Log(tmp_path / "data", create=True, files=files) as log:
        yield log


def topic(log: Log, durability: str) -> Partition:
    """A topic of one partition that holds one record, so that its files are there."""
    partition = log.partition(log.create_topic(durability, 1, TopicSettings(durability=durability)), 0)
    append(log, partition).result()
    return partition


def append(log: Log, partition: Partition, *, durable: bool = False) -> Any:
    batches = encode([NewRecord(None, b"value", 0)], max_batch_bytes=1 << 20)
    return log.append(partition, batches, durable=durable)


def test_a_level_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="durability is 'sometimes', it must be one of 'group', 'always', 'os'"):
        TopicSettings(durability="sometimes")


def test_group_acknowledges_and_shows_what_is_synced(log: Log, files: HeldSyncs) -> None:
    partition = topic(log, "group")
    files.free.clear()
    files.began.clear()
    done = append(log, partition)
    assert files.began.wait(WAIT_S)
    assert not done.done()
    assert (partition.high_watermark, partition.log_end) == (1, 2)
    files.free.set()
    assert done.result(WAIT_S) == 1
    assert partition.high_watermark == 2


def test_what_comes_during_a_sync_shares_the_next_one_at_group_and_has_its_own_at_always(
    log: Log, files: HeldSyncs
) -> None:
    for level, expected in (("group", 2), ("always", 6)):
        partition = topic(log, level)
        files.free.clear()
        files.began.clear()
        first, before = append(log, partition), files.syncs
        assert files.began.wait(WAIT_S)
        others = [append(log, partition) for _ in range(5)]
        files.free.set()
        assert [done.result(WAIT_S) for done in (first, *others)] == list(range(1, 7))
        assert files.syncs - before == expected


def test_os_acknowledges_and_shows_what_is_written(log: Log, files: HeldSyncs) -> None:
    partition = topic(log, "os")
    files.free.clear()
    try:
        assert append(log, partition).result(WAIT_S) == 1
        assert partition.high_watermark == 2
        assert not partition.is_synced
        assert [header.base_offset for header, _ in log.reader(partition, 0).read().batches] == [0, 1]
    finally:
        files.free.set()


def test_os_rings_the_doorbell_when_it_writes(log: Log, files: HeldSyncs) -> None:
    partition = topic(log, "os")
    doorbell = log.doorbell()
    files.free.clear()
    try:
        append(log, partition).result(WAIT_S)
        rung = threading.Event()

        def listen() -> None:
            doorbell.wait(WAIT_S)
            rung.set()

        threading.Thread(target=listen, daemon=True).start()
        assert rung.wait(WAIT_S / 2)
    finally:
        files.free.set()
        doorbell.close()


def test_os_is_synced_a_second_later_without_another_append(log: Log, files: HeldSyncs) -> None:
    partition = topic(log, "os")
    files.began.clear()
    append(log, partition).result()
    assert files.began.wait(WAIT_S)
    log.sync(partition).result(WAIT_S)
    assert partition.is_synced


def test_a_durable_append_waits_for_the_disk_at_os_too(log: Log, files: HeldSyncs) -> None:
    partition = topic(log, "os")
    append(log, partition, durable=True).result(WAIT_S)
    assert partition.is_synced


def test_closing_syncs_what_os_has_acknowledged(tmp_path: Path, files: HeldSyncs) -> None:
    with Log(tmp_path / "data", create=True, files=files) as log:
        partition = topic(log, "os")
        append(log, partition).result()
    with Log(tmp_path / "data") as log:
        assert log.partition(log.topic("os"), 0).is_synced


@pytest.mark.slow
def test_what_os_acknowledged_survives_a_killed_process(tmp_path: Path) -> None:
    """Killed right behind the acknowledgement, before anything was synced."""
    script = """
import os, signal, sys
from framework.log import Log, NewRecord, TopicSettings, encode
log = Log(sys.argv[1], create=True)
partition = log.partition(log.create_topic("t", 1, TopicSettings(durability="os")), 0)
for number in range(50):
    log.append(partition, encode([NewRecord(None, b"%d" % number, 0)], max_batch_bytes=1 << 20)).result()
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "data")], cwd=ROOT, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    with Log(tmp_path / "data") as log:
        partition = log.partition(log.topic("t"), 0)
        assert partition.log_end == 50
        assert sum(header.records for header, _ in log.reader(partition, 0).read().batches) == 50
