"""Cold reads: around the page cache come the same batches and the same errors, and nothing is left behind."""

from __future__ import annotations

import errno
import os
import random
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from mmap import mmap
from pathlib import Path
from typing import Any

import pytest

from framework.log import Files, Log, NewRecord, Partition, Reader, TopicSettings, decode, encode
from framework.log.cold import MOST_COLD_READERS, STEP_BYTES, STEPS
from framework.log.errors import Damaged, OffsetOutOfRange

STEP = 16 << 10
SMALL = TopicSettings(segment_bytes=16 * STEP, index_interval_bytes=4096)
READ_BYTES = STEP // 4
LARGE = STEP + 5000


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


class NoDirect(ColdFiles):
    """A file system that knows no direct reads."""

    def open_direct(self, path: Path) -> int:
        """Refuse."""
        self.opened.append(path.name)
        raise OSError(errno.EINVAL, "Invalid argument", str(path))


class Opened(Files):
    """The real files; remembers which were read directly."""

    def __init__(self) -> None:
        """None yet."""
        self.opened: list[Path] = []

    def open_direct(self, path: Path) -> int:
        """Remember it."""
        self.opened.append(path)
        return super().open_direct(path)


def refused(count: int) -> int:
    """A disk that wants other blocks."""
    raise OSError(errno.EINVAL, "Invalid argument")


def broken(count: int) -> int:
    """A disk that cannot read them now."""
    raise OSError(errno.EIO, "Input/output error")


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes megabytes takes kilobytes here."""
    monkeypatch.setattr("framework.log.cold.STEP_BYTES", STEP)
    monkeypatch.setattr("framework.log.reader.READ_AHEAD_BYTES", 2 * STEP)
    monkeypatch.setattr("framework.log.cold.SLOW_BYTES_PER_S", 0)


@pytest.fixture(autouse=True)
def direct_reads(tmp_path: Path) -> None:
    """Skips, with a line that says so, where the disk under the tests has none."""
    path = tmp_path / "probe"
    path.write_bytes(bytes(4096))
    try:
        os.close(Files().open_direct(path))
    except OSError:
        pytest.skip(f"no direct reads in {tmp_path}")


@pytest.fixture
def files() -> ColdFiles:
    """Everything is cold."""
    return ColdFiles()


@pytest.fixture
def filled(directory: Path, open_log: Any, files: ColdFiles) -> tuple[Log, Partition, list[tuple[int, bytes]]]:
    """A log of many segments, with batches of all sizes; base offset and bytes of each."""
    log = open_log(files=files)
    partition = log.partition(log.create_topic("t", 1, SMALL), 0)
    print("seed 7")
    chance = random.Random(7)
    for _ in range(400):
        value = chance.randbytes(LARGE if chance.random() < 0.03 else chance.randrange(5000))
        log.append(partition, encode([NewRecord(None, value, 0)], max_batch_bytes=1 << 20))
    log.sync(partition).result(60)
    assert len(partition.segments()) > 4
    files.cached = True
    batches = list(read(log.reader(partition, 0)))
    files.cached, files.opened[:] = False, []
    assert len(batches) == 400
    return log, partition, batches


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


def descriptors() -> list[str]:
    """What is open of segments."""
    places = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return sorted(os.readlink(place) for place in places if os.path.islink(place) and ".log" in os.readlink(place))


@pytest.mark.parametrize("max_bytes", [1, 100, 3000, 4096, STEP - 1, STEP, STEP + 1, 3 * STEP, 1 << 20])
def test_cold_reads_give_what_others_give(filled: Any, files: ColdFiles, max_bytes: int) -> None:
    log, partition, batches = filled
    assert list(read(log.reader(partition, 0), max_bytes)) == batches
    if max_bytes <= STEP:
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
    while len(descriptors()) > 2:
        found += some(reader, 1)
    found += some(reader, 100)
    assert not threads()
    assert len(descriptors()) == 2, "its own, and the writer's"
    assert found + list(read(reader)) == batches


def test_a_reader_that_is_closed_or_has_caught_up_holds_nothing(filled: Any) -> None:
    log, partition, batches = filled
    before = descriptors()
    reader = log.reader(partition, 0)
    for leave in (reader.close, lambda: reader.seek(0), lambda: list(read(reader))):
        reader.seek(0)
        assert some(reader, 100)[:100] == batches[:100]
        assert len(threads()) == 1
        leave()
        assert not threads()
        assert descriptors() == before
    reader.seek(0)
    while reader.read(READ_BYTES).batches:
        pass
    assert not threads()
    reader.close()


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


# What goes wrong.


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


def test_a_slow_disk_is_read_through_the_cache(filled: Any, files: ColdFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads the same after it finds it there. A seek begins anew."""
    log, partition, batches = filled
    monkeypatch.setattr("framework.log.cold.SLOW_BYTES_PER_S", 1 << 60)
    for _ in range(2):
        files.opened[:] = []
        assert list(read(log.reader(partition, 0))) == batches
        assert len(files.opened) <= 2, "the first, and what was to come behind it"


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
    settings = TopicSettings(segment_bytes=16 * STEP, cleanup_policy="compact", min_cleanable_dirty_ratio=0.0)
    partition = log.partition(log.create_topic("t", 1, settings), 0)
    for number in range(600):
        key, value = (b"same", b"old") if number % 3 else (b"%d" % number, bytes(3000))
        log.append(partition, encode([NewRecord(key, value, 0)], max_batch_bytes=1 << 20))
    log.sync(partition).result(60)
    bases = [segment.base_offset for segment in partition.segments()]
    reader, opened = log.reader(partition, 0), len(files.opened)
    found = some(reader, 50)
    while len(files.opened) < opened + 2:
        found += some(reader, 1)
    assert found[-1][0] < bases[1], "the second segment is read ahead"
    log.compact("t")
    found += list(read(reader))
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


# The real page cache.


def test_who_reads_a_backlog_reads_it_around_the_page_cache_each_time(
    directory: Path, open_log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What shows that it is cold, and what the kernel reads ahead, does not make it look as if it was not."""
    monkeypatch.undo()
    files = Opened()
    log = open_log(files=files)
    size = (STEPS + 3) * STEP_BYTES
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
    for _ in range(3):
        assert sum(len(found) for _, found in read(log.reader(partition, 0), 256 << 10)) >= 3 * size
    assert files.opened == [segment.path for segment in partition.segments()[:-1]] * 3
