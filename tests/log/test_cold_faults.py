"""Cold reads of what fails, is damaged or goes away: the same errors as through the page cache, and no more."""

from __future__ import annotations

import errno
import os
import signal
import threading
import warnings
from collections.abc import Callable
from mmap import mmap
from pathlib import Path
from typing import Any

import pytest

from framework.log import NewRecord, TopicSettings, decode, encode
from framework.log.errors import Damaged, OffsetOutOfRange
from tests.log.cold_log import (
    READ_BYTES,
    STEP,
    ColdFiles,
    Filled,
    cold_files,
    descriptors,
    fill,
    read,
    some,
    sync,
    threads,
)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ColdFiles:
    """Everything is cold."""
    return cold_files(tmp_path, monkeypatch)


@pytest.fixture
def filled(open_log: Any, files: ColdFiles) -> Filled:
    """A cold log."""
    return fill(open_log(files=files), files)


class NoDirect(ColdFiles):
    """A file system that knows no direct reads."""

    def open_direct(self, path: Path) -> int:
        """Refuse."""
        self.opened.append(path.name)
        raise OSError(errno.EINVAL, "Invalid argument", str(path))


class Held(ColdFiles):
    """A disk that takes its time, and looks whether the file it reads was closed meanwhile."""

    def __init__(self) -> None:
        """None was closed."""
        super().__init__()
        self.direct, self.closed, self.still_open = -1, threading.Event(), list[bool]()

    def open_direct(self, path: Path) -> int:
        """Remember it."""
        self.direct = super().open_direct(path)
        return self.direct

    def close(self, fd: int) -> None:
        """Let the disk go on."""
        super().close(fd)
        if fd == self.direct:
            self.closed.set()

    def read_into(self, fd: int, buffer: mmap, position: int) -> int:
        """Read, a moment later."""
        self.still_open.append(not self.closed.wait(0.05))
        return super().read_into(fd, buffer, position)


def refused(count: int) -> int:
    """A disk that wants other blocks."""
    raise OSError(errno.EINVAL, "Invalid argument")


def broken(count: int) -> int:
    """A disk that cannot read them now."""
    raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("answer", [refused, broken, lambda count: count - 1, lambda count: 0])
@pytest.mark.parametrize("after", [0, 1, 5, 20])
def test_what_the_disk_does_not_give_at_once_and_whole_is_read_through_the_cache(
    filled: Any, files: ColdFiles, answer: Callable[[int], int], after: int
) -> None:
    log, partition, batches = filled
    left = after

    def fail_later(count: int) -> int:
        nonlocal left
        left -= 1
        return answer(count) if left < 0 else count

    files.answer = fail_later
    reader = log.reader(partition, 0)
    found = some(reader, 399)
    assert not threads()
    assert found + list(read(reader)) == batches
    assert len(files.opened) <= 3, "it is not tried again and again"


def test_a_file_system_without_direct_reads_is_asked_once(directory: Path, open_log: Any, filled: Any) -> None:
    filled[0].close()
    files = NoDirect()
    log = open_log(files=files)
    assert list(read(log.reader(log.partition(log.topic("t"), 0), 0))) == filled[2]
    assert len(files.opened) == 1


def test_a_file_is_closed_when_the_disk_has_finished_with_it(open_log: Any, filled: Any) -> None:
    """Its number may be another file's at once."""
    filled[0].close()
    files = Held()
    log = open_log(files=files)
    reader = log.reader(log.partition(log.topic("t"), 0), 0)
    while not files.read_bytes:
        some(reader, 1)
    reader.close()
    assert files.closed.is_set()
    assert files.still_open in ([True, True], [True, True, True])


def test_a_slow_disk_is_read_through_the_cache(filled: Any, files: ColdFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads the same after it finds it there. A seek begins anew."""
    log, partition, batches = filled
    monkeypatch.setattr("framework.log.cold.SLOW_BYTES_PER_S", 1 << 60)
    reader = log.reader(partition, 0)
    for _ in range(2):
        assert some(reader, 399) == batches[:399]
        assert 1 <= len(files.opened) <= 2, "the first, and what was to come behind it"
        files.opened[:] = []
        reader.seek(0)


@pytest.mark.parametrize("place", [8, 17, 61])
def test_damage_is_the_same_at_the_same_byte(filled: Any, files: ColdFiles, place: int) -> None:
    log, partition, batches = filled
    segment = partition.segments()[2]
    at = next(number for number, (base, _) in enumerate(batches) if base > segment.base_offset + 20)
    position = segment.path.read_bytes().index(batches[at][1])
    with segment.path.open("r+b") as file:
        file.seek(position + place)
        byte = file.read(1)[0]
        file.seek(position + place)
        file.write(bytes([byte ^ 0x40]))
    said = []
    for files.cached in (True, False):
        reader = log.reader(partition, 0)
        assert some(reader, at) == batches[:at]
        with pytest.raises(Damaged, match=f"{segment.path.name} is damaged at byte {position},") as raised:
            reader.read(READ_BYTES)
        said.append(str(raised.value))
        reader.close()
    assert said[0] == said[1]
    assert not threads()


def test_a_file_that_became_shorter_says_so_where_it_ends(filled: Any, files: ColdFiles) -> None:
    log, partition, batches = filled
    segment = partition.segments()[2]
    os.truncate(segment.path, 100_001)
    said = []
    for files.cached in (True, False):
        found: list[tuple[int, bytes]] = []
        with pytest.raises(Damaged, match=f"{segment.path.name} is damaged at byte") as raised:
            found.extend(read(log.reader(partition, 0)))
        assert found == batches[: len(found)]
        said.append(str(raised.value))
    assert said[0] == said[1]
    assert not threads()


def test_retention_takes_the_files_and_a_reader_finishes_the_one_it_has_open(filled: Any) -> None:
    log, partition, batches = filled
    second, third, fourth = (segment.base_offset for segment in partition.segments()[1:4])
    reader = log.reader(partition, 0)
    found = some(reader, second + 5)
    assert threads()
    partition.delete_records(fourth)
    assert not partition.segments()[0].path.with_name("00000000000000000000.1.log").exists()
    with pytest.raises(OffsetOutOfRange, match=f"no offset {third}: log start is {fourth}"):
        found.extend(read(reader))
    assert found == batches[:third]
    assert not threads()


def test_compaction_puts_other_files_in_their_place(directory: Path, open_log: Any, files: ColdFiles) -> None:
    """One that the disk has begun to read ahead, too."""
    log = open_log(files=files)
    partition = log.partition(log.create_topic("t", 1, TopicSettings(segment_bytes=16 * STEP)), 0)
    for number in range(600):
        key, value = (b"same", b"old") if number % 3 else (b"%d" % number, bytes(3000))
        log.append(partition, encode([NewRecord(key, value, 0)], max_batch_bytes=1 << 20))
    sync(log, partition)
    bases = [segment.base_offset for segment in partition.segments()]
    reader, opened = log.reader(partition, 0), len(files.opened)
    found = some(reader, 50)
    while len(files.opened) < opened + 2:
        found += some(reader, 1)
    assert found[-1][0] < bases[1], "the second segment is read ahead"
    log.alter_topic("t", TopicSettings(segment_bytes=16 * STEP, cleanup_policy="compact"))
    log.compact("t")
    found += list(read(reader))
    assert len(descriptors(log)) == 1, "the writer's"
    kept = [record.offset for _, batch in found for record in decode(batch)]
    assert kept[: bases[1]] == list(range(bases[1]))
    files.cached = True
    left = [record.offset for _, batch in read(log.reader(partition, bases[1])) for record in decode(batch)]
    assert kept[bases[1] :] == left
    assert len(left) < (600 - bases[1]) * 0.6
    assert not threads()


def test_a_forked_child_reads_on_by_itself_and_so_does_its_parent(filled: Any) -> None:
    log, partition, batches = filled
    reader = log.reader(partition, 0)
    found = some(reader, 60)
    assert threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # From Python 3.12 on: it is what is tested.
        pid = os.fork()
    if not pid:
        signal.alarm(60)
        try:
            os._exit(0 if found + list(read(reader)) == batches else 1)
        finally:
            os._exit(2)
    assert found + list(read(reader)) == batches
    assert os.waitpid(pid, 0)[1] == 0
