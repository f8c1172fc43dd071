"""Cold reads: around the page cache come the same batches, and nothing is left behind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from framework.log import Files, NewRecord, TopicSettings, encode
from framework.log.cold import MOST_COLD_READERS, STEP_BYTES, STEPS
from tests.log.cold_log import READ_BYTES, STEP, ColdFiles, Filled, cold_files, descriptors, fill, read, some, threads


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ColdFiles:
    """Everything is cold."""
    return cold_files(tmp_path, monkeypatch)


@pytest.fixture
def filled(open_log: Any, files: ColdFiles) -> Filled:
    """A cold log."""
    return fill(open_log(files=files), files)


@pytest.mark.parametrize("max_bytes", [1, 100, 3000, 4096, STEP - 1, STEP, STEP + 1, 3 * STEP, 1 << 20])
def test_cold_reads_give_what_others_give(filled: Any, files: ColdFiles, max_bytes: int) -> None:
    log, partition, batches = filled
    assert list(read(log.reader(partition, 0), max_bytes)) == batches
    if max_bytes <= 2 * STEP:
        assert files.read_bytes > sum(len(batch) for _, batch in batches) * 0.7
        assert len(files.opened) == len(set(files.opened)) == len(partition.segments()) - 1


def test_what_a_caller_keeps_does_not_change(filled: Any) -> None:
    log, partition, batches = filled
    reader, kept = log.reader(partition, 0), []
    while found := reader.read(READ_BYTES).batches:
        kept += [(header.base_offset, batch) for header, batch in found]
    reader.close()
    assert [(base, bytes(batch)) for base, batch in kept] == batches


def test_cold_reads_begin_anywhere_and_seek(filled: Any, files: ColdFiles) -> None:
    log, partition, batches = filled
    reader = log.reader(partition, 0)
    for start in (0, 7, 250, 100, 399, 33):
        reader.seek(start)
        assert some(reader, min(60, 400 - start))[:60] == batches[start : start + 60]
    reader.close()
    assert len(files.opened) > 3


def test_what_is_in_the_page_cache_is_read_from_there(filled: Any, files: ColdFiles) -> None:
    """Even if what came before it was not; then thread and buffers are let go."""
    log, partition, batches = filled
    files.cached = True
    assert list(read(log.reader(partition, 0))) == batches
    assert not files.opened
    files.cached = False
    reader = log.reader(partition, 0)
    found = some(reader, 40)
    assert threads()
    files.cached = True
    while len(descriptors(log)) > 2:
        found += some(reader, 1)
    found += some(reader, 100)
    assert not threads()
    assert len(descriptors(log)) == 2, "its own, and the writer's"
    assert found + list(read(reader)) == batches


def test_a_reader_that_is_closed_or_has_caught_up_holds_nothing(filled: Any) -> None:
    log, partition, batches = filled
    before = descriptors(log)
    reader = log.reader(partition, 0)
    for leave in (reader.close, lambda: reader.seek(0), lambda: list(read(reader))):
        reader.seek(0)
        assert some(reader, 100)[:100] == batches[:100]
        assert len(threads()) == 1
        leave()
        assert not threads()
        assert descriptors(log) == before
        reader.seek(0)
        while len(descriptors(log)) < len(before) + 3:
            some(reader, 1)
        reader.close()
        assert descriptors(log) == before, "the next segment was being read ahead"
    reader.seek(0)
    while reader.read(READ_BYTES).batches:
        pass
    assert not threads()
    reader.close()


def test_small_segments_are_left_to_the_kernel(open_log: Any, files: ColdFiles) -> None:
    log = open_log(files=files)
    partition = log.partition(log.create_topic("t", 1, TopicSettings(segment_bytes=2 * STEP)), 0)
    for _ in range(100):
        log.append(partition, encode([NewRecord(None, bytes(STEP // 4), 0)], max_batch_bytes=STEP))
    log.sync(partition).result(60)
    assert len(list(read(log.reader(partition, 0)))) == 100
    assert not files.opened


def test_only_so_many_readers_have_buffers_and_others_read_as_well(filled: Any) -> None:
    log, partition, batches = filled
    readers = [log.reader(partition, 0) for _ in range(MOST_COLD_READERS + 2)]
    found = [some(reader, 100) for reader in readers]
    assert len(threads()) == MOST_COLD_READERS
    readers[0].close()
    found[-1] += some(readers[-1], 100)
    assert len(threads()) == MOST_COLD_READERS, "it has got the turn that was given back"
    for reader, begun in zip(readers, found, strict=True):
        assert begun + list(read(reader)) == batches
    assert not threads()


class Opened(Files):
    """The real files; remembers which were read directly."""

    def __init__(self) -> None:
        """None yet."""
        self.opened: list[Path] = []

    def open_direct(self, path: Path) -> int:
        """Remember it."""
        self.opened.append(path)
        return super().open_direct(path)


def test_who_reads_a_backlog_reads_it_around_the_page_cache_each_time(
    directory: Path, open_log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What shows that it is cold, and what the kernel reads ahead, does not make it look as if it was not."""
    monkeypatch.setattr("framework.log.cold.SLOW_BYTES_PER_S", 0)  # Any disk will do.
    files = Opened()
    log = open_log(files=files)
    size = (STEPS + 5) * STEP_BYTES
    partition = log.partition(log.create_topic("t", 1, TopicSettings(segment_bytes=size)), 0)
    [batch] = encode([NewRecord(None, os.urandom(250_000), 0)], max_batch_bytes=1 << 20)
    for _ in range(4 * size // len(batch)):
        log.append(partition, [bytearray(batch)])
    log.sync(partition).result(60)
    for segment in partition.segments()[:-1]:
        fd = os.open(segment.path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        cold = not files.is_cached(fd, size // 2)
        os.close(fd)
        if not cold:
            pytest.skip(f"the page cache of {directory} cannot be emptied")
    closed = [segment.path for segment in partition.segments()[:-1]]
    for _ in range(3):
        files.opened[:] = []
        assert sum(len(found) for _, found in read(log.reader(partition, 0), 256 << 10)) >= 3 * size
        # How far the kernel reads ahead by itself is its own affair; it may come to the end of one.
        assert len(set(files.opened) & set(closed)) >= len(closed) - 1
